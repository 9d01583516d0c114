//! `guestctl`: the command line over [`client`](crate::client).
//!
//! Owns arguments, output for people and programs, and exit codes. Every command is a pure function from an answer to
//! text, and a small one that asks and prints. Holds nothing that a library could want: whoever writes a program uses
//! the client.

mod args;
mod bridge;
mod console;
mod cp;
mod disk;
mod env;
mod escape;
mod exec;
mod execs;
mod failure;
mod follow;
mod generation;
mod health;
mod info;
mod input;
mod keys;
mod logs;
mod output;
mod ports;
mod proxy;
mod services;
mod signals;
mod sink;
mod stdout;
mod terminal;
mod tunnel;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use crate::client::{Client, Endpoint, EndpointError, Token};
use crate::display::{table, text};

use args::{Args, Command, DiskAction};
use failure::{Failure, exit};
use output::Output;

/// Where guestd listens inside the guest.
const DEFAULT_ENDPOINT: &str = "unix:/run/guestd.sock";

/// Runs guestctl with these arguments, the program's name first, and gives its exit code. Starts a runtime of its own, so
/// that it must not be called from one.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let code = match Args::try_parse_from(args) {
        Ok(args) => run(args).unwrap_or_else(|failure| {
            output::stderr(failure.lines().as_bytes());
            failure.exit_code()
        }),
        Err(usage) => {
            // Help and version are "errors" to clap; their writing can only fail where nobody reads.
            let _ = usage.print();
            if usage.use_stderr() { exit::USAGE } else { exit::OK }
        }
    };
    ExitCode::from(code)
}

fn run(args: Args) -> Result<u8, Failure> {
    let output = Output::new(args.json);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Runtime)?;
    let command = match args.command {
        // These need no VM that is asked.
        Command::Completions { shell } => return completions(shell, args.json),
        Command::Proxy(proxy) => {
            let ended = runtime.block_on(proxy::run(proxy, output));
            // A look-up of a name cannot be given up, and its thread not be waited for.
            runtime.shutdown_background();
            return ended;
        }
        command => command,
    };
    let endpoint = match args.vm {
        Some(endpoint) => endpoint,
        None => endpoint_of(std::env::var_os("GUESTD_VM")).map_err(Failure::Endpoint)?,
    };
    let mut client = Client::new(endpoint);
    if let Some(file) = args.token_file {
        client = client.with_token(Token::from_file(&file)?);
    }
    runtime.block_on(dispatch(&client, command, output))
}

async fn dispatch(client: &Client, command: Command, output: Output) -> Result<u8, Failure> {
    match command {
        Command::Health { wait } => health::run(client, wait, output).await,
        Command::Info => {
            let info = client.info().await?;
            output.show(&info, info::render)?;
            Ok(exit::OK)
        }
        Command::Exec(exec) => exec::run(client, exec, output).await,
        Command::Attach { id, from, latest } => exec::attach(client, id, from, latest, output).await,
        Command::Ps { all } => execs::list(client, all, output).await,
        Command::Signal { id, signal, to } => execs::signal(client, &id, signal, to.into()).await,
        Command::Wait { id } => execs::wait(client, &id, output).await,
        Command::Logs { follow, exec, service } => logs::run(client, exec, service, follow, output).await,
        Command::Service { action } => services::run(client, action, output).await,
        Command::Power { action } => services::power(client, action, output).await,
        Command::Shell { user } => exec::shell(client, user, output).await,
        Command::Tunnel { route: Some(route), .. } => tunnel::listen(client, route, output).await,
        Command::Tunnel { stdio, .. } => tunnel::stdio(client, stdio.unwrap_or_default()).await,
        Command::Proxy(proxy) => proxy::run(proxy, output).await,
        Command::Cp(copy) => cp::run(client, copy, output).await,
        Command::Ports(args) => ports::run(client, args, output).await,
        Command::Bridge { action } => bridge::run(client, action, output).await,
        Command::Snapshot { action } => generation::snapshot(client, action, output).await,
        Command::Generation(args) => generation::run(client, args, output).await,
        Command::Env { action } => env::run(client, action, output).await,
        Command::Disk { action: DiskAction::Grow { path, size } } => disk::grow(client, path, size, output).await,
        Command::Keys { action } => keys::run(client, action, output).await,
        Command::Metrics if output.json => Err(Failure::NoJson("metrics")),
        Command::Metrics => {
            let metrics = client.metrics().await?;
            output::stdout(text::escape_lines(&metrics).as_bytes())?;
            Ok(exit::OK)
        }
        Command::Completions { shell } => completions(shell, output.json),
    }
}

fn completions(shell: clap_complete::Shell, json: bool) -> Result<u8, Failure> {
    if json {
        return Err(Failure::NoJson("completions"));
    }
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "guestctl", &mut script);
    output::stdout(&script)?;
    Ok(exit::OK)
}

/// The endpoint where none is given: that of the environment if there is one, else the guest's own.
fn endpoint_of(variable: Option<OsString>) -> Result<Endpoint, EndpointError> {
    let text = variable.filter(|value| !value.is_empty());
    text.map_or_else(|| DEFAULT_ENDPOINT.parse(), |text| text.to_string_lossy().parse())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_variable_is_as_good_as_none() {
        for variable in [None, Some(OsString::new())] {
            let endpoint = endpoint_of(variable).unwrap();
            assert_eq!(endpoint.to_string(), DEFAULT_ENDPOINT);
        }
    }

    #[test]
    fn a_variable_names_the_vm() {
        let endpoint = endpoint_of(Some("vsock:7".into())).unwrap();
        assert_eq!(endpoint, Endpoint::Vsock { cid: 7, port: 1024 });
    }
}
