//! The user-space way to a published port: for IPv6, which our containers do not speak; for containers that are kept
//! from each other (`--icc=false`); and for packets of conversations that are older than the firewall's mapping.

use crate::Protocol;
use crate::ports::HeldPort;
use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener, UdpSocket as StdUdp};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

/// A UDP conversation is over after this long without a packet.
const UDP_IDLE: Duration = Duration::from_secs(90);
/// UDP conversations at a time and port; a flood of forged senders must not eat all descriptors.
const UDP_CLIENTS: usize = 256;
/// Connections at a time and port.
const TCP_CLIENTS: usize = 1024;

/// Keeps a published port: holds its socket and serves what arrives there.
#[derive(Debug)]
pub(crate) struct Proxy {
    keeper: Keeper,
}

#[derive(Debug)]
enum Keeper {
    Task(JoinHandle<()>),
    /// Held, not served: nothing proxies SCTP.
    Socket {
        _held: OwnedFd,
    },
}

impl Proxy {
    /// Starts serving `held` from the container at `ip`.
    pub(crate) fn start(held: HeldPort, ip: Ipv4Addr) -> io::Result<Self> {
        let target = SocketAddr::from((ip, held.published.container_port));
        let keeper = match held.published.protocol {
            Protocol::Tcp => {
                let listener = TcpListener::from_std(StdListener::from(held.socket))?;
                Keeper::Task(tokio::spawn(serve_tcp(listener, target)))
            }
            Protocol::Udp => {
                let socket = UdpSocket::from_std(StdUdp::from(held.socket))?;
                Keeper::Task(tokio::spawn(serve_udp(socket, target)))
            }
            Protocol::Sctp => Keeper::Socket { _held: held.socket },
        };
        Ok(Self { keeper })
    }

    /// Ends it; the port is free once this returns.
    pub(crate) async fn stop(self) {
        if let Keeper::Task(task) = self.keeper {
            task.abort();
            let _ = task.await; // the socket closes when the task is dropped, not when it is told to end
        }
    }
}

async fn serve_tcp(listener: TcpListener, target: SocketAddr) {
    // Connections end with the listener, as they belong to the container's endpoint.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() >= TCP_CLIENTS {
            connections.join_next().await;
            continue;
        }
        match listener.accept().await {
            Ok((mut client, _)) => {
                connections.spawn(async move {
                    if let Ok(mut server) = TcpStream::connect(target).await {
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
            // Out of descriptors, most likely: others have to close some first.
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn serve_udp(socket: UdpSocket, target: SocketAddr) {
    let socket = Arc::new(socket);
    let mut clients: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut answers: JoinSet<SocketAddr> = JoinSet::new();
    let mut packet = vec![0; 1 << 16];
    loop {
        tokio::select! {
            Some(over) = answers.join_next() => {
                if let Ok(client) = over {
                    clients.remove(&client);
                }
            }
            received = socket.recv_from(&mut packet) => {
                let Ok((length, client)) = received else { continue };
                if !clients.contains_key(&client) {
                    if clients.len() >= UDP_CLIENTS {
                        continue; // packets may be lost, conversations going on may not
                    }
                    let Ok(server) = connect_udp(target).await else { continue };
                    let server = Arc::new(server);
                    answers.spawn(answer_udp(Arc::clone(&server), Arc::clone(&socket), client));
                    clients.insert(client, server);
                }
                if let Some(server) = clients.get(&client) {
                    let _ = server.send(&packet[..length]).await;
                }
            }
        }
    }
}

async fn connect_udp(target: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect(target).await?;
    Ok(socket)
}

/// Carries what the container says back to `client` until it has been silent for long enough.
async fn answer_udp(server: Arc<UdpSocket>, socket: Arc<UdpSocket>, client: SocketAddr) -> SocketAddr {
    let mut packet = vec![0; 1 << 16];
    let mut refused_since = None;
    loop {
        match timeout(UDP_IDLE, server.recv(&mut packet)).await {
            Ok(Ok(length)) => {
                refused_since = None;
                let _ = socket.send_to(&packet[..length], client).await;
            }
            // Nobody listens in the container: it may yet, but not for ever.
            Ok(Err(_)) if refused_since.get_or_insert_with(Instant::now).elapsed() < UDP_IDLE => {
                sleep(Duration::from_millis(10)).await;
            }
            _ => return client,
        }
    }
}
