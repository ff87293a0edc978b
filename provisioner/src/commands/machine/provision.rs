//! `berth provision`: the steps of `create` that install hostd, again.

use super::select::Machines;
use crate::context::Context;
use crate::error::{CliError, Doing as _};
use crate::provision;
use crate::store::{Event, MachineName, Step, StoreError};
use crate::ui::Progress;
use certs::Authority;
use std::process::ExitCode;

/// Install hostd on machines again, or bring it up to date
///
/// Changes only what differs: binary, certificates, configuration, service. With `--via ssh` the engine listens on no port
/// any more and is reached over SSH from now on; `--via auto` takes that back.
#[derive(Debug, clap::Args)]
pub(crate) struct ProvisionArgs {
    #[command(flatten)]
    machines: Machines,
    /// Trust whatever host key the machine shows now, and pin it
    #[arg(long)]
    accept_host_key: bool,
}

/// Runs it.
pub(crate) fn run(args: &ProvisionArgs, context: &Context) -> Result<ExitCode, CliError> {
    let names = args.machines.names(context)?;
    context.block_on(super::each(&names, |name, progress| async move {
        again(&name, args.accept_host_key, context, &progress).await
    }))
}

pub(super) async fn again(
    name: &MachineName,
    accept_host_key: bool,
    context: &Context,
    progress: &Progress,
) -> Result<(), CliError> {
    let store = &context.store;
    if !store.contains(name) {
        return Err(StoreError::NotFound(name.to_string()).into());
    }
    let _lock = store.lock(name)?;
    let mut machine = store.load(name)?;
    if !machine.journal().is_done(Step::Certificates)? {
        return Err(StoreError::Interrupted(name.to_string()).into());
    }
    let driver = machine.driver()?;
    if !driver.features().provisions {
        return Err(CliError::new(format!("driver `{}` leaves the engine alone", machine.record.driver)));
    }
    if let Some(via) = context.told_via {
        machine.record.via = via;
        machine.save()?;
    }
    let ca = Authority::load_or_create(&store.certs_dir()).doing("cannot use the certificate authority")?;
    let leaf = ca.issue_client(&format!("berth {name}")).doing("cannot issue a client certificate")?;
    certs::write_client_bundle(&machine.dir(), ca.cert_pem(), &leaf)
        .doing("cannot store the client certificate")?;
    machine.journal().note(Event::Planned, Step::Provision)?;
    provision::run(&mut machine, driver.as_ref(), store, progress, accept_host_key).await?;
    machine.journal().note(Event::Done, Step::Provision)?;
    progress.done(name.as_str());
    Ok(())
}
