//! hostd: a container engine that speaks the Docker Engine API.
//!
//! ```text
//! settings   flags and one JSON file ──▶ config   what was asked for, checked
//!   lock         one daemon per data root
//!   listen       unix sockets, tcp, sockets from the service manager; tls over those that need it
//!   serve        accepts, and hands each connection to the API until told to stop
//! ```
//! The same program, called with [`hostd_runtime::SHIM_ARG`] first, is the parent of one container, called as `docker-init`
//! process 1 of one that another runtime has built, and with [`dial::ARG`] a connection to the daemon.

mod config;
mod dial;
mod failure;
mod group;
mod limits;
mod listen;
mod lock;
mod logging;
mod notify;
mod quiet;
mod remap;
mod serve;
mod settings;
mod tls;

use clap::Parser;
use config::Config;
use failure::Failure;
use hostd_api::Api;
use hostd_engine::{Engine, EngineConfig};
use std::process::ExitCode;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

type Result<T, E = Failure> = std::result::Result<T, E>;

/// After how long without a request the daemon is idle.
const IDLE: std::time::Duration = std::time::Duration::from_secs(1);

fn main() -> ExitCode {
    if std::env::args_os().next().is_some_and(|name| hostd_runtime::is_init(&name)) {
        hostd_runtime::init_main();
    }
    // A shim forks, and a fork of a process with threads could not go on: nothing may come before this.
    if std::env::args_os().nth(1).is_some_and(|arg| arg == hostd_runtime::SHIM_ARG) {
        hostd_runtime::shim_main();
    }
    let result = if std::env::args_os().nth(1).is_some_and(|arg| arg == dial::ARG) {
        dial::run(std::env::args_os().skip(2))
    } else {
        hostd_sys::process::limit_malloc(2);
        run(&settings::Flags::parse())
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print();
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &settings::Flags) -> Result<()> {
    let config = Config::load(flags)?;
    if flags.validate {
        println!("configuration OK");
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::new("hostd must run as root").hint("start it with sudo, or as a system service"));
    }
    logging::start(config.log_level);
    let _lock = lock::Lock::take(&config.data_root, &config.pidfile)?;
    check_data_root(&config.data_root)?;
    let config = config.remap()?;
    if let Err(error) = hostd_sys::process::raise_open_files() {
        tracing::warn!("cannot raise the limit of open files: {error}");
    }
    let runtime = runtime()?;
    let result = runtime.block_on(daemon(config, flags));
    // What still blocks (a read from a registry, say) must not hold the exit up.
    runtime.shutdown_background();
    result
}

/// Refuses a place that cannot hold containers' writable layers, such as the root of a container that hostd runs in.
fn check_data_root(path: &std::path::Path) -> Result<()> {
    const OVERLAY_MAGIC: u64 = 0x794c_7630;
    let found = rustix::fs::statfs(path)
        .map_err(|error| Failure::new(format!("cannot look at {}", path.display())).because(error))?;
    if found.f_type as u64 != OVERLAY_MAGIC {
        return Ok(());
    }
    Err(Failure::new(format!("data-root {} is on an overlay", path.display()))
        .because("an overlay cannot hold the layers of another")
        .hint("in a container, mount a volume there"))
}

/// Few threads, since the work is the kernel's and the shims'.
fn runtime() -> Result<Runtime> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .max_blocking_threads(32)
        .thread_keep_alive(std::time::Duration::from_secs(2))
        .thread_name("hostd")
        .enable_all()
        .build()
        .map_err(|error| Failure::new("cannot start worker threads").because(error))
}

async fn daemon(config: Config, flags: &settings::Flags) -> Result<()> {
    let handler = |kind| signal(kind).map_err(|error| Failure::new("cannot handle signals").because(error));
    let (mut terminate, mut interrupt) =
        (handler(SignalKind::terminate())?, handler(SignalKind::interrupt())?);
    let mut hangup = handler(SignalKind::hangup())?;
    // Listening comes first: a port in use must not cost a start of the engine, nor leave its bridge behind.
    let tls = tls::Tls::load(config.tls.as_ref())?;
    let listeners = listen::bind(&config, tls.as_ref())?;
    let (live_restore, patience) = (config.live_restore, config.shutdown_timeout);
    let engine = Engine::open(engine_config(&config))
        .await
        .map_err(|error| Failure::new("cannot start the engine").because(error))?;
    let api = Api::new(engine.clone());
    tokio::spawn(tidy(api.activity()));
    let server = serve::Server::start(listeners, api);
    notify::ready();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "ready");
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => {
                if let Some(tls) = &tls {
                    tls.reload();
                }
                reload(flags, &engine);
            }
        }
    }
    tracing::info!("stopping; containers {}", if live_restore { "run on" } else { "are stopped" });
    notify::stopping();
    server.stop().await;
    if !live_restore {
        engine.stop_containers(patience).await;
    }
    engine.shutdown().await;
    Ok(())
}

/// Takes over what can change in a running daemon: the OCI runtimes. A configuration that is wrong changes nothing.
fn reload(flags: &settings::Flags, engine: &Engine) {
    let taken = Config::load(flags).and_then(|config| {
        let set = engine.set_runtimes(&config.runtimes);
        set.map_err(|error| Failure::new("cannot take over the runtimes").because(error))
    });
    match taken {
        Ok(()) => {
            tracing::info!("configuration reloaded");
            engine.tell_reloaded();
        }
        Err(failure) => {
            let cause = std::error::Error::source(&failure).map(ToString::to_string).unwrap_or_default();
            tracing::error!(%failure, cause, "cannot reload the configuration");
        }
    }
}

/// Gives memory back whenever there has been nothing to do for a while. What only the start or a large request takes is
/// most of what is mapped then: measured, 9 of 12 MB.
async fn tidy(activity: hostd_api::Activity) {
    tokio::time::sleep(IDLE).await;
    loop {
        if let Err(error) = hostd_sys::process::give_back_memory() {
            tracing::debug!("cannot give memory back: {error}");
        }
        activity.lull(IDLE).await;
    }
}

fn engine_config(config: &Config) -> EngineConfig {
    EngineConfig {
        data_root: config.data_root.clone(),
        exec_root: config.exec_root.clone(),
        // Not its path: an upgrade may have put another version there while this one runs.
        shim_exe: "/proc/self/exe".into(),
        images: hostd_engine::ImageStoreConfig {
            insecure_registries: config.insecure_registries.clone(),
            mirrors: config.registry_mirrors.clone(),
            id_map: config.defaults.id_map.clone(),
        },
        network: hostd_engine::NetworkConfig {
            bridge: config.bridge.clone(),
            bip: config.bip,
            icc: config.icc,
            state_dir: config.data_root.join("network"),
        },
        labels: config.labels.clone(),
        cdi_spec_dirs: config.limits.cdi_spec_dirs.clone(),
        cgroup_driver: config.limits.cgroup_driver,
        cgroup_parent: config.limits.cgroup_parent.clone(),
        realtime: config.limits.realtime,
        defaults: hostd_engine::Defaults {
            ulimits: config.limits.ulimits.clone(),
            shm_size: config.limits.shm_size,
            ..config.defaults.clone()
        },
        live_restore: config.live_restore,
        runtimes: config.runtimes.clone(),
        log: config.log.clone(),
    }
}
