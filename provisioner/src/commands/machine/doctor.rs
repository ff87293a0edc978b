//! `berth doctor`: which hop on the way to a machine's engine fails, and what mends it.

use crate::context::Context;
use crate::doctor::{self, Hop, Outcome};
use crate::error::{CliError, FAILURE};
use crate::store::MachineName;
use crate::ui::{self, Format, Table};
use std::process::ExitCode;
use std::time::Duration;

/// Tell which hop on the way to a machine's engine fails, and the command that mends it
///
/// The exit code is 1 where one fails. Nothing is changed.
#[derive(Debug, clap::Args)]
pub(crate) struct DoctorArgs {
    /// Machine, instead of the selected one
    #[arg(value_name = "MACHINE")]
    name: Option<MachineName>,
    /// Seconds that each hop may take
    #[arg(long, short, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    /// How to write it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Runs it.
pub(crate) fn run(args: &DoctorArgs, context: &Context) -> Result<ExitCode, CliError> {
    let machine = context.machine_or_selected(args.name.as_ref())?;
    let limit = Duration::from_secs(args.timeout);
    let hops = context.block_on(async { Ok(doctor::examine(&machine, limit).await) })?;
    let failed = hops.iter().find(|hop| hop.outcome == Outcome::Failed);
    if args.format == Format::Json {
        ui::json(&serde_json::json!({
            "machine": machine.name.as_str(),
            "healthy": failed.is_none(),
            "failed": failed.map(|hop| hop.hop),
            "remedy": failed.and_then(|hop| hop.remedy.as_deref()),
            "hops": hops,
        }))?;
    } else {
        write(&hops);
        match failed {
            None => ui::stderr(&format!("machine `{}` is well", machine.name)),
            Some(hop) => ui::stderr(&format!(
                "`{}` fails first: {}",
                hop.hop,
                hop.remedy.as_deref().unwrap_or_default()
            )),
        }
    }
    Ok(if failed.is_none() { ExitCode::SUCCESS } else { ExitCode::from(FAILURE) })
}

fn write(hops: &[Hop]) {
    let mut table = Table::new(&["HOP", "OUTCOME", "TIME", "DETAIL"]);
    for hop in hops {
        let time =
            if hop.outcome == Outcome::Skipped { "-".to_owned() } else { format!("{} ms", hop.milliseconds) };
        let outcome = hop.outcome.word().to_owned();
        table.row(vec![hop.hop.to_owned(), outcome, time, hop.detail.replace('\n', " ")]);
    }
    table.print();
}
