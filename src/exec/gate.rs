//! The gate before every start: closed while the VM is being committed or set right after a restore.
//!
//! A request that waits at it belongs to the VM that it was sent to. If the VM is another one when the gate opens, it is not carried out:
//! its host has a copy of it waiting elsewhere.

use tokio::sync::watch;
use tokio::time::timeout;

use super::error::ExecError;
use crate::limits;

/// The gate.
#[derive(Debug)]
pub(super) struct Gate(watch::Sender<State>);

#[derive(Debug, Clone, Copy)]
struct State {
    open: bool,
    /// Counts the generations.
    generation: u64,
}

impl Gate {
    /// Open.
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(State { open: true, generation: 0 }))
    }

    /// From now on starts wait.
    pub(super) fn close(&self) {
        self.0.send_modify(|state| state.open = false);
    }

    /// Those that wait go on.
    pub(super) fn open(&self) {
        self.0.send_modify(|state| state.open = true);
    }

    /// The VM is another one: those that wait by now are not to go on.
    pub(super) fn turn(&self) {
        self.0.send_modify(|state| state.generation += 1);
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.0.receiver_count()
    }

    /// Returns when a command may be started.
    pub(super) async fn pass(&self) -> Result<(), ExecError> {
        let mut states = self.0.subscribe();
        let State { open, generation } = *states.borrow_and_update();
        if open {
            return Ok(());
        }
        let opened = timeout(limits::EXEC_GATE_TIME, states.wait_for(|state| state.open)).await;
        match opened {
            Ok(Ok(state)) if state.generation == generation => Ok(()),
            Ok(Ok(_)) => Err(ExecError::Branched),
            _ => Err(ExecError::Gated { secs: limits::EXEC_GATE_TIME.as_secs() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt;

    use super::*;
    use crate::api::ErrorCode;

    #[tokio::test(start_paused = true)]
    async fn a_start_waits_and_goes_on_in_the_same_vm_alone() {
        let gate = Arc::new(Gate::new());
        gate.pass().await.unwrap();
        gate.close();
        let mut waits = Box::pin(gate.pass());
        assert!(waits.as_mut().now_or_never().is_none());
        gate.open();
        waits.await.unwrap();

        gate.close();
        let mut waits = Box::pin(gate.pass());
        assert!(waits.as_mut().now_or_never().is_none());
        gate.turn();
        gate.open();
        assert_eq!(waits.await.unwrap_err().code(), ErrorCode::Unavailable);
        gate.pass().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever() {
        let gate = Gate::new();
        gate.close();
        assert_eq!(gate.pass().await.unwrap_err().code(), ErrorCode::Unavailable);
    }
}
