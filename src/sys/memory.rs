//! Pressure (PSI) and the balloon, by the files of proc(5).

use std::fs::read_to_string;

use crate::facts::MemoryFact;

/// As it is now.
pub fn look() -> MemoryFact {
    let pressure = |what: &str| read_to_string(format!("/proc/pressure/{what}")).unwrap_or_default();
    let memory = pressure("memory");
    MemoryFact {
        cpu_some: share(&pressure("cpu"), "some"),
        memory_some: share(&memory, "some"),
        memory_full: share(&memory, "full"),
        io_some: share(&pressure("io"), "some"),
        balloon_bytes: balloon(&read_to_string("/proc/vmstat").unwrap_or_default()),
    }
}

/// `some avg10=0.12 avg60=...`.
fn share(text: &str, which: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(which))?;
    line.split_whitespace().find_map(|field| field.strip_prefix("avg10="))?.parse().ok()
}

/// Pages that went in, less those that came out.
fn balloon(vmstat: &str) -> Option<u64> {
    let count = |name: &str| {
        let line = vmstat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        line.trim().parse::<u64>().ok()
    };
    let pages = count("balloon_inflate")?.saturating_sub(count("balloon_deflate")?);
    Some(pages.saturating_mul(4096))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_and_balloon_are_read() {
        let text = "some avg10=1.50 avg60=0.00 avg300=0.00 total=9\nfull avg10=0.25 avg60=0.00 avg300=0.00 total=1\n";
        assert_eq!((share(text, "some"), share(text, "full"), share("", "some")), (Some(1.5), Some(0.25), None));
        assert_eq!(balloon("balloon_inflate 300\nballoon_deflate 44\nballoon_migrate 1\n"), Some(256 * 4096));
        assert_eq!(balloon("nr_free_pages 1\n"), None);
    }
}
