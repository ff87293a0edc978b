//! `docker commit`: an image of a container.

mod instructions;
mod words;

use crate::Engine;
use crate::container::Container;
use crate::create::merge;
use crate::error::{EngineError, Result};
use crate::model::{ContainerConfig, ContainerRecord, Status};
use crate::whole::whole;
use hostd_image::{Commit, ContainerConfig as ImageConfig, Image, Reference};
use serde_json::{Value, json};
use std::sync::Arc;

/// What the image is to be.
#[derive(Clone, Debug, Default)]
pub struct CommitRequest {
    /// `repository[:tag]`; `None` leaves it without a name.
    pub reference: Option<String>,
    /// Free text, for the history.
    pub comment: String,
    /// Who makes it.
    pub author: String,
    /// Freeze the container meanwhile.
    pub pause: bool,
    /// What the image's containers start with; `None`: what this one was created with.
    pub config: Option<ContainerConfig>,
    /// Dockerfile instructions that change that.
    pub changes: Vec<String>,
}

impl Engine {
    /// Makes an image of a container. It is on the disk when this returns.
    pub async fn commit(&self, name: &str, request: CommitRequest) -> Result<Image> {
        let container = self.container(name)?;
        let record = container.record();
        let reference = request.reference.as_deref().filter(|name| !name.is_empty());
        let reference = reference.map(str::parse::<Reference>).transpose()?;
        let commit = Commit {
            container_id: record.id.clone(),
            parent: record.image_id.clone(),
            config: config_of(&record, &request)?,
            container_config: container_config(&record)?,
            author: request.author.clone(),
            comment: request.comment.clone(),
            created_by: record.config.cmd.clone().unwrap_or_default().join(" "),
            name: reference,
        };
        let (engine, asked) = (self.clone(), Arc::clone(&container));
        // Whatever becomes of the client, a container that was frozen for this is thawed.
        let work = async move { engine.commit_paused(&asked, commit, request.pause).await };
        let image = whole(work).await?;
        self.tell_commit(&container, &image, &request.comment);
        Ok(image)
    }

    async fn commit_paused(&self, container: &Arc<Container>, commit: Commit, pause: bool) -> Result<Image> {
        match container.record().state.status {
            Status::Removing | Status::Dead => {
                let id = &container.id;
                return Err(EngineError::conflict(format!(
                    "You cannot commit container {id} which is being removed"
                )));
            }
            _ => {}
        }
        // One that has ended, or that a user has frozen, is left as it is.
        let paused = pause
            && container.record().state.status == Status::Running
            && self.pause(&container.id).await.is_ok();
        let image = self.0.images.commit(commit).await;
        if paused && let Err(error) = self.unpause(&container.id).await {
            tracing::error!(
                id = container.id,
                error = error.chain(),
                "cannot thaw a container after a commit"
            );
        }
        Ok(image?)
    }

    fn tell_commit(&self, container: &Container, image: &Image, comment: &str) {
        let name = image.repo_tags.first().cloned().unwrap_or_default();
        let more =
            [("comment", comment.to_owned()), ("imageID", image.id.clone()), ("imageRef", name.clone())];
        self.tell(container, "commit", &more);
        self.tell_image("create", &image.id, if name.is_empty() { &image.id } else { &name });
        if !name.is_empty() {
            self.tell_image("tag", &image.id, &name);
        }
    }
}

/// What the new image's containers start with: the request's configuration over the container's, as instructions change it.
fn config_of(record: &ContainerRecord, request: &CommitRequest) -> Result<ImageConfig> {
    let of_container = image_config(&record.config)?;
    let base = match &request.config {
        Some(config) => image_config(config)?,
        None => of_container.clone(),
    };
    let changed = instructions::apply(base, &request.changes)?;
    Ok(fill_in(changed, of_container))
}

/// A container's configuration as an image has it.
fn image_config(config: &ContainerConfig) -> Result<ImageConfig> {
    let set = |keys: Vec<String>| keys.into_iter().map(|key| (key, json!({}))).collect();
    let healthcheck = config.healthcheck.as_ref().map(serde_json::to_value).transpose();
    Ok(ImageConfig {
        user: config.user.clone(),
        exposed_ports: set(config.exposed_ports.iter().map(ToString::to_string).collect()),
        env: config.env.clone(),
        entrypoint: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
        volumes: set(config.volumes.iter().cloned().collect()),
        working_dir: config.working_dir.clone(),
        labels: config.labels.clone(),
        stop_signal: config.stop_signal.clone(),
        shell: config.shell.clone(),
        healthcheck: healthcheck
            .map_err(|error| EngineError::internal("cannot write the health check").caused_by(error))?,
        on_build: config.on_build.clone(),
    })
}

/// A container's configuration as Docker writes it into an image, where versions before 1.45 show it.
fn container_config(record: &ContainerRecord) -> Result<Value> {
    let config = &record.config;
    let mut value = serde_json::to_value(image_config(config)?).map_err(|error| {
        EngineError::internal("cannot write the container's configuration").caused_by(error)
    })?;
    for (name, own) in [
        ("Hostname", json!(config.hostname)),
        ("Domainname", json!(config.domainname)),
        ("AttachStdin", json!(config.attach_stdin)),
        ("AttachStdout", json!(config.attach_stdout)),
        ("AttachStderr", json!(config.attach_stderr)),
        ("Tty", json!(config.tty)),
        ("OpenStdin", json!(config.open_stdin)),
        ("StdinOnce", json!(config.stdin_once)),
        ("Image", json!(config.image)),
    ] {
        value[name] = own;
    }
    Ok(value)
}

/// `own` with what it leaves open taken from `container`, by the rules of create.
fn fill_in(own: ImageConfig, container: ImageConfig) -> ImageConfig {
    let mut filled = own;
    for (slot, default) in
        [(&mut filled.user, container.user), (&mut filled.working_dir, container.working_dir)]
    {
        if slot.is_empty() {
            *slot = default;
        }
    }
    for variable in container.env {
        let name = merge::variable_name(&variable);
        if !filled.env.iter().any(|own| merge::variable_name(own) == name) {
            filled.env.push(variable);
        }
    }
    for (key, value) in container.labels {
        filled.labels.entry(key).or_insert(value);
    }
    filled.exposed_ports.extend(container.exposed_ports);
    filled.volumes.extend(container.volumes);
    if filled.entrypoint.as_ref().is_none_or(Vec::is_empty) {
        if filled.cmd.as_ref().is_none_or(Vec::is_empty) {
            filled.cmd = container.cmd;
        }
        filled.entrypoint = filled.entrypoint.or(container.entrypoint);
    }
    filled.stop_signal = filled.stop_signal.or(container.stop_signal);
    filled.shell = filled.shell.or(container.shell);
    filled.healthcheck = filled.healthcheck.or(container.healthcheck);
    filled
}
