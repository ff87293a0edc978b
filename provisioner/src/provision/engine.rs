//! One question to an engine, over mutual TLS where the machine has certificates.

use crate::error::{CliError, Doing as _};
use crate::store::{Machine, authority, files};
use bytes::Bytes;
use drivers::driver::Driver;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::Request;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// An answer larger than this is none that we asked for.
const LARGEST: usize = 1 << 20;

/// `GET path`, and the body of a 200.
pub(crate) async fn get(machine: &Machine, driver: &dyn Driver, path: &str) -> Result<Bytes, CliError> {
    let url = driver.url()?;
    let (host, port) = authority(&url);
    let stream = TcpStream::connect((host.as_str(), port)).await.doing(format!("cannot connect to {url}"))?;
    let _ = stream.set_nodelay(true);
    if !machine.has_tls() {
        return ask(stream, path, &url).await;
    }
    let tls = machine.tls();
    let read =
        |path: &std::path::Path| files::read(path, 1 << 20).doing(format!("cannot read {}", path.display()));
    let config = certs::client_config(&read(&tls.ca)?, &read(&tls.cert)?, &read(&tls.key)?)
        .doing(format!("cannot use the certificates of machine `{}`", machine.name))?;
    let name = machine.server_name(driver)?;
    let name = ServerName::try_from(name).doing(format!("cannot verify {url}"))?;
    let stream = tokio_rustls::TlsConnector::from(config)
        .connect(name, stream)
        .await
        .doing(format!("cannot agree on TLS with {url}"))?;
    ask(stream, path, &url).await
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

/// The engine's version, as `/version` tells it.
pub(crate) async fn version(machine: &Machine, driver: &dyn Driver) -> Result<String, CliError> {
    let body = get(machine, driver, "/version").await?;
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Version {
        version: String,
    }
    let version: Version = serde_json::from_slice(&body).doing("cannot read the engine's version")?;
    Ok(version.version)
}
