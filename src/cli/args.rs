//! The command line, parsed once into types. Only what works is listed.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser as _};
use clap::{Parser, Subcommand};

use crate::api::{BridgeRule, SignalTarget};
use crate::client::Endpoint;

use super::cp::{self, Side};

const AFTER_HELP: &str = "\
Exit status: that of the command for exec, attach, wait and shell (128+n for signal n, 124 for a time-out, 127 and 126 for a program that is not
found or cannot be executed); 0 for success; 1 for a VM that is not ready; 2 for bad usage; 69 when the VM cannot be
reached; 125 for a failure of guestctl or guestd.

Environment: GUESTD_VM holds the endpoint where --vm is not given; NO_COLOR switches colours off.";

/// Sees into a microVM and runs commands in it, from the host or from inside
#[derive(Debug, Parser)]
#[command(name = "guestctl", version, after_help = AFTER_HELP, arg_required_else_help = true)]
pub(super) struct Args {
    // Not a doc comment: rustdoc takes the brackets for links.
    #[arg(
        long,
        value_name = "ENDPOINT",
        global = true,
        help = "The VM: unix:PATH, vsock:CID[:PORT] or fc:UDS_PATH[:PORT]; default $GUESTD_VM, else unix:/run/guestd.sock"
    )]
    pub(super) vm: Option<Endpoint>,
    /// Print JSON: one document, or one per line for what streams
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Read the VM's bearer token from this file
    #[arg(long, value_name = "FILE", global = true)]
    pub(super) token_file: Option<PathBuf>,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Is the VM ready, and if not, what is missing
    Health {
        /// Retry until it is ready, at most this many seconds
        #[arg(long, value_name = "SECS", value_parser = clap::value_parser!(u64).range(..=86_400))]
        wait: Option<u64>,
    },
    /// Versions, identity, boot timings and features of the VM
    Info,
    /// Run a command in the VM; its output and exit status become guestctl's own
    Exec(ExecArgs),
    /// Follow an exec that was started before: its output again, or its terminal
    ///
    /// On a terminal, keys go to the exec; ctrl-p ctrl-q leaves it running. Otherwise its output is printed, and ctrl-C leaves
    /// it running.
    Attach {
        /// Id of the exec
        id: String,
        /// Begin at this byte of the output; default 0, or the present where the exec has a terminal
        #[arg(long, value_name = "CURSOR", conflicts_with = "latest")]
        from: Option<u64>,
        /// Begin with what comes from now on
        #[arg(long)]
        latest: bool,
    },
    /// Execs of the VM
    Ps {
        /// Also those that have ended
        #[arg(short = 'a', long)]
        all: bool,
    },
    /// Send a signal to an exec
    Signal {
        /// Id of the exec
        id: String,
        /// Name, with or without SIG, or number
        signal: String,
        /// Who gets it: the command's own process, its process group, or all that it started
        #[arg(long, value_name = "WHO", default_value = "process")]
        to: To,
    },
    /// Wait for the end of an exec and exit with its status
    Wait {
        /// Id of the exec
        id: String,
    },
    /// What execs printed
    Logs {
        /// Wait for more, until the exec ends or ctrl-C
        #[arg(short = 'f', long)]
        follow: bool,
        /// Of this exec alone, byte by byte as it was printed
        #[arg(long, value_name = "ID")]
        exec: Option<String>,
    },
    /// A login shell in the VM
    ///
    /// After a new line, `~.` hangs up, `~d` leaves the shell running, `~?` lists these, and `~~` types a tilde.
    Shell {
        /// User to log in, by name or number; default root
        #[arg(short = 'u', long)]
        user: Option<String>,
    },
    /// Pass TCP connections on to a port in the VM
    #[command(override_usage = "guestctl tunnel [BIND:]PORT:HOST:PORT\n       guestctl tunnel --stdio PORT")]
    Tunnel {
        /// Local address and port (0: any free one), and the address and port in the VM
        #[arg(value_name = "[BIND:]PORT:HOST:PORT", value_parser = super::tunnel::Route::parse, required_unless_present = "stdio")]
        route: Option<super::tunnel::Route>,
        /// Pass standard input and output on to this port, as an ssh ProxyCommand
        #[arg(long, value_name = "PORT", value_parser = port(), conflicts_with = "route")]
        stdio: Option<u16>,
    },
    /// TCP listeners of the VM, and whether the platform reaches them
    Ports(PortsArgs),
    /// The bridge from IPv6 to services that listen on IPv4 alone
    Bridge {
        #[command(subcommand)]
        action: Option<BridgeAction>,
    },
    /// Copy a file, or with -r a directory, into the VM or out of it
    Cp(CopyArgs),
    /// Counters in Prometheus' text format
    Metrics,
    /// Completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Default, clap::Args)]
pub(super) struct ExecArgs {
    /// Id of the exec; one is made when absent. The same id and the same command line are the same exec
    #[arg(long)]
    pub(super) id: Option<String>,
    /// Pass standard input to the command, to its end
    #[arg(short = 'i', long)]
    pub(super) stdin: bool,
    /// Run it on a terminal; with -i, ctrl-p ctrl-q leaves it running
    #[arg(short = 't', long)]
    pub(super) tty: bool,
    /// Print the id and leave it running
    #[arg(short = 'd', long, conflicts_with_all = ["stdin", "tty"])]
    pub(super) detach: bool,
    /// Set a variable; may repeat
    #[arg(short = 'e', long, value_name = "K=V", value_parser = variable)]
    pub(super) env: Vec<(String, String)>,
    /// Directory to run in; default the user's home
    #[arg(short = 'w', long, value_name = "DIR")]
    pub(super) workdir: Option<String>,
    /// User to run as, by name or number; default root
    #[arg(short = 'u', long)]
    pub(super) user: Option<String>,
    /// End the command, and all that it started, after this time
    #[arg(long, value_name = "SECS")]
    pub(super) timeout: Option<u64>,
    /// Memory that it and all that it starts may take
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) memory: Option<u64>,
    /// Processes and threads that it may be at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) pids: Option<u64>,
    /// Share of the CPU when it is scarce, 1 to 10000; 100 is usual
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(super) cpu_weight: Option<u64>,
    /// Program and arguments; no shell is involved
    #[arg(required = true, trailing_var_arg = true, value_name = "ARGV")]
    pub(super) argv: Vec<String>,
}

#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct PortsArgs {
    /// Every socket, also where several share a port, and those of other network namespaces
    #[arg(long)]
    pub(super) all: bool,
    /// Follow the changes: a table that is kept up to date on a terminal (q or ctrl-C leaves it), else a line for each
    #[arg(long, conflicts_with_all = ["probe", "udp"])]
    pub(super) watch: bool,
    /// Also connect to each public port as a proxy would, on the VM's own IPv6 address, and say what came of it
    #[arg(long)]
    pub(super) probe: bool,
    /// UDP sockets instead, which the proxy does not carry
    #[arg(long, conflicts_with_all = ["probe", "all"])]
    pub(super) udp: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct CopyArgs {
    /// Copy a directory with all that is in it, as cp -a; with - the other side is a tar stream
    #[arg(short = 'r', long)]
    pub(super) recursive: bool,
    /// What to copy: vm:/PATH, a path here, or - for standard input
    #[arg(value_name = "SRC", value_parser = OsStringValueParser::new().try_map(cp::side))]
    pub(super) source: Side,
    /// Where to: vm:/PATH, a path here, or - for standard output; into it, if it is a directory
    #[arg(value_name = "DST", value_parser = OsStringValueParser::new().try_map(cp::side))]
    pub(super) destination: Side,
}

#[derive(Debug, Subcommand)]
pub(super) enum BridgeAction {
    /// Show what is bridged (the default)
    List,
    /// Pass IPv6 connections to port LISTEN on to the IPv4 service TO
    Add {
        /// TCP port on the VM's IPv6 side
        #[arg(value_parser = port())]
        listen: u16,
        /// IPv4 address and port of the service; a port alone means 127.0.0.1
        #[arg(value_parser = service)]
        to: SocketAddr,
    },
    /// Remove the rule for port LISTEN
    Remove {
        /// TCP port on the VM's IPv6 side
        #[arg(value_parser = port())]
        listen: u16,
    },
    /// Switch the bridging of IPv4-only services that nobody asked for on or off
    Auto {
        /// on or off
        switch: Switch,
    },
}

/// Who gets a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum To {
    Process,
    Group,
    Tree,
}

impl From<To> for SignalTarget {
    fn from(to: To) -> Self {
        match to {
            To::Process => Self::Process,
            To::Group => Self::Group,
            To::Tree => Self::Tree,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Switch {
    On,
    Off,
}

fn port() -> clap::builder::RangedI64ValueParser<u16> {
    clap::value_parser!(u16).range(1..)
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a variable is given as KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn service(text: &str) -> Result<SocketAddr, String> {
    let to = match text.parse::<u16>() {
        Ok(port) => SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port),
        Err(_) => text.parse().map_err(|_| "give an IPv4 address and a port, 127.0.0.1:3000, or a port alone")?,
    };
    BridgeRule { listen: 1, to }.check()?;
    Ok(to)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn exec(line: &[&str]) -> Result<ExecArgs, clap::Error> {
        let parsed = Args::try_parse_from(["guestctl", "exec"].iter().chain(line))?;
        match parsed.command {
            Command::Exec(exec) => Ok(exec),
            other => panic!("parsed as {other:?}"),
        }
    }

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn what_follows_the_program_is_the_commands_own() {
        let argv = |line: &[&str]| exec(line).unwrap().argv;
        assert_eq!(argv(&["--", "ls", "-la", "--json"]), ["ls", "-la", "--json"]);
        assert_eq!(argv(&["ls", "-la", "--json"]), ["ls", "-la", "--json"]);
        assert_eq!(argv(&["-i", "--", "-odd"]), ["-odd"]);
        assert_eq!(argv(&["env", "--", "ls"]), ["env", "--", "ls"]);
    }

    #[test]
    fn an_unknown_option_is_never_taken_for_the_program() {
        assert!(exec(&["--typo", "ls"]).is_err());
        assert!(exec(&["-x", "--", "ls"]).is_err());
        assert!(exec(&[]).is_err());
        assert!(exec(&["--"]).is_err());
    }

    #[test]
    fn a_variable_may_hold_an_equals_sign_and_may_be_empty() {
        let env = exec(&["-e", "A=b=c", "-e", "B=", "true"]).unwrap().env;
        assert_eq!(env, [("A", "b=c"), ("B", "")].map(|(k, v)| (k.to_owned(), v.to_owned())));
        assert!(exec(&["-e", "A", "true"]).is_err());
    }

    #[test]
    fn a_service_is_an_ipv4_address_and_a_port() {
        assert_eq!(service("3000"), Ok(([127, 0, 0, 1], 3000).into()));
        assert_eq!(service("10.0.0.7:80"), Ok(([10, 0, 0, 7], 80).into()));
        for wrong in ["", "0", "10.0.0.7", "[::1]:80", "localhost:80", "10.0.0.7:0", "70000"] {
            assert!(service(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_common_options_may_stand_before_and_after_the_command() {
        for line in [["guestctl", "--json", "ports"], ["guestctl", "ports", "--json"]] {
            assert!(Args::try_parse_from(line).unwrap().json);
        }
    }
}
