//! `berth context`: docker's contexts, one for each machine.

use crate::context::Context;
use crate::contexts::{Contexts, Standing};
use crate::error::CliError;
use crate::ui::{self, Format, Table};
use std::process::ExitCode;

/// Keep docker's contexts in step with the machines: berth-NAME for each
///
/// `docker context use berth-NAME` then leads docker to the machine. Contexts that berth has not made are never touched.
#[derive(Debug, clap::Args)]
pub(crate) struct ContextArgs {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List contexts, and how they stand to their machines
    Ls {
        /// How to write it
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Make a context for each machine, and keep them in step from now on
    Sync,
    /// Remove all contexts that berth has made, and keep none from now on
    Rm,
}

/// Runs it.
pub(crate) fn run(args: &ContextArgs, context: &Context) -> Result<ExitCode, CliError> {
    let contexts = Contexts::of(&context.store)?;
    match &args.verb {
        None => ls(&contexts, Format::default())?,
        Some(Verb::Ls { format }) => ls(&contexts, *format)?,
        Some(Verb::Sync) => {
            contexts.switch_on()?;
            let foreign = contexts.sync()?;
            for listed in contexts.list()?.iter().filter(|listed| listed.standing == Standing::InStep) {
                ui::stdout(&listed.name);
                if listed.endpoint.starts_with("unix://") {
                    ui::stderr(&format!(
                        "{} leads over SSH: it works while `berth proxy --machine {}` runs",
                        listed.name, listed.machine
                    ));
                }
            }
            point_out_exports();
            if let Some(name) = foreign.first() {
                return Err(CliError::new(format!("docker has a context {name} that berth has not made"))
                    .hint(format!("`docker context rm {name}` makes room for berth's")));
            }
        }
        Some(Verb::Rm) => {
            for name in contexts.remove_all()? {
                ui::stdout(&name);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn ls(contexts: &Contexts<'_>, format: Format) -> Result<(), CliError> {
    let listed = contexts.list()?;
    point_out_exports();
    if format == Format::Json {
        return ui::json(&listed);
    }
    let mut table = Table::new(&["NAME", "CURRENT", "MACHINE", "ENDPOINT", "STATUS"]);
    for context in listed {
        let status = match context.standing {
            Standing::InStep => "in step",
            Standing::Outdated => "outdated: `berth context sync`",
            Standing::Missing => "missing: `berth context sync`",
            Standing::Orphaned => "its machine is gone: `berth context sync`",
            Standing::Foreign => "not made by berth",
        };
        let current = if context.current { "*" } else { "" };
        table.row(vec![
            context.name,
            current.to_owned(),
            context.machine,
            context.endpoint,
            status.to_owned(),
        ]);
    }
    table.print();
    Ok(())
}

/// What is exported goes before what `docker context use` says.
fn point_out_exports() {
    for name in ["DOCKER_HOST", "DOCKER_CONTEXT"] {
        if let Some(value) = std::env::var_os(name).filter(|value| !value.is_empty()) {
            ui::stderr(&format!(
                "warning: {name}={} is exported here and goes before `docker context use`: unset {name}",
                value.to_string_lossy()
            ));
        }
    }
}
