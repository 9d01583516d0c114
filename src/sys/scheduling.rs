//! How the kernel gives threads their turn on a processor (sched(7)).

#![expect(unsafe_code, reason = "sched_setscheduler(2), which musl's C library refuses to call")]

use std::io;

/// struct sched_param: a priority, which this kind has none of.
static PARAMETERS: libc::c_int = 0;

/// Makes the calling thread one of SCHED_BATCH: it has the same share of a processor as before, but when it is woken up it does not interrupt
/// whoever runs there.
///
/// # Errors
/// What the kernel says: EPERM where a sandbox forbids the call.
pub fn become_batch() -> io::Result<()> {
    // SAFETY: the kernel reads one int. 0 is the calling thread.
    match unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_BATCH, &raw const PARAMETERS) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_becomes_one_of_its_kind_and_others_do_not() {
        // SAFETY: integers only.
        let policy = || unsafe { libc::syscall(libc::SYS_sched_getscheduler, 0) };
        std::thread::spawn(move || {
            become_batch().unwrap();
            assert_eq!(policy(), libc::c_long::from(libc::SCHED_BATCH));
        })
        .join()
        .unwrap();
        assert_eq!(policy(), libc::c_long::from(libc::SCHED_OTHER));
    }
}
