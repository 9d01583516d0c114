//! The harness keeps its word: however a test ends, nothing of it stays on the machine.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::harness::{Net, until};

/// Makes the test below play the one that is killed.
const VICTIM: &str = "GUESTD_E2E_VICTIM";

#[test]
fn a_test_that_is_killed_leaves_no_process_and_no_directory_behind() -> Result<()> {
    if env::var_os(VICTIM).is_some() {
        return be_killed();
    }
    let name = "nothing_left::a_test_that_is_killed_leaves_no_process_and_no_directory_behind";
    let mut victim = Command::new(env::current_exe()?)
        .args(["--exact", name, "--nocapture"])
        .env(VICTIM, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting this test once more")?;
    let said = BufReader::new(victim.stdout.take().context("its standard output is not a pipe")?);
    let dir = said.lines().find_map(|line| Some(line.ok()?.split_once("dir=")?.1.to_owned()));
    let dir = dir.context("the test that is to be killed did not say where its directory is")?;
    ensure!(!mentioning(&dir)?.is_empty() && Path::new(&dir).exists(), "nothing is there that could be left behind");

    victim.kill().context("killing it")?;
    victim.wait().context("waiting for its end")?;
    until("everything of a killed test is gone", Duration::from_secs(10), || {
        let gone = mentioning(&dir)?.is_empty() && !Path::new(&dir).exists();
        Ok(gone.then_some(()))
    })
}

/// Has a network with something in it, says so, and waits for a word that never comes.
fn be_killed() -> Result<()> {
    let net = Net::new()?;
    let dir = net.dir().display().to_string();
    let log = fs::File::create(net.dir().join("log"))?;
    let fifo = net.dir().join("fifo").display().to_string();
    let waiting = net.invocation(["sh", "-c", "mkfifo \"$0\"; read word <\"$0\"", &fifo]).keep(&log)?;
    until("it runs", Duration::from_secs(10), || Ok(Path::new(&fifo).exists().then_some(())))?;
    println!("dir={dir}");
    std::io::stdout().flush()?;
    std::io::stdin().read_line(&mut String::new())?;
    drop(waiting);
    bail!("was not killed")
}

/// Processes with this text in their command line.
fn mentioning(text: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("reading /proc")? {
        // A process may end while it is looked at.
        let command = fs::read(entry?.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.contains(text) {
            found.push(command);
        }
    }
    Ok(found)
}
