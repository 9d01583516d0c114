//! temporary
use clap::Parser;
#[derive(Parser)]
enum C { Keygen(guestd::keys::KeygenArgs), Install(guestd::install::InstallArgs), Version }
fn main() -> anyhow::Result<()> {
    match C::parse() { C::Keygen(a) => guestd::keys::run(&a), C::Install(a) => guestd::install::run(&a), C::Version => { println!("guestd 0"); Ok(()) } }
}
