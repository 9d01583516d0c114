//! QEMU's machine protocol: one order at a time, events left aside.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::command::DEADLINE;
use super::until;

/// A connection to a QEMU.
#[derive(Debug)]
pub(crate) struct Qmp(BufReader<UnixStream>);

impl Qmp {
    /// Connects as soon as QEMU listens.
    pub(super) fn connect(path: &Path, mut alive: impl FnMut() -> Result<()>) -> Result<Self> {
        let stream = until("QEMU takes orders", DEADLINE, || {
            alive()?;
            Ok(UnixStream::connect(path).ok())
        })?;
        stream.set_read_timeout(Some(DEADLINE))?;
        let mut qmp = Self(BufReader::new(stream));
        // It greets first.
        qmp.line()?;
        qmp.order("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Gives an order and waits until it is carried out.
    pub(crate) fn order(&mut self, order: &str, arguments: Value) -> Result<Value> {
        let line = json!({"execute": order, "arguments": arguments});
        writeln!(self.0.get_mut(), "{line}").with_context(|| format!("ordering {order}"))?;
        loop {
            let mut answer = self.line()?;
            if let Some(error) = answer.get("error") {
                bail!("QEMU does not {order}: {error}");
            }
            if let Some(done) = answer.get_mut("return") {
                return Ok(done.take());
            }
        }
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.0.read_line(&mut line).context("waiting for QEMU's answer")?;
        serde_json::from_str(&line).with_context(|| format!("QEMU's answer {line:?}"))
    }
}
