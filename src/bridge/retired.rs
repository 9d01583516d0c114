//! Data planes that made room for another one and still have connections. They obey until the last of these has ended.

use std::{
    io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use futures_util::future::{join_all, select_all};

use super::{
    link::{Link, Said},
    name_lock::NameLock,
    orders::{Clients, Order, PortReport, State},
    tally::Account,
};
use crate::limits;

/// One of them.
#[derive(Debug)]
pub(super) struct Retired {
    pub(super) link: Link,
    /// What it has told last.
    pub(super) account: Account,
}

/// All of them, oldest first.
#[derive(Debug, Default)]
pub(super) struct RetiredPlanes(Vec<Retired>);

/// Those whose line is of no use any more, and why.
pub(super) type Lost = Vec<(Retired, io::Error)>;

impl RetiredPlanes {
    /// Those of agents before, by their doors. They have still to say who they are.
    pub(super) async fn find(socket: &Path) -> Self {
        let mut found = Vec::new();
        for door in doors(socket) {
            match Link::knock(&door).await {
                Ok(Some(link)) => found.push(Retired { link, account: Account::default() }),
                // It was killed.
                Ok(None) => drop(std::fs::remove_file(&door)),
                Err(error) => tracing::warn!(door = %door.display(), %error, "bridge: a data plane of before"),
            }
        }
        Self(found)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn accounts(&self) -> impl Iterator<Item = &Account> {
        self.0.iter().map(|retired| &retired.account)
    }

    pub(super) fn add(&mut self, link: Link, ports: Vec<PortReport>) {
        let account = Account::new(link.pid, ports);
        self.0.push(Retired { link, account });
    }

    /// The oldest, if there are more than may be: each may have as many connections as one that serves.
    pub(super) fn take_surplus(&mut self) -> Option<Retired> {
        (self.len() > limits::BRIDGE_RETIRED_PLANES).then(|| self.0.remove(0))
    }

    /// All, to be ended.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Link> {
        std::mem::take(&mut self.0).into_iter().map(|retired| retired.link)
    }

    /// Waits until one says something unasked or is gone. Nothing is lost if this is given up.
    pub(super) async fn heard(&mut self) -> (usize, io::Result<Said>) {
        if self.0.is_empty() {
            return std::future::pending().await;
        }
        let all = self.0.iter_mut().map(|retired| Box::pin(retired.link.heard()));
        let (said, place, _) = select_all(all).await;
        (place, said)
    }

    /// Deals with it. Who gives a plane an order is its agent, without which it would end soon: so each is asked how it is when it has said
    /// who it is.
    pub(super) async fn attend(&mut self, (place, said): (usize, io::Result<Said>)) -> Lost {
        let Some(retired) = self.0.get_mut(place) else { return Vec::new() };
        let state = match said {
            Ok(_) => retired.link.ask(&Order::Status { clients: false }).await,
            Err(error) => Err(error),
        };
        self.take_in(vec![Some(state)], place).1
    }

    /// Asks all that have said who they are. Gives the clients that they tell of.
    pub(super) async fn ask(&mut self, order: &Order) -> (Clients, Lost) {
        let asked = self.0.iter_mut().map(|retired| async move {
            match retired.link.hello.is_some() {
                true => Some(retired.link.ask(order).await),
                false => None,
            }
        });
        let answers = join_all(asked).await;
        self.take_in(answers, 0)
    }

    /// Answers of those from this place on.
    fn take_in(&mut self, answers: Vec<Option<io::Result<State>>>, first: usize) -> (Clients, Lost) {
        let (mut clients, mut lost) = (Clients::default(), Vec::new());
        // From the end, for those that are lost leave the list.
        for (place, answer) in answers.into_iter().enumerate().rev() {
            let place = first + place;
            match answer {
                Some(Ok(state)) => {
                    clients.merge(state.clients.unwrap_or_default());
                    let retired = &mut self.0[place];
                    retired.account = Account::new(retired.link.pid, state.ports);
                }
                Some(Err(error)) => lost.push((self.0.remove(place), error)),
                None => {}
            }
        }
        (clients, lost)
    }
}

/// Does a plane run that has this socket, or made room for one that has?
pub(super) fn is_anybody_there(socket: &Path) -> bool {
    let runs = |door: &PathBuf| {
        let number = door.extension().and_then(|number| number.to_str());
        number.is_some_and(|number| Path::new("/proc").join(number).exists())
    };
    NameLock::holder(socket).is_some() || doors(socket).iter().any(runs)
}

/// Doors of planes that made room for the one with this socket, oldest first: its name, and their number.
fn doors(socket: &Path) -> Vec<PathBuf> {
    let Some((dir, name)) = socket.parent().zip(socket.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut doors: Vec<_> = entries
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.strip_prefix(name)?.strip_prefix('.')?.parse::<u32>();
            let about = entry.metadata().ok().filter(|about| about.file_type().is_socket() && number.is_ok())?;
            Some(((about.ctime(), about.ctime_nsec()), entry.path()))
        })
        .collect();
    doors.sort();
    doors.into_iter().map(|(_, path)| path).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn doors_are_sockets_with_a_number_and_those_of_the_dead_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let _others =
            ["plane", "plane.json", "plane.1x", "other.1"].map(|name| UnixListener::bind(path(name)).unwrap());
        std::fs::write(path("plane.3"), "precious").unwrap();
        drop(UnixListener::bind(path("plane.4")).unwrap());
        let _alive = UnixListener::bind(path("plane.5")).unwrap();
        let found = RetiredPlanes::find(&path("plane")).await;
        assert_eq!((found.len(), path("plane.4").exists(), path("plane.3").exists()), (1, false, true));
        assert_eq!(found.0[0].link.pid, std::process::id().cast_signed());
    }
}
