//! The one binary of the guest: `guestd`, and `guestctl` where it is called by that name.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::{Parser, Subcommand};
use guestd::{
    agent, cli,
    config::{self, Config, LogLevel, Problem},
    install, keys, limits,
    sys::allocator::Allocator,
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
    /// Put guestd into a root file system.
    Install(install::InstallArgs),
    /// Make the golden SSH keys.
    Keygen(keys::KeygenArgs),
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
    let name = std::env::args_os().next().map(PathBuf::from);
    if name.as_deref().and_then(Path::file_name).is_some_and(|name| name == "guestctl") {
        return cli::main(std::env::args_os());
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
        Role::Install(args) => install::run(&args)?,
        Role::Keygen(args) => keys::run(&args)?,
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

fn run_agent(config: Config, problems: Vec<Problem>) -> anyhow::Result<()> {
    let level = match config.log_level {
        LogLevel::Error => tracing::Level::ERROR,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Debug => tracing::Level::DEBUG,
        LogLevel::Trace => tracing::Level::TRACE,
    };
    // The journal and the console have clocks of their own.
    tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).without_time().with_ansi(false).init();
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
