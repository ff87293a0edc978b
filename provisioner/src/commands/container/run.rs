//! `berth run`.

use super::attached::{Attached, start_code};
use super::create::CreateArgs;
use super::folders;
use super::pull;
use super::terminal::{self, DetachKeys};
use crate::connect::{self, Connection, failed};
use crate::context::Context;
use crate::error::CliError;
use bollard::query_parameters::{CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder};
use std::process::ExitCode;

/// Create a container from an image and run it
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct RunArgs {
    /// Run in the background and print the container's ID
    #[arg(short, long)]
    detach: bool,
    /// Keys that leave the container while it runs on
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    detach_keys: DetachKeys,
    /// Pass signals on to the container
    #[arg(long, value_name = "BOOL", default_value = "true", num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    sig_proxy: bool,
    /// When to pull the image
    #[arg(long, value_name = "WHEN", default_value = "missing")]
    pull: PullPolicy,
    /// Say nothing while pulling
    #[arg(short, long)]
    quiet: bool,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
    #[command(flatten)]
    create: CreateArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum PullPolicy {
    Missing,
    Always,
    Never,
}

pub(crate) fn run(args: RunArgs, context: &Context) -> Result<ExitCode, CliError> {
    args.create.check()?;
    if !args.detach {
        terminal::check_input(args.create.tty, args.create.interactive)?;
    }
    context.block_on(async {
        let connection = connect::selected(context).await.map_err(|e| e.code(125))?;
        args.run(&connection).await.map(ExitCode::from)
    })
}

impl RunArgs {
    async fn run(self, connection: &Connection) -> Result<u8, CliError> {
        let engine = &connection.engine;
        let id = self.create(connection).await?;
        if let Err(error) = self.forward(connection).await {
            // It never ran, and nobody was told of it.
            remove(connection, &id).await;
            return Err(error.code(125));
        }
        let publishes = self.create.publishes();
        let start = async {
            let started = engine.docker().start_container(&id, None).await.map_err(|e| engine.error(e));
            if let Err(error) = started {
                let code = start_code(&error);
                return Err(failed(
                    format!("cannot start container `{}`", super::human::short_id(&id)),
                    error,
                )
                .code(code));
            }
            // Ports that the engine chose are known only now.
            if publishes { connection.forwarder.sync(engine).await.map_err(|e| e.code(125)) } else { Ok(()) }
        };
        if self.detach {
            let started = start.await;
            if started.is_err() && self.create.rm {
                remove(connection, &id).await;
            } else if started.is_err() && publishes {
                // It stays for a look at it; its ports are free again.
                super::tell(connection.forwarder.sync(engine).await);
            }
            started?;
            crate::ui::stdout(&id);
            return Ok(0);
        }
        let attached = Attached {
            id: id.clone(),
            tty: self.create.tty,
            stdin: self.create.interactive,
            detach_keys: self.detach_keys.clone(),
            proxy_signals: self.sig_proxy && !self.create.tty,
            removed_at_end: self.create.rm,
        };
        let stay = attached.stay(engine, start).await;
        if publishes {
            // The ports of a container that has ended are free again.
            super::tell(connection.forwarder.sync(engine).await);
        }
        match stay {
            Ok(stay) => Ok(stay.code()),
            Err(error) => {
                if self.create.rm {
                    remove_unstarted(connection, &id).await;
                }
                Err(error)
            }
        }
    }

    /// Creates the container, and pulls its image where that is asked for.
    async fn create(&self, connection: &Connection) -> Result<String, CliError> {
        let engine = &connection.engine;
        let image = &self.create.image;
        if self.pull == PullPolicy::Always {
            pull::pull(engine, image, self.quiet).await.map_err(|e| e.code(125))?;
        }
        let mut body = self.create.body(!self.detach)?;
        folders::bring(&mut body, connection).await?;
        let mut options = CreateContainerOptionsBuilder::new();
        if let Some(name) = &self.create.name {
            options = options.name(name);
        }
        let options = options.build();
        let create = || engine.docker().create_container(Some(options.clone()), body.clone());
        let mut created = create().await.map_err(|e| engine.error(e));
        if self.pull == PullPolicy::Missing
            && created.as_ref().is_err_and(connect::EngineError::is_missing_image)
        {
            if !self.quiet {
                crate::ui::stderr(&format!("Unable to find image '{}' locally", pull::with_tag(image)));
            }
            pull::pull(engine, image, self.quiet).await.map_err(|e| e.code(125))?;
            created = create().await.map_err(|e| engine.error(e));
        }
        let created =
            created.map_err(|e| failed(format!("cannot create a container of `{image}`"), e).code(125))?;
        for warning in &created.warnings {
            crate::ui::stderr(&format!("warning: {warning}"));
        }
        Ok(created.id)
    }

    /// Forwards the ports before the container runs: whether they are free on this host is known before it has an effect.
    async fn forward(&self, connection: &Connection) -> Result<(), CliError> {
        let forwarder = &connection.forwarder;
        let mut wanted = Vec::new();
        for port in self
            .create
            .fixed_ports()
            .filter(|port| forwarder.is_needed() && !port.container.ends_with("/sctp"))
        {
            match forwarder.forward(port.is_udp(), &port.host_ip, port.host_port.unwrap_or_default()) {
                Some(forward) => wanted.push(forward),
                None => crate::ui::stderr(&format!(
                    "warning: {} is published on the machine's own loopback address, and not reached from here",
                    port.container
                )),
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        forwarder.sync_with(&connection.engine, &wanted).await
    }
}

/// Takes back a container that was created and not started.
async fn remove(connection: &Connection, id: &str) {
    let options = RemoveContainerOptionsBuilder::new().v(true).force(true).build();
    // The engine may have removed it itself (`--rm`).
    let _ = connection.engine.docker().remove_container(id, Some(options)).await;
    super::tell(connection.forwarder.sync(&connection.engine).await);
}

/// The engine removes what has run; what has not, we do.
async fn remove_unstarted(connection: &Connection, id: &str) {
    let options = RemoveContainerOptionsBuilder::new().v(true).build();
    let _ = connection.engine.docker().remove_container(id, Some(options)).await;
}
