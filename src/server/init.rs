//! Process 1, where it is `guestd init`: asked by its socket, on a thread that may wait.

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use serde::de::DeserializeOwned;

use super::error::ApiError;
use crate::{
    api::{ErrorCode, PowerAction, Service, ServiceAction, ServiceState},
    control::{self, Answer, ControlError, Question, Refusal, State},
    health::Part,
    limits,
    sys::supervise,
};

/// A way to process 1, if it is one of ours.
#[derive(Debug, Clone)]
pub struct Init(Option<Arc<Path>>);

/// What is known of process 1.
#[derive(Debug)]
pub(super) enum Known {
    /// It is another init.
    Other,
    /// It is ours.
    Ours(State),
    /// It is ours, and did not answer.
    Silent(ControlError),
}

impl Init {
    /// As process 1 has told us when it started us.
    pub fn of_environment() -> Self {
        Self(env::var_os(control::VARIABLE).map(|socket| PathBuf::from(socket).into()))
    }

    /// Asks for all that it knows.
    pub(super) async fn known(&self) -> Known {
        match self.send::<State>(Question::State).await {
            None => Known::Other,
            Some(Ok(Answer::Told(state))) => Known::Ours(state),
            Some(Ok(Answer::Refused(why))) => Known::Silent(std::io::Error::other(format!("{why:?}")).into()),
            Some(Err(error)) => Known::Silent(error),
        }
    }

    async fn send<T: DeserializeOwned + Send + 'static>(
        &self,
        question: Question,
    ) -> Option<Result<Answer<T>, ControlError>> {
        let socket = Arc::clone(self.0.as_ref()?);
        let asked = tokio::task::spawn_blocking(move || control::ask(&socket, &question)).await;
        Some(asked.unwrap_or_else(|error| Err(std::io::Error::other(error).into())))
    }

    /// Asks for one thing.
    ///
    /// # Errors
    /// Process 1 is another init, does not answer, or refuses.
    pub(super) async fn ask<T: DeserializeOwned + Send + 'static>(&self, question: Question) -> Result<T, ApiError> {
        match self.send(question).await {
            None => Err(ApiError::new(
                ErrorCode::NotFound,
                format!("process 1 is {}, which has services of its own; ask that", name()),
            )),
            Some(Err(error)) => Err(ApiError::new(ErrorCode::Unavailable, error.to_string())),
            Some(Ok(Answer::Refused(why))) => Err(refused(&why)),
            Some(Ok(Answer::Told(told))) => Ok(told),
        }
    }

    /// Does something with a service, and waits until it is done or has failed, or for as long as that is worth.
    ///
    /// # Errors
    /// As for [`Init::ask`].
    pub(super) async fn act(&self, name: String, action: ServiceAction) -> Result<Service, ApiError> {
        let until = Instant::now() + limits::SERVICE_ACTION_TIME;
        let mut service: Service = self.ask(Question::Act { service: name.clone(), action }).await?;
        // Who restarts the agent cannot be told its end by the agent.
        while is_under_way(service.state)
            && service.pid != i32::try_from(std::process::id()).ok()
            && Instant::now() < until
        {
            tokio::time::sleep(limits::SERVICE_ACTION_LOOK).await;
            let state: State = self.ask(Question::State).await?;
            service = state
                .services
                .into_iter()
                .find(|service| service.name == name)
                .ok_or_else(|| refused(&Refusal::UnknownService))?;
        }
        Ok(service)
    }

    /// Has the VM end by whatever its process 1 is. Returns that one's name.
    ///
    /// # Errors
    /// It is none that is known here.
    pub(super) async fn power(&self, action: PowerAction) -> Result<String, ApiError> {
        if self.0.is_some() {
            self.ask::<()>(Question::Power { action }).await?;
            return Ok("guestd init".to_owned());
        }
        let (name, program) = (name(), fs::read_link("/proc/1/exe").unwrap_or_default());
        let signal = signal_for(&name, &program, action).ok_or_else(|| {
            let why = format!(
                "process 1 is {name}, and guestd does not know how that is told to end the VM; run its own command"
            );
            ApiError::new(ErrorCode::Unavailable, why)
        })?;
        supervise::kill(1, signal)
            .map_err(|error| ApiError::new(ErrorCode::Internal, format!("telling {name} to end the VM: {error}")))?;
        Ok(name)
    }
}

/// What an init takes for an order to end: systemd's are in systemd(1), whose SIGRTMIN is 34; busybox's in its init/init.c.
fn signal_for(name: &str, program: &Path, action: PowerAction) -> Option<i32> {
    let is_busybox = program.file_name().is_some_and(|name| name == "busybox");
    match (name, action) {
        ("systemd", PowerAction::Off) => Some(34 + 4),
        ("systemd", PowerAction::Reboot) => Some(34 + 5),
        (_, PowerAction::Off) if is_busybox => Some(libc::SIGUSR2),
        (_, PowerAction::Reboot) if is_busybox => Some(libc::SIGTERM),
        _ => None,
    }
}

fn name() -> String {
    fs::read_to_string("/proc/1/comm").unwrap_or_default().trim().to_owned()
}

fn is_under_way(state: ServiceState) -> bool {
    matches!(state, ServiceState::Waiting | ServiceState::Starting | ServiceState::Stopping)
}

fn refused(why: &Refusal) -> ApiError {
    match why {
        Refusal::UnknownService => {
            ApiError::new(ErrorCode::NotFound, "there is no service of that name; `guestctl service list` has them")
        }
        Refusal::Agent => ApiError::new(
            ErrorCode::Conflict,
            "this is the agent, without which nobody could start it again; restart it, or end the VM",
        ),
        Refusal::Ending => ApiError::new(ErrorCode::Unavailable, "the VM is about to end"),
        Refusal::Unreadable(why) => {
            ApiError::new(ErrorCode::Internal, format!("process 1 cannot read the question: {why}"))
        }
    }
}

impl Known {
    /// For health: what went wrong in the boot, and which services do not run.
    pub(super) fn part(&self) -> Part {
        let state = match self {
            Self::Other => return Part::Off("process 1 is another init".to_owned()),
            Self::Silent(error) => return Part::Failed(error.to_string()),
            Self::Ours(state) => state,
        };
        let steps = state.steps.iter().flat_map(|step| &step.problems).cloned();
        let services = state.services.iter().filter_map(|service| {
            // One that has only begun to start is no fault yet.
            service.problem.as_ref().map(|why| format!("service {}: {why}", service.name))
        });
        let problems: Vec<String> = steps.chain(services).collect();
        if problems.is_empty() {
            Part::Ok(format!("guestd init, with {} services", state.services.len()))
        } else {
            Part::Failed(problems.join("; "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::BootStep;

    fn service(name: &str, problem: Option<&str>) -> Service {
        Service {
            name: name.to_owned(),
            state: ServiceState::Running,
            pid: Some(2),
            started_secs: None,
            command: vec!["x".to_owned()],
            since_secs: 0.0,
            restarts: 0,
            last_exit: None,
            exited_secs: None,
            problem: problem.map(str::to_owned),
        }
    }

    fn part(problems: &[&str], services: Vec<Service>) -> Part {
        let problems = problems.iter().map(|why| (*why).to_owned()).collect();
        let step = BootStep { name: "mounts".to_owned(), at_secs: 0.1, took_ms: 1.0, problems };
        Known::Ours(State { services, steps: vec![step], crashes: vec![] }).part()
    }

    #[test]
    fn what_the_boot_lacked_and_what_does_not_run_is_named() {
        assert_eq!(part(&[], vec![service("web", None)]), Part::Ok("guestd init, with 1 services".to_owned()));
        let Part::Failed(why) = part(&["no /tmp"], vec![service("web", Some("exit status 1"))]) else { panic!() };
        assert_eq!(why, "no /tmp; service web: exit status 1");
        assert!(matches!(Known::Other.part(), Part::Off(_)));
    }

    #[test]
    fn an_init_that_is_not_known_is_sent_no_signal() {
        let busybox = Path::new("/bin/busybox");
        assert_eq!(signal_for("systemd", Path::new("/lib/systemd/systemd"), PowerAction::Off), Some(38));
        assert_eq!(signal_for("init", busybox, PowerAction::Reboot), Some(libc::SIGTERM));
        assert_eq!(signal_for("init", Path::new("/sbin/openrc-init"), PowerAction::Off), None);
    }
}
