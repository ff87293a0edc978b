//! The use cases of a container engine; owns the state database.
//!
//! Vocabulary. A *container* is a record (what was asked for and what became of it), a directory, a
//! writable layer, and while it *runs* a shim, an endpoint and a task here that watches it. An *exec* is a further
//! process in it. A *turn* is the right to change a container's state; one task has it at a time.
//!
//! ```text
//! <data-root>/state.redb             records (see `db`)
//! <data-root>/containers/<id>/       hostname, hosts, resolv.conf, <id>-json.log
//! <data-root>/removing/              containers' directories on their way out; emptied at start-up
//! <data-root>/image|volumes|network  the parts' own
//! <exec-root>/shims/<id>/            the runtime's bundles
//! <exec-root>/engine/<id>.json       what became of containers lately (see `journal`)
//! ```
//!
//! The path of a container: `create` merges the request with the image's configuration, refuses what makes no
//! sense or is not supported, makes volumes, and acknowledges once the record is durable. `start` prepares
//! network namespace, layer and files at once, has the runtime build the container and the network connect it,
//! connects those who attached before, and lets the program run. From then on `watch` waits for its end, records it,
//! takes down what the run used, and applies the restart policy. `recover` does the same for what happened while
//! no daemon ran.
//!
//! Reads are served from memory and never wait; see `container` for who may write, and `db` and `journal` for what a crash leaves.

mod attach;
mod commit;
mod container;
mod create;
mod db;
mod detach;
mod devices;
mod error;
mod events;
mod exec;
mod files;
mod filters;
mod health;
mod images;
mod info;
mod init;
mod journal;
mod lifecycle;
mod links;
mod list;
mod logs;
mod machine;
pub mod model;
mod names;
mod networks;
mod prune;
mod recast;
mod recover;
mod remap;
mod remove;
mod revive;
mod runtimes;
mod security;
mod signals;
mod spec;
mod start;
mod stats;
mod top;
mod update;
mod volumes;
mod wait;
mod watch;
mod whole;

pub use attach::{AttachOptions, Attached};
pub use commit::CommitRequest;
pub use create::{CreateRequest, Created, SeccompProfile, SecurityDefaults, check_ulimit, parse_size};
pub use devices::DiscoveredDevice;
pub use error::{EngineError, ErrorKind, Result};
pub use events::{Event, EventOptions};
pub use exec::{ExecInfo, ExecRequest, ExecStart};
pub use files::{Archive, PutOptions};
pub use filters::Filters;
pub use hostd_image::files::PathStat;
pub use hostd_image::{Auth, HistoryEntry, Image, ImageStoreConfig, Platform, Progress, Removed, Snapshot};
pub use hostd_image::{Change, ChangeKind};
pub use hostd_network::{DefaultNetwork, Endpoint, NetworkConfig, Protocol, PublishedPort};
pub use hostd_runtime::cgroup::Driver as CgroupDriver;
pub use hostd_runtime::spec::{Extent, IdMap, READONLY_PATHS, masked_paths};
pub use hostd_runtime::unread_by_peer;
pub use hostd_volume::Volume;
pub use images::LoadEvent;
pub use info::Info;
pub use lifecycle::Changed;
pub use list::ListOptions;
pub use logs::{LOG_DRIVERS, LogDefaults, LogOptions};
pub use machine::Machine;
pub use networks::Network;
pub use prune::ImageUsage;
pub use remove::RemoveOptions;
pub use runtimes::{OtherRuntime, RuntimeChoice};
pub use stats::{CpuSample, IoCounter, NetworkSample, Sample};
pub use top::Processes;
pub use update::UpdateRequest;
pub use volumes::{Pruned, VolumeUsage};
pub use wait::{WaitCondition, WaitResult};

use container::{Container, Index};
use futures_util::stream::BoxStream;
use hostd_image::ImageStore;
use hostd_network::Networks;
use hostd_runtime::{Runtime, selinux};
use hostd_volume::Volumes;
use model::ContainerRecord;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, RwLock};
use tokio_util::sync::CancellationToken;

/// Where an engine lives and how its parts are set up.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// `--data-root`, /var/lib/hostd.
    pub data_root: PathBuf,
    /// `--exec-root`, /run/hostd.
    pub exec_root: PathBuf,
    /// Program to run as shim.
    pub shim_exe: PathBuf,
    /// The image store's part.
    pub images: ImageStoreConfig,
    /// The network's part.
    pub network: NetworkConfig,
    /// Labels of the machine (`--label`), for `info`.
    pub labels: Vec<String>,
    /// How containers are logged that do not say how (`--log-driver`, `--log-opt`).
    pub log: LogDefaults,
    /// Containers run on while no daemon does (`--live-restore`), for `info`.
    pub live_restore: bool,
    /// Where CDI specifications are (`--cdi-spec-dir`), the last one counting most; none switches CDI off.
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// Who makes the containers' cgroups.
    pub cgroup_driver: CgroupDriver,
    /// Parent of those cgroups (`--cgroup-parent`): a path, or a slice of systemd's.
    pub cgroup_parent: String,
    /// Runtime and period of real-time scheduling for all containers, in microseconds; 0 leaves the kernel's (cgroup v1).
    pub realtime: (i64, i64),
    /// What containers get that do not say.
    pub defaults: Defaults,
    /// Runtimes besides hostd's own, and the default.
    pub runtimes: RuntimeChoice,
}

/// What containers get that do not say.
#[derive(Clone, Debug)]
pub struct Defaults {
    /// `private` or `shareable` (`--default-ipc-mode`).
    pub ipc_mode: String,
    /// `private` or `host` (`--default-cgroupns-mode`).
    pub cgroupns_mode: String,
    /// Filters and privileges.
    pub security: SecurityDefaults,
    /// (name, soft, hard) (`--default-ulimit`).
    pub ulimits: Vec<(String, i64, i64)>,
    /// Bytes of `/dev/shm` (`--default-shm-size`).
    pub shm_size: Option<u64>,
    /// Users of the host that stand for those of containers (`--userns-remap`).
    pub id_map: Option<IdMap>,
    /// Our init as process 1 (`--init`).
    pub init: bool,
    /// Name servers, search domains and options of resolv.conf (`--dns`, `--dns-search`, `--dns-opt`).
    pub dns: Dns,
}

/// What resolv.conf says where a container does not.
#[derive(Clone, Debug, Default)]
pub struct Dns {
    /// Name servers.
    pub servers: Vec<std::net::IpAddr>,
    /// Search domains.
    pub search: Vec<String>,
    /// Options.
    pub options: Vec<String>,
}

impl Default for Defaults {
    fn default() -> Self {
        let private = || "private".to_owned();
        Self {
            ipc_mode: private(),
            cgroupns_mode: private(),
            security: SecurityDefaults::default(),
            ulimits: Vec::new(),
            shm_size: None,
            id_map: None,
            init: false,
            dns: Dns::default(),
        }
    }
}

/// A container engine. Cheap to clone.
///
/// Names in arguments: a container's name, id or unambiguous id prefix.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    config: EngineConfig,
    id: String,
    images: ImageStore,
    networks: Networks,
    volumes: Volumes,
    runtime: Runtime,
    /// Changed by a reload.
    runtimes: RwLock<Arc<runtimes::Runtimes>>,
    db: db::Db,
    journal: journal::Journal,
    index: Index,
    execs: exec::Execs,
    claims: volumes::Claims,
    /// SELinux labels of containers; `None` where they get none.
    selinux: Option<selinux::Policy>,
    /// Levels of those labels that are in use.
    levels: selinux::Levels,
    bus: events::Bus,
    /// Cancelled at shutdown: the tasks that watch containers let go of them.
    closing: CancellationToken,
    /// Containers are being stopped along with the daemon: none is started again.
    stopping: AtomicBool,
}

impl Engine {
    /// Opens the state, finds running containers again, catches up with what ended meanwhile, applies restart
    /// policies, removes what a crash left over.
    pub async fn open(config: EngineConfig) -> Result<Self> {
        recover::open(config).await
    }

    /// Lets go of everything, containers keep running.
    pub async fn shutdown(&self) {
        self.0.closing.cancel();
        let inner = Arc::clone(&self.0);
        if tokio::task::spawn_blocking(move || inner.db.close()).await.is_err() {
            tracing::error!("cannot close the state database");
        }
    }

    /// The record of one container.
    pub fn inspect(&self, name: &str) -> Result<ContainerRecord> {
        Ok((*self.container(name)?.record()).clone())
    }

    /// What happens from now on, and what happened since `options.since`. An error, for a reader that is too slow, ends it.
    pub fn events(&self, options: EventOptions) -> Result<BoxStream<'static, Result<Event>>> {
        self.0.bus.subscribe(options)
    }

    fn container(&self, name: &str) -> Result<Arc<Container>> {
        self.0.index.get(name)
    }

    fn container_dir(&self, id: &str) -> PathBuf {
        self.0.config.data_root.join("containers").join(id)
    }

    /// Tells listeners that `action` happened to a container.
    fn tell(&self, container: &Container, action: impl Into<String>, more: &[(&str, String)]) {
        let mut attributes = container.attributes();
        attributes.extend(more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        self.0.bus.publish("container", action, &container.id, attributes);
    }

    /// Notes a change that the journal keeps until the database has it.
    fn note(&self, record: &ContainerRecord) -> Result<()> {
        self.0.journal.note(record)?;
        self.0.db.store_lazily(record)
    }
}
