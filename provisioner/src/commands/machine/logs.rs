//! `berth logs` of a machine: what its hostd has written, or its console.

use crate::commands::container::values;
use crate::context::Context;
use crate::error::{CliError, Doing as _};
use crate::provision;
use crate::ssh::Session;
use crate::store::{Machine, MachineName};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use time::OffsetDateTime;

/// How often a console is looked at for more.
const LOOK: Duration = Duration::from_millis(200);

/// Show what a machine's hostd has written
#[derive(Debug, clap::Args)]
pub(crate) struct LogsArgs {
    /// Machine
    #[arg(value_name = "MACHINE")]
    name: MachineName,
    /// Go on with what is written from now on
    #[arg(short, long)]
    follow: bool,
    /// Number of lines from the end
    #[arg(short = 'n', long, value_name = "LINES", default_value = "all", value_parser = values::tail)]
    tail: String,
    /// Only what was written since then (a time, or `10m` for ten minutes ago)
    #[arg(long, value_name = "TIME", value_parser = values::moment, conflicts_with = "console")]
    since: Option<String>,
    /// The console of the machine's latest run instead, where its driver keeps one
    #[arg(long)]
    console: bool,
}

/// Runs it.
pub(crate) fn run(args: &LogsArgs, context: &Context) -> Result<ExitCode, CliError> {
    let machine = context.store.load(&args.name)?;
    context.block_on(async {
        if args.console { console(args, &machine).await } else { hostd(args, &machine).await }
    })
}

async fn hostd(args: &LogsArgs, machine: &Machine) -> Result<ExitCode, CliError> {
    let driver = machine.driver()?;
    let target = provision::target(machine, driver.as_ref())?;
    let script = provision::logs(&args.tail, since(args)?, args.follow);
    let session = Session::connect(&target).await?;
    let status = session.listen(&format!("sh -c '{}'", script.replace('\'', r"'\''"))).await?;
    session.close().await;
    if status == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    Err(CliError::new(format!("cannot read hostd's log on machine `{}`", machine.name))
        .because(format!("exit status {status}"))
        .hint(format!("`berth doctor {}` tells what is wrong with it", machine.name)))
}

/// The moment from which on lines are wanted.
fn since(args: &LogsArgs) -> Result<Option<OffsetDateTime>, CliError> {
    let Some(text) = &args.since else { return Ok(None) };
    let wrong = || CliError::usage(format!("invalid value `{text}` for --since"));
    // `moment` gives seconds since 1970.
    let seconds: f64 = text.parse().map_err(|_| wrong())?;
    let at = OffsetDateTime::UNIX_EPOCH.checked_add(time::Duration::seconds_f64(seconds));
    Ok(Some(at.ok_or_else(wrong)?))
}

async fn console(args: &LogsArgs, machine: &Machine) -> Result<ExitCode, CliError> {
    let driver = machine.driver()?;
    let Some(path) = driver.console_log() else {
        return Err(CliError::new(format!("machine `{}` has no console to show", machine.name))
            .hint(format!("driver `{}` keeps none", machine.record.driver)));
    };
    let doing = || format!("cannot read the console of machine `{}`", machine.name);
    let mut seen = Console::default();
    let mut text = String::new();
    seen.read(&path, &mut text).doing(doing())?;
    let mut out = std::io::stdout();
    // Whoever listens may have heard enough (`| head`).
    let mut open = write(&mut out, last_lines(&text, &args.tail));
    while args.follow && open {
        tokio::time::sleep(LOOK).await;
        text.clear();
        seen.read(&path, &mut text).doing(doing())?;
        open = write(&mut out, &text);
    }
    Ok(ExitCode::SUCCESS)
}

fn write(out: &mut impl std::io::Write, text: &str) -> bool {
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
}

/// How far a console has been read.
#[derive(Default)]
struct Console {
    at: u64,
}

impl Console {
    /// Appends what is new. A console that has become shorter was cut, or is that of another run: it begins anew.
    fn read(&mut self, path: &Path, text: &mut String) -> std::io::Result<()> {
        let mut file = std::fs::File::open(path)?;
        if file.metadata()?.len() < self.at {
            self.at = 0;
        }
        file.seek(SeekFrom::Start(self.at))?;
        let mut bytes = Vec::new();
        self.at += file.read_to_end(&mut bytes)? as u64;
        // A console speaks to a terminal; whoever reads this may be none.
        let shown = |c: &char| !c.is_control() || matches!(c, '\n' | '\t');
        text.extend(String::from_utf8_lossy(&bytes).chars().filter(shown));
        Ok(())
    }
}

/// The last of these lines, `all` or as many as said.
fn last_lines<'a>(text: &'a str, tail: &str) -> &'a str {
    let Ok(wanted) = tail.parse::<usize>() else { return text };
    if wanted == 0 {
        return "";
    }
    let body = text.strip_suffix('\n').unwrap_or(text);
    match body.rmatch_indices('\n').nth(wanted - 1) {
        Some((at, _)) => &text[at + 1..],
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_as_many_as_asked_for() {
        for (text, tail, last) in [
            ("a\nb\nc\n", "all", "a\nb\nc\n"),
            ("a\nb\nc\n", "2", "b\nc\n"),
            ("a\nb\nc", "1", "c"),
            ("a\nb\n", "0", ""),
            ("a\n", "9", "a\n"),
            ("", "1", ""),
        ] {
            assert_eq!(last_lines(text, tail), last, "{text:?} {tail}");
        }
    }

    #[test]
    fn a_console_that_was_cut_is_read_from_its_beginning() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (mut console, mut text) = (Console::default(), String::new());
        for (content, read) in
            [("one\r\n", "one\n"), ("one\r\ntwo\n", "two\n"), ("\u{1b}3\n", "3\n"), ("\u{1b}3\n", "")]
        {
            std::fs::write(file.path(), content).unwrap();
            text.clear();
            console.read(file.path(), &mut text).unwrap();
            assert_eq!(text, read);
        }
    }
}
