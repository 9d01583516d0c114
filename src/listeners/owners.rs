//! Who holds which socket, looked up as seldom as possible and right at every look.
//!
//! A new socket is looked for among the processes of the cgroup that it was made in, which is where its owner is, as a rule: a service's
//! unit has few. Otherwise a look-up walks over every descriptor of every process. It is made for sockets that are not found so, and for those whose owner has
//! gone or let them go; a socket that nobody holds (its descriptor is in flight, or it is the kernel's own) is looked for at
//! growing intervals. From time to time it is made for all: a service may by now hold what init held alone, and others share it.
//!
//! Each look asks of each known owner whether it holds its sockets (one readlink each) and is the same program (one read of its
//! stat file), which is what changes with an exec, a descriptor that is passed on, and a pid that is another's by now.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use super::ration::Ration;
use crate::{
    facts::{OwnerFact, ProcessFact, SocketFact},
    limits,
    sys::{
        cgroup::CgroupTree,
        proc_pid::{self, Image},
        socket_owners::{self, Holder},
    },
};

/// First and longest wait before a socket without an owner is looked for again.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Least and longest time between two walks that no new socket asks for.
const REFRESH: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

/// Walks in one look: the second is for what a process held that has ended since the first.
const WALKS: usize = 2;

/// Known owners, and sockets that were looked for in vain.
#[derive(Debug)]
pub(super) struct SocketOwners {
    tree: Option<CgroupTree>,
    /// Sockets that listen.
    listening: HashSet<u64>,
    known: BTreeMap<u64, Holder>,
    processes: HashMap<i32, (Image, Arc<ProcessFact>)>,
    missed: HashMap<u64, Missed>,
    /// Some are known from a look at their cgroups alone: others may hold these sockets, too.
    near_only: bool,
    refresh: Ration,
}

#[derive(Debug, Clone, Copy)]
struct Missed {
    again_at: Instant,
    wait: Duration,
    /// It has been looked for after the longest wait, too, and is no more cause for a look.
    given_up: bool,
}

impl Default for SocketOwners {
    fn default() -> Self {
        Self {
            // Without it every new socket takes a walk.
            tree: CgroupTree::open().ok(),
            listening: HashSet::new(),
            known: BTreeMap::new(),
            processes: HashMap::new(),
            missed: HashMap::new(),
            near_only: false,
            refresh: Ration::within(REFRESH.0, REFRESH.1),
        }
    }
}

impl SocketOwners {
    /// Takes in what listens now, and finds the owners of new sockets among the processes of the cgroups that they were made in.
    pub(super) fn update<'a>(&mut self, sockets: impl Iterator<Item = &'a SocketFact>, now: Instant) {
        let cgroups: HashMap<u64, Option<u64>> = sockets.map(|socket| (socket.inode, socket.cgroup_id)).collect();
        self.listening = cgroups.keys().copied().collect();
        self.known.retain(|inode, _| cgroups.contains_key(inode));
        self.missed.retain(|inode, _| cgroups.contains_key(inode));
        self.drop_what_is_held_no_more();
        let wanted = self.wanted(now);
        let near: BTreeSet<u64> = wanted.iter().filter_map(|inode| *cgroups.get(inode)?).collect();
        if !near.is_empty() && near.len() <= limits::NEAR_CGROUPS {
            let members = |id: u64| self.tree.as_ref()?.members(id, limits::NEAR_PROCESSES).ok();
            let pids = near.into_iter().filter_map(members).flatten().collect();
            let found = socket_owners::find_among(pids, &wanted, limits::NEAR_DESCRIPTORS);
            self.near_only |= !found.is_empty();
            self.missed.retain(|inode, _| !found.contains_key(inode));
            self.known.extend(found);
        }
        self.describe();
    }

    /// Is there more to be known by a walk over all processes? `exactly` counts who else holds the sockets, too.
    pub(super) fn owes_a_walk(&self, exactly: bool, now: Instant) -> bool {
        let refresh = !self.known.is_empty() && self.refresh.is_due(now);
        refresh || exactly && self.near_only || !self.wanted(now).is_empty()
    }

    /// Looks at all processes; `anew` describes those that are known once more, too: one may have given itself another title.
    pub(super) fn walk(&mut self, anew: bool, now: Instant) {
        for _ in 0..WALKS {
            let wanted = self.wanted(now);
            let Ok(found) = self.refresh.spend(|| socket_owners::find(&self.listening)) else {
                // A /proc that cannot be read leaves the owners unknown. To try again at once would end in looks without a pause.
                self.learn(BTreeMap::new(), &wanted, now);
                break;
            };
            self.learn(found, &wanted, now);
            self.near_only = false;
            // Each takes a thread and a wait for it, which an idle VM is spared.
            if anew {
                self.processes.clear();
            }
            if self.describe() {
                break;
            }
        }
        self.describe();
    }

    /// What is known, by the sockets' inodes.
    pub(super) fn facts(&self) -> BTreeMap<u64, OwnerFact> {
        let owner = |(inode, holder): (&u64, &Holder)| {
            let (_, process) = self.processes.get(&holder.pid)?;
            Some((*inode, OwnerFact { process: Arc::clone(process), holders: holder.holders }))
        };
        self.known.iter().filter_map(owner).collect()
    }

    fn drop_what_is_held_no_more(&mut self) {
        let mut by_process: BTreeMap<i32, Vec<(i32, u64)>> = BTreeMap::new();
        for (inode, holder) in &self.known {
            by_process.entry(holder.pid).or_default().push((holder.descriptor, *inode));
        }
        for (pid, held) in by_process {
            for inode in socket_owners::no_longer_held(pid, &held) {
                self.known.remove(&inode);
            }
        }
    }

    /// When the next socket is to be looked for again. A socket that nobody ever owns does not wake the VM for ever: after the longest
    /// wait it is looked for only when there is a look anyway.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.missed.values().filter(|missed| !missed.given_up).map(|missed| missed.again_at).min()
    }

    /// Sockets to look for.
    fn wanted(&self, now: Instant) -> HashSet<u64> {
        let due = |inode: &u64| self.missed.get(inode).is_none_or(|missed| missed.again_at <= now);
        self.listening.iter().copied().filter(|inode| !self.known.contains_key(inode)).filter(due).collect()
    }

    fn learn(&mut self, found: BTreeMap<u64, Holder>, wanted: &HashSet<u64>, now: Instant) {
        self.missed.retain(|inode, _| !found.contains_key(inode));
        for inode in wanted.iter().filter(|inode| !found.contains_key(inode)) {
            let (wait, given_up) = self
                .missed
                .get(inode)
                .map_or((RETRY.0, false), |missed| ((missed.wait * 2).min(RETRY.1), missed.wait == RETRY.1));
            self.missed.insert(*inode, Missed { again_at: now + wait, wait, given_up });
        }
        // What a walk has not met may have moved against it, from a process that came later to one that came before.
        self.known.extend(found);
    }

    /// Sees to it that every owner is described as the program that it is now. False where one has ended: what it held is then
    /// to be looked for.
    fn describe(&mut self) -> bool {
        let pids: HashSet<i32> = self.known.values().map(|holder| holder.pid).collect();
        self.processes.retain(|pid, _| pids.contains(pid));
        let (mut ended, mut patience) = (HashSet::new(), limits::PROCESS_READ_TIME);
        for pid in pids {
            let is_same =
                self.processes.get(&pid).is_some_and(|(image, _)| proc_pid::image(pid).as_ref() == Some(image));
            if is_same {
                continue;
            }
            match proc_pid::describe(pid, &mut patience) {
                Some((image, fact)) => _ = self.processes.insert(pid, (image, Arc::new(fact))),
                None => _ = ended.insert(pid),
            }
        }
        self.known.retain(|_, holder| !ended.contains(&holder.pid));
        ended.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::{
        listeners::tests::socket,
        sys::{cgroup::CgroupParent, sock_diag},
    };

    fn listening(inodes: &[u64]) -> Vec<SocketFact> {
        inodes.iter().map(|inode| SocketFact { inode: *inode, ..socket("::", 80) }).collect()
    }

    /// Owners, by a walk where one is due.
    fn of(owners: &mut SocketOwners, inodes: &[u64], now: Instant) -> BTreeMap<u64, OwnerFact> {
        owners.update(listening(inodes).iter(), now);
        if owners.owes_a_walk(false, now) {
            owners.walk(true, now);
        }
        owners.facts()
    }

    fn held(listener: &TcpListener) -> u64 {
        nix::sys::stat::fstat(listener).unwrap().st_ino
    }

    #[test]
    fn socket_without_an_owner_is_looked_for_ever_less_often() {
        let (mut owners, start) = (SocketOwners::default(), Instant::now());
        owners.listening = HashSet::from([7]);
        let mut looked_at = Vec::new();
        for second in 0..200 {
            let now = start + Duration::from_secs(second);
            let wanted = owners.wanted(now);
            if !wanted.is_empty() {
                looked_at.push(second);
                owners.learn(BTreeMap::new(), &wanted, now);
            }
        }
        assert_eq!(looked_at, [0, 1, 3, 7, 15, 31, 63, 123, 183]);
    }

    #[test]
    fn retries_end_after_the_longest_wait() {
        let (mut owners, mut now) = (SocketOwners::default(), Instant::now());
        assert_eq!(owners.next_retry(), None);
        let mut waits = Vec::new();
        owners.listening = HashSet::from([7]);
        owners.learn(BTreeMap::new(), &HashSet::from([7]), now);
        while let Some(next) = owners.next_retry() {
            waits.push((next - now).as_secs());
            now = next;
            owners.learn(BTreeMap::new(), &owners.wanted(now), now);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60]);
    }

    #[test]
    fn socket_that_is_gone_is_forgotten_and_a_new_one_is_looked_for_at_once() {
        let (mut owners, now) = (SocketOwners::default(), Instant::now());
        owners.learn(BTreeMap::new(), &HashSet::from([7]), now);
        owners.update(listening(&[7, 8]).iter(), now);
        assert_eq!(owners.wanted(now), HashSet::from([8]));
        assert_eq!(of(&mut owners, &[], now), BTreeMap::new());
        owners.update(listening(&[7]).iter(), now);
        assert_eq!(owners.wanted(now), HashSet::from([7]));
    }

    #[test]
    fn what_nobody_holds_does_not_keep_what_is_held_from_being_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = held(&listener);
        let (mut owners, now) = (SocketOwners::default(), Instant::now());
        for now in [now, now, now + RETRY.0] {
            let found = of(&mut owners, &[inode, u64::MAX], now);
            let held: Vec<_> = found.iter().map(|(inode, owner)| (*inode, owner.process.pid, owner.holders)).collect();
            assert_eq!(held, [(inode, i32::try_from(std::process::id()).unwrap(), 1)]);
        }
        drop(listener);
        assert_eq!(of(&mut owners, &[inode, u64::MAX], now), BTreeMap::new());
    }

    #[test]
    fn owner_of_a_new_socket_is_found_in_its_cgroup_and_who_else_holds_it_by_a_walk() {
        // This process goes into a cgroup of its own for a while, as a service's would be.
        let own = std::process::id();
        let parent = CgroupParent::detect().unwrap();
        let cgroup = parent.create(&format!("guestd-test-owners-{own}")).unwrap();
        std::fs::write(cgroup.path().join("cgroup.procs"), own.to_string()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();

        let (mut owners, now) = (SocketOwners::default(), Instant::now());
        let facts = sock_diag::listening_tcp(usize::MAX).unwrap();
        let socket = facts.iter().find(|fact| fact.inode == held(&listener)).unwrap();
        owners.update(std::iter::once(socket), now);
        let found = owners.facts();
        std::fs::write(parent.path().join("cgroup.procs"), own.to_string()).unwrap();
        cgroup.remove().unwrap();
        assert_eq!(found[&socket.inode].process.pid, i32::try_from(own).unwrap());
        owners.refresh.spend(|| ());
        assert!(!owners.owes_a_walk(false, Instant::now()) && owners.owes_a_walk(true, Instant::now()));
        owners.walk(true, now);
        assert!(!owners.owes_a_walk(true, Instant::now()));
    }
}
