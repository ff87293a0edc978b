//! A container that the user stays with: attach, wait, start, in an order in which nothing is lost.

use super::names;
use super::session::{Ended, Session, Signals};
use super::terminal::DetachKeys;
use crate::connect::{Engine, EngineError, failed};
use crate::error::CliError;
use hyper::Method;
use serde::Deserialize;
use tokio::io::AsyncReadExt;
use tokio::task::JoinHandle;

/// How a container is stayed with.
pub(crate) struct Attached {
    /// Its full ID.
    pub(crate) id: String,
    /// It has a terminal.
    pub(crate) tty: bool,
    /// Our input goes to it.
    pub(crate) stdin: bool,
    /// Where they leave a terminal.
    pub(crate) detach_keys: DetachKeys,
    /// Our signals go to it.
    pub(crate) proxy_signals: bool,
    /// It is removed by itself: we wait until that is done.
    pub(crate) removed_at_end: bool,
}

/// How the stay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stay {
    /// The container ended with this code.
    Exited(u8),
    /// The user left; it runs on.
    Left,
}

impl Stay {
    /// What our process ends with.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Exited(code) => code,
            Self::Left => 0,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Exit {
    status_code: i64,
    #[serde(default)]
    error: Option<ExitError>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ExitError {
    #[serde(default)]
    message: Option<String>,
}

impl Attached {
    /// Stays until the container ends or the user leaves. `start` runs once we are attached and waiting, so that neither
    /// the first output nor a quick end is missed.
    pub(crate) async fn stay(
        self,
        engine: &Engine,
        start: impl Future<Output = Result<(), CliError>>,
    ) -> Result<Stay, CliError> {
        let path = format!(
            "/containers/{}/attach?stream=1&stdin={}&stdout=1&stderr=1",
            names::container(&self.id)?,
            u8::from(self.stdin)
        );
        let trouble = |e| failed(format!("cannot attach to container `{}`", self.id), e).code(125);
        let stream = engine.hijack(&path, None).await.map_err(trouble)?;
        let condition = if self.removed_at_end { "removed" } else { "next-exit" };
        let exit = wait(engine, &self.id, condition).await?;
        let proxy = self.proxy_signals.then(|| SignalProxy::begin(engine, &self.id)).transpose()?;
        start.await?;
        let session = Session { tty: self.tty, stdin: self.stdin, detach_keys: self.detach_keys };
        let ended = session.drive(stream, |columns, rows| resize(engine, &self.id, columns, rows)).await;
        match ended {
            Ok(Ended::Detached) => return Ok(Stay::Left),
            Ok(Ended::Output) => {}
            Err(e) => return Err(e),
        }
        let code = exit.await.map_err(|e| CliError::new("cannot wait for the container").because(e))?;
        drop(proxy);
        code.map(Stay::Exited)
    }
}

/// Waits for a container's end, from now on; the call returns once the engine is waiting too.
pub(crate) async fn wait(
    engine: &Engine,
    id: &str,
    condition: &str,
) -> Result<JoinHandle<Result<u8, CliError>>, CliError> {
    let path = format!("/containers/{}/wait?condition={condition}", names::container(id)?);
    let what = format!("cannot wait for container `{id}`");
    let mut answer =
        engine.stream(Method::POST, &path).await.map_err(|e| failed(what.clone(), e).code(125))?;
    Ok(tokio::spawn(async move {
        let lost = |e: std::io::Error| CliError::new(what.clone()).because(e).code(125);
        let mut text = Vec::new();
        (&mut answer).take(1 << 20).read_to_end(&mut text).await.map_err(lost)?;
        let exit: Exit = serde_json::from_slice(&text).map_err(|e| lost(e.into()))?;
        match exit.error.and_then(|error| error.message).filter(|message| !message.is_empty()) {
            Some(message) => Err(lost(std::io::Error::other(message))),
            // Exit codes are one byte, for them as for us.
            None => Ok((exit.status_code & 0xff) as u8),
        }
    }))
}

/// Tells the container's terminal its size, and whether that was possible.
pub(crate) async fn resize(engine: &Engine, id: &str, columns: u16, rows: u16) -> bool {
    let options = bollard::query_parameters::ResizeContainerTTYOptionsBuilder::new();
    let options = options.w(columns.into()).h(rows.into()).build();
    engine.docker().resize_container_tty(id, options).await.is_ok()
}

/// Passes our signals to the container until it is dropped.
struct SignalProxy(JoinHandle<()>);

impl SignalProxy {
    fn begin(engine: &Engine, id: &str) -> Result<Self, CliError> {
        let mut signals =
            Signals::take_over().map_err(|e| CliError::new("cannot take signals over").because(e))?;
        let (engine, id) = (engine.clone(), id.to_owned());
        Ok(Self(tokio::spawn(async move {
            let mut urges = 0;
            loop {
                let signal = signals.next().await;
                urges += u8::from(matches!(signal, "INT" | "TERM"));
                // A container may ignore them; the user must not be held.
                if urges >= 3 {
                    crate::ui::stderr("got 3 SIGTERM/SIGINTs, forcefully exiting");
                    std::process::exit(1);
                }
                let options =
                    bollard::query_parameters::KillContainerOptionsBuilder::new().signal(signal).build();
                // It may have ended meanwhile, or not have been started yet.
                let _ = engine.docker().kill_container(&id, Some(options)).await;
            }
        })))
    }
}

impl Drop for SignalProxy {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The exit code for a container that could not be started, as docker has it.
pub(crate) fn start_code(error: &EngineError) -> u8 {
    let EngineError::Refused { message, .. } = error else { return 125 };
    let says = |words: &str| message.contains(words);
    if says("executable file not found") || says("no such file or directory") || says("system cannot find") {
        127
    } else if says("permission denied") || says("is a directory") {
        126
    } else {
        125
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_that_cannot_start_has_dockers_exit_code() {
        for (message, code) in [
            (r#"exec: "nope": executable file not found in $PATH: unknown"#, 127),
            (r#"exec: "/nope": stat /nope: no such file or directory: unknown"#, 127),
            (r#"exec: "/etc": permission denied: unknown"#, 126),
            ("exec: \"/etc\": is a directory", 126),
            ("driver failed programming external connectivity", 125),
        ] {
            let error = EngineError::Refused { status: 400, message: message.to_owned() };
            assert_eq!(start_code(&error), code, "{message}");
        }
    }
}
