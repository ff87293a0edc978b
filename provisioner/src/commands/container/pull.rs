//! `berth pull`.

use super::across::{Across, Bound};
use super::names;
use crate::connect::{self, Engine, failed};
use crate::context::Context;
use crate::error::CliError;
use drivers::driver::Reporter as _;
use hyper::Method;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Deserialize;
use std::collections::HashMap;
use std::io::IsTerminal;
use std::process::ExitCode;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

/// Download an image from a registry
#[derive(Debug, clap::Args)]
pub(crate) struct PullArgs {
    /// Print the image's name only
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    across: Across,
    /// Image to pull
    image: String,
}

pub(crate) fn run(args: PullArgs, context: &Context) -> Result<ExitCode, CliError> {
    context.block_on(async {
        if args.across.several() {
            return pull_on_all(&args, context).await;
        }
        let connection = args.across.in_time(connect::selected(context)).await?;
        if !args.quiet && names::split_reference(&args.image).1.is_none() {
            crate::ui::stderr("Using default tag: latest");
        }
        pull(&connection.engine, &args.image, args.quiet).await?;
        crate::ui::stdout(&names::canonical(&args.image));
        Ok(ExitCode::SUCCESS)
    })
}

/// Pulls on several machines at once. Each tells when it is done; what a layer does is not told.
async fn pull_on_all(args: &PullArgs, context: &Context) -> Result<ExitCode, CliError> {
    names::image(&args.image)?;
    let side = crate::ui::Side::new();
    let answers = args.across.gather(context, Bound::Connect, async |engine| {
        let progress = side.progress(engine.machine());
        if !args.quiet {
            progress.step(&format!("Pulling {}", args.image));
        }
        let pulled = pull(engine, &args.image, true).await;
        progress.finish_if(pulled.is_ok());
        pulled
    });
    let answers = answers.await?;
    for (machine, ()) in &answers.answers {
        crate::ui::stdout(&format!("{machine}: {}", names::canonical(&args.image)));
    }
    answers.ended().map(|()| ExitCode::SUCCESS)
}

/// Pulls an image and shows how that goes on.
pub(crate) async fn pull(engine: &Engine, reference: &str, quiet: bool) -> Result<(), CliError> {
    names::image(reference)?;
    let (repository, tag) = names::split_reference(reference);
    let (repository, tag) = (names::query(repository), names::query(tag.unwrap_or("latest")));
    let path = format!("/images/create?fromImage={repository}&tag={tag}");
    let what = || format!("cannot pull `{reference}`");
    let stream = engine.stream(Method::POST, &path).await.map_err(|e| failed(what(), e))?;
    let mut layers = Layers::new(quiet);
    let done = messages(stream, |message| layers.show(message)).await;
    layers.finish();
    done.map_err(|reason| CliError::new(what()).because(reason))
}

/// The reference with the tag that is meant where none is given.
pub(crate) fn with_tag(reference: &str) -> String {
    match names::split_reference(reference) {
        (repository, None) => format!("{repository}:latest"),
        _ => reference.to_owned(),
    }
}

/// A line of an engine's progress.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Message {
    id: Option<String>,
    status: Option<String>,
    /// Plain text, of loads.
    pub(crate) stream: Option<String>,
    #[serde(rename = "progressDetail")]
    progress: Option<ProgressDetail>,
    error: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ProgressDetail {
    current: u64,
    total: u64,
}

/// Longer than any line of progress.
const MAX_LINE: u64 = 1 << 20;

/// Reads an engine's progress to its end; an error in it is the end.
pub(crate) async fn messages(
    mut stream: impl AsyncBufRead + Unpin,
    mut show: impl FnMut(Message),
) -> std::io::Result<()> {
    let mut line = Vec::new();
    loop {
        line.clear();
        if (&mut stream).take(MAX_LINE).read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let message: Message = serde_json::from_slice(&line)?;
        if let Some(error) = message.error {
            return Err(std::io::Error::other(error.trim().to_owned()));
        }
        show(message);
    }
}

/// A bar per layer on a terminal, and a line per step elsewhere.
struct Layers {
    quiet: bool,
    bars: Option<MultiProgress>,
    layers: HashMap<String, ProgressBar>,
}

impl Layers {
    fn new(quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal() && !quiet;
        Self { quiet, bars: terminal.then(MultiProgress::new), layers: HashMap::new() }
    }

    fn show(&mut self, message: Message) {
        let Message { id, status, progress, .. } = message;
        let (false, Some(status)) = (self.quiet, status) else { return };
        let progress = progress.filter(|progress| progress.total > 0);
        let Some(bars) = &self.bars else {
            // The steps tell enough where nothing can move.
            if progress.is_none() {
                let line = id.map_or(status.clone(), |id| format!("{id}: {status}"));
                crate::ui::stderr(&line);
            }
            return;
        };
        // "Pulling from library/alpine" names the tag as its id, and is no layer.
        let Some(id) = id.filter(|_| !status.starts_with("Pulling from")) else {
            bars.suspend(|| crate::ui::stderr(&status));
            return;
        };
        let bar = self.layers.entry(id.clone()).or_insert_with(|| {
            bars.add(ProgressBar::no_length().with_prefix(id).with_style(style("{prefix}: {msg}")))
        });
        bar.set_message(status);
        match progress {
            Some(progress) => {
                bar.set_style(style("{prefix}: {msg:11} [{bar:40}] {bytes}/{total_bytes}"));
                bar.set_length(progress.total);
                bar.set_position(progress.current);
            }
            None => bar.set_style(style("{prefix}: {msg}")),
        }
        bar.tick();
    }

    /// What is shown stays.
    fn finish(&mut self) {
        for bar in self.layers.values() {
            bar.abandon();
        }
        if !self.layers.is_empty() {
            // The cursor stands at the end of the last bar.
            crate::ui::stderr("");
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.progress_chars("=> ")
}
