//! `berth prune`.

use super::across::{Across, Bound};
use crate::connect::{self, Engine, failed};
use crate::context::Context;
use crate::error::{CliError, Doing as _};
use crate::ui::{self, Table};
use hyper::Method;
use serde::Deserialize;
use std::process::ExitCode;
use tokio::io::AsyncReadExt as _;

/// Remove stopped containers, and what else is said and not used
#[derive(Debug, clap::Args)]
pub(crate) struct PruneArgs {
    /// Images without a name, too
    #[arg(long)]
    images: bool,
    /// All images that no container uses, not only those without a name
    #[arg(short, long, requires = "images")]
    all: bool,
    /// Networks that no container uses, too
    #[arg(long)]
    networks: bool,
    /// Anonymous volumes that no container uses, too
    #[arg(long)]
    volumes: bool,
    /// Do not ask
    #[arg(short, long, visible_alias = "force", visible_short_alias = 'f')]
    yes: bool,
    #[command(flatten)]
    across: Across,
}

/// What an engine says that it has removed.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Removed {
    containers_deleted: Option<Vec<serde_json::Value>>,
    images_deleted: Option<Vec<ImageRemoved>>,
    networks_deleted: Option<Vec<serde_json::Value>>,
    volumes_deleted: Option<Vec<serde_json::Value>>,
    space_reclaimed: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ImageRemoved {
    /// `None` where a name alone was taken from it.
    deleted: Option<String>,
}

/// How many of each kind are gone, and the bytes that they took.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    containers: usize,
    images: usize,
    networks: usize,
    volumes: usize,
    bytes: i64,
}

pub(crate) fn run(args: PruneArgs, context: &Context) -> Result<ExitCode, CliError> {
    let (what, place) = (args.what(), args.across.place());
    if !args.yes
        && !ui::confirmed(
            &format!("Remove {what} on {place}?"),
            &format!("refusing to remove {what} unasked"),
        )?
    {
        return Err(CliError::new("nothing was removed"));
    }
    context.block_on(async {
        if args.across.several() {
            let answers =
                args.across.gather(context, Bound::Connect, async |engine| args.ask(engine).await).await?;
            let rows = answers.answers.iter().map(|(machine, count)| (Some(machine.clone()), *count));
            args.print(&rows.collect::<Vec<_>>());
            return answers.ended().map(|()| ExitCode::SUCCESS);
        }
        let connection = args.across.in_time(connect::selected(context)).await?;
        args.print(&[(None, args.ask(&connection.engine).await?)]);
        Ok(ExitCode::SUCCESS)
    })
}

impl PruneArgs {
    fn what(&self) -> String {
        let images = if self.all { "all unused images" } else { "images without a name" };
        let more = [
            (self.images, images),
            (self.networks, "unused networks"),
            (self.volumes, "unused anonymous volumes"),
        ];
        let more = more.into_iter().filter(|(asked, _)| *asked).map(|(_, what)| what);
        ["stopped containers"].into_iter().chain(more).collect::<Vec<_>>().join(", ")
    }

    /// Containers first, as what they use is then unused.
    async fn ask(&self, engine: &Engine) -> Result<Count, CliError> {
        // dangling=false means those that have a name, too.
        let dangling = if self.all {
            "%7B%22dangling%22%3A%5B%22false%22%5D%7D"
        } else {
            "%7B%22dangling%22%3A%5B%22true%22%5D%7D"
        };
        let images = format!("/images/prune?filters={dangling}");
        let kinds = [
            (true, "containers", "/containers/prune"),
            (self.networks, "networks", "/networks/prune"),
            (self.volumes, "volumes", "/volumes/prune"),
            (self.images, "images", images.as_str()),
        ];
        let mut count = Count::default();
        for (_, what, path) in kinds.into_iter().filter(|(asked, ..)| *asked) {
            let removed = prune(engine, path).await.doing(format!("cannot remove unused {what}"))?;
            let number = |of: &Option<Vec<serde_json::Value>>| of.as_ref().map_or(0, Vec::len);
            count.containers += number(&removed.containers_deleted);
            count.networks += number(&removed.networks_deleted);
            count.volumes += number(&removed.volumes_deleted);
            count.images +=
                removed.images_deleted.iter().flatten().filter(|image| image.deleted.is_some()).count();
            count.bytes = count.bytes.saturating_add(removed.space_reclaimed);
        }
        Ok(count)
    }

    fn print(&self, counts: &[(Option<String>, Count)]) {
        let heads = ["MACHINE", "CONTAINERS", "IMAGES", "NETWORKS", "VOLUMES", "RECLAIMED"];
        let mut table = Table::new(if self.across.several() { &heads } else { &heads[1..] });
        for (machine, count) in counts {
            let numbers =
                [count.containers, count.images, count.networks, count.volumes].map(|n| n.to_string());
            let cells = machine.iter().cloned().chain(numbers).chain([super::human::size(count.bytes)]);
            table.row(cells.collect());
        }
        table.print();
    }
}

/// Longer than any list of what was removed.
const LARGEST: u64 = 16 << 20;

async fn prune(engine: &Engine, path: &str) -> Result<Removed, CliError> {
    let answer = engine.stream(Method::POST, path).await.map_err(|e| failed("the engine refused", e))?;
    let mut text = Vec::new();
    answer.take(LARGEST).read_to_end(&mut text).await.doing("the answer broke off")?;
    serde_json::from_slice(&text).doing("cannot read the answer")
}
