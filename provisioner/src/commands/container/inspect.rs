//! `berth inspect` for containers and images.

use super::names;
use crate::connect::{self, Engine, EngineError, failed};
use crate::context::Context;
use crate::error::CliError;
use serde::Deserialize;
use serde_json::Value;
use std::process::ExitCode;

/// Show all that the engine knows of containers or images, as JSON
#[derive(Debug, clap::Args)]
pub(crate) struct InspectArgs {
    /// Look among containers or images only
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<Kind>,
    /// How to print it
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<InspectFormat>,
    /// Tell the container's size too
    #[arg(short, long)]
    size: bool,
    /// Container or image to look at (can be repeated)
    #[arg(value_name = "NAME", required = true)]
    objects: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    Container,
    Image,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum InspectFormat {
    /// On one line.
    Json,
}

pub(crate) fn run(args: InspectArgs, context: &Context) -> Result<ExitCode, CliError> {
    context.block_on(async {
        let connection = connect::selected(context).await?;
        let mut found = Vec::new();
        let mut code = ExitCode::SUCCESS;
        for name in &args.objects {
            match args.find(&connection.engine, name).await {
                Ok(object) => found.push(object),
                Err(error) => {
                    error.print();
                    code = ExitCode::FAILURE;
                }
            }
        }
        match args.format {
            Some(InspectFormat::Json) => crate::ui::stdout(&Value::Array(found).to_string()),
            None => crate::ui::json(&found)?,
        }
        Ok(code)
    })
}

impl InspectArgs {
    async fn find(&self, engine: &Engine, name: &str) -> Result<Value, CliError> {
        let size = if self.size { "?size=1" } else { "" };
        let mut places = Vec::new();
        if self.kind != Some(Kind::Image) {
            places.push(format!("/containers/{}/json{size}", names::container(name)?));
        }
        if self.kind != Some(Kind::Container) {
            places.push(format!("/images/{}/json", names::image(name)?));
        }
        for place in places {
            match engine.get_json(&place).await {
                Err(error) if error.is_not_found() => {}
                found => return found.map_err(|e| failed(format!("cannot inspect `{name}`"), e)),
            }
        }
        Err(CliError::new(match self.kind {
            Some(Kind::Container) => format!("No such container: {name}"),
            Some(Kind::Image) => format!("No such image: {name}"),
            None => format!("No such object: {name}"),
        }))
    }
}

/// What commands need to know of a container.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Details {
    pub(crate) id: String,
    pub(crate) state: State,
    pub(crate) config: Config,
    pub(crate) host_config: HostConfig,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct State {
    pub(crate) running: bool,
    #[serde(default)]
    pub(crate) paused: bool,
    #[serde(default)]
    pub(crate) restarting: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Config {
    #[serde(default)]
    pub(crate) tty: bool,
    #[serde(default)]
    pub(crate) open_stdin: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct HostConfig {
    #[serde(default)]
    pub(crate) auto_remove: bool,
}

impl Details {
    /// Asks the engine.
    pub(crate) async fn of(engine: &Engine, name: &str) -> Result<Self, CliError> {
        let path = format!("/containers/{}/json", names::container(name)?);
        engine
            .get(&path)
            .await
            .map_err(|e: EngineError| failed(format!("cannot inspect container `{name}`"), e))
    }
}
