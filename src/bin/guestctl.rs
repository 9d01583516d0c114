//! `guestctl`, the client of guestd, for a host that has no guestd of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    guestd::cli::main(std::env::args_os())
}
