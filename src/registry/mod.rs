//! The platform's registry, where there is one: this VM's entry in it, and the services that the proxy reaches.
//!
//! One task owns the entry of one VM id at a time. It registers, sends heartbeats, tells of changes, and takes the entry out at the end.
//! When the VM gets another id it registers that one and leaves the former alone: it belongs to the VM that this one is a copy of.
//! Refused here: redirects, answers without a bound, waits without an end, and any other use of the token than the registry's.
//!
//! `content` says what there is to tell, `course` what to say when, `answer` what an answer means, `ask` makes a call, and `report` is
//! for health. Its timer, the next heartbeat, exists where a registry is configured alone.

mod answer;
mod ask;
mod content;
mod course;
mod report;
#[cfg(test)]
mod tests;

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::JoinError,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

pub use self::report::{Entry, Report};
use self::{
    answer::{Call, Outcome},
    content::Content,
    course::{Course, Next},
};
use crate::{
    bridge::{BridgeHandle, BridgeState},
    config::{Config, RegistryRole, RoutablePorts, Secret, ServiceUrl},
    limits,
    listeners::{self, Observation, Policy},
};

/// What is configured.
#[derive(Debug, Clone)]
struct Settings {
    url: ServiceUrl,
    token: Option<Secret>,
    name: Option<String>,
    role: Option<RegistryRole>,
    heartbeat: Duration,
    domain: String,
    routable_ports: RoutablePorts,
}

/// What the entry depends on.
#[derive(Debug)]
pub struct Sources {
    /// The VM's id, which may change.
    pub vm_id: watch::Receiver<Option<String>>,
    /// The listeners.
    pub observations: watch::Receiver<Arc<Observation>>,
    /// The bridge.
    pub bridge: BridgeHandle,
}

/// Keeps this VM's entry.
#[derive(Debug)]
pub struct Registry {
    settings: Settings,
    vm_id: watch::Receiver<Option<String>>,
    observations: watch::Receiver<Arc<Observation>>,
    bridge: watch::Receiver<Arc<BridgeState>>,
    report: watch::Sender<Report>,
}

/// Why an entry is not followed any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The VM has another id.
    OtherId,
    /// The agent drains.
    Drain,
}

impl Registry {
    /// None where no registry is configured. The report says how it stands.
    pub fn new(config: &Config, sources: Sources) -> (Option<Self>, watch::Receiver<Report>) {
        let (report, reports) = watch::channel(Report::Off);
        let Some(url) = config.registry_url.clone() else { return (None, reports) };
        let settings = Settings {
            url,
            token: config.auth_token.clone(),
            name: config.registry_name.clone(),
            role: config.registry_role,
            heartbeat: config.registry_heartbeat,
            domain: config.domain.clone(),
            routable_ports: config.routable_ports.clone(),
        };
        let Sources { vm_id, observations, bridge } = sources;
        let mut registry = Self { settings, vm_id, observations, bridge: bridge.states(), report };
        let id = registry.vm_id.borrow().clone();
        match id {
            None => registry.report_no_id(),
            Some(id) => {
                let (course, content) =
                    (Course::new(registry.settings.heartbeat, Instant::now()), registry.telling(&id)());
                registry.report(&id, &course, &content);
            }
        }
        (Some(registry), reports)
    }

    /// Keeps the entry until `drain`, then takes it out, within `limits::REGISTRY_LEAVE_TIME`.
    pub async fn run(mut self, drain: CancellationToken) {
        loop {
            let id = self.vm_id.borrow_and_update().clone();
            let Some(id) = id else {
                self.report_no_id();
                tokio::select! {
                    () = changed(&mut self.vm_id) => continue,
                    () = drain.cancelled() => return,
                }
            };
            let mut course = Course::new(self.settings.heartbeat, Instant::now());
            match self.follow(&id, &mut course, &drain).await {
                End::OtherId => tracing::info!(former = id, "the VM has another id"),
                End::Drain => return self.leave(&id, &course).await,
            }
        }
    }

    /// Keeps the entry of `id`.
    async fn follow(&mut self, id: &str, course: &mut Course, drain: &CancellationToken) -> End {
        let mut wanted = self.content(id).await;
        // When to look again at what there is to tell.
        let mut look: Option<Instant> = None;
        loop {
            if look.is_some_and(|look| look <= Instant::now()) {
                (look, wanted) = (None, self.content(id).await);
            }
            self.report(id, course, &wanted);
            match course.next(&wanted, Instant::now()) {
                Next::Send(call) => {
                    if let Some(end) = self.call(id, course, call, &wanted, drain).await {
                        return end;
                    }
                }
                Next::Wait(until) => {
                    let until = look.map_or(until, |look| look.min(until));
                    let soon = Instant::now() + limits::REGISTRY_COALESCE_TIME;
                    tokio::select! {
                        () = sleep_until(until) => {}
                        () = changed(&mut self.observations), if look.is_none() => look = Some(soon),
                        () = changed(&mut self.bridge), if look.is_none() => look = Some(soon),
                        () = changed(&mut self.vm_id) => return End::OtherId,
                        () = drain.cancelled() => return End::Drain,
                    }
                }
            }
        }
    }

    /// Makes a call. What is under way for a former id is given up at once, as the connection is the former VM's; at a drain
    /// it is waited for, so that it does not overtake the entry's end.
    async fn call(
        &mut self,
        id: &str,
        course: &mut Course,
        call: Call,
        wanted: &Content,
        drain: &CancellationToken,
    ) -> Option<End> {
        let body = match call {
            Call::Register => wanted.entry(id, &self.settings),
            Call::Update => wanted.change(&self.settings),
            Call::Heartbeat | Call::Remove => Ok(Vec::new()),
        };
        course.sending();
        let outcome = match body {
            // Cannot happen with these types, and would happen again.
            Err(error) => Outcome::Refused { why: error.to_string(), content: true },
            Ok(body) => {
                let mut asked = pin!(ask::ask(&self.settings, call, id, body));
                let answer = tokio::select! {
                    answer = &mut asked => answer,
                    () = changed(&mut self.vm_id) => return Some(End::OtherId),
                    () = drain.cancelled() => {
                        // The course does not count any more but for one thing: something may be known of this VM.
                        let _ = timeout(limits::REGISTRY_LEAVE_TIME / 2, asked).await;
                        return Some(End::Drain);
                    }
                };
                answer::read(call, answer)
            }
        };
        let before = (course.registered(), course.trouble(wanted).cloned());
        course.answered(call, wanted, outcome, Instant::now(), random());
        if !before.0 && course.registered() {
            tracing::info!(id, url = %self.settings.url, "registered");
        }
        let trouble = course.trouble(wanted);
        if let Some(trouble) = trouble.filter(|trouble| before.1.as_ref() != Some(trouble)) {
            tracing::warn!(id, url = %self.settings.url, doing = %trouble.call, why = trouble.why, "the registry");
        }
        None
    }

    /// Takes the entry out, if there may be one.
    async fn leave(&self, id: &str, course: &Course) {
        if !course.may_be_known() {
            return;
        }
        let removing = ask::ask(&self.settings, Call::Remove, id, Vec::new());
        let why = match timeout(limits::REGISTRY_LEAVE_TIME / 2, removing).await {
            Err(_) => format!("no answer within {:?}", limits::REGISTRY_LEAVE_TIME / 2),
            Ok(answer) => match answer::read(Call::Remove, answer) {
                Outcome::Done | Outcome::Known | Outcome::Unknown => {
                    return tracing::info!(id, "taken out of the registry");
                }
                Outcome::Refused { why, .. } | Outcome::Again { why, .. } => why,
            },
        };
        tracing::warn!(id, url = %self.settings.url, why, "the registry's entry is left to go stale");
    }

    /// What there is to tell now. Many listeners are judged on a thread of their own.
    async fn content(&mut self, id: &str) -> Content {
        let telling = self.telling(id);
        if self.observations.borrow().table.all_sockets().count() <= limits::LISTENERS_AT_ONCE {
            return telling();
        }
        match tokio::task::spawn_blocking(telling).await.map_err(JoinError::try_into_panic) {
            Ok(content) => content,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            // The runtime ends, and this task with it.
            Err(Err(_)) => std::future::pending().await,
        }
    }

    /// Makes what there is to tell now.
    fn telling(&mut self, id: &str) -> impl FnOnce() -> Content + Send + use<> {
        let bridge = self.bridge.borrow_and_update().clone();
        let observation = self.observations.borrow_and_update().clone();
        let address = format!("{id}.{}", self.settings.domain);
        let routable_ports = self.settings.routable_ports.clone();
        let policy = Policy { public_name: Some(address.clone()), routable_ports, bridge_auto: bridge.auto };
        move || {
            let ports = bridge.ports();
            let listeners = listeners::assess(&observation.table, &policy, &ports);
            let (services, left_out) = content::services(&listeners, &ports, &policy.routable_ports);
            Content { address, services, left_out }
        }
    }

    fn report(&self, id: &str, course: &Course, wanted: &Content) {
        let entry = Entry {
            url: self.settings.url.to_string(),
            id: id.to_owned(),
            registered: course.registered(),
            services: wanted.services.len(),
            left_out: wanted.left_out,
            last_heartbeat: course.last_heartbeat(),
            trouble: course.trouble(wanted).map(|trouble| format!("{} failed: {}", trouble.call, trouble.why)),
        };
        self.report.send_replace(Report::Entry(entry));
    }

    fn report_no_id(&self) {
        self.report.send_replace(Report::NoId { url: self.settings.url.to_string() });
    }
}

/// Waits for news; for ever where there will be none.
async fn changed<T>(news: &mut watch::Receiver<T>) {
    if news.changed().await.is_err() {
        std::future::pending().await
    }
}

/// Asked of the kernel each time: clones of one memory image must not all come back at the same moment.
fn random() -> u32 {
    // Without it they do, and all is well but for the crowd.
    getrandom::u32().unwrap_or_default()
}
