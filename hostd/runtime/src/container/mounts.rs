//! What is mounted inside the root file system: the standard file systems, the user's mounts, and the masks
//! over what a container must not see or change.
//!
//! Every mount is made detached and put on a descriptor, so that no path is resolved twice.

use super::devices::{self, NULL};
use super::procfs::Procfs;
use super::remapped::Outside;
use super::rootfs::{
    self, DEVPTS_MAGIC, Make, PROC_MAGIC, Root, clone_tree, filesystem, is_dir, make_in, move_to, must_be,
    normal,
};
use crate::cgroup::CgroupMount;
use crate::spec::{ContainerSpec, IdMap, MASKED_PATHS, Mount, MountKind, NsMode, READONLY_PATHS};
use crate::wire::{Attempt, Doing, Failure};
use hostd_sys::mount::{MountAttr, NODEV, NOEXEC, NOSUID, RDONLY};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, XattrFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Whether a mount of the user's stands in place of a standard one.
pub(crate) fn replaced(spec: &ContainerSpec, path: &str) -> bool {
    spec.mounts.iter().any(|mount| normal(&mount.destination) == normal(path))
}

/// What Docker puts into every container: the file by which programs tell that they run in one, and the place where old
/// programs (some JDKs among them) look for mounts. To be made before anything of the user's is mounted there.
pub(crate) fn marks(root: &Root) -> Attempt<()> {
    make_in(root.fd(), ".dockerenv", Make::File).doing(|| "make /.dockerenv".into())?;
    let etc = root.place("/etc", Make::Dir)?;
    match rustix::fs::symlinkat("/proc/mounts", &etc, "mtab") {
        // The image has its own, or a file for /etc.
        Ok(()) | Err(Errno::EXIST | Errno::NOTDIR) => Ok(()),
        Err(error) => Err(Failure::new(format!("cannot make /etc/mtab: {error}"))),
    }
}

/// Mounts `/proc`, `/sys`, `/dev` and what belongs in them.
pub(crate) fn standard(root: &Root, spec: &ContainerSpec, outside: &mut Outside) -> Attempt<()> {
    if let Some(proc) = outside.proc.take() {
        // The kernel refuses a directory that is a link; nothing below may be mounted elsewhere by one.
        own_directory(root, "proc")?;
        root.attach_own(&proc, "/proc", Make::Dir)?;
    }
    if !replaced(spec, "/dev") {
        own_directory(root, "dev")?;
        match outside.dev.take() {
            Some(dev) => {
                root.attach_own(&dev, "/dev", Make::Dir)?;
                devices::bind(root, &dev, &outside.elsewhere)?;
            }
            None => {
                let dev = filesystem("tmpfs", &labelled(DEV_OPTIONS.to_vec(), spec.selinux.mount()), NOSUID)?;
                dev_links(&dev)?;
                root.attach_own(&dev, "/dev", Make::Dir)?;
            }
        }
    }
    if let (Some(_), Some(node)) = (&outside.dev, outside.elsewhere.first()) {
        return Err(Failure::new(format!(
            "cannot make device {} where /dev is a mount of yours",
            node.path()
        )));
    }
    // One that the user mounts covers what would be mounted now.
    if !replaced(spec, "/dev") {
        below_dev(root, spec, outside.mqueue.take())?;
    }
    if let Some(sys) = outside.sys.take() {
        own_directory(root, "sys")?;
        root.attach_own(&sys, "/sys", Make::Dir)?;
    }
    Ok(())
}

/// The container's `/proc` and `/sys`, unless the user has others. In a user namespace they can be made only while the
/// host's are to be seen.
pub(crate) fn views(spec: &ContainerSpec) -> Attempt<(Option<OwnedFd>, Option<OwnedFd>)> {
    let quiet = NOSUID | NODEV | NOEXEC;
    let of_sys = quiet | if spec.privileged { 0 } else { RDONLY };
    let make = |path: &str, kind: &str, attrs: u64| match replaced(spec, path) {
        true => Ok(None),
        false => filesystem(kind, &[("source", kind)], attrs).map(Some),
    };
    Ok((make("/proc", "proc", quiet)?, make("/sys", "sysfs", of_sys)?))
}

/// Makes `/name` when it is missing and refuses it when it is anything but a directory.
fn own_directory(root: &Root, name: &str) -> Attempt<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(root.fd(), name, flags, Mode::empty()) {
        Ok(_) => Ok(()),
        Err(Errno::NOENT) => {
            rustix::fs::mkdirat(root.fd(), name, Mode::from_raw_mode(0o755)).doing(|| format!("make /{name}"))
        }
        Err(error) => Err(Failure::new(format!("cannot use /{name} of the image as a directory: {error}"))),
    }
}

/// How `/dev` is mounted.
pub(crate) const DEV_OPTIONS: [(&str, &str); 3] = [("source", "tmpfs"), ("mode", "755"), ("size", "65536k")];

/// The symbolic links in `/dev`.
pub(crate) fn dev_links(dev: &OwnedFd) -> Attempt<()> {
    let links = [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
        ("core", "/proc/kcore"),
    ];
    for (name, target) in links {
        rustix::fs::symlinkat(target, dev, name).doing(|| format!("make /dev/{name}"))?;
    }
    Ok(())
}

/// `/sys/fs/cgroup`, which shows the container's own cgroup where the namespace is its own.
pub(crate) fn cgroups(
    root: &Root,
    spec: &ContainerSpec,
    cgroup: &CgroupMount,
    host: Option<OwnedFd>,
) -> Attempt<()> {
    let path = "/sys/fs/cgroup";
    if replaced(spec, path) || replaced(spec, "/sys") {
        return Ok(());
    }
    let attrs = NOSUID | NODEV | NOEXEC | if spec.privileged || spec.writable_cgroups { 0 } else { RDONLY };
    if let Some(tree) = host {
        root.attach_own(&tree, path, Make::Dir)?;
        return root
            .change(&tree, MountAttr { set: RDONLY, ..MountAttr::default() }, true)
            .doing(|| format!("make {path} read-only"));
    }
    let (hierarchies, unified) = match cgroup {
        CgroupMount::V2 => {
            return root.attach_own(&filesystem("cgroup2", &[("source", "cgroup")], attrs)?, path, Make::Dir);
        }
        CgroupMount::V1 { hierarchies, unified } => (hierarchies, *unified),
    };
    let options = labelled(vec![("source", "tmpfs"), ("mode", "755")], spec.selinux.mount());
    let top = filesystem("tmpfs", &options, attrs & !RDONLY)?;
    root.attach_own(&top, path, Make::Dir)?;
    for (name, options) in hierarchies {
        let mut all = vec![("source", "cgroup")];
        all.extend(options.split(',').map(|option| option.split_once('=').unwrap_or((option, ""))));
        root.attach_own(&filesystem("cgroup", &all, attrs)?, &format!("{path}/{name}"), Make::Dir)?;
        if name.contains(',') {
            for part in name.split(',') {
                rustix::fs::symlinkat(name.as_str(), &top, part).doing(|| format!("make {path}/{part}"))?;
            }
        }
    }
    if unified {
        let tree = filesystem("cgroup2", &[("source", "cgroup")], attrs)?;
        root.attach_own(&tree, &format!("{path}/unified"), Make::Dir)?;
    }
    root.change(&top, MountAttr { set: attrs & RDONLY, ..MountAttr::default() }, false)
        .doing(|| format!("make {path} read-only"))
}

/// The options of a file system whose files are all to have one SELinux label.
pub(crate) fn labelled<'a>(
    mut options: Vec<(&'a str, &'a str)>,
    label: Option<&'a str>,
) -> Vec<(&'a str, &'a str)> {
    options.extend(label.map(|label| ("context", label)));
    options
}

/// Gives the top directory of a file system that takes labels its own.
fn label_root(mount: &OwnedFd, label: &str) -> rustix::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = rustix::fs::openat(mount, ".", flags, Mode::empty())?;
    match rustix::fs::fsetxattr(&top, "security.selinux", label.as_bytes(), XattrFlags::empty()) {
        Err(Errno::OPNOTSUPP) => Ok(()),
        result => result,
    }
}

/// Terminals, and what the IPC namespace that the container is in has of files.
fn below_dev(root: &Root, spec: &ContainerSpec, host_mqueue: Option<OwnedFd>) -> Attempt<()> {
    let quiet = NOSUID | NODEV | NOEXEC;
    if !replaced(spec, "/dev/pts") {
        let mut options =
            vec![("source", "devpts"), ("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620")];
        // The group `tty`, where it is anybody here.
        if spec.id_map.as_ref().is_none_or(|map| map.host_gid(5).is_some()) {
            options.push(("gid", "5"));
        }
        let options = labelled(options, spec.selinux.mount());
        root.attach_own(&filesystem("devpts", &options, NOSUID | NOEXEC)?, "/dev/pts", Make::Dir)?;
    }
    // In a user namespace that of the host cannot be mounted anew.
    let hosts = spec.id_map.is_some() && spec.namespaces.ipc == NsMode::Host;
    if let Some(mqueue) = host_mqueue {
        root.attach_own(&mqueue, "/dev/mqueue", Make::Dir)?;
    } else if !hosts && !replaced(spec, "/dev/mqueue") {
        let mqueue = filesystem("mqueue", &[("source", "mqueue")], quiet)?;
        if let Some(label) = spec.selinux.mount() {
            // It is there from the making of its namespace, and takes no label with the mount.
            label_root(&mqueue, label).doing(|| "label /dev/mqueue".into())?;
        }
        root.attach_own(&mqueue, "/dev/mqueue", Make::Dir)?;
    }
    if !replaced(spec, "/dev/shm") && spec.namespaces.ipc == NsMode::Private && !spec.no_shm {
        let size = spec.shm_size.to_string();
        let mut options = vec![("source", "shm"), ("mode", "1777")];
        if spec.shm_size > 0 {
            options.push(("size", &size));
        }
        let options = labelled(options, spec.selinux.mount());
        root.attach_own(&filesystem("tmpfs", &options, quiet)?, "/dev/shm", Make::Dir)?;
    }
    Ok(())
}

/// What the user mounts, detached, in the order of the spec; taken from the host before it is out of reach.
pub(crate) type Sources = Vec<Source>;

/// One of them.
#[derive(Debug)]
pub(crate) struct Source {
    mount: Mount,
    fd: OwnedFd,
    make: Make,
    changes: Changes,
}

impl Source {
    /// Lets nothing that is mounted on it appear on the host.
    pub(crate) fn keep_downstream(&mut self) {
        let slave = MountAttr { propagation: libc::MS_SLAVE, ..MountAttr::default() };
        if matches!(self.mount.kind, MountKind::Bind { .. }) {
            self.changes.insert(0, (slave, true));
        }
    }
}

/// How a mount is to be changed once it is in place, and whether that goes for the mounts below it too.
type Changes = Vec<(MountAttr, bool)>;

/// Opens the sources of all binds and makes the tmpfses.
pub(crate) fn open_sources(spec: &ContainerSpec) -> Attempt<Sources> {
    let open = |mount| open_source(mount, spec.id_map.as_ref(), spec.selinux.mount());
    let mut sources = spec.mounts.iter().map(open).collect::<Attempt<Sources>>()?;
    let shm = "/dev/shm";
    if spec.namespaces.ipc != NsMode::Private && !replaced(spec, shm) {
        let fd = foreign_shm(spec.namespaces.ipc)?;
        let kind = MountKind::Tmpfs { options: Vec::new() };
        let mount = Mount { destination: shm.into(), kind, read_only: false };
        sources.push(Source { mount, fd, make: Make::Dir, changes: Vec::new() });
    }
    Ok(sources)
}

/// Opens what is to be mounted; what is made for it belongs to the container's users of `map`, where there is one.
pub(crate) fn open_source(mount: &Mount, map: Option<&IdMap>, label: Option<&str>) -> Attempt<Source> {
    let (fd, make, changes) = match &mount.kind {
        MountKind::Bind { source, propagation, recursive, attributes, shallow, subpath } => {
            let read_only = if mount.read_only { RDONLY } else { 0 };
            let (deep, top) = if *shallow { (0, read_only) } else { (read_only, 0) };
            let fd = clone_source(source, subpath.as_deref(), *recursive)?;
            let (make, mut changes) =
                bind(&fd, source, propagation.as_deref(), *recursive, attributes | deep)?;
            if top != 0 {
                changes.push((MountAttr { set: top, ..MountAttr::default() }, false));
            }
            (fd, make, changes)
        }
        MountKind::Tmpfs { options } => (tmpfs(options, mount.read_only, map, label)?, Make::Dir, Vec::new()),
    };
    Ok(Source { mount: mount.clone(), fd, make, changes })
}

/// The `/dev/shm` of the host or another container.
pub(crate) fn foreign_shm(ipc: NsMode) -> Attempt<OwnedFd> {
    let doing = || "share /dev/shm".to_owned();
    let NsMode::Of(pid) = ipc else {
        return clone_tree(CWD, Path::new("/dev/shm"), false).doing(doing);
    };
    // A mount can be cloned only from within its own mount namespace; the clone belongs to none.
    let own = rustix::fs::open("/proc/self/ns/mnt", OFlags::CLOEXEC, Mode::empty()).doing(doing)?;
    let theirs =
        rustix::fs::open(format!("/proc/{pid}/ns/mnt"), OFlags::CLOEXEC, Mode::empty()).doing(doing)?;
    let kind = Some(rustix::thread::LinkNameSpaceType::Mount);
    let enter = |fd: &OwnedFd| rustix::thread::move_into_link_name_space(fd.as_fd(), kind);
    enter(&theirs).doing(doing)?;
    let shm = Root::current()
        .and_then(|root| root.open("/dev/shm", OFlags::PATH).doing(doing))
        .and_then(|fd| clone_tree(&fd, Path::new(""), false).doing(doing));
    enter(&own).doing(doing)?;
    shm
}

/// A clone of what is at `source`, or at a path below it.
pub(crate) fn clone_source(source: &Path, subpath: Option<&Path>, recursive: bool) -> Attempt<OwnedFd> {
    let Some(subpath) = subpath else {
        return clone_tree(CWD, source, recursive).doing(|| format!("bind {}", source.display()));
    };
    let doing = || format!("access path {}", source.join(subpath).display());
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let top = rustix::fs::open(source, flags | OFlags::DIRECTORY, Mode::empty()).doing(doing)?;
    // What a container has put there must not lead out of it.
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let place = loop {
        match rustix::fs::openat2(&top, subpath, flags, Mode::empty(), resolve) {
            // A rename elsewhere raced with "..".
            Err(Errno::AGAIN) => {}
            Err(Errno::XDEV) => {
                return Err(Failure::new(format!("cannot {}: path escapes from its volume", doing())));
            }
            result => break result.doing(doing)?,
        }
    };
    clone_tree(&place, Path::new(""), recursive).doing(doing)
}

/// What makes the clone `fd` of `source` what it is to be in the container.
fn bind(
    fd: &OwnedFd,
    source: &Path,
    propagation: Option<&str>,
    recursive: bool,
    set: u64,
) -> Attempt<(Make, Changes)> {
    let doing = || format!("bind {}", source.display());
    let make = if is_dir(fd).doing(doing)? { Make::Dir } else { Make::File };
    let (kind, deep) = match propagation.unwrap_or("rprivate") {
        "" | "rprivate" => (libc::MS_PRIVATE, true),
        "private" => (libc::MS_PRIVATE, false),
        "rslave" => (libc::MS_SLAVE, true),
        "slave" => (libc::MS_SLAVE, false),
        "rshared" => (libc::MS_SHARED, true),
        "shared" => (libc::MS_SHARED, false),
        other => return Err(Failure::new(format!("invalid mount propagation {other:?}"))),
    };
    let mut changes = vec![(MountAttr { set, propagation: kind, ..MountAttr::default() }, deep)];
    if set != 0 && recursive && !deep {
        changes.push((MountAttr { set, ..MountAttr::default() }, true));
    }
    Ok((make, changes))
}

/// A tmpfs with mount(8)'s options on top of Docker's defaults.
fn tmpfs(options: &[String], read_only: bool, map: Option<&IdMap>, label: Option<&str>) -> Attempt<OwnedFd> {
    let mut attrs = NOSUID | NODEV | NOEXEC | if read_only { RDONLY } else { 0 };
    let mut data = vec![("source", "tmpfs")];
    for option in options.iter().flat_map(|list| list.split(',')).filter(|option| !option.is_empty()) {
        match option {
            "ro" => attrs |= RDONLY,
            "rw" | "relatime" | "async" => {}
            "nosuid" => attrs |= NOSUID,
            "suid" => attrs &= !NOSUID,
            "nodev" => attrs |= NODEV,
            "dev" => attrs &= !NODEV,
            "noexec" => attrs |= NOEXEC,
            "exec" => attrs &= !NOEXEC,
            "noswap" => data.push(("noswap", "")),
            _ => match option.split_once('=') {
                Some((
                    key @ ("size" | "mode" | "uid" | "gid" | "nr_inodes" | "nr_blocks" | "huge"),
                    value,
                )) => {
                    data.push((key, value));
                }
                _ => return Err(Failure::new(format!("invalid tmpfs option [{option:?}]"))),
            },
        }
    }
    let owners = map.map(|map| owners(&data, map)).transpose()?;
    for (key, id) in owners.iter().flatten() {
        // The last one counts.
        data.push((key, id.as_str()));
    }
    filesystem("tmpfs", &labelled(data, label), attrs)
}

/// Whom a tmpfs belongs to on the host whose options name users of the container, or nobody and thus its root.
fn owners(options: &[(&str, &str)], map: &IdMap) -> Attempt<[(&'static str, String); 2]> {
    let on_host = |key: &'static str, host_id: &dyn Fn(u32) -> Option<u32>| {
        let asked = options.iter().rev().find(|(other, _)| *other == key).map_or("0", |(_, id)| id);
        let id = asked.parse().ok().and_then(host_id);
        let id = id.ok_or_else(|| Failure::new(format!("invalid tmpfs option [\"{key}={asked}\"]")))?;
        Ok((key, id.to_string()))
    };
    Ok([on_host("uid", &|id| map.host_uid(id))?, on_host("gid", &|id| map.host_gid(id))?])
}

/// Puts the user's mounts in their places.
pub(crate) fn bind_sources(
    root: &Root,
    spec: &ContainerSpec,
    sources: Sources,
    mut host_mqueue: Option<OwnedFd>,
) -> Attempt<()> {
    for source in sources {
        let place = source.place(root)?;
        let path = &source.mount.destination;
        let parts = normal(path);
        check_proc(spec, path, &parts, &place, &source.fd)?;
        let on_dev = parts == ["dev"];
        source.attach(root, &place)?;
        if on_dev {
            below_dev(root, spec, host_mqueue.take())?;
        }
    }
    Ok(())
}

impl Source {
    /// Where it is to be mounted.
    pub(crate) fn place(&self, root: &Root) -> Attempt<OwnedFd> {
        let path = &self.mount.destination;
        if normal(path).is_empty() {
            return Err(Failure::new(format!("invalid mount destination {path:?}: it is the root")));
        }
        root.place(path, self.make)
    }

    /// Mounts it there.
    pub(crate) fn attach(self, root: &Root, place: &OwnedFd) -> Attempt<()> {
        let path = &self.mount.destination;
        move_to(&self.fd, place).doing(|| {
            format!("mount on {path} (are you trying to mount a directory onto a file, or vice-versa?)")
        })?;
        // Before anything is mounted below it, of which the host may not hear.
        for (change, recursive) in self.changes {
            root.change(&self.fd, change, recursive)
                .doing(|| format!("set the options of the mount on {path}"))?;
        }
        Ok(())
    }
}

/// Files in `/proc` that may be covered, by which containers are shown what they have instead of what the machine has
/// (lxcfs); as runc has them.
const SHOWN: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
];

/// What programs read in `/proc` they trust: only another procfs may stand in its place (CVE-2019-16884), and nothing else
/// inside it than [`SHOWN`], where a link in a volume could lead too.
fn check_proc(
    spec: &ContainerSpec,
    path: &str,
    parts: &[&str],
    place: &OwnedFd,
    source: &OwnedFd,
) -> Attempt<()> {
    if parts == ["proc"] {
        return match must_be(source, PROC_MAGIC) {
            Ok(()) => Ok(()),
            Err(_) => Err(Failure::new(format!("{path:?} cannot be mounted because it is not of type proc"))),
        };
    }
    let shown = SHOWN.iter().any(|file| normal(file) == parts);
    if must_be(place, PROC_MAGIC).is_ok() && !spec.privileged && !shown {
        return Err(Failure::new(format!("{path:?} cannot be mounted because it is inside /proc")));
    }
    Ok(())
}

/// The terminal as `/dev/console`: by its descriptor, since a name in `/dev/pts` could have become something else
/// meanwhile, and on no link, which could lead to what is to be masked (CVE-2025-52565).
pub(crate) fn console(root: &Root, slave: &OwnedFd) -> Attempt<()> {
    let doing = || "set up /dev/console".to_owned();
    must_be(slave, DEVPTS_MAGIC).doing(doing)?;
    let terminal = clone_tree(slave, Path::new(""), false).doing(doing)?;
    root.attach_own(&terminal, "/dev/console", Make::File)
}

/// Sets the kernel parameters of the container's namespaces.
pub(crate) fn sysctls(proc: &Procfs, spec: &ContainerSpec) -> Attempt<()> {
    for (name, value) in &spec.sysctls {
        let path = format!("sys/{}", sysctl_path(name));
        proc.write(&path, value).doing(|| format!("set sysctl {name} to {value:?}"))?;
    }
    Ok(())
}

/// `net.ipv4.ip_forward` as a path. A name with slashes (`net/ipv4/conf/eth0.1/forwarding`) keeps its dots.
fn sysctl_path(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'.' => name
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            })
            .collect(),
        _ => name.to_owned(),
    }
}

/// Masks, read-only paths and the read-only root.
pub(crate) fn protect(root: &Root, spec: &ContainerSpec) -> Attempt<()> {
    if !spec.privileged {
        let listed = |own: &Option<Vec<String>>, default: &[&str]| {
            own.clone().unwrap_or_else(|| default.iter().map(|p| (*p).to_owned()).collect())
        };
        for path in listed(&spec.readonly_paths, &READONLY_PATHS) {
            make_read_only(root, &path)?;
        }
        mask(root, &listed(&spec.masked_paths, &MASKED_PATHS), spec.selinux.mount())?;
    }
    if spec.read_only_rootfs { rootfs::read_only(root) } else { Ok(()) }
}

/// Opens what is to be covered; `None` where there is nothing.
fn covered(root: &Root, path: &str) -> Attempt<Option<OwnedFd>> {
    match root.open(path, OFlags::PATH) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(Failure::new(format!("cannot open {path}: {error}"))),
    }
}

fn make_read_only(root: &Root, path: &str) -> Attempt<()> {
    let Some(place) = covered(root, path)? else { return Ok(()) };
    let doing = || format!("make {path} read-only");
    let copy = clone_tree(&place, Path::new(""), true).doing(doing)?;
    move_to(&copy, &place).doing(doing)?;
    root.change(&copy, MountAttr { set: RDONLY, ..MountAttr::default() }, true).doing(doing)
}

/// Covers files with `/dev/null` and directories with one empty, read-only tmpfs.
fn mask(root: &Root, paths: &[String], label: Option<&str>) -> Attempt<()> {
    let (mut empty, mut null): (Option<OwnedFd>, Option<OwnedFd>) = (None, None);
    let options = labelled(vec![("source", "tmpfs")], label);
    for path in paths {
        let Some(place) = covered(root, path)? else { continue };
        let directory = is_dir(&place).doing(|| format!("mask {path}"))?;
        let cover = if directory { "an empty directory" } else { "/dev/null" };
        let doing = || format!("mask {path} with {cover}");
        let cover = match if directory { &empty } else { &null } {
            Some(cover) => clone_tree(cover, Path::new(""), false).doing(doing)?,
            None if directory => filesystem("tmpfs", &options, RDONLY | NOSUID | NODEV | NOEXEC)?,
            None => clone_tree(null_device(root)?, Path::new(""), false).doing(doing)?,
        };
        move_to(&cover, &place).doing(doing)?;
        // To be cloned only now: older kernels (6.1) clone no mount that is attached nowhere.
        if directory { &mut empty } else { &mut null }.get_or_insert(cover);
    }
    Ok(())
}

/// The container's `/dev/null`, which an image or another container could have made something else.
fn null_device(root: &Root) -> Attempt<OwnedFd> {
    let doing = || "open /dev/null".to_owned();
    let fd = root.open("/dev/null", OFlags::PATH | OFlags::NOFOLLOW).doing(doing)?;
    let stat = rustix::fs::statat(&fd, "", AtFlags::EMPTY_PATH).doing(doing)?;
    let is_char = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_char_device();
    if is_char && stat.st_rdev == NULL {
        Ok(fd)
    } else {
        Err(Failure::new("/dev/null in the container is not the null device"))
    }
}

/// Makes the working directory where it is missing.
pub(crate) fn working_directory(root: &Root, path: &str) -> Attempt<()> {
    root.place(if path.is_empty() { "/" } else { path }, Make::Dir).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctl_names_become_paths() {
        assert_eq!(sysctl_path("net.ipv4.ip_forward"), "net/ipv4/ip_forward");
        assert_eq!(sysctl_path("net/ipv4/conf/eth0.1/forwarding"), "net/ipv4/conf/eth0.1/forwarding");
        assert_eq!(sysctl_path("net.ipv4.conf.eth0/1.forwarding"), "net/ipv4/conf/eth0.1/forwarding");
    }
}
