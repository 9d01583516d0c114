//! What health says of the registry.

use tokio::time::Instant;

use crate::{health::Part, limits};

/// How it stands with this VM's entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// There is no registry.
    Off,
    /// There is a registry at this URL, but no id to register by.
    NoId {
        /// Of the registry.
        url: String,
    },
    /// There is both.
    Entry(Entry),
}

/// The entry of a VM id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Of the registry.
    pub url: String,
    /// Id of the entry.
    pub id: String,
    /// Does the registry have it?
    pub registered: bool,
    /// Services in it.
    pub services: usize,
    /// Services for which there is no place.
    pub left_out: usize,
    /// When the last heartbeat was answered.
    pub last_heartbeat: Option<Instant>,
    /// What went wrong last and has not come right since.
    pub trouble: Option<String>,
}

impl Report {
    /// The word on it at the time `now`.
    pub fn part(&self, now: Instant) -> Part {
        match self {
            Self::Off => Part::Off("`registry.url` (VERS_INFRA_URL) is not set".to_owned()),
            Self::NoId { url } => Part::Failed(format!(
                "nothing is registered at {url}, as this VM's id is not known; set `vm_id` (VERS_VM_ID)"
            )),
            Self::Entry(entry) => entry.part(now),
        }
    }
}

impl Entry {
    fn part(&self, now: Instant) -> Part {
        let Self { url, id, services, .. } = self;
        let heartbeat = match self.last_heartbeat {
            Some(at) => format!("last heartbeat answered {} s ago", now.saturating_duration_since(at).as_secs()),
            None => "no heartbeat was due yet".to_owned(),
        };
        match (&self.trouble, self.registered) {
            (Some(why), true) => Part::Failed(format!("{id} is registered at {url}, but {why}; {heartbeat}")),
            (Some(why), false) => Part::Failed(format!("{id} is not registered at {url}: {why}")),
            (None, true) if self.left_out > 0 => Part::Failed(format!(
                "{id} is registered at {url} with {services} services, the most that an entry takes ({}); {} are left out; {heartbeat}",
                limits::REGISTRY_SERVICES,
                self.left_out
            )),
            (None, true) => Part::Ok(format!("{id} is registered at {url} with {services} services; {heartbeat}")),
            (None, false) => Part::Ok(format!("{id} is being registered at {url}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn entry() -> Entry {
        Entry {
            url: "http://infra".to_owned(),
            id: "abc".to_owned(),
            registered: true,
            services: 2,
            left_out: 0,
            last_heartbeat: None,
            trouble: None,
        }
    }

    #[test]
    fn health_tells_how_it_stands() {
        let now = Instant::now();
        let beaten = Entry { last_heartbeat: Some(now), ..entry() };
        let trouble = Some("the heartbeat failed: it answered 503".to_owned());
        let reports = [
            Report::Off,
            Report::NoId { url: "http://infra".to_owned() },
            Report::Entry(Entry { registered: false, ..entry() }),
            Report::Entry(entry()),
            Report::Entry(beaten.clone()),
            Report::Entry(Entry { trouble: trouble.clone(), ..beaten.clone() }),
            Report::Entry(Entry { trouble, registered: false, ..entry() }),
            Report::Entry(Entry { services: 256, left_out: 44, ..beaten }),
        ];
        let said: Vec<_> =
            reports.iter().map(|report| format!("{:?}", report.part(now + Duration::from_secs(12)))).collect();
        insta::assert_snapshot!(said.join("\n"), @r#"
        Off("`registry.url` (VERS_INFRA_URL) is not set")
        Failed("nothing is registered at http://infra, as this VM's id is not known; set `vm_id` (VERS_VM_ID)")
        Ok("abc is being registered at http://infra")
        Ok("abc is registered at http://infra with 2 services; no heartbeat was due yet")
        Ok("abc is registered at http://infra with 2 services; last heartbeat answered 12 s ago")
        Failed("abc is registered at http://infra, but the heartbeat failed: it answered 503; last heartbeat answered 12 s ago")
        Failed("abc is not registered at http://infra: the heartbeat failed: it answered 503")
        Failed("abc is registered at http://infra with 256 services, the most that an entry takes (256); 44 are left out; last heartbeat answered 12 s ago")
        "#);
    }
}
