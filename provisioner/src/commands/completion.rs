//! `berth completion`: shells that know berth's commands, options, machines and containers.
//!
//! What is printed for the shell is short: at each completion it asks berth itself, by [`VARIABLE`], so that names are those
//! that are there at that moment. A machine that does not answer quickly has no containers to offer.

use crate::commands::container;
use crate::context::Context;
use crate::error::{CliError, Doing as _};
use crate::ui;
use clap::builder::ArgExt;
use clap::{Arg, Command};
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use clap_complete::env::{CompleteEnv, Shells};
use std::ffi::OsString;
use std::process::ExitCode;

/// The environment variable by which shells ask: its value is the shell's name.
const VARIABLE: &str = "BERTH_COMPLETE";

/// Print what makes a shell complete berth's commands, with names of machines and containers
///
/// bash: `source <(berth completion bash)` in ~/.bashrc; zsh: the same with zsh in ~/.zshrc; fish: `berth completion fish |
/// source` in ~/.config/fish/config.fish; powershell: `berth completion powershell | Out-String | Invoke-Expression` in $PROFILE.
#[derive(Debug, clap::Args)]
pub(crate) struct CompletionArgs {
    /// Shell
    #[arg(value_name = "SHELL", value_parser = ["bash", "zsh", "fish", "powershell"])]
    shell: String,
}

/// Runs it.
pub(crate) fn run(args: &CompletionArgs, argv: &[OsString]) -> Result<ExitCode, CliError> {
    let doing = || format!("cannot write the completion for {}", args.shell);
    // Found on PATH as it was now, or at the same place.
    let called = argv.first().cloned().unwrap_or_else(|| "berth".into());
    let berth = if std::path::Path::new(&called).components().count() > 1 {
        std::path::absolute(&called).doing(doing())?.to_string_lossy().into_owned()
    } else {
        called.to_string_lossy().into_owned()
    };
    let shells = Shells::builtins();
    let shell = shells.completer(&args.shell).ok_or_else(|| CliError::usage(doing()))?;
    let mut script = Vec::new();
    shell.write_registration(VARIABLE, "berth", "berth", &berth, &mut script).doing(doing())?;
    ui::stdout(&String::from_utf8_lossy(&script));
    Ok(ExitCode::SUCCESS)
}

/// Answers a shell that asks. `false` where none does.
pub(crate) fn answer(argv: &[OsString], grammar: impl Fn() -> Command) -> bool {
    let here = std::env::current_dir().ok();
    let env = CompleteEnv::with_factory(|| with_names(grammar())).var(VARIABLE).bin("berth");
    // Nobody reads what goes wrong in the midst of a command line.
    env.try_complete(argv.iter().cloned(), here.as_deref()).unwrap_or(true)
}

/// The same grammar, which knows where a machine or a container is meant.
fn with_names(command: Command) -> Command {
    command.mut_args(named).mut_subcommands(with_names)
}

fn named(arg: Arg) -> Arg {
    let value = arg.get_value_names().and_then(|names| names.first()).map(|name| name.to_string());
    match (arg.get_id().as_str(), value.as_deref()) {
        ("names", _) => arg.add(candidates(|| [machines(), containers()].concat())),
        (_, Some("MACHINE")) => arg.add(candidates(machines)),
        ("container" | "containers", _) | (_, Some("CONTAINER")) => arg.add(candidates(containers)),
        _ => arg,
    }
}

fn candidates(names: fn() -> Vec<String>) -> impl ArgExt {
    ArgValueCandidates::new(move || names().into_iter().map(CompletionCandidate::new).collect::<Vec<_>>())
}

fn context() -> Option<Context> {
    Context::new(told_machine().or_else(|| std::env::var("BERTH_MACHINE").ok()), None).ok()
}

/// The machine that the line says so far: `-m dev`, `--machine dev`, `--machine=dev`.
fn told_machine() -> Option<String> {
    let words: Vec<String> = std::env::args().skip_while(|word| word != "--").skip(1).collect();
    let after = words.windows(2).find(|pair| pair[0] == "-m" || pair[0] == "--machine");
    let joined = words.iter().find_map(|word| word.strip_prefix("--machine=").map(str::to_owned));
    after.map(|pair| pair[1].clone()).or(joined)
}

fn machines() -> Vec<String> {
    let names = context().and_then(|context| context.store.names().ok()).unwrap_or_default();
    names.iter().map(ToString::to_string).collect()
}

fn containers() -> Vec<String> {
    context().map(|context| container::all_names(&context)).unwrap_or_default()
}
