//! berth: any Linux machine as a container host.
//!
//! A *machine* is a record in the [`store`] and something real behind a driver (crate `drivers`): a VM, a cloud
//! server, a host that is there already. An *engine* is the hostd on it. Machine commands ([`commands::machine`])
//! go to the store, the driver and, over [`ssh`], to the machine; container commands ([`commands::container`]) go
//! through [`connect`] to the engine of the selected machine.
//!
//! ```text
//! argv ─ cli ─▶ Context ─▶ commands::machine ───▶ store · drivers · ssh · provision
//!                     └──▶ commands::container ─▶ connect ─▶ engine API (mutual TLS, SSH)
//! ```
//! [`proxy`] does for plain Docker clients what container commands do themselves.
//!
//! Data goes to stdout, everything else to stderr (see [`ui`]); a failure is an [`error::CliError`].

mod cli;
mod commands;
mod connect;
mod context;
mod contexts;
mod doctor;
mod error;
mod fleet;
mod provision;
mod proxy;
mod ssh;
mod store;
mod ui;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run(std::env::args_os().collect()) {
        Ok(code) => code,
        Err(error) => {
            error.print();
            error.exit_code()
        }
    }
}
