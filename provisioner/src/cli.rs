//! From the command line to a command.
//!
//! Commands are plain (`berth ls`) and in two groups that leave no doubt (`berth machine ls`, `berth container ps`).
//! The verbs of [`SHARED`] exist for machines and for containers. In their plain form a container is meant when
//! `--machine` is given, or when none of the names is a machine's; machines are meant when all of them are; a
//! mixture is refused. `create` takes the flags of the driver that is chosen, which is therefore looked for first.

use crate::commands::completion::{self, CompletionArgs};
use crate::commands::container::{self, ContainerCommand};
use crate::commands::machine::{self, MachineCommand};
use crate::commands::man::{self, ManArgs};
use crate::commands::version::{self, VersionArgs};
use crate::connect::Via;
use crate::context::Context;
use crate::error::CliError;
use crate::store::MachineName;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args as _, Command, CommandFactory as _, FromArgMatches as _, Subcommand as _};
use std::ffi::OsString;
use std::process::ExitCode;

/// Verbs that exist for machines and for containers.
const SHARED: [&str; 7] = ["stop", "start", "restart", "kill", "rm", "inspect", "logs"];

/// Container hosts anywhere, driven from here
#[derive(Debug, clap::Parser)]
#[command(
    name = "berth",
    version,
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
struct Globals {
    /// Machine that container commands go to, instead of the active one
    #[arg(short, long, global = true, env = "BERTH_MACHINE", value_name = "MACHINE")]
    machine: Option<String>,
    /// How to reach engines, instead of as their machines' records say; create and provision set that
    #[arg(long, global = true, env = "BERTH_VIA", value_name = "WAY", value_enum)]
    via: Option<Via>,
}

/// Parses the command line and runs the command.
pub(crate) fn run(argv: Vec<OsString>) -> Result<ExitCode, CliError> {
    if completion::answer(&argv, || command(&argv).unwrap_or_else(|_| Globals::command())) {
        return Ok(ExitCode::SUCCESS);
    }
    let matches = parse(&argv)?;
    match matches.subcommand() {
        Some(("completion", given)) => {
            completion::run(&CompletionArgs::from_arg_matches(given).unwrap_or_else(|e| e.exit()), &argv)
        }
        // With the flags of the default driver.
        Some(("man", given)) => man::run(
            &ManArgs::from_arg_matches(given).unwrap_or_else(|e| e.exit()),
            command(&["berth".into(), "create".into()])?,
        ),
        Some((verb, given)) if SHARED.contains(&verb) => {
            let context = context(&matches)?;
            let group = meant(verb, given, &matches, &context)?;
            dispatch(&parse(&with_group(&argv, verb, group))?)
        }
        _ => dispatch(&matches),
    }
}

fn context(matches: &ArgMatches) -> Result<Context, CliError> {
    let via = matches.get_one::<Via>("via").copied();
    let told = matches.value_source("via") == Some(ValueSource::CommandLine);
    let context = Context::new(matches.get_one::<String>("machine").cloned(), via)?;
    Ok(Context { told_via: via.filter(|_| told), ..context })
}

fn parse(argv: &[OsString]) -> Result<ArgMatches, CliError> {
    let command = command(argv)?;
    // clap prints help to stdout with 0 and wrong usage to stderr with 2.
    Ok(command.try_get_matches_from(argv).unwrap_or_else(|error| error.exit()))
}

fn dispatch(matches: &ArgMatches) -> Result<ExitCode, CliError> {
    let context = context(matches)?;
    let wrong = |error: clap::Error| -> CliError { error.exit() };
    match matches.subcommand() {
        Some(("version", given)) => version::run(&VersionArgs::from_arg_matches(given).map_err(wrong)?),
        Some(("machine", given)) => {
            machine::run(MachineCommand::from_arg_matches(given).map_err(wrong)?, given, &context)
        }
        Some(("container", given)) => {
            container::run(ContainerCommand::from_arg_matches(given).map_err(wrong)?, &context)
        }
        Some((verb, _)) if MachineCommand::has_subcommand(verb) => {
            machine::run(MachineCommand::from_arg_matches(matches).map_err(wrong)?, matches, &context)
        }
        _ => container::run(ContainerCommand::from_arg_matches(matches).map_err(wrong)?, &context),
    }
}

/// The whole command line's grammar.
fn command(argv: &[OsString]) -> Result<Command, CliError> {
    let group = |name: &'static str, about: &'static str| {
        Command::new(name)
            .about(about)
            .subcommand_required(true)
            .arg_required_else_help(true)
            .disable_help_subcommand(true)
    };
    let mut machines =
        MachineCommand::augment_subcommands(group("machine", "Commands for machines, without doubt"));
    if argv.iter().any(|arg| arg == "create") {
        let flags = machine::create::driver_flags(argv)?;
        machines = machines.mut_subcommand("create", |create| create.args(flags));
    }
    let containers =
        ContainerCommand::augment_subcommands(group("container", "Commands for containers, without doubt"));
    let mut top = Globals::command();
    for of_machine in machines.get_subcommands() {
        let of_container = containers.find_subcommand(of_machine.get_name());
        let shared = SHARED.into_iter().find(|verb| *verb == of_machine.get_name());
        top = top.subcommand(match shared.zip(of_container) {
            Some((verb, of_container)) => either(verb, of_machine, of_container),
            None => of_machine.clone(),
        });
    }
    for of_container in containers.get_subcommands() {
        if machines.find_subcommand(of_container.get_name()).is_none() {
            top = top.subcommand(of_container.clone());
        }
    }
    let version = VersionArgs::augment_args(Command::new("version").about("Show the version of berth"));
    let completion = CompletionArgs::augment_args(Command::new("completion"));
    let man = ManArgs::augment_args(Command::new("man"));
    Ok(top.subcommands([machines, containers, version, completion, man]))
}

/// The plain form of a shared verb: the options of both, and names that are not told apart yet.
fn either(verb: &'static str, of_machine: &Command, of_container: &Command) -> Command {
    let mut command = Command::new(verb)
        .about(format!(
            "{} (see also `berth machine {verb} -h`, `berth container {verb} -h`)",
            about_both(verb)
        ))
        .arg(Arg::new("names").value_name("NAME").num_args(0..));
    for arg in
        of_machine.get_arguments().chain(of_container.get_arguments()).filter(|arg| !arg.is_positional())
    {
        let same = |other: &Arg| {
            other.get_id() == arg.get_id()
                || (arg.get_long().is_some() && other.get_long() == arg.get_long())
                || (arg.get_short().is_some() && other.get_short() == arg.get_short())
        };
        if !command.get_arguments().any(same) {
            // What is required of one kind is not known to be required yet.
            command = command.arg(arg.clone().required(false));
        }
    }
    command
}

/// What a shared verb does, in the list of commands.
fn about_both(verb: &str) -> String {
    if verb == "logs" {
        return "Show what machines or containers have said".to_owned();
    }
    let (first, rest) = verb.split_at(1);
    let object = if verb == "rm" { "Remove".to_owned() } else { format!("{}{rest}", first.to_uppercase()) };
    format!("{object} machines or containers")
}

/// The group that a shared verb in its plain form belongs to.
fn meant(
    verb: &str,
    given: &ArgMatches,
    matches: &ArgMatches,
    context: &Context,
) -> Result<&'static str, CliError> {
    if given.value_source("machine").or(matches.value_source("machine")) == Some(ValueSource::CommandLine) {
        return Ok("container");
    }
    let names: Vec<String> = given.get_many::<String>("names").into_iter().flatten().cloned().collect();
    // Only machines have labels to be selected by.
    if names.is_empty()
        && given.try_contains_id("selector").unwrap_or(false)
        && given.value_source("selector") == Some(ValueSource::CommandLine)
    {
        return Ok("machine");
    }
    let is_machine =
        |name: &String| name.parse::<MachineName>().is_ok_and(|name| context.store.contains(&name));
    let machines = names.iter().filter(|name| is_machine(name)).count();
    if names.is_empty() {
        return Err(CliError::usage(format!("`berth {verb}` needs a name"))
            .hint(format!("`berth machine {verb} -h` and `berth container {verb} -h` say more")));
    }
    let groups = format!("say `berth machine {verb} …` or `berth container {verb} …`");
    if machines == 0 {
        // Without any machine to ask, the user can only have meant one.
        let nowhere = context.selected_name().is_err();
        return Ok(if nowhere { "machine" } else { "container" });
    }
    if machines < names.len() {
        return Err(
            CliError::usage(format!("some of {} are machines, some are not", names.join(", "))).hint(groups)
        );
    }
    if matches!(verb, "rm" | "kill")
        && let Some(name) = names.iter().find(|name| container::exists(context, name))
    {
        return Err(CliError::usage(format!("`{name}` is a machine, and a container too")).hint(groups));
    }
    Ok("machine")
}

/// The same command line with the group's name before the verb.
fn with_group(argv: &[OsString], verb: &str, group: &str) -> Vec<OsString> {
    let at = verb_position(argv, verb);
    let mut grouped = argv.to_vec();
    grouped.insert(at, group.into());
    grouped
}

/// Where the verb stands: options and their values may come before it.
fn verb_position(argv: &[OsString], verb: &str) -> usize {
    let mut at = 1;
    while let Some(arg) = argv.get(at) {
        if arg == "-m" || arg == "--machine" || arg == "--via" {
            at += 2;
        } else if arg == verb {
            return at;
        } else {
            at += 1;
        }
    }
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn the_grammar_is_sound() {
        command(&argv("berth create --driver none x")).unwrap().debug_assert();
    }

    #[test]
    fn the_group_is_put_before_the_verb_wherever_options_stand() {
        for (line, grouped) in [
            ("berth stop web", "berth container stop web"),
            ("berth -m stop stop stop", "berth -m stop container stop stop"),
            ("berth --machine=dev stop -t 3 web", "berth --machine=dev container stop -t 3 web"),
            ("berth stop -m dev web", "berth container stop -m dev web"),
        ] {
            assert_eq!(with_group(&argv(line), "stop", "container"), argv(grouped), "{line}");
        }
    }
}
