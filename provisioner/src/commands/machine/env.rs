//! `berth env` and `berth config`: what plain Docker clients need to know. Neither needs the machine to be up.

use super::shell::{Shell, quote_posix};
use crate::connect::Via;
use crate::context::Context;
use crate::contexts::proxy_socket;
use crate::error::CliError;
use crate::store::{Machine, MachineName, authority};
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
    /// Have no HTTP proxy stand before the machine: add its address to NO_PROXY
    #[arg(long)]
    no_proxy: bool,
    /// Lead to the socket of `berth proxy`, and so to whichever machine is active
    #[arg(long, conflicts_with = "name")]
    proxy: bool,
}

/// Show the options that docker needs to reach a machine
#[derive(Debug, clap::Args)]
pub(crate) struct ConfigArgs {
    /// Machine, instead of the selected one
    #[arg(value_name = "MACHINE")]
    name: Option<MachineName>,
}

const VARIABLES: [&str; 5] =
    ["DOCKER_TLS_VERIFY", "DOCKER_HOST", "DOCKER_CERT_PATH", "DOCKER_CONTEXT", "BERTH_MACHINE"];

/// What is to be exported, and what is to be said about it.
struct Exports {
    values: Vec<(&'static str, String)>,
    /// The host that no proxy stands before.
    host: Option<String>,
    note: Option<String>,
}

/// Runs `env`.
pub(crate) fn env(args: &EnvArgs, context: &Context) -> Result<ExitCode, CliError> {
    let shell = args.shell.unwrap_or_else(Shell::running);
    let exports = match (args.unset, args.proxy) {
        // Where the machine is gone, so is its address.
        (true, _) => Exports {
            values: Vec::new(),
            host: if args.no_proxy { of_machine(args, context)?.host } else { None },
            note: None,
        },
        (false, true) => of_proxy(None, context),
        (false, false) => of_machine(args, context)?,
    };
    let mut text = String::new();
    for name in VARIABLES {
        match exports.values.iter().find(|(known, _)| *known == name) {
            Some((_, value)) => text.push_str(&shell.set(name, value)),
            None => text.push_str(&shell.unset(name)),
        }
    }
    if args.no_proxy
        && let Some(host) = &exports.host
    {
        text.push_str(&no_proxy(shell, host, args.unset));
    }
    if !args.unset {
        if let Some(note) = &exports.note {
            ui::stderr(note);
        }
        text.push_str(&shell.advice(&command(args)));
    }
    ui::stdout(&text);
    Ok(ExitCode::SUCCESS)
}

/// What was typed, to be typed again.
fn command(args: &EnvArgs) -> String {
    let mut command = "berth env".to_owned();
    for (given, flag) in [(args.no_proxy, " --no-proxy"), (args.proxy, " --proxy")] {
        if given {
            command.push_str(flag);
        }
    }
    if let Some(name) = &args.name {
        command.push_str(&format!(" {name}"));
    }
    command
}

fn of_machine(args: &EnvArgs, context: &Context) -> Result<Exports, CliError> {
    let machine = context.machine_or_selected(args.name.as_ref())?;
    if machine.via() == Via::Ssh {
        return Ok(of_proxy(Some(&machine), context));
    }
    let url = machine.driver()?.url()?;
    let host = (!url.starts_with("unix://")).then(|| authority(&url).0);
    let mut values = vec![("DOCKER_HOST", url), ("BERTH_MACHINE", machine.name.to_string())];
    if machine.has_tls() {
        values.push(("DOCKER_TLS_VERIFY", "1".to_owned()));
        values.push(("DOCKER_CERT_PATH", machine.dir().display().to_string()));
    }
    Ok(Exports { values, host, note: None })
}

/// The socket of `berth proxy`: that of the active machine, whichever it is, or of one that docker cannot reach itself.
fn of_proxy(machine: Option<&Machine>, context: &Context) -> Exports {
    let name = machine.map(|machine| machine.name.as_str());
    let socket = proxy_socket(context.store.home(), name);
    let mut values = vec![("DOCKER_HOST", format!("unix://{}", socket.display()))];
    values.extend(name.map(|name| ("BERTH_MACHINE", name.to_owned())));
    let note = std::os::unix::net::UnixStream::connect(&socket).is_err().then(|| {
        let bound = name.map(|name| format!(" --machine {name}")).unwrap_or_default();
        format!(
            "docker reaches it while `berth proxy{bound}` runs; at {} nobody answers now",
            socket.display()
        )
    });
    Exports { values, host: None, note }
}

/// Adds a host to those that no proxy stands before, or takes it out. The variable is the one that the shell has.
fn no_proxy(shell: Shell, host: &str, take_out: bool) -> String {
    let name = if std::env::var_os("no_proxy").is_some() { "no_proxy" } else { "NO_PROXY" };
    let before = std::env::var(name).unwrap_or_default();
    let mut hosts: Vec<&str> = before.split(',').map(str::trim).filter(|other| !other.is_empty()).collect();
    hosts.retain(|other| *other != host);
    if !take_out {
        hosts.push(host);
    }
    if hosts.is_empty() { shell.unset(name) } else { shell.set(name, &hosts.join(",")) }
}

/// Runs `config`.
pub(crate) fn config(args: &ConfigArgs, context: &Context) -> Result<ExitCode, CliError> {
    let machine = context.machine_or_selected(args.name.as_ref())?;
    let mut lines = Vec::new();
    if machine.via() == Via::Ssh {
        let exports = of_proxy(Some(&machine), context);
        if let Some(note) = &exports.note {
            ui::stderr(note);
        }
        ui::stdout(&format!(
            "-H=unix://{}",
            proxy_socket(context.store.home(), Some(machine.name.as_str())).display()
        ));
        return Ok(ExitCode::SUCCESS);
    }
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
