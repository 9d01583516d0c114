//! The one binary of the guest: `guestd`, and `guestctl` where it is called by that name.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::{Parser, Subcommand};
use guestd::{
    agent,
    bridge::plane,
    cli,
    config::{self, Config, LogLevel, Problem},
    init, install, keys, limits, lint,
    sys::{allocator::Allocator, crash, root_dir::RootDir},
};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// In-guest agent of a Firecracker microVM.
#[derive(Debug, Parser)]
#[command(name = "guestd", version, arg_required_else_help = true)]
struct Args {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Run the service.
    Agent {
        /// Configuration file.
        #[arg(long, value_name = "FILE", default_value = config::DEFAULT_FILE)]
        config: PathBuf,
        /// Unix socket, over the configuration's.
        #[arg(long, value_name = "PATH")]
        socket: Option<PathBuf>,
        /// Do not listen on vsock.
        #[arg(long)]
        no_vsock: bool,
    },
    /// The bridge's data plane; the agent starts it.
    #[command(hide = true)]
    Bridge(plane::PlaneArgs),
    /// Be process 1 of a VM; or, with `-- PROGRAM [ARG]...`, the entry point of a container.
    Init,
    /// Put guestd into a root file system.
    Install(install::InstallArgs),
    /// Take guestd out of a root file system again.
    Uninstall(install::UninstallArgs),
    /// Look a golden image over before it is booted.
    Lint(lint::LintArgs),
    /// Make the golden SSH keys.
    Keygen(keys::KeygenArgs),
    /// Make this VM's SSH host key where there is none, as the agent does: for an init that starts sshd without waiting for the agent.
    HostKey {
        /// Configuration file.
        #[arg(long, value_name = "FILE", default_value = config::DEFAULT_FILE)]
        config: PathBuf,
    },
    /// SSH certificate authority: an option beside the golden keys.
    #[command(subcommand)]
    Ca(keys::ca::CaCommand),
    /// Read the configuration as the agent would; exit 1 if there is a problem in it.
    CheckConfig {
        /// Configuration file.
        #[arg(value_name = "FILE", default_value = config::DEFAULT_FILE)]
        file: PathBuf,
    },
    /// Print the version.
    Version,
}

fn main() -> ExitCode {
    let argv: Vec<_> = std::env::args_os().collect();
    // Before anything else: process 1 must not end over a word on its command line.
    if let Some(words) = init::words(&argv) {
        return init::main(words);
    }
    let name = argv.first().map(PathBuf::from);
    if name.as_deref().and_then(Path::file_name).is_some_and(|name| name == "guestctl") {
        return cli::main(argv);
    }
    match run(Args::parse().role) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("guestd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(role: Role) -> anyhow::Result<ExitCode> {
    match role {
        Role::Agent { config, socket, no_vsock } => {
            let (mut config, problems) = load(&config);
            if let Some(socket) = socket {
                config.socket = socket;
            }
            config.vsock_enabled &= !no_vsock;
            run_agent(config, problems)?;
        }
        Role::Bridge(args) => {
            begin_log(args.log_level.parse().unwrap_or(tracing::Level::INFO));
            plane::run(args).context("the bridge's data plane")?;
        }
        // Taken care of before, options and all.
        Role::Init => return Ok(init::main(&[])),
        Role::Install(args) => install::run(&args)?,
        Role::Uninstall(args) => install::run_uninstall(&args)?,
        Role::Lint(args) => return Ok(lint::run(&args)),
        Role::Keygen(args) => keys::run(&args)?,
        Role::HostKey { config } => {
            let (config, _) = load(&config);
            keys::make_host_key(&RootDir::open(Path::new("/"))?, config.vm_id.as_deref())?;
        }
        Role::Ca(command) => keys::ca::run(&command)?,
        Role::CheckConfig { file } => {
            anyhow::ensure!(file.exists(), "{} does not exist; the agent would use its defaults", file.display());
            let (_, problems) = load(&file);
            for problem in &problems {
                println!("{problem}");
            }
            if !problems.is_empty() {
                println!("known keys: {}", config::known_keys().collect::<Vec<_>>().join(", "));
                return Ok(ExitCode::FAILURE);
            }
            println!("{}: ok", file.display());
        }
        Role::Version => println!("guestd {}", env!("CARGO_PKG_VERSION")),
    }
    Ok(ExitCode::SUCCESS)
}

fn load(file: &Path) -> (Config, Vec<Problem>) {
    let variables =
        std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
    Config::from_layers(&[
        config::file(file),
        config::kernel_command_line(&std::fs::read_to_string("/proc/cmdline").unwrap_or_default()),
        config::environment(variables),
    ])
}

/// The journal and the console have clocks of their own.
fn begin_log(level: tracing::Level) {
    tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).without_time().with_ansi(false).init();
}

/// What ends the agent, or a task of it, is told on standard error with a backtrace: as addresses, which need the same build with symbols to be
/// read. `guestd init` keeps it over a restart.
fn tell_crashes() {
    crash::tell_faults();
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |what| {
        before(what);
        crash::backtrace(0);
    }));
}

fn run_agent(config: Config, problems: Vec<Problem>) -> anyhow::Result<()> {
    begin_log(match config.log_level {
        LogLevel::Error => tracing::Level::ERROR,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Debug => tracing::Level::DEBUG,
        LogLevel::Trace => tracing::Level::TRACE,
    });
    tell_crashes();
    // One thread: of two, one waits for events that are for the other, and each costs the two a switch, ten or so in an exec. What
    // blocks is on threads of its own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(limits::BLOCKING_THREADS)
        .thread_name("guestd")
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let end = runtime.block_on(agent::run(config, problems));
    // A thread that blocks, in the look-up of a name for one, is not waited for without an end.
    runtime.shutdown_timeout(limits::STOP_TIME);
    end
}
