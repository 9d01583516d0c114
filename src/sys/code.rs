//! This program's own code in memory.

#![expect(unsafe_code, reason = "madvise(2) of mapped code")]

use std::{fs, io};

/// Takes this program's code out of its memory: in bytes, how much is mapped of it. What runs on comes back from the page cache, a piece at a
/// time; what only a start needs does not.
///
/// # Errors
/// /proc is not mounted.
pub fn let_go() -> io::Result<usize> {
    let program = fs::read_link("/proc/self/exe")?;
    let maps = fs::read_to_string("/proc/self/maps")?;
    let mut bytes = 0;
    // Constants are not touched: beside them are the process's own, with addresses that were filled in when it was loaded.
    for line in maps.lines().filter(|line| line.contains(" r-xp ") && line.ends_with(&*program.to_string_lossy())) {
        let Some((from, to)) = range(line) else { continue };
        // SAFETY: a private mapping of a file that was never writable, so that each page comes back from the file as it was.
        if unsafe { libc::madvise(from as *mut libc::c_void, to - from, libc::MADV_DONTNEED) } < 0 {
            return Err(io::Error::last_os_error());
        }
        bytes += to - from;
    }
    Ok(bytes)
}

/// Addresses of a line of proc_pid_maps(5).
fn range(line: &str) -> Option<(usize, usize)> {
    let (from, rest) = line.split_once('-')?;
    let (to, _) = rest.split_once(' ')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    Some((address(from)?, address(to)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_that_was_let_go_of_runs_on() {
        let resident = || -> u64 {
            let rollup = fs::read_to_string("/proc/self/smaps_rollup").unwrap();
            let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
            line.trim().trim_end_matches(" kB").parse().unwrap()
        };
        let before = resident();
        let code = let_go().unwrap();
        assert!(code > 0 && resident() < before, "{code} bytes of code, {before} KiB before");
        assert_eq!(range("55e0-66f0 r-xp 0 08:01 5 /x"), Some((0x55e0, 0x66f0)));
    }
}
