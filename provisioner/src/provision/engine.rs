//! One question to an engine, by the machine's way.

use crate::connect::{self, ConnectError, Via, Way};
use crate::error::{CliError, Doing as _};
use crate::store::Machine;
use bytes::Bytes;
use drivers::driver::{Driver, MachineState};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::Request;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// An answer larger than this is none that we asked for.
const LARGEST: usize = 1 << 20;

/// `GET path`, and the body of a 200.
pub(crate) async fn get(machine: &Machine, path: &str) -> Result<Bytes, CliError> {
    let way = connect::way(machine).map_err(|error| unusable(machine, error))?;
    get_by(machine, &way, path).await
}

/// The same by the way that the engine was set up for: TLS must do, unless SSH alone was chosen.
pub(crate) async fn get_verifying(
    machine: &Machine,
    driver: &dyn Driver,
    path: &str,
) -> Result<Bytes, CliError> {
    let way = match machine.via() {
        Via::Ssh => connect::way(machine),
        Via::Tls | Via::Auto => connect::direct(machine, driver),
    };
    get_by(machine, &way.map_err(|error| unusable(machine, error))?, path).await
}

fn unusable(machine: &Machine, error: ConnectError) -> CliError {
    CliError::new(format!("cannot reach machine `{}`", machine.name)).because(error)
}

async fn get_by(machine: &Machine, way: &Way, path: &str) -> Result<Bytes, CliError> {
    let dialled = way.dial().await.map_err(|error| unusable(machine, error))?;
    ask(dialled.stream, path, &dialled.over).await
}

async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    path: &str,
    url: &str,
) -> Result<Bytes, CliError> {
    let doing = || format!("cannot ask {url} for {path}");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.doing(doing())?;
    let request = Request::get(path).header("Host", "engine").body(Empty::<Bytes>::new()).doing(doing())?;
    let answered = async {
        let response = sender.send_request(request).await.doing(doing())?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LARGEST).collect().await.doing(doing())?.to_bytes();
        if !status.is_success() {
            let said = String::from_utf8_lossy(&body).trim().to_owned();
            return Err(CliError::new(doing()).because(format!("{status}: {said}")));
        }
        Ok(body)
    };
    // The connection does its work while the answer is awaited, and ends with it.
    tokio::pin!(answered);
    tokio::select! {
        biased;
        answer = &mut answered => answer,
        ended = connection => match ended {
            Ok(()) => answered.await,
            Err(error) => Err(CliError::new(doing()).because(error)),
        },
    }
}

/// Where a machine is in its life. A host that its driver sees no trace of (only `~/.ssh/config` knows it, or it is behind a
/// jump host) runs where its engine answers.
pub(crate) async fn state(machine: &Machine, driver: &dyn Driver) -> Result<MachineState, CliError> {
    let told = driver.state().await;
    let features = driver.features();
    let blind = !features.start_stop && features.ssh && !matches!(told, Ok(MachineState::Running));
    if blind && get(machine, "/_ping").await.is_ok() {
        return Ok(MachineState::Running);
    }
    Ok(told?)
}

/// The engine's version, as `/version` tells it.
pub(crate) async fn version(machine: &Machine) -> Result<String, CliError> {
    let body = get(machine, "/version").await?;
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Version {
        version: String,
    }
    let version: Version = serde_json::from_slice(&body).doing("cannot read the engine's version")?;
    Ok(version.version)
}
