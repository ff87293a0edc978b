//! A session with a machine, through jump hosts where the user's configuration has them.

use super::auth::{self, Identities};
use super::config::{self, HostConfig, Place};
use super::hostkeys::{self, Expected, Shown, Verifier};
use super::{SshError, shell};
use drivers::driver::SshEndpoint;
use russh::client::{self, Handle, Msg};
use russh::keys::{PublicKey, known_hosts};
use russh::{Channel, ChannelMsg, Disconnect};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// How long one hop may take from the first packet to being logged in.
const HOP_TIMEOUT: Duration = Duration::from_secs(15);
/// More jump hosts than this are a loop.
const MOST_HOPS: usize = 8;

/// Where to go, and who should be there.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// What the driver says.
    pub(crate) endpoint: SshEndpoint,
    /// Our own key for the machine.
    pub(crate) own_key: PathBuf,
    /// The machine's pins.
    pub(crate) pins: Vec<String>,
    /// Whether the user said that the machine may have another key than before.
    pub(crate) accept_any: bool,
    /// Where keys of jump hosts that OpenSSH does not know are kept.
    pub(crate) known_hosts: PathBuf,
    /// Whether a passphrase may be asked for on the terminal.
    pub(crate) may_ask: bool,
}

/// What a command gave.
#[derive(Clone, Debug, Default)]
pub(crate) struct Output {
    /// Its exit status; 255 where a signal or the end of the session took it.
    pub(crate) status: u32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A session; the hops before the machine live as long as it does.
pub(crate) struct Session {
    handle: Handle<Verifier>,
    jumps: Vec<Handle<Verifier>>,
    host_key: Option<PublicKey>,
    first_contact: bool,
    label: String,
}

/// Cuts a stream into lines.
#[derive(Default)]
struct Lines(Vec<u8>);

/// A line that is longer is told in pieces.
const LONGEST_LINE: usize = 64 << 10;

impl Lines {
    fn take(&mut self, data: &[u8], mut tell: impl FnMut(&str)) {
        for piece in data.split_inclusive(|byte| *byte == b'\n') {
            self.0.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.0.len() >= LONGEST_LINE {
                let line = std::mem::take(&mut self.0);
                tell(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']));
            }
        }
    }

    /// What has no end of line.
    fn end(self, mut tell: impl FnMut(&str)) {
        if !self.0.is_empty() {
            tell(&String::from_utf8_lossy(&self.0));
        }
    }
}

/// One server on the way, ready to be dialled.
struct Hop {
    label: String,
    host: String,
    port: u16,
    user: String,
    names: Vec<String>,
    identities: Identities,
    expected: Option<Expected>,
}

impl Session {
    /// Connects, verifies the host key and logs in.
    pub(crate) async fn connect(target: &Target) -> Result<Self, SshError> {
        let mut hops = Vec::new();
        plan(target, &mut hops)?;
        let mut jumps: Vec<(String, Handle<Verifier>)> = Vec::new();
        let last = hops.len().saturating_sub(1);
        for (at, hop) in hops.iter().enumerate() {
            let (handle, key, first_contact) = match jumps.last() {
                None => timed(hop, dial(hop, target)).await?,
                Some((through, jump)) => timed(hop, dial_through(hop, target, through, jump)).await?,
            };
            if at == last {
                let jumps = jumps.into_iter().map(|(_, handle)| handle).collect();
                return Ok(Self { handle, jumps, host_key: key, first_contact, label: hop.label.clone() });
            }
            jumps.push((hop.label.clone(), handle));
        }
        Err(SshError::TooManyHops(target.endpoint.host.clone()))
    }

    /// The machine's host key where nothing vouched for it before now.
    pub(crate) fn first_contact(&self) -> Option<String> {
        self.first_contact.then(|| self.host_key.as_ref().map(hostkeys::fingerprint)).flatten()
    }

    /// The machine's host key as an OpenSSH line.
    pub(crate) fn host_key(&self) -> Option<String> {
        self.host_key.as_ref().and_then(|key| key.to_openssh().ok())
    }

    /// Runs a command with this stdin to its end.
    pub(crate) async fn run(&self, command: &str, stdin: &[u8]) -> Result<Output, SshError> {
        self.run_telling(command, stdin, |_| {}).await
    }

    /// The same, telling each line of stdout as it comes.
    pub(crate) async fn run_telling(
        &self,
        command: &str,
        stdin: &[u8],
        mut tell: impl FnMut(&str),
    ) -> Result<Output, SshError> {
        let channel = self.open().await?;
        channel.exec(true, command).await?;
        let (mut reader, writer) = channel.split();
        let feed = async {
            // A command that ends without reading all its input closes the channel; its status says the rest.
            if writer.data(stdin).await.is_ok() {
                let _ = writer.eof().await;
            }
        };
        let (mut stdout, mut stderr, mut told) = (Vec::new(), Vec::new(), 0);
        let collect = async {
            let mut status = None;
            while let Some(message) = reader.wait().await {
                match message {
                    ChannelMsg::Data { data } => {
                        stdout.extend_from_slice(&data);
                        while let Some(end) = stdout[told..].iter().position(|byte| *byte == b'\n') {
                            tell(&String::from_utf8_lossy(&stdout[told..told + end]));
                            told += end + 1;
                        }
                    }
                    ChannelMsg::ExtendedData { data, .. } => stderr.extend_from_slice(&data),
                    ChannelMsg::Failure => return Err(SshError::NotRun),
                    ChannelMsg::ExitStatus { exit_status } => status = Some(exit_status),
                    ChannelMsg::ExitSignal { .. } => status = Some(255),
                    _ => {}
                }
            }
            status.ok_or(SshError::Broken(Box::new(russh::Error::Disconnect)))
        };
        let (_, status) = tokio::join!(feed, collect);
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Output { status: status?, stdout: text(stdout), stderr: text(stderr) })
    }

    /// Runs a command without stdin, and tells each line as it comes: whether it is of stderr, and the line. Answers
    /// the command's status; 255 where a signal took it.
    pub(crate) async fn run_by_lines(
        &self,
        command: &str,
        mut tell: impl FnMut(bool, &str),
    ) -> Result<u8, SshError> {
        let mut channel = self.open().await?;
        channel.exec(true, command).await?;
        channel.eof().await?;
        let (mut lines, mut status) = ([Lines::default(), Lines::default()], None);
        while let Some(message) = channel.wait().await {
            match message {
                ChannelMsg::Data { data } => lines[0].take(&data, |line| tell(false, line)),
                ChannelMsg::ExtendedData { data, .. } => lines[1].take(&data, |line| tell(true, line)),
                ChannelMsg::Failure => return Err(SshError::NotRun),
                ChannelMsg::ExitStatus { exit_status } => {
                    status = Some(u8::try_from(exit_status).unwrap_or(1))
                }
                ChannelMsg::ExitSignal { .. } => status = Some(255),
                _ => {}
            }
        }
        for (err, rest) in [false, true].into_iter().zip(lines) {
            rest.end(|line| tell(err, line));
        }
        status.ok_or(SshError::Broken(Box::new(russh::Error::Disconnect)))
    }

    /// Runs a command without input, and writes what it says to this process's stdout and stderr as it comes.
    pub(crate) async fn listen(&self, command: &str) -> Result<u8, SshError> {
        shell::listen(self.open().await?, command).await
    }

    /// Hands the terminal over: a shell, or a command.
    pub(crate) async fn interact(&self, command: Option<&str>, pty: bool) -> Result<u8, SshError> {
        shell::interact(self.open().await?, command, pty).await
    }

    /// A channel to a unix socket of the machine.
    pub(super) async fn open_socket(&self, path: &str) -> Result<Channel<Msg>, russh::Error> {
        self.handle.channel_open_direct_streamlocal(path).await
    }

    /// A channel for a program.
    pub(super) async fn open_program(&self) -> Result<Channel<Msg>, russh::Error> {
        self.handle.channel_open_session().await
    }

    /// Whether nothing can be sent any more.
    pub(super) fn is_closed(&self) -> bool {
        self.handle.is_closed()
    }

    /// `host:port` of the machine.
    pub(super) fn label(&self) -> &str {
        &self.label
    }

    /// A fresh channel.
    pub(super) async fn open(&self) -> Result<Channel<Msg>, SshError> {
        Ok(self.open_program().await?)
    }

    /// Says goodbye; a session that is just dropped looks like a broken line to the server.
    pub(crate) async fn close(self) {
        let _ = self.handle.disconnect(Disconnect::ByApplication, "", "en").await;
        for jump in self.jumps.iter().rev() {
            let _ = jump.disconnect(Disconnect::ByApplication, "", "en").await;
        }
    }
}

async fn timed<T>(hop: &Hop, work: impl Future<Output = Result<T, SshError>>) -> Result<T, SshError> {
    tokio::time::timeout(HOP_TIMEOUT, work).await.unwrap_or_else(|_| {
        Err(SshError::TimedOut { hop: hop.label.clone(), seconds: HOP_TIMEOUT.as_secs() })
    })
}

/// The hops to the machine, which is the last.
fn plan(target: &Target, hops: &mut Vec<Hop>) -> Result<(), SshError> {
    let endpoint = &target.endpoint;
    // A machine that berth made is no host of the user's: patterns like `Host *` are not meant for it.
    let of_host =
        if endpoint.host_key_delivered { HostConfig::default() } else { config::of_host(&endpoint.host)? };
    if let Some(jump) = &of_host.proxy_jump {
        for place in config::jumps(jump)? {
            plan_jump(&place, hops, 0)?;
        }
    }
    let identities = match &endpoint.identity {
        Some(key) => Identities::only(key.clone()),
        None if endpoint.host_key_delivered => Identities::only(target.own_key.clone()),
        None => Identities::usual(&of_host),
    };
    let host = of_host.host_name.clone().unwrap_or_else(|| endpoint.host.clone());
    // The driver's defaults give way to what the user configured for this host.
    let port = of_host.port.filter(|_| endpoint.port == 22).unwrap_or(endpoint.port);
    let user =
        of_host.user.clone().filter(|_| endpoint.user == "root").unwrap_or_else(|| endpoint.user.clone());
    hops.push(Hop {
        label: label("", &host, port),
        names: names(&of_host, &endpoint.host, &host),
        host,
        port,
        user,
        identities,
        expected: match (target.accept_any, target.pins.is_empty()) {
            (true, _) => Some(Expected::default()),
            (false, true) => None,
            (false, false) => Some(Expected::pinned(&target.pins)),
        },
    });
    Ok(())
}

fn plan_jump(place: &Place, hops: &mut Vec<Hop>, depth: usize) -> Result<(), SshError> {
    if hops.len() + depth >= MOST_HOPS {
        return Err(SshError::TooManyHops(place.host.clone()));
    }
    let of_host = config::of_host(&place.host)?;
    // As in OpenSSH, only the first jump host may have jump hosts of its own.
    if hops.is_empty()
        && let Some(jump) = &of_host.proxy_jump
    {
        for before in config::jumps(jump)? {
            plan_jump(&before, hops, depth + 1)?;
        }
    }
    let host = of_host.host_name.clone().unwrap_or_else(|| place.host.clone());
    let port = place.port.or(of_host.port).unwrap_or(22);
    let local_user = || std::env::var("USER").unwrap_or_else(|_| "root".to_owned());
    hops.push(Hop {
        label: label("jump host ", &place.host, port),
        names: names(&of_host, &place.host, &host),
        host,
        port,
        user: place.user.clone().or_else(|| of_host.user.clone()).unwrap_or_else(local_user),
        identities: Identities::usual(&of_host),
        expected: None,
    });
    Ok(())
}

fn label(kind: &str, host: &str, port: u16) -> String {
    if host.contains(':') { format!("{kind}[{host}]:{port}") } else { format!("{kind}{host}:{port}") }
}

/// The names under which known_hosts may have a host.
fn names(of_host: &HostConfig, given: &str, real: &str) -> Vec<String> {
    match &of_host.host_key_alias {
        Some(alias) => vec![alias.clone()],
        None if given == real => vec![real.to_owned()],
        None => vec![real.to_owned(), given.to_owned()],
    }
}

type Dialled = (Handle<Verifier>, Option<PublicKey>, bool);

async fn dial(hop: &Hop, target: &Target) -> Result<Dialled, SshError> {
    let stream = TcpStream::connect((hop.host.as_str(), hop.port))
        .await
        .map_err(|source| SshError::Unreachable { hop: hop.label.clone(), source })?;
    // Latency counts, and we write whole messages. Where it cannot be set, it is only slower.
    let _ = stream.set_nodelay(true);
    greet(hop, target, stream).await
}

async fn dial_through(
    hop: &Hop,
    target: &Target,
    through: &str,
    jump: &Handle<Verifier>,
) -> Result<Dialled, SshError> {
    let channel = jump
        .channel_open_direct_tcpip(hop.host.clone(), u32::from(hop.port), "127.0.0.1", 0)
        .await
        .map_err(|source| SshError::NotThrough {
            hop: hop.label.clone(),
            through: through.to_owned(),
            source: Box::new(source),
        })?;
    greet(hop, target, channel.into_stream()).await
}

/// The handshake on a stream, and the log-in.
async fn greet(
    hop: &Hop,
    target: &Target,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<Dialled, SshError> {
    let expected = hop.expected.clone().unwrap_or_else(|| known(hop, target));
    let shown = Shown::default();
    let verifier = Verifier { hop: hop.label.clone(), expected: expected.clone(), shown: shown.clone() };
    let handshake = client::connect_stream(Arc::new(settings(&expected)), stream, verifier).await;
    let mut handle = handshake.map_err(|error| named(error, hop, &expected))?;
    let key = shown.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    let first_contact = expected.is_empty();
    if first_contact && hop.expected.is_none() && hop.label.starts_with("jump host") {
        keep(hop, target, key.as_ref());
    }
    auth::log_in(&mut handle, &hop.label, &hop.user, &hop.identities, target.may_ask)
        .await
        .map_err(|e| named(e, hop, &expected))?;
    Ok((handle, key, first_contact))
}

fn known(hop: &Hop, target: &Target) -> Expected {
    let mut files = vec![PathBuf::from("/etc/ssh/ssh_known_hosts"), target.known_hosts.clone()];
    files.extend(config::home().map(|home| home.join(".ssh/known_hosts")));
    let names: Vec<&str> = hop.names.iter().map(String::as_str).collect();
    Expected::known(&files, &names, hop.port)
}

/// Keeps the key of a jump host that nothing knew, and says so.
fn keep(hop: &Hop, target: &Target, key: Option<&PublicKey>) {
    let (Some(key), Some(name)) = (key, hop.names.first()) else { return };
    let kept = known_hosts::learn_known_hosts_path(name, hop.port, key, &target.known_hosts);
    let how = if kept.is_ok() { "trusted from now on" } else { "trusted this once: it could not be stored" };
    crate::ui::stderr(&format!("first contact with {}: {}, {how}", hop.label, hostkeys::fingerprint(key)));
}

fn settings(expected: &Expected) -> client::Config {
    let mut settings = client::Config {
        keepalive_interval: Some(Duration::from_secs(10)),
        keepalive_max: 4,
        nodelay: true,
        // What one stream may hold that is not read: only then do the others of its session wait.
        channel_buffer_size: 512,
        ..client::Config::default()
    };
    if let Some(algorithms) = expected.algorithms() {
        settings.preferred.key = algorithms.into();
    }
    settings
}

/// Errors of the library name no host.
fn named(error: SshError, hop: &Hop, expected: &Expected) -> SshError {
    match error {
        SshError::Broken(source) => match *source {
            russh::Error::NoCommonAlgo { theirs, .. } if !expected.is_empty() => SshError::HostKeyChanged {
                hop: hop.label.clone(),
                expected: expected.fingerprints(),
                got: format!("a key of another kind ({})", theirs.join(", ")),
            },
            source => SshError::Handshake { hop: hop.label.clone(), source: Box::new(source) },
        },
        other => other,
    }
}
