//! The machines' side: which machine is meant now, the way there, and connections that wait for the next request.

use crate::connect::{self, Stream, Way};
use crate::context::Context;
use crate::error::CliError;
use crate::store::{Machine, MachineName};
use drivers::driver::MachineState;
use futures_util::FutureExt as _;
use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt as _, ReadHalf, WriteHalf};

/// A connection that waits longer than this is not used any more: it may be about to be closed at the other end.
const IDLE: Duration = Duration::from_secs(20);
/// More than this wait for no machine.
const MOST_IDLE: usize = 16;
/// How long a machine's state may take to be found out, only to be told.
const STATE_LIMIT: Duration = Duration::from_secs(2);

/// A connection to an engine.
pub(super) struct Upstream {
    pub(super) reader: ReadHalf<Box<dyn Stream>>,
    pub(super) writer: WriteHalf<Box<dyn Stream>>,
    /// Where it leads, for the log.
    pub(super) over: String,
    /// It has served a request already, so that it may turn out to be closed.
    pub(super) used: bool,
    route: Arc<Route>,
}

/// The way to one machine, as its files were when it was looked up.
struct Route {
    way: Way,
    stamp: Stamp,
    /// By the wall's clock: the other one stands still while a laptop sleeps, and connections do not outlive that.
    idle: Mutex<Vec<(SystemTime, Upstream)>>,
}

/// What changes with a machine's record, certificates or ports, as all are replaced by renaming.
type Stamp = [(u64, i64, i64); 4];

fn stamp(dir: &Path) -> Stamp {
    ["", "driver", "machine.toml", "cert.pem"].map(|name| {
        let data = std::fs::metadata(dir.join(name));
        data.map(|data| (data.ino(), data.mtime(), data.mtime_nsec())).unwrap_or_default()
    })
}

/// All machines.
pub(super) struct Upstreams {
    context: Context,
    routes: Mutex<HashMap<MachineName, Arc<Route>>>,
}

impl Upstreams {
    pub(super) fn new(context: Context) -> Self {
        Self { context, routes: Mutex::default() }
    }

    /// The machine that is meant at this moment.
    pub(super) fn machine(&self) -> Result<MachineName, CliError> {
        self.context.selected_name()
    }

    /// A connection to its engine; `fresh` where one that has waited will not do.
    pub(super) async fn connect(&self, name: &MachineName, fresh: bool) -> Result<Upstream, CliError> {
        let route = self.route(name)?;
        while let Some((since, mut upstream)) =
            route.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
        {
            if !fresh && is_recent(since) && upstream.is_open() {
                return Ok(upstream);
            }
        }
        match route.way.dial().await {
            Ok(dialled) => {
                let (reader, writer) = tokio::io::split(dialled.stream);
                Ok(Upstream { reader, writer, over: dialled.over, used: false, route })
            }
            Err(error) => {
                // The next one looks anew.
                self.routes.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
                let machine = self.context.store.load(name)?;
                Err(down(&machine).await.unwrap_or_else(|| connect::unreachable(name, error)))
            }
        }
    }

    fn route(&self, name: &MachineName) -> Result<Arc<Route>, CliError> {
        let stamp = stamp(&self.context.store.dir(name));
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(route) = routes.get(name)
            && route.stamp == stamp
        {
            return Ok(route.clone());
        }
        let machine = self.context.store.load(name)?;
        let way = connect::way(&machine).map_err(|error| connect::unreachable(name, error))?;
        connect::watch_ports(&machine);
        let route = Arc::new(Route { way, stamp, idle: Mutex::default() });
        routes.insert(name.clone(), route.clone());
        Ok(route)
    }
}

/// What to say of a machine that is known not to run.
async fn down(machine: &Machine) -> Option<CliError> {
    let driver = machine.driver().ok()?;
    let state = tokio::time::timeout(STATE_LIMIT, driver.state()).await.ok()?.ok()?;
    let name = &machine.name;
    match state {
        MachineState::Stopped if driver.features().start_stop => Some(
            CliError::new(format!("machine `{name}` is stopped"))
                .hint(format!("`berth start {name}` starts it")),
        ),
        _ => None,
    }
}

/// A clock that was set back tells nothing.
fn is_recent(since: SystemTime) -> bool {
    since.elapsed().is_ok_and(|elapsed| elapsed < IDLE)
}

impl Upstream {
    /// Whether nothing has come, not even the end.
    fn is_open(&mut self) -> bool {
        self.reader.read(&mut [0]).now_or_never().is_none()
    }

    /// Waits for the next request.
    pub(super) fn keep(mut self) {
        self.used = true;
        let route = self.route.clone();
        let mut idle = route.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(since, _)| is_recent(*since));
        if idle.len() < MOST_IDLE {
            idle.push((SystemTime::now(), self));
        }
    }
}
