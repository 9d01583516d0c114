//! Traffic of each port over all data planes: the one that serves, those that were retired and still have connections, and those that are
//! gone. Pure.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use super::{PortCounters, orders::PortReport};

/// What was told last of a plane's ports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Account {
    pid: i32,
    ports: Vec<PortReport>,
}

impl Account {
    pub(super) fn new(pid: i32, ports: Vec<PortReport>) -> Self {
        Self { pid, ports }
    }

    pub(super) fn ports(&self) -> impl Iterator<Item = u16> {
        self.ports.iter().map(|port| port.listen)
    }
}

/// By port. They outlive a port's bridge, as Prometheus wants it.
#[derive(Debug, Default)]
pub(super) struct Tally {
    published: BTreeMap<u16, Arc<PortCounters>>,
    /// Of the plane that serves, or served last.
    serving: Account,
    /// Of planes that are gone.
    gone: BTreeMap<u16, PortReport>,
}

impl Tally {
    /// A plane that serves has told this.
    pub(super) fn serve(&mut self, account: Account) {
        let last = std::mem::replace(&mut self.serving, account);
        // The same one may have been out of reach for a while.
        if last.pid != self.serving.pid {
            self.forget(&last);
        }
    }

    /// The plane that served is out of reach; whether it is gone is known when another one serves.
    pub(super) fn lose(&mut self) {
        self.serving.ports.iter_mut().for_each(|port| port.open = 0);
    }

    /// The plane of this number is counted by others from now on.
    pub(super) fn hand_over(&mut self, pid: i32) {
        if self.serving.pid == pid {
            self.serving = Account::default();
        }
    }

    /// A plane is gone, with its connections.
    pub(super) fn forget(&mut self, account: &Account) {
        for port in &account.ports {
            let gone = self.gone.entry(port.listen).or_default();
            add(gone, port);
            gone.open = 0;
        }
    }

    /// Brings what is published up to date.
    pub(super) fn publish<'a>(&'a mut self, retired: impl Iterator<Item = &'a Account>) {
        let mut sums = self.gone.clone();
        let ports = retired.flat_map(|account| &account.ports).chain(&self.serving.ports);
        ports.for_each(|port| add(sums.entry(port.listen).or_default(), port));
        for (listen, sum) in sums {
            let counters = self.published.entry(listen).or_default();
            counters.open.store(sum.open, Relaxed);
            counters.accepted.store(sum.accepted, Relaxed);
            counters.bytes_in.store(sum.bytes_in, Relaxed);
            counters.bytes_out.store(sum.bytes_out, Relaxed);
            counters.errors.store(sum.errors, Relaxed);
        }
    }

    /// Those of a port, which are kept up to date wherever they are shown.
    pub(super) fn of(&mut self, listen: u16) -> Arc<PortCounters> {
        Arc::clone(self.published.entry(listen).or_default())
    }
}

fn add(sum: &mut PortReport, port: &PortReport) {
    sum.open += port.open;
    sum.accepted += port.accepted;
    sum.bytes_in += port.bytes_in;
    sum.bytes_out += port.bytes_out;
    sum.errors += port.errors;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(pid: i32, open: u64, accepted: u64) -> Account {
        Account::new(pid, vec![PortReport { listen: 80, open, accepted, ..PortReport::default() }])
    }

    fn shown(tally: &mut Tally, retired: &[Account]) -> (u64, u64) {
        tally.publish(retired.iter());
        let counters = tally.of(80);
        (counters.open.load(Relaxed), counters.accepted.load(Relaxed))
    }

    #[test]
    fn connections_of_planes_that_were_retired_and_traffic_of_those_that_are_gone_count() {
        let mut tally = Tally::default();
        tally.serve(account(1, 2, 5));
        assert_eq!(shown(&mut tally, &[]), (2, 5));
        // It makes room for another.
        tally.hand_over(1);
        tally.serve(account(2, 1, 1));
        assert_eq!(shown(&mut tally, &[account(1, 2, 5)]), (3, 6));
        tally.forget(&account(1, 1, 5));
        assert_eq!(shown(&mut tally, &[]), (1, 6));
        // It is killed, and another one comes.
        tally.lose();
        assert_eq!(shown(&mut tally, &[]), (0, 6));
        tally.serve(account(3, 0, 0));
        tally.serve(account(3, 1, 1));
        assert_eq!(shown(&mut tally, &[]), (1, 7));
    }

    #[test]
    fn plane_that_was_out_of_reach_is_counted_once() {
        let mut tally = Tally::default();
        tally.serve(account(1, 2, 5));
        tally.lose();
        tally.serve(account(1, 2, 6));
        assert_eq!(shown(&mut tally, &[]), (2, 6));
    }
}
