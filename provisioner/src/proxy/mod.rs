//! `berth proxy`: local sockets that lead to whichever machine is active.
//!
//! ```text
//! docker, compose, IDEs ─▶ door (unix socket, loopback TCP) ─▶ relay, request by request ─▶ upstream ─▶ engine
//! ```
//! A client keeps its connection while the machine changes under it: which machine is meant is asked at each request.
//! Connections to engines wait for the next request of any client.

mod buffer;
mod chunks;
mod door;
mod head;
mod relay;
mod upstream;

pub(crate) use door::{Address, Door};

use crate::context::Context;
use relay::Client;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use time::OffsetDateTime;
use tokio::task::JoinSet;
use upstream::Upstreams;

/// How long to wait after a failed accept: it is for want of descriptors, most likely.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves at these doors until dropped.
pub(crate) async fn serve(doors: Vec<Door>, context: Context) {
    let upstreams = Arc::new(Upstreams::new(context));
    let number = Arc::new(AtomicU64::new(0));
    let mut keepers: JoinSet<()> =
        doors.into_iter().map(|door| keep(door, upstreams.clone(), number.clone())).collect();
    while keepers.join_next().await.is_some() {}
}

async fn keep(door: Door, upstreams: Arc<Upstreams>, number: Arc<AtomicU64>) {
    let mut clients = JoinSet::new();
    loop {
        let (reader, writer) = tokio::select! {
            accepted = door.accept() => match accepted {
                Ok(client) => client,
                Err(error) => {
                    log(&format!("cannot accept a connection on {door}: {error}"));
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            },
            Some(_) = clients.join_next() => continue,
        };
        let label = format!("#{}", number.fetch_add(1, Ordering::Relaxed) + 1);
        let client = Client { reader, writer, exposed: door.is_exposed(), label: label.clone() };
        let upstreams = upstreams.clone();
        clients.spawn(async move {
            if let Err(error) = client.serve(&upstreams).await {
                log(&format!("{label} broke off: {error}"));
            }
        });
    }
}

/// One line on stderr.
fn log(text: &str) {
    let now = OffsetDateTime::now_utc();
    crate::ui::stderr(&format!("{:02}:{:02}:{:02} {text}", now.hour(), now.minute(), now.second()));
}
