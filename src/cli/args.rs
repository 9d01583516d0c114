//! The command line, parsed once into types. Only what works is listed.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser as _};
use clap::{Parser, Subcommand};

use crate::api::{
    BridgeListen, BridgeMode, BridgeTarget, GenerationKind, HostKeyPolicy, IdentityPolicy, OnBranch, SignalTarget,
};
use crate::client::Endpoint;

use super::cp::{self, Side};
use super::keys::Expiry;

const AFTER_HELP: &str = "\
Exit status: that of the command for exec, attach, wait and shell (128+n for signal n, 124 for a time-out, 127 and 126 for a program that is not
found or cannot be executed); 0 for success; 1 for a VM that is not ready; 2 for bad usage; 69 when the VM cannot be
reached; 125 for a failure of guestctl or guestd; 141 when nobody reads the output any more.

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
    /// Execs of the VM, and its services
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
    /// What execs and services printed
    Logs {
        /// Wait for more, until the exec ends or ctrl-C
        #[arg(short = 'f', long)]
        follow: bool,
        /// Of this exec alone, byte by byte as it was printed
        #[arg(long, value_name = "ID")]
        exec: Option<String>,
        /// Of this service of guestd init instead, line by line
        #[arg(long, value_name = "NAME", conflicts_with = "exec")]
        service: Option<String>,
    },
    /// Services of guestd init
    Service {
        #[command(subcommand)]
        action: Option<ServiceCommand>,
    },
    /// End the VM, or have it boot again
    Power {
        /// off or reboot
        action: Power,
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
    /// Pass standard input and output on to a VM through the platform's TLS proxy, as an ssh ProxyCommand
    ///
    /// `ssh -o ProxyCommand='guestctl proxy %h 443' root@ID.vm.vers.sh`; no guestd is asked. The certificate is verified by the system's
    /// authorities, those of the file that SSL_CERT_FILE names, or those of --ca.
    Proxy(super::proxy::ProxyArgs),
    /// TCP listeners of the VM, and whether the platform reaches them
    Ports(PortsArgs),
    /// The bridge from IPv6 to services that listen on IPv4 alone
    Bridge {
        #[command(subcommand)]
        action: Option<BridgeAction>,
    },
    /// SSH keys that open the VM, and the public halves of its own
    Keys {
        #[command(subcommand)]
        action: Option<KeysAction>,
    },
    /// Copy a file, or with -r a directory, into the VM or out of it
    Cp(CopyArgs),
    /// Around a commit of the VM: prepare it, and let it go on; from the host
    Snapshot {
        #[command(subcommand)]
        action: SnapshotAction,
    },
    /// Which generation the VM is; with an id, announce one after a restore, from the host
    Generation(GenerationArgs),
    /// Account variables, which guestd keeps in /etc/environment
    Env {
        #[command(subcommand)]
        action: EnvAction,
    },
    /// Disks of the VM
    Disk {
        #[command(subcommand)]
        action: DiskAction,
    },
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
    /// What becomes of it in a branch of the VM: it runs on, stands still until `guestctl signal ID CONT`, or is killed
    #[arg(long, value_name = "WHAT", default_value = "keep")]
    pub(super) on_branch: OnBranchArg,
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
pub(super) enum SnapshotAction {
    /// Have new execs wait, run the pre-snapshot hooks, and, for a commit of the disk alone, freeze it
    Prepare {
        /// Write the root file system out and freeze it until the thaw
        #[arg(long)]
        freeze: bool,
        /// Thaw after this time without a word of the host
        #[arg(long, value_name = "SECS", value_parser = clap::value_parser!(u64).range(1..=300))]
        watchdog: Option<u64>,
    },
    /// Let the VM go on that was committed
    Thaw,
}

#[derive(Debug, clap::Args)]
pub(super) struct GenerationArgs {
    /// Announce a generation of this id; one is made where the options below are given without it
    #[arg(long)]
    pub(super) id: Option<String>,
    /// What happened: branch, resume, rollback or boot
    #[arg(long, value_name = "KIND")]
    pub(super) kind: Option<Kind>,
    /// The VM's id from now on
    #[arg(long, value_name = "ID")]
    pub(super) vm_id: Option<String>,
    /// The VM that was branched
    #[arg(long, value_name = "ID")]
    pub(super) parent: Option<String>,
    /// The commit that was restored
    #[arg(long, value_name = "ID")]
    pub(super) commit: Option<String>,
    /// Host name; by default the VM's id, where nobody has named the VM
    #[arg(long)]
    pub(super) hostname: Option<String>,
    /// Account variable, with others of these in place of all that were managed; may repeat
    #[arg(short = 'e', long = "env", value_name = "K=V", value_parser = variable)]
    pub(super) env: Vec<(String, String)>,
    /// Address of the first interface
    #[arg(long, value_name = "ADDRESS/PREFIX")]
    pub(super) ip6: Option<String>,
    /// IPv6 gateway
    #[arg(long)]
    pub(super) gateway: Option<std::net::Ipv6Addr>,
    /// Name server; may repeat
    #[arg(long)]
    pub(super) dns: Vec<std::net::IpAddr>,
    /// MTU of the interface
    #[arg(long)]
    pub(super) mtu: Option<u32>,
    /// Public key that may log in as root, with others of these in place of those that the host gave before; may repeat
    #[arg(long, value_name = "KEY")]
    pub(super) authorized: Vec<String>,
    /// What becomes of the host keys where the VM has another id; default as it is configured
    #[arg(long, value_name = "keep|renew")]
    pub(super) host_keys: Option<HostKeys>,
    /// What becomes of /etc/machine-id
    #[arg(long, value_name = "keep|new")]
    pub(super) machine_id: Option<Renewal>,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Kind {
    Branch,
    Resume,
    Rollback,
    Boot,
}

impl From<Kind> for GenerationKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Branch => Self::Branch,
            Kind::Resume => Self::Resume,
            Kind::Rollback => Self::Rollback,
            Kind::Boot => Self::Boot,
        }
    }
}

/// What becomes of something that tells VMs apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Renewal {
    Keep,
    New,
}

impl From<Renewal> for IdentityPolicy {
    fn from(renewal: Renewal) -> Self {
        match renewal {
            Renewal::Keep => Self::Keep,
            Renewal::New => Self::New,
        }
    }
}

/// What becomes of host keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum HostKeys {
    Keep,
    Renew,
}

impl From<HostKeys> for HostKeyPolicy {
    fn from(policy: HostKeys) -> Self {
        match policy {
            HostKeys::Keep => Self::Keep,
            HostKeys::Renew => Self::Renew,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum EnvAction {
    /// Show what guestd manages
    List,
    /// Set variables, for execs and logins from now on
    Set {
        /// Variable
        #[arg(value_name = "K=V", required = true, value_parser = variable)]
        variables: Vec<(String, String)>,
    },
    /// Take variables out
    Unset {
        /// Key
        #[arg(value_name = "K", required = true)]
        keys: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum DiskAction {
    /// Grow a file system to the size of its device
    Grow {
        /// Mount point; default /
        path: Option<String>,
        /// Grow to this size instead of all of the device
        #[arg(long, value_name = "BYTES")]
        size: Option<u64>,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum BridgeAction {
    /// Show what is bridged (the default)
    List,
    /// Pass IPv6 connections to LISTEN on to the service TO
    Add {
        /// TCP port on the VM's IPv6 side, a range of ports (8000-8999), or * for all where something listens
        listen: BridgeListen,
        /// Address and port of the service; an address alone means the same port there, a port alone 127.0.0.1
        #[arg(value_parser = service)]
        to: BridgeTarget,
        /// What the service gets to know of the client: nothing (tcp), headers of each request (http), or a PROXY header
        #[arg(long, value_name = "tcp|http|proxy-v1|proxy-v2", default_value_t)]
        mode: BridgeMode,
    },
    /// Remove the rule for LISTEN
    Remove {
        /// Port, range of ports or *, as in the rule
        listen: BridgeListen,
    },
    /// Reset the open connections of port LISTEN, or all; new ones are accepted as before
    Cut {
        /// TCP port on the VM's IPv6 side
        #[arg(value_parser = port())]
        listen: Option<u16>,
    },
    /// Switch the bridging of IPv4-only services that nobody asked for on or off
    Auto {
        /// on or off
        switch: Switch,
    },
}

/// What becomes of an exec in a branch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum OnBranchArg {
    #[default]
    Keep,
    Freeze,
    Kill,
}

impl From<OnBranchArg> for OnBranch {
    fn from(arg: OnBranchArg) -> Self {
        match arg {
            OnBranchArg::Keep => Self::Keep,
            OnBranchArg::Freeze => Self::Freeze,
            OnBranchArg::Kill => Self::Kill,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum KeysAction {
    /// Show them (the default)
    List,
    /// Have the public keys in FILE open an account of the VM
    Add(AddKeysArgs),
    /// Have a key open nothing any more
    Remove {
        /// Id of the key, as in the list
        id: String,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct AddKeysArgs {
    /// Account that they open, by name; default root
    #[arg(short = 'u', long)]
    pub(super) user: Option<String>,
    /// On whose behalf: a word of lower-case letters, digits, - or _; default manual
    #[arg(long)]
    pub(super) source: Option<String>,
    /// Until when: a time in UTC (2026-12-31T23:59:59Z), a day, or how long from now on (90m, 12h, 7d); default for ever
    #[arg(long, value_name = "T", value_parser = Expiry::parse)]
    pub(super) expires: Option<Expiry>,
    /// File with public keys, a line each as in a .pub or an authorized_keys file; - for standard input
    #[arg(value_name = "FILE|-")]
    pub(super) file: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(super) enum ServiceCommand {
    /// Show them all (the default)
    List,
    /// Start one that does not run
    Start {
        /// Name of its file in /etc/guestd/services, without .toml
        name: String,
    },
    /// Stop one, and leave it stopped
    Stop {
        /// Name of the service
        name: String,
    },
    /// Stop one if it runs, and start it
    Restart {
        /// Name of the service
        name: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Power {
    Off,
    Reboot,
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

fn service(text: &str) -> Result<BridgeTarget, String> {
    match text.parse() {
        Ok(port) => Ok(BridgeTarget { address: Ipv4Addr::LOCALHOST.into(), port: Some(port) }),
        Err(_) => text.parse().map_err(|why| format!("{why}, or a port of 127.0.0.1 (3000)")),
    }
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
    fn a_service_is_an_address_with_or_without_a_port_or_a_port_of_this_vm() {
        let read = |text: &str| service(text).map(|to| to.to_string());
        assert_eq!(read("3000").as_deref(), Ok("127.0.0.1:3000"));
        for same in ["10.0.0.7:80", "[::1]:80", "127.0.0.1", "::1"] {
            assert_eq!(read(same).as_deref(), Ok(same));
        }
        for wrong in ["", "localhost:80", "70000", "10.0.0.7:", "[::1"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_rule_has_a_port_a_range_or_all_and_a_mode() {
        let add = |line: &[&str]| {
            let parsed = Args::try_parse_from(["guestctl", "bridge", "add"].iter().chain(line))?;
            match parsed.command {
                Command::Bridge { action: Some(BridgeAction::Add { listen, to, mode }) } => {
                    Ok(format!("{listen} {to} {mode}"))
                }
                other => panic!("parsed as {other:?}"),
            }
        };
        let read = |line: &[&str]| add(line).map_err(|error: clap::Error| error.kind());
        assert_eq!(read(&["80", "3000"]).as_deref(), Ok("80 127.0.0.1:3000 tcp"));
        assert_eq!(read(&["8000-8999", "::1", "--mode", "proxy-v2"]).as_deref(), Ok("8000-8999 ::1 proxy-v2"));
        assert_eq!(read(&["--mode=http", "*", "127.0.0.1"]).as_deref(), Ok("* 127.0.0.1 http"));
        assert!(read(&["80", "3000", "--mode", "https"]).is_err());
        assert!(read(&["http", "3000"]).is_err());
    }

    #[test]
    fn the_common_options_may_stand_before_and_after_the_command() {
        for line in [["guestctl", "--json", "ports"], ["guestctl", "ports", "--json"]] {
            assert!(Args::try_parse_from(line).unwrap().json);
        }
    }
}
