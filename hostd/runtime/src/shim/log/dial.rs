//! Connections to a syslog server: unix, UDP, TCP, with TLS or without.

use crate::spec::{SyslogAddress, SyslogTls};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme, StreamOwned,
};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Where a machine's own syslog may listen.
const LOCAL: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];
/// Where distributions keep the machine's certificate authorities; the first that exists counts.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
const CONNECTING: Duration = Duration::from_secs(10);

/// A connected socket.
pub(super) enum Connection {
    Unix(UnixStream),
    Unixgram(UnixDatagram),
    Udp(UdpSocket),
    Tcp(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Connection {
    /// Connects; the error in Go's words, as Docker's clients know them.
    pub(super) fn open(address: &SyslogAddress, tls: Option<&SyslogTls>) -> Result<Self, String> {
        match address {
            SyslogAddress::Local => local(),
            SyslogAddress::Unix(path) => {
                let dialled = UnixStream::connect(path).map(Self::Unix);
                dialled.map_err(|error| said("unix", &path.display(), &error))
            }
            SyslogAddress::Unixgram(path) => {
                unixgram(path).map_err(|error| said("unixgram", &path.display(), &error))
            }
            SyslogAddress::Udp(addresses) => first(addresses, |address| {
                let socket = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" });
                let connected = socket.and_then(|socket| socket.connect(address).map(|()| socket));
                connected.map(Self::Udp).map_err(|error| said("udp", address, &error))
            }),
            SyslogAddress::Tcp(addresses) => first(addresses, |address| {
                let stream = TcpStream::connect_timeout(address, CONNECTING)
                    .map_err(|error| said("tcp", address, &error))?;
                match tls {
                    None => Ok(Self::Tcp(stream)),
                    Some(tls) => encrypt(stream, tls).map(|stream| Self::Tls(Box::new(stream))),
                }
            }),
        }
    }

    /// Whether each message travels on its own.
    pub(super) fn is_datagram(&self) -> bool {
        matches!(self, Self::Unixgram(_) | Self::Udp(_))
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.write_all(bytes),
            Self::Tcp(stream) => stream.write_all(bytes),
            Self::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
            Self::Unixgram(socket) => socket.send(bytes).map(drop),
            Self::Udp(socket) => socket.send(bytes).map(drop),
        }
    }

    /// Says good-bye, where that is the custom.
    pub(super) fn close(&mut self) {
        if let Self::Tls(stream) = self {
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    }
}

fn local() -> Result<Connection, String> {
    for path in LOCAL.map(Path::new) {
        if let Ok(connection) = unixgram(path) {
            return Ok(connection);
        }
        if let Ok(stream) = UnixStream::connect(path) {
            return Ok(Connection::Unix(stream));
        }
    }
    Err("Unix syslog delivery error".to_owned())
}

fn unixgram(path: &Path) -> io::Result<Connection> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    Ok(Connection::Unixgram(socket))
}

/// The first address that works; or what the last said.
fn first(
    addresses: &[SocketAddr],
    dial: impl Fn(&SocketAddr) -> Result<Connection, String>,
) -> Result<Connection, String> {
    let mut result = Err("no address to connect to".to_owned());
    for address in addresses {
        result = dial(address);
        if result.is_ok() {
            break;
        }
    }
    result
}

/// `dial tcp 127.0.0.1:1: connect: connection refused`.
fn said(network: &str, address: &dyn std::fmt::Display, error: &io::Error) -> String {
    let text = error.to_string();
    let words = text.split(" (os error").next().unwrap_or_default().to_lowercase();
    format!("dial {network} {address}: connect: {words}")
}

fn encrypt(stream: TcpStream, tls: &SyslogTls) -> Result<StreamOwned<ClientConnection, TcpStream>, String> {
    let config = client_config(tls)?;
    let name = ServerName::try_from(tls.name.clone()).map_err(|error| format!("{}: {error}", tls.name))?;
    let connection = ClientConnection::new(Arc::new(config), name).map_err(|error| error.to_string())?;
    let mut stream = StreamOwned::new(connection, stream);
    let limit = |timeout| {
        let socket: &TcpStream = &stream.sock;
        socket.set_read_timeout(timeout).and_then(|()| socket.set_write_timeout(timeout))
    };
    limit(Some(CONNECTING)).map_err(|error| error.to_string())?;
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).map_err(|error| error.to_string())?;
    }
    let socket = &stream.sock;
    socket
        .set_read_timeout(None)
        .and_then(|()| socket.set_write_timeout(None))
        .map_err(|error| error.to_string())?;
    Ok(stream)
}

fn client_config(tls: &SyslogTls) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = if tls.verify {
        builder.with_root_certificates(roots(tls.ca.as_deref())?)
    } else {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified(provider)))
    };
    match (&tls.cert, &tls.key) {
        (Some(cert), Some(key)) => {
            let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, &error))?;
            let chain = certificates(cert)?;
            builder.with_client_auth_cert(chain, secret).map_err(|error| unusable(cert, &error))
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

/// The one that was named, or all that the machine trusts.
fn roots(ca: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(ca) => {
            for certificate in certificates(ca)? {
                roots.add(certificate).map_err(|error| unusable(ca, &error))?;
            }
        }
        None => {
            if let Some(bundle) = BUNDLES.iter().map(Path::new).find(|path| path.exists()) {
                // One odd certificate in a distribution's bundle is no reason to trust none of it.
                roots.add_parsable_certificates(certificates(bundle)?);
            }
        }
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|error| unusable(path, &error))
}

fn unusable(path: &Path, error: &dyn std::fmt::Display) -> String {
    format!("cannot use {}: {error}", path.display())
}

/// Takes any certificate: `syslog-tls-skip-verify`.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
