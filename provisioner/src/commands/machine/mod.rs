//! Machine commands: what goes to the store, to drivers and over SSH.

mod context;
pub(crate) mod create;
mod doctor;
mod env;
mod fleet;
mod forwarder;
mod image;
mod label;
mod live;
mod logs;
mod ls;
mod power;
mod provision;
mod proxy;
mod rename;
mod resize;
mod rm;
mod select;
mod shell;
mod show;
mod ssh;
mod upgrade;

use crate::context::Context;
use crate::error::CliError;
use crate::store::MachineName;
use crate::ui::{Progress, Side};
use clap::ArgMatches;
use drivers::driver::MachineState;
use futures_util::StreamExt as _;
use power::Power;
use std::process::ExitCode;

/// Commands for machines.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum MachineCommand {
    Create(create::CreateArgs),
    #[command(visible_alias = "list")]
    Ls(ls::LsArgs),
    /// Make a machine the active one
    Use(show::UseArgs),
    /// Show which machine commands go to
    Active,
    Env(env::EnvArgs),
    Config(env::ConfigArgs),
    /// Show all that is known of machines, as JSON
    Inspect(show::InspectArgs),
    /// Show a machine's address
    Ip(show::AskArgs),
    /// Show the URL of a machine's engine
    Url(show::UrlArgs),
    /// Show whether a machine runs; exit code 1 where it does not
    Status(show::AskArgs),
    /// Start machines
    Start(power::PowerArgs),
    /// Stop machines: ask the guest to power off, and power it off if it does not in time
    Stop(power::PowerArgs),
    /// Stop and start machines
    Restart(power::PowerArgs),
    /// Power machines off at once
    Kill(power::PowerArgs),
    Rm(rm::RmArgs),
    Rename(rename::RenameArgs),
    Resize(resize::ResizeArgs),
    Logs(logs::LogsArgs),
    Ssh(ssh::SshArgs),
    Label(label::LabelArgs),
    Fleet(fleet::FleetArgs),
    Provision(provision::ProvisionArgs),
    Upgrade(upgrade::UpgradeArgs),
    Doctor(doctor::DoctorArgs),
    Proxy(proxy::ProxyArgs),
    Context(context::ContextArgs),
    #[command(hide = true)]
    Forwarder(forwarder::ForwarderArgs),
    /// Make and list images for machines on this computer
    #[command(subcommand)]
    Image(image::ImageCommand),
}

/// Runs one; `matches` hold the flags of the driver that `create` was given.
pub(crate) fn run(
    command: MachineCommand,
    matches: &ArgMatches,
    context: &Context,
) -> Result<ExitCode, CliError> {
    use MachineCommand as C;
    let reads = command.reads();
    let result = match command {
        C::Create(args) => create::run(&args, matches, context),
        C::Ls(args) => ls::run(&args, context),
        C::Use(args) => show::make_active(&args, context),
        C::Active => show::active(context),
        C::Env(args) => env::env(&args, context),
        C::Config(args) => env::config(&args, context),
        C::Inspect(args) => show::inspect(&args, context),
        C::Ip(args) => show::ip(&args, context),
        C::Url(args) => show::url(&args, context),
        C::Status(args) => show::status(&args, context),
        C::Start(args) => power::run(&args, Power::Start, context),
        C::Stop(args) => power::run(&args, Power::Stop, context),
        C::Restart(args) => power::run(&args, Power::Restart, context),
        C::Kill(args) => power::run(&args, Power::Kill, context),
        C::Rm(args) => rm::run(&args, context),
        C::Rename(args) => rename::run(&args, context),
        C::Resize(args) => resize::run(&args, context),
        C::Logs(args) => logs::run(&args, context),
        C::Ssh(args) => ssh::run(&args, context),
        C::Label(args) => label::run(&args, context),
        C::Fleet(args) => fleet::run(&args, context),
        C::Provision(args) => provision::run(&args, context),
        C::Doctor(args) => doctor::run(&args, context),
        C::Upgrade(args) => upgrade::run(&args, context),
        C::Proxy(args) => proxy::run(&args, context),
        C::Context(args) => context::run(&args, context),
        C::Forwarder(args) => forwarder::run(&args, context),
        C::Image(command) => image::run(&command, context),
    };
    // Also where it failed: some of it may have been done.
    if !reads {
        crate::contexts::keep(&context.store);
    }
    result
}

impl MachineCommand {
    /// Whether it leaves machines as they are.
    fn reads(&self) -> bool {
        use MachineCommand as C;
        if let C::Fleet(args) = self {
            return args.reads();
        }
        matches!(
            self,
            C::Ls(_)
                | C::Use(_)
                | C::Active
                | C::Env(_)
                | C::Config(_)
                | C::Inspect(_)
                | C::Ip(_)
                | C::Url(_)
                | C::Status(_)
                | C::Logs(_)
                | C::Doctor(_)
                | C::Ssh(_)
                | C::Label(_)
                | C::Proxy(_)
                | C::Context(_)
                | C::Forwarder(_)
                | C::Image(_)
        )
    }
}

/// How many machines are worked on at a time.
const AT_ONCE: usize = 8;

/// Does something to each machine, several at a time, past failures. All failures but the last are printed here, in
/// the machines' order; the last is the command's own.
async fn each<F: Future<Output = Result<(), CliError>>>(
    names: &[MachineName],
    act: impl FnMut(MachineName, Progress) -> F,
) -> Result<ExitCode, CliError> {
    each_of(names, AT_ONCE, act).await
}

/// The same, with another number at a time.
async fn each_of<F: Future<Output = Result<(), CliError>>>(
    names: &[MachineName],
    at_once: usize,
    mut act: impl FnMut(MachineName, Progress) -> F,
) -> Result<ExitCode, CliError> {
    let side = Side::new();
    let progress = |name: &MachineName| match names {
        [_] => Progress::new(None),
        _ => side.progress(name.as_str()),
    };
    let work = names.iter().enumerate().map(|(at, name)| {
        let done = act(name.clone(), progress(name));
        async move { (at, done.await) }
    });
    let done = futures_util::stream::iter(work).buffer_unordered(at_once.max(1));
    let failed = done.filter_map(async |(at, done)| done.err().map(|error| (at, error)));
    let mut failed: Vec<(usize, CliError)> = failed.collect().await;
    failed.sort_by_key(|(at, _)| *at);
    let Some((_, last)) = failed.pop() else { return Ok(ExitCode::SUCCESS) };
    failed.iter().for_each(|(_, error)| error.print());
    Err(last)
}

/// How a state is shown.
fn state_word(state: MachineState) -> &'static str {
    match state {
        MachineState::Running => "Running",
        MachineState::Stopped => "Stopped",
        MachineState::Starting => "Starting",
        MachineState::Stopping => "Stopping",
        MachineState::Paused => "Paused",
        MachineState::Absent => "Absent",
        MachineState::Error => "Error",
    }
}
