//! `berth ssh`: the built-in client.

use super::select::ByLabel;
use crate::context::Context;
use crate::error::CliError;
use crate::provision;
use crate::ssh::Session;
use crate::store::MachineName;
use crate::ui;
use futures_util::StreamExt as _;
use std::io::IsTerminal as _;
use std::process::ExitCode;

/// Log in to a machine, or run a command on it
///
/// stdin is passed on, and the exit code of the command becomes ours. With `-l`, the command runs on all machines that
/// have the labels, at once and without stdin; each line is told with the machine's name before it, and the highest
/// exit code becomes ours (255 where a machine is not reached).
#[derive(Debug, clap::Args)]
pub(crate) struct SshArgs {
    #[command(flatten)]
    by_label: ByLabel,
    /// Give the command a terminal too
    #[arg(long, short)]
    tty: bool,
    /// Machine (unless `-l` selects some), and a command; a shell where there is none
    #[arg(value_name = "MACHINE] [COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

/// Runs it.
pub(crate) fn run(args: &SshArgs, context: &Context) -> Result<ExitCode, CliError> {
    if args.by_label.selector.is_some() {
        return on_all(args, context);
    }
    let Some((name, command)) = args.words.split_first() else {
        return Err(CliError::usage("`berth ssh` needs a machine").hint("name one, or select some with `-l`"));
    };
    let machine = context.store.load(&name.parse::<MachineName>()?)?;
    let driver = machine.driver()?;
    let target = provision::target(&machine, driver.as_ref())?;
    // As with ssh, the words are joined by spaces and the machine's shell splits them again.
    let command = without_dashes(command);
    let command = (!command.is_empty()).then(|| command.join(" "));
    let pty = command.is_none() || args.tty;
    if args.tty && !std::io::stdin().is_terminal() {
        return Err(CliError::usage("--tty needs a terminal as stdin"));
    }
    context.block_on(async {
        let session = Session::connect(&target).await?;
        let status = session.interact(command.as_deref(), pty).await?;
        session.close().await;
        Ok(ExitCode::from(status))
    })
}

/// The words without the `--` that may stand before them.
fn without_dashes(words: &[String]) -> &[String] {
    words.strip_prefix(&["--".to_owned()]).unwrap_or(words)
}

/// What ssh itself ends with where it does not reach a host.
const NOT_REACHED: u8 = 255;

fn on_all(args: &SshArgs, context: &Context) -> Result<ExitCode, CliError> {
    let command = without_dashes(&args.words);
    if command.is_empty() || args.tty {
        return Err(CliError::usage("several machines take a command, and have no terminal")
            .hint("for example `berth ssh -l role=web -- uptime`"));
    }
    let names = args.by_label.resolve(&[], context)?;
    let command = command.join(" ");
    context.block_on(async {
        let work = names.iter().map(|name| {
            let command = &command;
            async move { (name, on_one(name, command, context).await) }
        });
        let done: Vec<_> = futures_util::stream::iter(work).buffered(AT_ONCE).collect().await;
        let mut code = 0;
        for (name, status) in done {
            let status = status.unwrap_or_else(|error| {
                ui::stderr(&format!("{name}: error: {}", error.one_line()));
                NOT_REACHED
            });
            if status != 0 {
                ui::stderr(&format!("{name}: exit status {status}"));
            }
            code = code.max(status);
        }
        Ok(ExitCode::from(code))
    })
}

/// How many machines run the command at a time.
const AT_ONCE: usize = 32;

async fn on_one(name: &MachineName, command: &str, context: &Context) -> Result<u8, CliError> {
    let machine = context.store.load(name)?;
    let driver = machine.driver()?;
    let target = provision::target(&machine, driver.as_ref())?;
    let session = Session::connect(&target).await?;
    let status = session
        .run_by_lines(command, |err, line| {
            let line = format!("{name}: {line}");
            if err { ui::stderr(&line) } else { ui::stdout(&line) }
        })
        .await;
    session.close().await;
    Ok(status?)
}
