//! What a VM's listeners are, as far as it has told; and what to tell of them over lost connections. Pure.
//!
//! ```text
//!  first stream: events pass ──> lost ──> next stream: gathered until it is synced ──> the difference, synced ──> events pass
//! ```
//! So whoever reads has one sequence of events that is right by itself, however many streams it is made of. While nothing is heard,
//! or a look in the VM fails, nothing is taken for gone.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::api::{Family, Listener, ListenerEvent};
use crate::cli::failure::Failure;
use crate::limits;

use super::is_shown;

/// What tells one listener from all others, in the order in which they are shown.
type Key = (u16, Family, IpAddr, bool, u64, u64);

fn key(listener: &Listener) -> Key {
    let Listener { port, family, address, v6only, netns, inode, .. } = *listener;
    (port, family, address, v6only, netns, inode)
}

type Listeners = BTreeMap<Key, Listener>;

/// The listeners, as they were told.
#[derive(Debug)]
pub(super) struct Mirror {
    all: bool,
    known: Listeners,
    /// What a later stream has told so far.
    gathered: Option<Listeners>,
}

impl Mirror {
    /// Knows none yet. Without `all`, those of other network namespaces are not there.
    pub(super) fn new(all: bool) -> Self {
        Self { all, known: BTreeMap::new(), gathered: None }
    }

    /// As they are, sorted by port.
    pub(super) fn listeners(&self) -> impl Iterator<Item = &Listener> {
        self.known.values()
    }

    /// What comes next is told by another stream.
    pub(super) fn lost(&mut self) {
        self.gathered = Some(BTreeMap::new());
    }

    /// Takes an event of the VM; gives those to tell.
    ///
    /// # Errors
    /// [`Failure::TooManyListeners`].
    pub(super) fn take(&mut self, event: ListenerEvent) -> Result<Vec<ListenerEvent>, Failure> {
        let all = self.all;
        match (event, &mut self.gathered) {
            (ListenerEvent::Added { listener } | ListenerEvent::Changed { listener }, gathered) => {
                let listeners = gathered.as_mut().unwrap_or(&mut self.known);
                let told =
                    if is_shown(&listener, all) { insert(listeners, *listener)? } else { remove(listeners, &listener) };
                Ok(told.filter(|_| gathered.is_none()).into_iter().collect())
            }
            (ListenerEvent::Removed { listener }, gathered) => {
                let told = remove(gathered.as_mut().unwrap_or(&mut self.known), &listener);
                Ok(told.filter(|_| gathered.is_none()).into_iter().collect())
            }
            (ListenerEvent::Synced, gathered) => {
                let mut told = match gathered.take() {
                    Some(now) => self.replace(now)?,
                    None => Vec::new(),
                };
                told.push(ListenerEvent::Synced);
                Ok(told)
            }
            (unknown @ ListenerEvent::Unknown { .. }, _) => Ok(vec![unknown]),
            _ => Ok(Vec::new()),
        }
    }

    /// The events that lead to these.
    fn replace(&mut self, now: Listeners) -> Result<Vec<ListenerEvent>, Failure> {
        let gone: Vec<Listener> =
            self.known.iter().filter(|(key, _)| !now.contains_key(key)).map(|(_, it)| it.clone()).collect();
        let mut told: Vec<_> = gone.iter().filter_map(|listener| remove(&mut self.known, listener)).collect();
        for listener in now.into_values() {
            told.extend(insert(&mut self.known, listener)?);
        }
        Ok(told)
    }
}

fn insert(listeners: &mut Listeners, listener: Listener) -> Result<Option<ListenerEvent>, Failure> {
    let key = key(&listener);
    if listeners.len() >= limits::CLIENT_LISTENERS && !listeners.contains_key(&key) {
        return Err(Failure::TooManyListeners);
    }
    let before = listeners.insert(key, listener.clone());
    if before.as_ref() == Some(&listener) {
        return Ok(None);
    }
    let listener = Box::new(listener);
    Ok(Some(if before.is_some() { ListenerEvent::Changed { listener } } else { ListenerEvent::Added { listener } }))
}

fn remove(listeners: &mut Listeners, listener: &Listener) -> Option<ListenerEvent> {
    listeners.remove(&key(listener)).map(|listener| ListenerEvent::Removed { listener: Box::new(listener) })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A listener on `[::]` that a process of this name holds.
    pub(in super::super) fn listener(port: u16, inode: u64, name: &str) -> Listener {
        serde_json::from_value(serde_json::json!({
            "port": port, "address": "::", "family": "ipv6", "v6only": false, "scope": "wildcard", "exposure": "direct",
            "cause": null, "hint": null, "url": null, "netns": 1, "inode": inode,
            "process": {"pid": 7, "name": name, "command": name, "uid": 0, "unit": null},
        }))
        .unwrap()
    }

    pub(in super::super) fn added(listener: Listener) -> ListenerEvent {
        ListenerEvent::Added { listener: Box::new(listener) }
    }

    fn changed(listener: Listener) -> ListenerEvent {
        ListenerEvent::Changed { listener: Box::new(listener) }
    }

    pub(in super::super) fn removed(listener: Listener) -> ListenerEvent {
        ListenerEvent::Removed { listener: Box::new(listener) }
    }

    fn unknown() -> ListenerEvent {
        ListenerEvent::Unknown { message: "why".into() }
    }

    fn take(mirror: &mut Mirror, events: impl IntoIterator<Item = ListenerEvent>) -> Vec<ListenerEvent> {
        events.into_iter().flat_map(|event| mirror.take(event).unwrap()).collect()
    }

    #[test]
    fn events_of_the_first_stream_pass_as_they_come() {
        let mut mirror = Mirror::new(false);
        let events = [
            added(listener(80, 1, "a")),
            ListenerEvent::Synced,
            changed(listener(80, 1, "b")),
            removed(listener(80, 1, "b")),
        ];
        assert_eq!(take(&mut mirror, events.clone()), events);
        assert_eq!(mirror.listeners().count(), 0);
    }

    #[test]
    fn of_a_later_stream_only_the_difference_is_told_when_it_is_whole() {
        let mut mirror = Mirror::new(false);
        let first = [listener(22, 1, "sshd"), listener(80, 2, "old"), listener(443, 3, "gone")];
        take(&mut mirror, first.map(added));
        mirror.lost();
        let (same, new, other) = (listener(22, 1, "sshd"), listener(80, 2, "new"), listener(90, 4, "more"));
        assert_eq!(take(&mut mirror, [added(same), added(new.clone()), added(other.clone())]), []);
        assert_eq!(mirror.listeners().count(), 3);
        let told = take(&mut mirror, [ListenerEvent::Synced]);
        assert_eq!(told, [removed(listener(443, 3, "gone")), changed(new), added(other), ListenerEvent::Synced]);
    }

    #[test]
    fn what_is_not_known_is_never_taken_for_gone() {
        let mut mirror = Mirror::new(false);
        take(&mut mirror, [added(listener(22, 1, "sshd")), ListenerEvent::Synced]);
        assert_eq!(take(&mut mirror, [unknown()]), [unknown()]);
        mirror.lost();
        // A look that failed at once: the agent has just started and knows none.
        assert_eq!(take(&mut mirror, [unknown()]), [unknown()]);
        assert_eq!(mirror.listeners().count(), 1);
        assert_eq!(take(&mut mirror, [added(listener(22, 1, "sshd")), ListenerEvent::Synced]), [ListenerEvent::Synced]);
    }

    #[test]
    fn listeners_of_containers_are_there_only_when_all_are_wanted() {
        let other = || Listener { cause: Some(crate::api::Cause::OtherNetns), ..listener(80, 1, "a") };
        assert_eq!(take(&mut Mirror::new(false), [added(other())]), []);
        assert_eq!(take(&mut Mirror::new(true), [added(other())]), [added(other())]);
        let mut mirror = Mirror::new(false);
        take(&mut mirror, [added(listener(80, 1, "a"))]);
        assert_eq!(take(&mut mirror, [changed(other())]), [removed(listener(80, 1, "a"))]);
        assert_eq!(take(&mut mirror, [changed(listener(80, 1, "a"))]), [added(listener(80, 1, "a"))]);
    }

    #[test]
    fn a_vm_cannot_fill_the_memory() {
        let mut mirror = Mirror::new(false);
        for inode in 0..limits::CLIENT_LISTENERS as u64 {
            mirror.take(added(listener(80, inode, "a"))).unwrap();
        }
        assert!(mirror.take(added(listener(80, 0, "b"))).is_ok());
        assert!(matches!(mirror.take(added(listener(81, 0, "a"))), Err(Failure::TooManyListeners)));
    }
}
