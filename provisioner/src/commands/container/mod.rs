//! Container commands: what goes to the engine of the selected machine.
//!
//! Each command is a file with its arguments and `run(args, &Context) -> Result<ExitCode, CliError>`, a variant of
//! [`ContainerCommand`] and an arm in [`run`]. Every variant becomes a plain command (`berth ps`) and one of the group
//! (`berth container ps`) by itself; the verbs `stop start restart kill rm inspect logs`, which machines have too, are
//! parsed as `berth container VERB` once it is clear that a container is meant.
//!
//! Flags, words and exit codes are docker's, so that hands and scripts need not learn new ones.

mod across;
mod attach;
mod attached;
mod create;
mod exec;
mod folders;
mod human;
mod images;
mod info;
mod inspect;
mod kill;
mod load;
mod logs;
mod names;
mod prune;
mod ps;
mod pull;
mod restart;
mod rm;
mod rmi;
mod run;
mod session;
mod start;
mod stop;
mod tag;
mod terminal;
pub(crate) mod values;
mod wait;

use crate::connect::{self, Engine, failed};
use crate::context::Context;
use crate::error::CliError;
use std::process::ExitCode;
use std::time::Duration;

/// Commands for containers and images.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ContainerCommand {
    Run(Box<run::RunArgs>),
    Ps(ps::PsArgs),
    Logs(logs::LogsArgs),
    Exec(exec::ExecArgs),
    Attach(attach::AttachArgs),
    Stop(stop::StopArgs),
    Start(start::StartArgs),
    Restart(restart::RestartArgs),
    Kill(kill::KillArgs),
    Rm(rm::RmArgs),
    Inspect(inspect::InspectArgs),
    Wait(wait::WaitArgs),
    Images(images::ImagesArgs),
    Pull(pull::PullArgs),
    Rmi(rmi::RmiArgs),
    Load(load::LoadArgs),
    Tag(tag::TagArgs),
    Prune(prune::PruneArgs),
    Info(info::InfoArgs),
}

/// Runs one.
pub(crate) fn run(command: ContainerCommand, context: &Context) -> Result<ExitCode, CliError> {
    use ContainerCommand as C;
    match command {
        C::Run(args) => run::run(*args, context),
        C::Ps(args) => ps::run(args, context),
        C::Logs(args) => logs::run(args, context),
        C::Exec(args) => exec::run(args, context),
        C::Attach(args) => attach::run(args, context),
        C::Stop(args) => stop::run(args, context),
        C::Start(args) => start::run(args, context),
        C::Restart(args) => restart::run(args, context),
        C::Kill(args) => kill::run(args, context),
        C::Rm(args) => rm::run(args, context),
        C::Inspect(args) => inspect::run(args, context),
        C::Wait(args) => wait::run(args, context),
        C::Images(args) => images::run(args, context),
        C::Pull(args) => pull::run(args, context),
        C::Rmi(args) => rmi::run(args, context),
        C::Load(args) => load::run(args, context),
        C::Tag(args) => tag::run(args, context),
        C::Prune(args) => prune::run(args, context),
        C::Info(args) => info::run(args, context),
    }
}

/// Whether the selected machine, where it can be reached quickly, has a container of this name. Not knowing is `false`.
pub(crate) fn exists(context: &Context, name: &str) -> bool {
    const QUICKLY: Duration = Duration::from_millis(500);
    let look = async {
        let machine = context.selected()?;
        let path = format!("/containers/{}/json", names::container(name)?);
        let asked = async { connect::engine(&machine).await?.get_json(&path).await };
        Ok(tokio::time::timeout(QUICKLY, asked).await.is_ok_and(|answer| answer.is_ok()))
    };
    context.block_on(look).unwrap_or(false)
}

/// The names of all containers of the selected machine, where it can be reached quickly; else none.
pub(crate) fn all_names(context: &Context) -> Vec<String> {
    const QUICKLY: Duration = Duration::from_secs(2);
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Container {
        #[serde(default)]
        names: Option<Vec<String>>,
    }
    let look = async {
        let machine = context.selected()?;
        let asked =
            async { connect::engine(&machine).await?.get::<Vec<Container>>("/containers/json?all=1").await };
        Ok(tokio::time::timeout(QUICKLY, asked).await)
    };
    let Ok(Ok(Ok(found))) = context.block_on(look) else { return Vec::new() };
    let names = found.into_iter().flat_map(|container| container.names.unwrap_or_default());
    names.map(|name| name.trim_start_matches('/').to_owned()).collect()
}

/// Does something to each container and prints the names of those where it succeeded; a failure does not stop it.
fn each(
    context: &Context,
    verb: &str,
    names: &[String],
    act: impl AsyncFn(&Engine, &str) -> Result<(), bollard::errors::Error>,
) -> Result<ExitCode, CliError> {
    context.block_on(async {
        let connection = connect::selected(context).await?;
        let engine = &connection.engine;
        let mut code = ExitCode::SUCCESS;
        for name in names {
            let done = match names::container(name) {
                Ok(id) => act(engine, &id)
                    .await
                    .map_err(|e| failed(format!("cannot {verb} container `{name}`"), engine.error(e))),
                Err(error) => Err(error),
            };
            match done {
                Ok(()) => crate::ui::stdout(name),
                Err(error) => {
                    error.print();
                    code = ExitCode::FAILURE;
                }
            }
        }
        // Published ports come and go with their containers.
        connection.forwarder.sync(engine).await?;
        Ok(code)
    })
}

/// Tells of a failure that does not decide what the command ends with.
fn tell(result: Result<(), CliError>) {
    if let Err(error) = result {
        error.print();
    }
}
