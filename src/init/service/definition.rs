//! A service's file, `/etc/guestd/services/NAME.toml`, parsed once into types.

use std::time::Duration;

use super::fields::Fields;
use crate::{limits, signals};

/// A service as its file describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::init) struct Definition {
    pub(in crate::init) name: String,
    /// Program and arguments; no shell is involved.
    pub(in crate::init) command: Vec<String>,
    pub(in crate::init) user: String,
    pub(in crate::init) env: Vec<(String, String)>,
    /// Where it starts; none is the user's home.
    pub(in crate::init) cwd: Option<String>,
    /// Those that have to be ready first.
    pub(in crate::init) after: Vec<String>,
    pub(in crate::init) restart: Restart,
    /// First and longest pause before it is started again.
    pub(in crate::init) pause: (Duration, Duration),
    /// Starts without a pause after lives that were ready; of the agent alone.
    pub(in crate::init) at_once: u32,
    pub(in crate::init) stop_signal: i32,
    /// From that signal to SIGKILL.
    pub(in crate::init) grace: Duration,
    pub(in crate::init) ready: Ready,
    /// For it to become ready; then it counts as failed.
    pub(in crate::init) ready_time: Duration,
    pub(in crate::init) bounds: Bounds,
    /// It is started at boot.
    pub(in crate::init) enabled: bool,
}

/// When to start a service again that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::init) enum Restart {
    Always,
    /// Unless it exited with 0.
    OnFailure,
    Never,
}

/// How it is known that a service is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::init) enum Ready {
    /// Its program runs.
    Start,
    /// It sends `READY=1` to NOTIFY_SOCKET (sd_notify(3)).
    Notify,
    /// Somebody listens on this TCP port.
    Port(u16),
    /// It has exited with 0: a one-shot.
    Exit,
}

/// What a service may take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::init) struct Bounds {
    /// Open files (RLIMIT_NOFILE), soft and hard.
    pub(in crate::init) nofile: Option<u64>,
    /// Bytes of memory (memory.max).
    pub(in crate::init) memory: Option<u64>,
    /// Processes and threads (pids.max).
    pub(in crate::init) pids: Option<u64>,
    /// Share of the CPU, 1 to 10000 (cpu.weight).
    pub(in crate::init) cpu_weight: Option<u64>,
    /// For the OOM killer, -1000 to 1000.
    pub(in crate::init) oom_score_adjust: Option<i32>,
}

/// May a service be called so? Its name is a part of paths and command lines.
pub(in crate::init) fn is_name(name: &str) -> bool {
    (1..=limits::SERVICE_NAME_BYTES).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'@'))
        && !name.starts_with(['.', '-'])
}

impl Definition {
    /// Reads the text of a service's file.
    ///
    /// # Errors
    /// A sentence that names the line or the field.
    pub(in crate::init) fn parse(name: &str, text: &str) -> Result<Self, String> {
        let mut fields = Fields::parse(text)?;
        let ready = fields.text("ready")?.map_or(Ok(Ready::Start), |text| ready(&text))?;
        let one_shot = if ready == Ready::Exit { Restart::Never } else { Restart::Always };
        let (first, longest) = limits::SERVICE_RESTART;
        let first = fields.time("restart_delay_ms")?.unwrap_or(first);
        let stop_signal = fields.text("stop_signal")?.unwrap_or_else(|| "TERM".to_owned());
        let mut within = fields.within("limits", "limits.")?;
        let bounds = Bounds {
            nofile: within.number("nofile")?,
            memory: within.number("memory")?,
            pids: within.number("pids")?,
            cpu_weight: within.number("cpu_weight")?,
            oom_score_adjust: within.number("oom_score_adjust")?,
        };
        within.end()?;
        let definition = Self {
            name: name.to_owned(),
            command: fields.texts("command")?.unwrap_or_default(),
            user: fields.text("user")?.unwrap_or_else(|| "root".to_owned()),
            env: fields.pairs("env")?.unwrap_or_default(),
            cwd: fields.text("cwd")?,
            after: fields.texts("after")?.unwrap_or_default(),
            restart: fields.text("restart")?.map_or(Ok(one_shot), |text| restart(&text))?,
            pause: (first, fields.time("restart_max_delay_ms")?.unwrap_or(longest).max(first)),
            at_once: 0,
            stop_signal: signals::number(&stop_signal)
                .ok_or_else(|| format!("`stop_signal`: there is no signal {stop_signal:?}"))?,
            grace: fields.time("stop_grace_ms")?.unwrap_or(limits::SERVICE_STOP_GRACE),
            ready,
            ready_time: fields.time("ready_timeout_ms")?.unwrap_or(limits::SERVICE_READY_TIME),
            bounds,
            enabled: fields.switch("enabled")?.unwrap_or(true),
        };
        fields.end()?;
        definition.check()?;
        Ok(definition)
    }

    fn check(&self) -> Result<(), String> {
        let fail = |why: &str| Err(why.to_owned());
        let has_nul = |text: &String| text.contains('\0');
        match self {
            Self { command, .. } if command.first().is_none_or(String::is_empty) => {
                fail("`command` is empty; it takes a program and its arguments, such as [\"/usr/sbin/sshd\", \"-D\"]")
            }
            Self { command, env, .. }
                if command.iter().chain(env.iter().flat_map(|(key, value)| [key, value])).any(has_nul) =>
            {
                fail("a NUL byte in `command` or `env`")
            }
            Self { env, .. } if env.iter().any(|(key, _)| key.is_empty() || key.contains('=')) => {
                fail("`env` has a name that is empty or holds `=`")
            }
            Self { cwd: Some(cwd), .. } if !cwd.starts_with('/') || has_nul(cwd) => {
                fail("`cwd` is not an absolute path")
            }
            Self { grace, .. } if *grace > limits::SERVICE_STOP_GRACE_MOST => {
                Err(format!("`stop_grace_ms` is more than {}", limits::SERVICE_STOP_GRACE_MOST.as_millis()))
            }
            Self { pause: (first, _), .. } if *first < limits::SERVICE_RESTART_LEAST => {
                Err(format!("`restart_delay_ms` is less than {}", limits::SERVICE_RESTART_LEAST.as_millis()))
            }
            Self { bounds: Bounds { cpu_weight: Some(weight), .. }, .. } if !(1..=10_000).contains(weight) => {
                fail("`limits.cpu_weight` is a number from 1 to 10000")
            }
            Self { bounds: Bounds { oom_score_adjust: Some(score), .. }, .. } if !(-1000..=1000).contains(score) => {
                fail("`limits.oom_score_adjust` is a number from -1000 to 1000")
            }
            _ => Ok(()),
        }
    }
}

fn restart(text: &str) -> Result<Restart, String> {
    match text {
        "always" => Ok(Restart::Always),
        "on-failure" => Ok(Restart::OnFailure),
        "never" => Ok(Restart::Never),
        other => Err(format!("`restart` is {other:?}; it takes \"always\", \"on-failure\" or \"never\"")),
    }
}

fn ready(text: &str) -> Result<Ready, String> {
    let port = |text: &str| text.parse().ok().filter(|port| *port != 0).map(Ready::Port);
    match text {
        "start" => Ok(Ready::Start),
        "notify" => Ok(Ready::Notify),
        "exit" => Ok(Ready::Exit),
        other => other.strip_prefix("port:").and_then(port).ok_or_else(|| {
            format!("`ready` is {other:?}; it takes \"start\", \"notify\", \"exit\" or \"port:NUMBER\"")
        }),
    }
}

/// The agent, which is a service too: the first to start and the last to stop.
pub(in crate::init) fn agent(program: &str, env: Vec<(String, String)>) -> Definition {
    Definition {
        name: AGENT.to_owned(),
        command: vec![program.to_owned(), "agent".to_owned()],
        user: "root".to_owned(),
        env,
        cwd: Some("/".to_owned()),
        after: Vec::new(),
        restart: Restart::Always,
        pause: limits::AGENT_RESTART,
        at_once: limits::AGENT_AT_ONCE,
        stop_signal: libc::SIGTERM,
        grace: limits::AGENT_STOP_GRACE,
        ready: Ready::Notify,
        ready_time: limits::SERVICE_READY_TIME,
        // As in its systemd unit, which has the reasons.
        bounds: Bounds { nofile: Some(65_536), oom_score_adjust: Some(-900), ..Bounds::default() },
        enabled: true,
    }
}

/// Name of the agent as a service.
pub(in crate::init) const AGENT: &str = "guestd";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Definition, String> {
        Definition::parse("web", text)
    }

    #[test]
    fn a_command_is_all_that_a_service_needs() {
        let web = parse("command = [\"/bin/web\", \"-x\"]").unwrap();
        assert_eq!((web.user.as_str(), web.restart, web.ready), ("root", Restart::Always, Ready::Start));
        assert_eq!((web.stop_signal, web.grace), (libc::SIGTERM, limits::SERVICE_STOP_GRACE));
        assert!(web.enabled && web.after.is_empty());
    }

    #[test]
    fn every_setting_is_read() {
        let web = parse(
            "command = [\"web\"]\nuser = \"ada\"\ncwd = \"/srv\"\nafter = [\"db\"]\nrestart = \"on-failure\"\n\
             restart_delay_ms = 50\nrestart_max_delay_ms = 70\nstop_signal = \"INT\"\nstop_grace_ms = 5\nready = \"port:80\"\n\
             ready_timeout_ms = 9\nenabled = false\nenv = { A = \"b\" }\n[limits]\nnofile = 7\nmemory = 8\npids = 9\n\
             cpu_weight = 10\noom_score_adjust = -11\n",
        )
        .unwrap();
        let ms = Duration::from_millis;
        let expected = Definition {
            name: "web".into(),
            command: vec!["web".into()],
            user: "ada".into(),
            env: vec![("A".into(), "b".into())],
            cwd: Some("/srv".into()),
            after: vec!["db".into()],
            restart: Restart::OnFailure,
            pause: (ms(50), ms(70)),
            at_once: 0,
            stop_signal: libc::SIGINT,
            grace: ms(5),
            ready: Ready::Port(80),
            ready_time: ms(9),
            bounds: Bounds {
                nofile: Some(7),
                memory: Some(8),
                pids: Some(9),
                cpu_weight: Some(10),
                oom_score_adjust: Some(-11),
            },
            enabled: false,
        };
        assert_eq!(web, expected);
    }

    #[test]
    fn a_one_shot_is_not_started_again_unless_asked_for() {
        let restart = |more: &str| parse(&format!("command = [\"x\"]\nready = \"exit\"\n{more}")).unwrap().restart;
        assert_eq!(restart(""), Restart::Never);
        assert_eq!(restart("restart = \"on-failure\""), Restart::OnFailure);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, named) in [
            ("", "`command` is empty"),
            ("command = []", "`command` is empty"),
            ("command = [\"\"]", "`command` is empty"),
            ("command = \"sh\"", "`command` takes a list"),
            ("command = [\"x\", 1]", "`command` takes a list"),
            ("\ncommand = [\"x\"]\nuseer = \"a\"", "there is no setting `useer`"),
            ("command = [\"x\"]\nrestart = \"sometimes\"", "`restart` is \"sometimes\""),
            ("command = [\"x\"]\nready = \"port:0\"", "`ready` is \"port:0\""),
            ("command = [\"x\"]\nready = 22", "`ready` takes a text"),
            ("command = [\"x\"]\nstop_signal = \"BANG\"", "`stop_signal`"),
            ("command = [\"x\"]\ncwd = \"srv\"", "`cwd`"),
            ("command = [\"x\\u0000\"]", "NUL"),
            ("command = [\"x\"]\nenv = { \"A=B\" = \"c\" }", "`env`"),
            ("command = [\"x\"]\nenv = { A = 1 }", "`env` takes a table"),
            ("command = [\"x\"]\nstop_grace_ms = 99999999", "`stop_grace_ms`"),
            ("command = [\"x\"]\nstop_grace_ms = -1", "`stop_grace_ms` takes a whole number"),
            ("command = [\"x\"]\nrestart_delay_ms = 0", "`restart_delay_ms`"),
            ("command = [\"x\"]\nenabled = \"no\"", "`enabled` takes true or false"),
            ("command = [\"x\"]\n[limits]\ncpu_weight = 0", "`limits.cpu_weight`"),
            ("command = [\"x\"]\n[limits]\nmemry = 1", "there is no setting `limits.memry`"),
            ("command = [\"x\"]\nlimits = 1", "`limits` takes a table"),
            ("a = 1\ncommand = [", "line 2"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(named), "{text}: {error}");
        }
    }

    #[test]
    fn a_name_cannot_lead_anywhere() {
        assert!(["web", "a-b_c.d", "getty@tty1"].iter().all(|name| is_name(name)));
        assert!(["", ".", "..", ".hidden", "a/b", "-x", "a b", "ä", &"x".repeat(65)].iter().all(|name| !is_name(name)));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_reading_panic(text in ".{0,200}") {
            let _ = parse(&text);
        }
    }
}
