//! `berth env` and `berth config`: what plain Docker clients need to know. Neither needs the machine to be up.

use crate::context::Context;
use crate::error::CliError;
use crate::store::{Machine, MachineName};
use crate::ui;
use std::process::ExitCode;

/// Show the commands that set up a shell for docker
///
/// The shell is told to use this machine's engine, and berth to go to the same: `eval "$(berth env)"`.
#[derive(Debug, clap::Args)]
pub(crate) struct EnvArgs {
    /// Machine, instead of the selected one
    #[arg(value_name = "MACHINE")]
    name: Option<MachineName>,
    /// Shell to write for, instead of the one that is running
    #[arg(long, value_enum)]
    shell: Option<Shell>,
    /// Undo it
    #[arg(long, short)]
    unset: bool,
}

/// Show the options that docker needs to reach a machine
#[derive(Debug, clap::Args)]
pub(crate) struct ConfigArgs {
    /// Machine, instead of the selected one
    #[arg(value_name = "MACHINE")]
    name: Option<MachineName>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Sh,
    Fish,
    Powershell,
    Cmd,
}

const VARIABLES: [&str; 4] = ["DOCKER_TLS_VERIFY", "DOCKER_HOST", "DOCKER_CERT_PATH", "BERTH_MACHINE"];

/// Runs `env`.
pub(crate) fn env(args: &EnvArgs, context: &Context) -> Result<ExitCode, CliError> {
    let shell = args.shell.unwrap_or_else(Shell::running);
    let mut text = String::new();
    if args.unset {
        for name in VARIABLES {
            text.push_str(&shell.unset(name));
        }
        ui::stdout(&text);
        return Ok(ExitCode::SUCCESS);
    }
    let machine = context.machine_or_selected(args.name.as_ref())?;
    let values = variables(&machine)?;
    for name in VARIABLES {
        match values.iter().find(|(known, _)| *known == name) {
            Some((_, value)) => text.push_str(&shell.set(name, value)),
            None => text.push_str(&shell.unset(name)),
        }
    }
    text.push_str(&shell.advice(machine.name.as_str()));
    ui::stdout(&text);
    Ok(ExitCode::SUCCESS)
}

fn variables(machine: &Machine) -> Result<Vec<(&'static str, String)>, CliError> {
    let mut values =
        vec![("DOCKER_HOST", machine.driver()?.url()?), ("BERTH_MACHINE", machine.name.to_string())];
    if machine.has_tls() {
        values.push(("DOCKER_TLS_VERIFY", "1".to_owned()));
        values.push(("DOCKER_CERT_PATH", machine.dir().display().to_string()));
    }
    Ok(values)
}

/// Runs `config`.
pub(crate) fn config(args: &ConfigArgs, context: &Context) -> Result<ExitCode, CliError> {
    let machine = context.machine_or_selected(args.name.as_ref())?;
    let mut lines = Vec::new();
    if machine.has_tls() {
        let tls = machine.tls();
        lines.push("--tlsverify".to_owned());
        for (option, path) in [("tlscacert", tls.ca), ("tlscert", tls.cert), ("tlskey", tls.key)] {
            lines.push(format!("--{option}={}", quote_posix(&path.display().to_string())));
        }
    }
    lines.push(format!("-H={}", machine.driver()?.url()?));
    ui::stdout(&lines.join("\n"));
    Ok(ExitCode::SUCCESS)
}

impl Shell {
    /// By `$SHELL`, and on a system without it by what it must be.
    fn running() -> Self {
        // fish sets no SHELL of its own when started from another shell, but this.
        if std::env::var_os("FISH_VERSION").is_some() {
            return Self::Fish;
        }
        let shell = std::env::var("SHELL").unwrap_or_default();
        match shell.rsplit('/').next().unwrap_or_default() {
            "zsh" => Self::Zsh,
            "fish" => Self::Fish,
            "pwsh" | "powershell" => Self::Powershell,
            "bash" => Self::Bash,
            "" if cfg!(windows) => Self::Cmd,
            _ => Self::Sh,
        }
    }

    fn set(self, name: &str, value: &str) -> String {
        match self {
            Self::Bash | Self::Zsh | Self::Sh => format!("export {name}={}\n", quote_posix(value)),
            Self::Fish => format!("set -gx {name} '{}';\n", value.replace('\\', "\\\\").replace('\'', "\\'")),
            Self::Powershell => format!("$Env:{name} = '{}'\n", value.replace('\'', "''")),
            Self::Cmd => format!("SET {name}={value}\n"),
        }
    }

    fn unset(self, name: &str) -> String {
        match self {
            Self::Bash | Self::Zsh | Self::Sh => format!("unset {name}\n"),
            Self::Fish => format!("set -e {name};\n"),
            Self::Powershell => format!("Remove-Item Env:\\{name} -ErrorAction SilentlyContinue\n"),
            Self::Cmd => format!("SET {name}=\n"),
        }
    }

    fn advice(self, machine: &str) -> String {
        let (sign, command) = match self {
            Self::Bash | Self::Zsh | Self::Sh => ("#", format!("eval \"$(berth env {machine})\"")),
            Self::Fish => ("#", format!("berth env --shell fish {machine} | source")),
            Self::Powershell => {
                ("#", format!("& berth env --shell powershell {machine} | Invoke-Expression"))
            }
            Self::Cmd => {
                ("REM", format!("@FOR /f \"tokens=*\" %i IN ('berth env --shell cmd {machine}') DO @%i"))
            }
        };
        format!("{sign} To set up this shell, run:\n{sign} {command}\n")
    }
}

/// A value as one word of a POSIX shell.
fn quote_posix(value: &str) -> String {
    format!(
        "\"{}\"",
        value.replace('\\', "\\\\").replace('"', "\\\"").replace('$', "\\$").replace('`', "\\`")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_for_each_shell() {
        let nasty = "a'b\"c$d`e\\";
        for (shell, line) in [
            (Shell::Bash, "export X=\"a'b\\\"c\\$d\\`e\\\\\"\n"),
            (Shell::Fish, "set -gx X 'a\\'b\"c$d`e\\\\';\n"),
            (Shell::Powershell, "$Env:X = 'a''b\"c$d`e\\'\n"),
        ] {
            assert_eq!(shell.set("X", nasty), line, "{shell:?}");
        }
    }
}
