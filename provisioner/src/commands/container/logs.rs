//! `berth logs`.

use super::inspect::Details;
use super::{names, session, values};
use crate::connect::{self, failed};
use crate::context::Context;
use crate::error::CliError;
use hyper::Method;
use std::process::ExitCode;

/// Show what a container has said
#[derive(Debug, clap::Args)]
pub(crate) struct LogsArgs {
    /// Go on with what it says from now on
    #[arg(short, long)]
    follow: bool,
    /// Number of lines from the end
    #[arg(short = 'n', long, value_name = "LINES", default_value = "all", value_parser = values::tail)]
    tail: String,
    /// Show when each line was said
    #[arg(short, long)]
    timestamps: bool,
    /// Only what was said since then (a time, or `10m` for ten minutes ago)
    #[arg(long, value_name = "TIME", value_parser = values::moment)]
    since: Option<String>,
    /// Only what was said until then
    #[arg(long, value_name = "TIME", value_parser = values::moment)]
    until: Option<String>,
    /// Container to listen to
    container: String,
}

pub(crate) fn run(args: LogsArgs, context: &Context) -> Result<ExitCode, CliError> {
    context.block_on(async {
        let connection = connect::selected(context).await?;
        let details = Details::of(&connection.engine, &args.container).await?;
        let path = format!("/containers/{}/logs?{}", names::container(&details.id)?, args.query());
        let what = format!("cannot read the logs of container `{}`", args.container);
        let stream =
            connection.engine.stream(Method::GET, &path).await.map_err(|e| failed(what.clone(), e))?;
        match session::copy_output(stream, details.config.tty).await {
            // Whoever listens has heard enough (`| head`).
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
            Err(e) => Err(CliError::new(what).because(e)),
            Ok(()) => Ok(ExitCode::SUCCESS),
        }
    })
}

impl LogsArgs {
    fn query(&self) -> String {
        let mut query = format!("stdout=1&stderr=1&tail={}", self.tail);
        for (name, given) in [("follow", self.follow), ("timestamps", self.timestamps)] {
            if given {
                query.push_str(&format!("&{name}=1"));
            }
        }
        for (name, moment) in [("since", &self.since), ("until", &self.until)] {
            if let Some(moment) = moment {
                query.push_str(&format!("&{name}={}", names::query(moment)));
            }
        }
        query
    }
}
