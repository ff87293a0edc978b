//! What machines tell now, each within a deadline.

use crate::error::CliError;
use crate::provision::engine;
use crate::store::{Machine, Stage, files};
use drivers::driver::MachineState;
use time::OffsetDateTime;
use tokio::time::Instant;

/// How many machines are asked at a time: each may hold a socket, and of files a process may have open as many as its
/// limit says, which is raised as far as need be.
pub(super) fn at_once() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    const WANTED: u64 = 2048;
    let limit = getrlimit(Resource::Nofile);
    let (now, most) = (limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX));
    let raised = now.max(WANTED.min(most));
    let set = raised == now || setrlimit(Resource::Nofile, Rlimit { current: Some(raised), ..limit }).is_ok();
    // The rest is for what else is open.
    let sockets = (if set { raised } else { now }).saturating_sub(64).clamp(16, WANTED);
    usize::try_from(sockets).unwrap_or(16)
}

/// What one machine tells.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub(super) struct Live {
    /// `Running`, and the like; `Timeout` where nothing was heard.
    pub(super) state: String,
    /// Where its engine is.
    pub(super) url: String,
    /// The engine's version.
    pub(super) version: String,
    /// Days until the first of its certificates ends.
    pub(super) cert_days: Option<i64>,
    /// What is wrong.
    pub(super) error: Option<String>,
}

/// Asks a machine; what is not known by `until` stays unknown.
pub(super) async fn ask(machine: &Machine, until: Instant) -> Live {
    let mut live = Live { state: "Error".to_owned(), cert_days: cert_days(machine), ..Live::default() };
    if let Err(error) = fill(machine, &mut live, until).await {
        live.error = Some(error.one_line());
    }
    live
}

async fn fill(machine: &Machine, live: &mut Live, until: Instant) -> Result<(), CliError> {
    let driver = machine.driver()?;
    live.url = driver.url().unwrap_or_default();
    if machine.record.state == Stage::Creating {
        live.error = Some(format!("create was interrupted: `berth create --resume {}`", machine.name));
    }
    let Ok(state) = tokio::time::timeout_at(until, engine::state(machine, driver.as_ref())).await else {
        live.state = "Timeout".to_owned();
        return Ok(());
    };
    let state = state?;
    live.state = super::state_word(state).to_owned();
    if state == MachineState::Running && machine.record.state == Stage::Ready {
        match tokio::time::timeout_at(until, engine::version(machine)).await {
            Ok(version) => live.version = version?,
            Err(_) => live.error = Some("the engine did not answer in time".to_owned()),
        }
    }
    Ok(())
}

/// Days until the server's or the client's certificate ends, whichever is first; negative where it has.
fn cert_days(machine: &Machine) -> Option<i64> {
    let server = machine.record.server_certificate.as_ref().map(|certificate| certificate.not_after);
    let client = files::read(&machine.tls().cert, 1 << 20).ok().and_then(|pem| certs::not_after(&pem).ok());
    let first = server.into_iter().chain(client).min()?;
    Some((first - OffsetDateTime::now_utc()).whole_days())
}
