//! `guestctl env`: account variables.

use crate::api::{Env, EnvUpdate};
use crate::client::Client;

use super::args::EnvAction;
use super::failure::{Failure, exit};
use super::output::{self, Output};
use super::table::Palette;
use super::text::{escape, escape_lines};

pub(super) async fn run(client: &Client, action: EnvAction, output: Output) -> Result<u8, Failure> {
    let is_list = matches!(action, EnvAction::List);
    let env = match action {
        EnvAction::List => client.env().await?,
        EnvAction::Set { variables } => {
            client.set_env(&EnvUpdate { env: variables.into_iter().collect(), replace: false }).await?
        }
        EnvAction::Unset { keys } => client.unset_env(keys).await?,
    };
    for note in &env.notes {
        output::stderr(format!("guestctl: {}\n", escape_lines(note)).as_bytes());
    }
    if is_list || output.json {
        output.show(&env, render)?;
    }
    Ok(exit::OK)
}

/// As the file has them, for a shell that reads it.
fn render(env: &Env, _palette: Palette) -> String {
    env.env.iter().map(|(key, value)| format!("{}={}\n", escape(key), escape(value))).collect()
}
