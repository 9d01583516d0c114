//! `guestctl service` and `guestctl power`: what `guestd init` runs, and the end of the VM.

use crate::api::{PowerAction, Service, ServiceAction, ServiceState};
use crate::client::Client;

use super::args::{Power, ServiceCommand};
use super::failure::{Failure, exit};
use super::output::{self, Output};
use super::table::{Cell, Palette, Table, Tone};
use super::text::escape;

pub(super) async fn run(client: &Client, action: Option<ServiceCommand>, output: Output) -> Result<u8, Failure> {
    let (name, action) = match action.unwrap_or(ServiceCommand::List) {
        ServiceCommand::List => {
            let services = client.services().await?.ok_or(Failure::NoServices)?;
            output.show(&services, |services, palette| render(services, palette))?;
            return Ok(exit::OK);
        }
        ServiceCommand::Start { name } => (name, ServiceAction::Start),
        ServiceCommand::Stop { name } => (name, ServiceAction::Stop),
        ServiceCommand::Restart { name } => (name, ServiceAction::Restart),
    };
    let service = client.service(&name, action).await?;
    output.show(&service, |service, palette| render(std::slice::from_ref(service), palette))?;
    Ok(if is_as_wanted(&service, action) { exit::OK } else { exit::NOT_READY })
}

/// Did it come to what was asked for?
fn is_as_wanted(service: &Service, action: ServiceAction) -> bool {
    match action {
        ServiceAction::Start | ServiceAction::Restart => {
            matches!(service.state, ServiceState::Running | ServiceState::Done)
        }
        ServiceAction::Stop => {
            matches!(service.state, ServiceState::Stopped | ServiceState::Done | ServiceState::Failed)
        }
    }
}

pub(super) async fn power(client: &Client, action: Power, output: Output) -> Result<u8, Failure> {
    let action = match action {
        Power::Off => PowerAction::Off,
        Power::Reboot => PowerAction::Reboot,
    };
    let accepted = client.power(action).await?;
    if output.json {
        output.json_line(&accepted)?;
    } else {
        let what = match action {
            PowerAction::Off => "ends",
            PowerAction::Reboot => "boots again",
        };
        output::stdout(format!("the VM {what}, by {}\n", escape(&accepted.by)).as_bytes())?;
    }
    Ok(exit::OK)
}

/// Services as a table.
pub(super) fn render(services: &[Service], palette: Palette) -> String {
    let mut table = Table::new(&["SERVICE", "STATE", "PID", "RESTARTS", "COMMAND", "PROBLEM"]);
    for service in services {
        table.row([
            Cell::new(&service.name),
            state(service.state),
            Cell::or_dash(service.pid.map(|pid| pid.to_string())),
            Cell::new(service.restarts.to_string()),
            Cell::or_dash(Some(super::execs::command(&service.command)).filter(|line| !line.is_empty())),
            Cell::or_dash(service.problem.as_ref()),
        ]);
    }
    table.render(palette)
}

fn state(state: ServiceState) -> Cell {
    let (tone, name) = match state {
        ServiceState::Waiting => (Tone::Notice, "waiting"),
        ServiceState::Starting => (Tone::Notice, "starting"),
        ServiceState::Running => (Tone::Good, "running"),
        ServiceState::Pausing => (Tone::Bad, "pausing"),
        ServiceState::Stopping => (Tone::Notice, "stopping"),
        ServiceState::Stopped => (Tone::Neutral, "stopped"),
        ServiceState::Done => (Tone::Good, "done"),
        ServiceState::Failed => (Tone::Bad, "failed"),
    };
    Cell::toned(tone, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, state: ServiceState, problem: Option<&str>) -> Service {
        Service {
            name: name.into(),
            state,
            pid: (state == ServiceState::Running).then_some(97),
            started_secs: None,
            command: if name == "bad" { vec![] } else { vec![format!("/usr/bin/{name}"), "-D".into()] },
            since_secs: 1.0,
            restarts: 0,
            last_exit: None,
            exited_secs: None,
            problem: problem.map(str::to_owned),
        }
    }

    #[test]
    fn services_are_a_table_that_says_what_is_wrong() {
        let services = [
            service("sshd", ServiceState::Running, None),
            service("web", ServiceState::Pausing, Some("SIGSEGV; it is started again in 100 ms")),
            service("bad", ServiceState::Failed, Some("line 1: \u{1b}[2J")),
        ];
        insta::assert_snapshot!(render(&services, Palette::Plain), @r"
        SERVICE  STATE    PID  RESTARTS  COMMAND           PROBLEM
        sshd     running  97   0         /usr/bin/sshd -D  -
        web      pausing  -    0         /usr/bin/web -D   SIGSEGV; it is started again in 100 ms
        bad      failed   -    0         -                 line 1: \u{1b}[2J
        ");
    }

    #[test]
    fn a_service_that_did_not_come_up_is_no_success() {
        let pausing = service("web", ServiceState::Pausing, None);
        assert!(!is_as_wanted(&pausing, ServiceAction::Start));
        assert!(is_as_wanted(&service("web", ServiceState::Done, None), ServiceAction::Restart));
        assert!(is_as_wanted(&service("web", ServiceState::Stopped, None), ServiceAction::Stop));
    }
}
