//! What is kept of a VM whose test failed.

use std::fs;
use std::path::{Path, PathBuf};

use super::artifacts;

/// Lines of the console that are shown; the file has them all.
const TAIL_LINES: usize = 40;

/// Copies the logs to `target/e2e/`, and says where they are, with the console's last lines.
pub(crate) fn keep(id: &str, logs: &[&Path]) -> String {
    let dir = artifacts::root().join("target/e2e");
    let mut report = format!("--- {id}: last lines of its logs\n");
    for log in logs {
        let text = String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned();
        if text.is_empty() {
            continue;
        }
        let name = log.file_name().unwrap_or_default().to_string_lossy();
        report += &tail(&text, TAIL_LINES);
        match copy(log, &dir, &format!("{id}-{name}")) {
            Ok(kept) => report += &format!("\n--- all of it: {}\n", kept.display()),
            Err(error) => report += &format!("\n--- could not be kept in {}: {error}\n", dir.display()),
        }
    }
    report
}

fn copy(log: &Path, dir: &Path, name: &str) -> std::io::Result<PathBuf> {
    fs::create_dir_all(dir)?;
    let kept = dir.join(name);
    fs::copy(log, &kept)?;
    Ok(kept)
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
