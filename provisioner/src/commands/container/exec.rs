//! `berth exec`.

use super::session::{Ended, Session};
use super::terminal::{self, DetachKeys};
use super::{names, values};
use crate::connect::{self, Engine, EngineError, failed};
use crate::context::Context;
use crate::error::CliError;
use bollard::models::ExecConfig;
use bollard::query_parameters::ResizeExecOptionsBuilder;
use serde::Deserialize;
use std::path::PathBuf;
use std::process::ExitCode;

/// Run a command in a container that runs
#[derive(Debug, clap::Args)]
pub(crate) struct ExecArgs {
    /// Keep the command's input open
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// Run in the background
    #[arg(short, long)]
    detach: bool,
    /// Keys that leave the command while it runs on
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    detach_keys: DetachKeys,
    /// Set an environment variable; without a value it is passed on from here
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// User (and group) to run as
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Working directory inside the container
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Give all privileges
    #[arg(long)]
    privileged: bool,
    /// Container to run it in
    container: String,
    /// Command to run
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

pub(crate) fn run(args: ExecArgs, context: &Context) -> Result<ExitCode, CliError> {
    if !args.detach {
        terminal::check_input(args.tty, args.interactive)?;
    }
    context.block_on(async {
        let connection = connect::selected(context).await?;
        args.run(&connection.engine).await.map(ExitCode::from)
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    #[serde(default)]
    exit_code: Option<i64>,
}

impl ExecArgs {
    async fn run(self, engine: &Engine) -> Result<u8, CliError> {
        let trouble =
            |e: EngineError| failed(format!("cannot run a command in container `{}`", self.container), e);
        let container = names::container(&self.container)?;
        let created = engine.docker().create_exec(&container, self.config()?).await;
        let id = created.map_err(|e| trouble(engine.error(e)))?.id;
        let path = format!("/exec/{}/start", names::container(&id)?);
        let start = serde_json::json!({ "Detach": self.detach, "Tty": self.tty });
        if self.detach {
            return engine.post(&path, &start).await.map(|()| 0).map_err(trouble);
        }
        let started = engine.hijack(&path, Some(&start)).await;
        let stream = started.map_err(|e| {
            let code = exec_code(&e);
            trouble(e).code(code)
        })?;
        let session =
            Session { tty: self.tty, stdin: self.interactive, detach_keys: self.detach_keys.clone() };
        let resize = async |columns: u16, rows: u16| {
            let options = ResizeExecOptionsBuilder::new().w(columns.into()).h(rows.into()).build();
            engine.docker().resize_exec(&id, options).await.is_ok()
        };
        if session.drive(stream, resize).await? == Ended::Detached {
            return Ok(0);
        }
        let state: State = engine.get(&format!("/exec/{id}/json")).await.map_err(trouble)?;
        Ok((state.exit_code.unwrap_or_default() & 0xff) as u8)
    }

    fn config(&self) -> Result<ExecConfig, CliError> {
        let environment = values::environment(&self.env_file, &self.env)?;
        let console = terminal::size().filter(|_| self.tty && !self.detach);
        Ok(ExecConfig {
            attach_stdin: Some(self.interactive && !self.detach),
            attach_stdout: Some(!self.detach),
            attach_stderr: Some(!self.detach),
            console_size: console.map(|(columns, rows)| vec![rows.into(), columns.into()]),
            tty: Some(self.tty),
            env: (!environment.is_empty()).then_some(environment),
            cmd: Some(self.command.clone()),
            privileged: self.privileged.then_some(true),
            user: self.user.clone(),
            working_dir: self.workdir.clone(),
            ..ExecConfig::default()
        })
    }
}

/// The exit code for a command that could not be started.
fn exec_code(error: &EngineError) -> u8 {
    match super::attached::start_code(error) {
        125 => 1,
        code => code,
    }
}
