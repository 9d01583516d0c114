//! What proc(5) tells of one process, byte for byte: names and command lines need not be UTF-8, and are shown with U+FFFD then.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use crate::{facts::ProcessFact, limits};

/// What changes when a process becomes another program: its stat file without what counts up.
///
/// The pid stays at an exec, and the name may; where the arguments lie in memory does not, for each image gets addresses of its
/// own. Reading it waits for nothing, while `cmdline` waits for the process's memory to be unlocked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    name: Vec<u8>,
    start_ticks: u64,
    /// startstack, arg_start, arg_end; 0 where the agent may not know.
    addresses: [u64; 3],
}

/// The program that a process is at present; None where it has ended.
pub fn image(pid: i32) -> Option<Image> {
    parse_stat(&read(pid, "stat", limits::PROC_FILE_BYTES).ok()?)
}

/// Everything of a process; None where it has ended.
///
/// The command line is empty where it is not to be had within `patience`, of which the time that it took is taken away: the kernel
/// reads it under the lock of the process's memory, which a process can hold for as long as a file system of its own does not answer.
pub fn describe(pid: i32, patience: &mut Duration) -> Option<(Image, ProcessFact)> {
    // First, so that a program that comes in between is another image at the next look.
    let image = image(pid)?;
    let uid = std::fs::metadata(format!("/proc/{pid}")).ok()?.uid();
    // A kernel thread has no command line.
    let command = within(patience, move || read(pid, "cmdline", limits::PROC_FILE_BYTES).unwrap_or_default());
    let command = command.unwrap_or_default();
    let cgroups = read(pid, "cgroup", limits::PROC_FILE_BYTES).unwrap_or_default();
    let fact = ProcessFact {
        pid,
        name: String::from_utf8_lossy(&image.name).into_owned(),
        command: command_line(&command),
        uid: real_uid(pid).unwrap_or(uid),
        cgroup: cgroup_path(&String::from_utf8_lossy(&cgroups)).to_owned(),
        started_after_boot: ticks(image.start_ticks),
    };
    Some((image, fact))
}

/// Names in a directory of proc(5) that are numbers: processes of `/proc`, descriptors of `/proc/PID/fd`.
pub(super) fn numbers_in(directory: &str) -> io::Result<Vec<i32>> {
    Ok(numbers_of(directory)?.collect())
}

/// The same one by one, in the kernel's order, which is ascending.
pub(super) fn numbers_of(directory: &str) -> io::Result<impl Iterator<Item = i32>> {
    let number = |entry: io::Result<std::fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
    Ok(std::fs::read_dir(directory)?.filter_map(number))
}

/// The number of a link such as `socket:[7]` or `net:[7]`.
pub(super) fn inode_in_link(target: &str, kind: &str) -> Option<u64> {
    target.strip_prefix(kind)?.strip_prefix(":[")?.strip_suffix(']')?.parse().ok()
}

fn read(pid: i32, name: &str, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(format!("/proc/{pid}/{name}"))?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads that are under way on threads of their own, those that are held up among them.
static HELD_UP: AtomicUsize = AtomicUsize::new(0);

/// A place among those, given back with the end of the read.
struct Place;

impl Place {
    fn take() -> Option<Self> {
        let take = |taken: usize| (taken < limits::HELD_UP_READS).then_some(taken + 1);
        HELD_UP.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).ok().map(|_| Self)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        HELD_UP.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Reads on a thread that is left behind when it is held up; None then, and while too many are.
fn within<T: Send + 'static>(patience: &mut Duration, read: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    if patience.is_zero() {
        return None;
    }
    let (place, begun) = (Place::take()?, Instant::now());
    let (tell, told) = mpsc::sync_channel(1);
    let read = move || {
        let result = read();
        drop(place);
        // Nobody waits any more where it came too late.
        let _ = tell.send(result);
    };
    thread::Builder::new().name("cmdline".to_owned()).stack_size(limits::READ_STACK_BYTES).spawn(read).ok()?;
    let answer = told.recv_timeout(*patience).ok();
    *patience = patience.saturating_sub(begun.elapsed());
    answer
}

fn real_uid(pid: i32) -> Option<u32> {
    let status = read(pid, "status", limits::PROC_FILE_BYTES).ok()?;
    // A line that begins so is the kernel's: in a name, line feeds are escaped.
    let line = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"Uid:"))?;
    std::str::from_utf8(line).ok()?.split_whitespace().next()?.parse().ok()
}

/// `PID (NAME) STATE PPID …`: a name may hold spaces, parentheses and line feeds, so the last `)` ends it.
fn parse_stat(stat: &[u8]) -> Option<Image> {
    let open = stat.iter().position(|byte| *byte == b'(')?;
    let close = stat.iter().rposition(|byte| *byte == b')')?;
    let fields: Vec<&str> = std::str::from_utf8(stat.get(close + 1..)?).ok()?.split_ascii_whitespace().collect();
    // proc(5) counts from 1, and the first of these is the third.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let addresses = [28, 48, 49].map(|number| field(number).unwrap_or(0));
    Some(Image { name: stat.get(open + 1..close)?.to_vec(), start_ticks: field(22)?, addresses })
}

/// Arguments joined by spaces, cut at `limits::PROCESS_COMMAND_BYTES`.
fn command_line(bytes: &[u8]) -> String {
    let words: Vec<_> = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty()).collect();
    let mut command = String::from_utf8_lossy(&words.join(&b' ')).into_owned();
    command.truncate(command.floor_char_boundary(limits::PROCESS_COMMAND_BYTES));
    command
}

/// The path in version 2, or in systemd's hierarchy (a hybrid system keeps units in both, an older one in the latter alone), or
/// any where a container manager without systemd has made one.
fn cgroup_path(lines: &str) -> &str {
    let paths = || {
        lines.lines().filter_map(|line| {
            let (_, line) = line.split_once(':')?;
            line.split_once(':')
        })
    };
    let below_root = |wanted: &dyn Fn(&str) -> bool| {
        paths().find(|(controllers, path)| wanted(controllers) && *path != "/").map(|(_, path)| path)
    };
    below_root(&str::is_empty)
        .or_else(|| below_root(&|controllers| controllers == "name=systemd"))
        .or_else(|| below_root(&|_| true))
        .or_else(|| paths().next().map(|(_, path)| path))
        .unwrap_or_default()
}

fn ticks(count: u64) -> Duration {
    let per_second = procfs::ticks_per_second().max(1);
    Duration::from_secs(count / per_second) + Duration::from_secs(count % per_second) / per_second as u32
}

/// CLOCK_REALTIME at the kernel's start, by the two clocks at present: it moves when the clock is set.
pub fn booted_at() -> Duration {
    use nix::time::{ClockId, clock_gettime};
    // The clocks exist on every kernel that guestd runs on.
    let read = |clock| clock_gettime(clock).map(Duration::from).unwrap_or_default();
    read(ClockId::CLOCK_REALTIME).saturating_sub(read(ClockId::CLOCK_BOOTTIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_be_made_to_look_like_the_rest_of_the_line() {
        let rest = "S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 1 1 1 1 1 5555 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 1 1 1 6666 7777 1 1 0";
        let stat = format!("7 (a) R 1 2\n(\u{1b}[2J) {rest}\n");
        let image = parse_stat(stat.as_bytes()).unwrap();
        assert_eq!(image.name, "a) R 1 2\n(\u{1b}[2J".as_bytes());
        assert_eq!((image.start_ticks, image.addresses), (4711, [5555, 6666, 7777]));
        assert_eq!(parse_stat(b""), None);
        assert_eq!(parse_stat(b"7 (a"), None);
        assert_eq!(parse_stat(b"7 (a) S 1"), None);
    }

    #[test]
    fn command_lines_that_are_no_utf8_are_shown_and_cut_between_characters() {
        assert_eq!(command_line(b"/bin/x\0-a\0\0\xff\xfe\0\x1b[2J\n\0"), "/bin/x -a \u{fffd}\u{fffd} \u{1b}[2J\n");
        assert_eq!(command_line(b""), "");
        let long = "ä".repeat(limits::PROCESS_COMMAND_BYTES);
        assert_eq!(command_line(format!("x{long}").as_bytes()).len(), limits::PROCESS_COMMAND_BYTES - 1);
    }

    #[test]
    fn the_cgroup_is_that_of_version_2_or_the_one_that_names_something() {
        assert_eq!(cgroup_path("0::/system.slice/ssh.service\n"), "/system.slice/ssh.service");
        assert_eq!(cgroup_path("4:memory:/a\n1:name=systemd:/user.slice\n0::/\n"), "/user.slice");
        assert_eq!(cgroup_path("4:cpu,cpuacct:/docker/a:b\n0::/\n"), "/docker/a:b");
        assert_eq!(cgroup_path("4:memory:/\n0::/\n"), "/");
        assert_eq!(cgroup_path(""), "");
    }

    #[test]
    fn a_process_is_described_and_started_in_the_past() {
        let own = i32::try_from(std::process::id()).unwrap();
        let mut patience = limits::PROCESS_READ_TIME;
        let (image, fact) = describe(own, &mut patience).unwrap();
        assert!(!fact.command.is_empty());
        assert_eq!(super::image(own), Some(image));
        assert_eq!((fact.pid, fact.uid), (own, nix::unistd::getuid().as_raw()));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let started = booted_at() + fact.started_after_boot;
        assert!(started <= now + Duration::from_secs(1) && now - started < Duration::from_secs(3600), "{started:?}");
        assert_eq!(describe(i32::MAX, &mut patience), None);
    }

    #[test]
    fn a_process_that_holds_its_memory_locked_does_not_hold_up_the_agent() {
        // What a reader of its command line does then: it stands still until the process lets go.
        let (_let_go, held) = mpsc::channel::<()>();
        let mut patience = Duration::from_millis(50);
        assert_eq!(within(&mut patience, move || held.recv().is_ok()), None);
        assert!(patience.is_zero());
        // The next ones do not wait in vain.
        assert_eq!(within(&mut patience, || true), None);
        assert_eq!(within(&mut Duration::from_secs(60), || true), Some(true));
    }
}
