//! The last words of a process that dies by a fault of its own: what and where, as addresses in the program.
//!
//! Release binaries have no symbols. An address within the file is what `addr2line -e` wants of the same build with them.

#![expect(unsafe_code, reason = "signal handlers, a stack for them, and the unwinder's C interface")]

use std::{
    ffi::{c_int, c_void},
    ops::Range,
    sync::atomic::{AtomicPtr, AtomicUsize, Ordering::SeqCst},
};

/// What a fault raises; and abort(3).
const FAULTS: [c_int; 6] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT, libc::SIGSYS];

/// Frames that are told.
const FRAMES: usize = 64;

/// For the handler, which runs when the ordinary stack may be used up.
const STACK_BYTES: usize = 64 * 1024;

/// Called in the handler when all is said.
static LAST: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

/// Where the program was put in memory.
static BASE: AtomicUsize = AtomicUsize::new(0);

/// Where its code is: from, to.
static TEXT: (AtomicUsize, AtomicUsize) = (AtomicUsize::new(0), AtomicUsize::new(0));

/// From now on a fault is told on standard error with a backtrace. The process then ends by the signal, as it would have.
pub fn tell_faults() {
    install(None);
}

/// The same, and `last` is called before the end. It must not depend on anything that the process holds.
pub fn on_fault(last: fn()) {
    install(Some(last));
}

fn install(last: Option<fn()>) {
    LAST.store(last.map_or(std::ptr::null_mut(), |last| last as *mut c_void), SeqCst);
    let (base, text) = mapped();
    BASE.store(base, SeqCst);
    TEXT.0.store(text.start, SeqCst);
    TEXT.1.store(text.end, SeqCst);
    // Never given back: it is for the rest of the process.
    let stack = Box::leak(vec![0_u8; STACK_BYTES].into_boxed_slice());
    let stack = libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: STACK_BYTES };
    // SAFETY: the stack lives for ever.
    unsafe { libc::sigaltstack(&raw const stack, std::ptr::null_mut()) };
    for signal in FAULTS {
        set_handler(signal);
    }
}

const FLAGS: c_int = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESETHAND | libc::SA_NODEFER;

/// By the raw call: musl's own way back from a handler has no unwind information, and a backtrace would end at it.
#[cfg(target_arch = "x86_64")]
fn set_handler(signal: c_int) {
    const SA_RESTORER: u64 = 0x0400_0000;
    // struct sigaction of the kernel: handler, flags, restorer, mask.
    let way_back = guestd_crash_way_back as *const () as u64;
    let action = [handle as *const () as u64, FLAGS as u64 | SA_RESTORER, way_back, 0];
    // SAFETY: the struct is as large as the kernel's, and a null old action is allowed.
    unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, action.as_ptr(), std::ptr::null::<u64>(), 8_usize) };
}

// What the kernel has a handler return to, which is rt_sigreturn(2), and how to unwind from there: by the registers that the kernel has
// put on the stack (`ucontext_t`, whose `gregs` begin at 40). The FDE begins a byte early, since a return address is looked up by the byte before it.
// DWARF: 0x0f defines the CFA by an expression, 0x10 a register; 0x77 is an offset from rsp, 0x06 what is there.
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".balign 16",
    ".cfi_startproc",
    ".cfi_signal_frame",
    ".cfi_escape 0x0f, 4, 0x77, 0xa0, 0x01, 0x06", // rsp
    ".cfi_escape 0x10, 3, 3, 0x77, 0x80, 0x01",    // rbx
    ".cfi_escape 0x10, 6, 3, 0x77, 0xf8, 0x00",    // rbp
    ".cfi_escape 0x10, 12, 3, 0x77, 0xc8, 0x00",   // r12
    ".cfi_escape 0x10, 13, 3, 0x77, 0xd0, 0x00",   // r13
    ".cfi_escape 0x10, 14, 3, 0x77, 0xd8, 0x00",   // r14
    ".cfi_escape 0x10, 15, 3, 0x77, 0xe0, 0x00",   // r15
    ".cfi_escape 0x10, 16, 3, 0x77, 0xa8, 0x01",   // rip
    "nop",
    "guestd_crash_way_back:",
    "mov rax, 15",
    "syscall",
    ".cfi_endproc",
);

#[cfg(target_arch = "x86_64")]
unsafe extern "C" {
    fn guestd_crash_way_back();
}

/// The kernel's own way back is known to the unwinder.
#[cfg(not(target_arch = "x86_64"))]
fn set_handler(signal: c_int) {
    // SAFETY: sigaction is plain data, for which zeroes are a value, and the handler has the signature that SA_SIGINFO asks for.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handle as *const () as usize;
        action.sa_flags = FLAGS;
        libc::sigaction(signal, &raw const action, std::ptr::null_mut());
    }
}

unsafe extern "C" {
    /// Where the program's file begins in memory, and where its code ends: set by the linker (ld(1)), for process 1 has no /proc yet.
    static __ehdr_start: u8;
    static etext: u8;
}

/// The lowest address that the program's file is mapped to, and where its code is.
fn mapped() -> (usize, Range<usize>) {
    let (base, end) = (&raw const __ehdr_start as usize, &raw const etext as usize);
    (base, base..end)
}

extern "C" fn handle(signal: c_int, info: *const libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel gives a valid siginfo to a handler with SA_SIGINFO; for these signals the address is set, or 0 or the sender's pid where somebody has sent it.
    let address = unsafe { (*info).si_addr() } as usize;
    let mut line = Line::default();
    line.text(b"guestd died by signal ")
        .decimal(signal.unsigned_abs() as usize)
        .text(b" at ")
        .hex(address)
        .text(b"\n")
        .write();
    if backtrace(1) < FEW_FRAMES {
        // SAFETY: the kernel gives a valid ucontext to a handler with SA_SIGINFO.
        words_on_stack(unsafe { stack_pointer(&*context.cast()) });
    }
    let last = LAST.load(SeqCst);
    if !last.is_null() {
        // SAFETY: only a fn() is ever stored.
        unsafe { std::mem::transmute::<*mut c_void, fn()>(last)() };
    }
    // The handler is gone (SA_RESETHAND), so this ends the process as the signal would have.
    // SAFETY: an integer only.
    unsafe { libc::raise(signal) };
}

/// With fewer than these the unwinder has come to code that it knows nothing of, such as musl's.
const FEW_FRAMES: usize = 4;

/// Words of the stack that are looked at then.
const STACK_WORDS: usize = 1024;

#[cfg(target_arch = "x86_64")]
fn stack_pointer(context: &libc::ucontext_t) -> usize {
    context.uc_mcontext.gregs[libc::REG_RSP as usize] as usize
}

#[cfg(target_arch = "aarch64")]
fn stack_pointer(context: &libc::ucontext_t) -> usize {
    context.uc_mcontext.sp as usize
}

/// Writes what on the stack looks like a return address, as kernels do: marked, for some are left from calls that are over.
fn words_on_stack(from: usize) {
    let (start, end) = (TEXT.0.load(SeqCst), TEXT.1.load(SeqCst));
    let mut words = [0_usize; STACK_WORDS];
    let local = libc::iovec { iov_base: words.as_mut_ptr().cast(), iov_len: size_of_val(&words) };
    let remote = libc::iovec { iov_base: from as *mut c_void, iov_len: size_of_val(&words) };
    // The kernel reads as much as there is, where a pointer would end in a fault of its own.
    // SAFETY: the words are writable for their length; the other side is checked by the kernel.
    let read = unsafe { libc::process_vm_readv(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0) };
    let count = usize::try_from(read).unwrap_or(0) / size_of::<usize>();
    for address in words.iter().take(count).filter(|word| (start..end).contains(*word)).take(FRAMES) {
        Line::default().text(b"  ?: guestd+").hex(address.wrapping_sub(BASE.load(SeqCst))).text(b"\n").write();
    }
}

/// Writes the frames of this thread to standard error, some left out at the beginning. Returns how many.
pub fn backtrace(skip: usize) -> usize {
    let mut state = (0_usize, skip);
    // SAFETY: `frame` has the signature that is asked for, and the state lives through the call. The unwinder only reads.
    unsafe { _Unwind_Backtrace(frame, (&raw mut state).cast()) };
    state.0.saturating_sub(skip)
}

unsafe extern "C" {
    /// Of the unwinder that the standard library brings along.
    fn _Unwind_Backtrace(each: unsafe extern "C" fn(*mut c_void, *mut c_void) -> c_int, argument: *mut c_void)
    -> c_int;
    fn _Unwind_GetIP(context: *mut c_void) -> usize;
}

/// # Safety
/// To be called by the unwinder, with a `(usize, usize)`: frames seen, and to leave out.
unsafe extern "C" fn frame(context: *mut c_void, argument: *mut c_void) -> c_int {
    // SAFETY: the caller's promise.
    let (state, address) = unsafe { (&mut *argument.cast::<(usize, usize)>(), _Unwind_GetIP(context)) };
    let number = state.0;
    state.0 += 1;
    if address != 0 && number >= state.1 {
        let (base, mut line) = (BASE.load(SeqCst), Line::default());
        line.text(b"  ").decimal(number - state.1).text(b": guestd+");
        line.hex(address.wrapping_sub(base)).text(b"\n").write();
    }
    // _URC_NO_REASON goes on; anything else ends it.
    if state.0 < FRAMES + state.1 { 0 } else { 4 }
}

/// A line that is put together without memory of anybody's.
#[derive(Debug)]
struct Line {
    bytes: [u8; 128],
    length: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self { bytes: [0; 128], length: 0 }
    }
}

impl Line {
    fn text(&mut self, text: &[u8]) -> &mut Self {
        for (to, from) in self.bytes.iter_mut().skip(self.length).zip(text) {
            *to = *from;
            self.length += 1;
        }
        self
    }

    fn decimal(&mut self, number: usize) -> &mut Self {
        self.digits(number, 10)
    }

    fn hex(&mut self, number: usize) -> &mut Self {
        self.text(b"0x").digits(number, 16)
    }

    fn digits(&mut self, number: usize, base: usize) -> &mut Self {
        let (mut digits, mut at, mut left) = ([0; 24], 24, number);
        while at == digits.len() || left > 0 {
            at -= 1;
            digits[at] = b"0123456789abcdef"[left % base];
            left /= base;
        }
        self.text(&digits[at..])
    }

    fn write(&self) {
        // SAFETY: readable bytes of this length.
        unsafe { libc::write(libc::STDERR_FILENO, self.bytes.as_ptr().cast(), self.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_told_with_where_it_was_and_who_called() {
        const VICTIM: &str = "GUESTD_CRASH_VICTIM";
        if std::env::var_os(VICTIM).is_some() {
            tell_faults();
            // SAFETY: an integer only.
            unsafe { libc::raise(libc::SIGSEGV) };
            unreachable!("the signal ends it");
        }
        let name = "sys::crash::tests::a_fault_is_told_with_where_it_was_and_who_called";
        let mut victim = std::process::Command::new(std::env::current_exe().unwrap());
        let output = victim.args(["--exact", name, "--nocapture"]).env(VICTIM, "1").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(libc::SIGSEGV), "{said}");
        // raise, this test, and those that run it; beyond the handler and the way back.
        assert!(said.contains("guestd died by signal 11") && said.matches(": guestd+0x").count() > 6, "{said}");
    }

    #[test]
    fn a_line_is_put_together_and_never_longer_than_it_may_be() {
        let mut line = Line::default();
        line.text(b"a ").decimal(0).text(b" ").decimal(120).text(b" ").hex(0xff0);
        assert_eq!(&line.bytes[..line.length], b"a 0 120 0xff0");
        line.text(&[b'x'; 500]);
        assert_eq!(line.length, 128);
    }
}
