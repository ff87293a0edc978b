//! Times containers from create to exit: `start <rootfs> [runs [idle [shim]]]`, as root. The root file system
//! needs `/bin/true`, and `/bin/sleep` where the memory of `idle` shims is to be measured; `shim` is a program to
//! use in place of this one.

use hostd_runtime::spec::{ContainerSpec, Log, Namespaces, NetNs, NsMode, Resources, RootFs, Seccomp, Stdin};
use hostd_runtime::{Runtime, RuntimeConfig, SHIM_ARG, Streams, shim_main};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|arg| arg == SHIM_ARG) {
        shim_main();
    }
    let rootfs = PathBuf::from(args.get(1).ok_or("usage: start <rootfs> [runs]")?);
    let runs: u32 = args.get(2).map_or(Ok(50), |n| n.parse())?;
    let idle: u32 = args.get(3).map_or(Ok(0), |n| n.parse())?;
    let shim = PathBuf::from(args.get(4).map_or("/proc/self/exe", String::as_str));
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    tokio.block_on(measure(&rootfs, runs, idle, shim))
}

type Failed = Box<dyn std::error::Error>;

async fn measure(rootfs: &Path, runs: u32, idle: u32, shim: PathBuf) -> Result<(), Failed> {
    let dir = std::env::temp_dir().join(format!("hostd-start-{}", std::process::id()));
    let parent = format!("hostd-start-{}", std::process::id());
    let runtime = Runtime::open(RuntimeConfig {
        exec_root: dir.join("exec"),
        shim_exe: shim,
        cgroup_driver: hostd_runtime::cgroup::Driver::Cgroupfs,
        realtime: (0, 0),
        cgroup_parent: parent.clone(),
    })?;
    let mut spent = [Duration::ZERO; 4];
    for run in 0..runs {
        let id = format!("{run:064x}");
        let layer = make_layer(&dir, &id)?;
        let mut at = Instant::now();
        let mut lap = |which: usize| {
            spent[which] += at.elapsed();
            at = Instant::now();
        };
        let container = runtime.create(spec(id.clone(), rootfs, &layer)).await?;
        lap(0);
        let stream = container.attach(Streams { stdin: false, stdout: true, stderr: true }).await?;
        container.start().await?;
        lap(1);
        container.wait().await?;
        lap(2);
        drop(stream);
        runtime.remove(&id).await?;
        lap(3);
    }
    for (name, total) in ["create", "start", "exit", "remove"].iter().zip(spent) {
        println!("{name:8}{:7.2} ms", total.as_secs_f64() * 1e3 / f64::from(runs));
    }
    println!("{:8}{:7.2} ms", "total", spent.iter().sum::<Duration>().as_secs_f64() * 1e3 / f64::from(runs));
    if idle > 0 {
        weigh(&runtime, rootfs, &dir, idle).await?;
    }
    std::fs::remove_dir_all(&dir)?;
    // The parent of the containers' cgroups stays with a daemon; here it is of no more use.
    Ok(hostd_runtime::cgroup::Cgroup::open("", &parent).remove()?)
}

fn make_layer(dir: &Path, id: &str) -> std::io::Result<PathBuf> {
    let layer = dir.join(id);
    std::fs::create_dir_all(layer.join("upper"))?;
    std::fs::create_dir_all(layer.join("work"))?;
    Ok(layer)
}

/// Prints what each of several shims of idle containers takes of the memory, in the kernel's own words.
async fn weigh(runtime: &Runtime, rootfs: &Path, dir: &Path, idle: u32) -> Result<(), Failed> {
    let ids: Vec<String> = (0..idle).map(|number| format!("idle{number:060x}")).collect();
    for id in &ids {
        let mut spec = spec(id.clone(), rootfs, &make_layer(dir, id)?);
        spec.args = vec!["/bin/sleep".into(), "1000000".into()];
        let container = runtime.create(spec).await?;
        container.start().await?;
    }
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        let cmdline = std::fs::read(path.join("cmdline")).unwrap_or_default();
        if !cmdline.split(|byte| *byte == 0).any(|arg| ids.iter().any(|id| id.as_bytes() == arg)) {
            continue;
        }
        // One that ended meanwhile has no memory.
        for line in std::fs::read_to_string(path.join("smaps_rollup")).unwrap_or_default().lines() {
            if let [key, kilobytes, "kB"] = line.split_whitespace().collect::<Vec<_>>()[..] {
                *sums.entry(key.to_owned()).or_default() += kilobytes.parse::<u64>()?;
            }
        }
    }
    for key in ["Rss:", "Pss:", "Pss_Anon:", "Pss_File:", "Private_Clean:", "Private_Dirty:"] {
        let sum = sums.get(key).copied().unwrap_or_default();
        println!("{key:15}{:9.1} kB a shim", sum as f64 / f64::from(idle));
    }
    if std::env::var_os("HOLD").is_some() {
        std::io::stdin().read_line(&mut String::new())?;
    }
    for id in &ids {
        runtime.remove(id).await?;
    }
    Ok(())
}

fn spec(id: String, rootfs: &Path, layer: &Path) -> ContainerSpec {
    ContainerSpec {
        id,
        args: vec!["/bin/true".into()],
        env: Vec::new(),
        cwd: "/".into(),
        user: String::new(),
        group_add: Vec::new(),
        hostname: "bench".into(),
        domainname: String::new(),
        tty: false,
        console_size: None,
        stdin: Stdin::Null,
        rootfs: RootFs {
            lower: vec![rootfs.to_owned()],
            upper: layer.join("upper"),
            work: layer.join("work"),
            label: String::new(),
        },
        read_only_rootfs: false,
        mounts: Vec::new(),
        namespaces: Namespaces {
            net: NetNs::Host,
            user: None,
            pid: NsMode::Private,
            ipc: NsMode::Private,
            uts: NsMode::Private,
            cgroup: NsMode::Private,
        },
        privileged: false,
        cap_add: Vec::new(),
        cap_drop: Vec::new(),
        seccomp: Seccomp::Default,
        no_new_privileges: false,
        masked_paths: None,
        readonly_paths: None,
        resources: Resources::default(),
        cgroup_parent: None,
        devices: Vec::new(),
        sysctls: BTreeMap::new(),
        ulimits: Vec::new(),
        oom_score_adj: None,
        shm_size: 64 << 20,
        no_shm: false,
        id_map: None,
        apparmor: None,
        writable_cgroups: false,
        init: false,
        log: Log::default(),
        scratch: None,
        runtime: None,
        annotations: BTreeMap::new(),
        hooks: Default::default(),
        selinux: Default::default(),
    }
}
