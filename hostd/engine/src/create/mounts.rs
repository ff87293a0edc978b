//! Which mounts a container gets: `Binds`, `Mounts` and `Volumes` of the request and of the image, resolved.

use crate::error::{EngineError, Result};
use crate::model::{ContainerConfig, HostConfig, MountPoint, MountRequest, MountType};
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// A mount that passed all checks; a volume's source is settled when it is made.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) point: MountPoint,
    pub(super) no_copy: bool,
    /// A volume without a name of its own.
    pub(super) anonymous: bool,
    /// Another container's, by `--volumes-from`: it is there already.
    pub(super) inherited: bool,
    pub(super) driver: String,
    pub(super) driver_options: BTreeMap<String, String>,
    pub(super) labels: BTreeMap<String, String>,
}

impl Planned {
    /// With the driver that the request names for all volumes, if it names one.
    fn by(mut self, driver: &str) -> Self {
        if !driver.is_empty() {
            driver.clone_into(&mut self.driver);
        }
        self
    }
}

const PROPAGATIONS: [&str; 6] = ["private", "rprivate", "shared", "rshared", "slave", "rslave"];

/// `name[:mode]` of `--volumes-from`; whether it may be written to.
pub(super) fn parse_volumes_from(text: &str) -> Result<(&str, bool)> {
    let (name, mode) = text.split_once(':').unwrap_or((text, "rw"));
    if name.is_empty() {
        return Err(EngineError::invalid(format!("invalid volumes-from specification: '{text}'")));
    }
    match mode_of(mode) {
        Ok(parsed) if !parsed.no_copy && parsed.propagation.is_none() => Ok((name, !parsed.read_only)),
        _ => Err(EngineError::invalid(format!("invalid mode: {mode}"))),
    }
}

/// What another container has mounted, for `--volumes-from`.
pub(super) fn inherit(points: &[MountPoint], writable: bool) -> impl Iterator<Item = Planned> {
    points.iter().map(move |point| {
        let mut planned = volume(None, String::new(), String::new());
        planned.point = MountPoint { rw: point.rw && writable, mode: String::new(), ..point.clone() };
        planned.no_copy = true;
        planned.inherited = true;
        planned
    })
}

/// All mounts, parents before children. What is asked for by itself takes the place of what is inherited.
pub(super) fn plan(
    config: &ContainerConfig,
    host: &HostConfig,
    inherited: Vec<Planned>,
) -> Result<Vec<Planned>> {
    let mut planned: Vec<Planned> = Vec::new();
    let add = |plan: Planned, planned: &mut Vec<Planned>| {
        let target = &plan.point.destination;
        if planned.iter().any(|p| p.point.destination == *target)
            || host.tmpfs.keys().any(|t| clean(t) == *target)
        {
            return Err(EngineError::invalid(format!("Duplicate mount point: {target}")));
        }
        planned.push(plan);
        Ok(())
    };
    for bind in &host.binds {
        add(parse_bind(bind)?.by(&host.volume_driver), &mut planned)?;
    }
    for mount in &host.mounts {
        add(from_request(mount)?, &mut planned)?;
    }
    for target in host.tmpfs.keys() {
        // Docker names no type here.
        check_target("tmpfs", target).map_err(|error| {
            let why =
                error.message.trim_start_matches("invalid mount config for type \"tmpfs\": ").to_owned();
            EngineError::invalid(why)
        })?;
    }
    // Of two containers that mount something at one place, the one named last counts.
    for plan in inherited.into_iter().rev() {
        let target = &plan.point.destination;
        let taken = planned.iter().any(|p| p.point.destination == *target)
            || host.tmpfs.keys().any(|t| clean(t) == *target);
        if !taken {
            planned.push(plan);
        }
    }
    // What is mounted explicitly takes the place of a volume that the image wants there.
    for path in &config.volumes {
        let target = check_target("volume", path)?;
        let taken = planned.iter().any(|p| p.point.destination == target)
            || host.tmpfs.keys().any(|t| clean(t) == target);
        if !taken {
            planned.push(volume(None, target, String::new()).by(&host.volume_driver));
        }
    }
    planned.sort_by_key(|p| p.point.destination.matches('/').count());
    Ok(planned)
}

fn volume(name: Option<String>, destination: String, mode: String) -> Planned {
    Planned {
        point: MountPoint {
            kind: MountType::Volume,
            name,
            source: String::new(),
            destination,
            driver: Some("local".to_owned()),
            mode,
            rw: true,
            propagation: String::new(),
            recursive: true,
            options: Vec::new(),
            shallow: false,
            subpath: None,
        },
        no_copy: false,
        anonymous: false,
        inherited: false,
        driver: "local".to_owned(),
        driver_options: BTreeMap::new(),
        labels: BTreeMap::new(),
    }
}

/// `source:destination[:options]`, or a destination alone.
fn parse_bind(spec: &str) -> Result<Planned> {
    let invalid = |why: &str| {
        let colon = if why.is_empty() { "" } else { ": " };
        EngineError::invalid(format!("invalid volume specification: '{spec}'{colon}{why}"))
    };
    let parts: Vec<&str> = spec.split(':').collect();
    let (source, target, mode) = match parts[..] {
        [target] => ("", target, ""),
        // `/data:ro` names a place and a mode, but nothing to put there.
        [_, second] if mode_of(second).is_ok() => return Err(invalid("")),
        [source, target] => (source, target, ""),
        [source, target, mode] => (source, target, mode),
        _ => return Err(invalid("")),
    };
    if parts.len() > 1 && source.is_empty() || target.is_empty() {
        return Err(invalid(""));
    }
    let kind = if source.starts_with('/') { "bind" } else { "volume" };
    let target = check_target(kind, target).map_err(|error| invalid(&error.message))?;
    let mode_parts = mode_of(mode).map_err(|part| EngineError::invalid(format!("invalid mode: {part}")))?;
    let is_bind = source.starts_with('/');
    if (is_bind && mode_parts.no_copy) || (!is_bind && mode_parts.propagation.is_some()) {
        return Err(EngineError::invalid(format!("invalid mode: {mode}")));
    }
    let mut planned = if is_bind {
        bind(clean(source), target, mode_parts.propagation)
    } else {
        if !source.is_empty() {
            check_volume_name(source)?;
        }
        volume((!source.is_empty()).then(|| source.to_owned()), target, String::new())
    };
    // Docker's default for volumes: the label of a shared one.
    let shown = if mode.is_empty() && !is_bind { "z" } else { mode };
    shown.clone_into(&mut planned.point.mode);
    planned.point.rw = !mode_parts.read_only;
    planned.no_copy = mode_parts.no_copy;
    Ok(planned)
}

fn bind(source: String, destination: String, propagation: Option<&str>) -> Planned {
    let mut planned = volume(None, destination, String::new());
    planned.point.kind = MountType::Bind;
    planned.point.source = source;
    planned.point.driver = None;
    planned.point.propagation = propagation.unwrap_or("rprivate").to_owned();
    planned
}

#[derive(Default)]
struct Mode<'a> {
    read_only: bool,
    no_copy: bool,
    propagation: Option<&'a str>,
}

/// Reads `ro,z,rshared`; the error is the part that means nothing.
fn mode_of(mode: &str) -> Result<Mode<'_>, &str> {
    let mut parsed = Mode::default();
    let mut parts = 0;
    for part in mode.split(',').filter(|_| !mode.is_empty()) {
        parts += 1;
        match part {
            "ro" => parsed.read_only = true,
            // Labels mean nothing without SELinux, consistency nothing on Linux.
            "rw" | "z" | "Z" | "consistent" | "cached" | "delegated" => {}
            "nocopy" => parsed.no_copy = true,
            _ if PROPAGATIONS.contains(&part) => parsed.propagation = Some(part),
            _ => return Err(part),
        }
    }
    // One of each kind.
    let kinds: [&[&str]; 5] =
        [&["ro", "rw"], &["z", "Z"], &["consistent", "cached", "delegated"], &["nocopy"], &PROPAGATIONS];
    let many = kinds.iter().any(|kind| mode.split(',').filter(|part| kind.contains(part)).count() > 1);
    if many || parts == 0 && !mode.is_empty() { Err(mode) } else { Ok(parsed) }
}

fn check_volume_name(name: &str) -> Result<()> {
    let mut chars = name.chars();
    let good = name.len() > 1
        && chars.next().is_some_and(|c| c.is_ascii_alphanumeric())
        && chars.all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    if good {
        return Ok(());
    }
    Err(EngineError::invalid(format!(
        "create {name}: \"{name}\" includes invalid characters for a local volume name, only \
         \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
    )))
}

/// A place in the container, cleaned.
fn check_target(kind: &str, target: &str) -> Result<String> {
    let refuse =
        |why: String| Err(EngineError::invalid(format!("invalid mount config for type \"{kind}\": {why}")));
    if target.is_empty() {
        return refuse("field Target must not be empty".to_owned());
    }
    if !target.starts_with('/') {
        return refuse(format!("invalid mount path: '{target}' mount path must be absolute"));
    }
    match clean(target) {
        root if root == "/" => refuse("invalid specification: destination can't be '/'".to_owned()),
        target => Ok(target),
    }
}

/// An absolute path without `.`, `..` and doubled slashes.
pub(super) fn clean(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn from_request(mount: &MountRequest) -> Result<Planned> {
    match mount.kind {
        MountType::Bind => bind_request(mount),
        MountType::Volume => volume_request(mount),
        MountType::Tmpfs => tmpfs_request(mount),
    }
}

fn bind_request(mount: &MountRequest) -> Result<Planned> {
    let target = check_target("bind", &mount.target)?;
    let refuse =
        |why: String| Err(EngineError::invalid(format!("invalid mount config for type \"bind\": {why}")));
    if mount.source.is_empty() {
        return refuse("field Source must not be empty".to_owned());
    }
    if !mount.source.starts_with('/') {
        return refuse(format!("invalid mount path: '{}' mount path must be absolute", mount.source));
    }
    let propagation = mount.propagation.as_deref().filter(|p| !p.is_empty());
    if let Some(unknown) = propagation.filter(|p| !PROPAGATIONS.contains(p)) {
        return refuse(format!("invalid propagation mode: {unknown}"));
    }
    check_depth(mount, propagation)?;
    let source = clean(&mount.source);
    if !Path::new(&source).exists() {
        if !mount.create_mountpoint {
            return refuse(format!("bind source path does not exist: {}", mount.source));
        }
        std::fs::create_dir_all(&source).map_err(crate::error::io(format!("cannot make {source}")))?;
    }
    let mut planned = bind(source, target, propagation);
    planned.point.rw = !mount.read_only;
    planned.point.recursive = !mount.non_recursive;
    planned.point.shallow = mount.read_only_non_recursive;
    Ok(planned)
}

/// How far read-only is to go; an option that would have no effect is refused.
fn check_depth(mount: &MountRequest, propagation: Option<&str>) -> Result<()> {
    let (top, all) = (mount.read_only_non_recursive, mount.read_only_force_recursive);
    let conflict = |what: &str| Err(EngineError::invalid(format!("mount options conflict: {what}")));
    if top && all {
        return conflict("ReadOnlyNonRecursive && ReadOnlyForceRecursive");
    }
    if top && !mount.read_only {
        return conflict("!ReadOnly && ReadOnlyNonRecursive");
    }
    if all && !mount.read_only {
        return conflict("!ReadOnly && ReadOnlyForceRecursive");
    }
    if all && mount.non_recursive {
        return conflict("NonRecursive && ReadOnlyForceRecursive");
    }
    // What is mounted there later would come in as it is.
    match propagation {
        Some(other) if all && other != "rprivate" => {
            conflict(&format!("ReadOnlyForceRecursive needs Propagation \"rprivate\", not {other:?}"))
        }
        _ => Ok(()),
    }
}

fn volume_request(mount: &MountRequest) -> Result<Planned> {
    let target = check_target("volume", &mount.target)?;
    if !mount.source.is_empty() {
        check_volume_name(&mount.source)?;
    }
    let mut planned =
        volume((!mount.source.is_empty()).then(|| mount.source.clone()), target, "z".to_owned());
    planned.point.rw = !mount.read_only;
    planned.no_copy = mount.no_copy;
    if !mount.subpath.is_empty() {
        planned.point.subpath = Some(check_subpath(&mount.subpath)?);
        // It has to be there: nothing is made, and thus nothing copied.
        planned.no_copy = true;
    }
    planned.labels.clone_from(&mount.labels);
    if let Some((driver, options)) = &mount.driver {
        if !driver.is_empty() {
            planned.driver.clone_from(driver);
        }
        planned.driver_options.clone_from(options);
    }
    Ok(planned)
}

/// A path inside a volume.
fn check_subpath(subpath: &str) -> Result<PathBuf> {
    let path = PathBuf::from(subpath);
    let inside = path.components().try_fold(0_usize, |depth, part| match part {
        Component::Normal(_) => Some(depth + 1),
        Component::CurDir => Some(depth),
        Component::ParentDir => depth.checked_sub(1),
        Component::RootDir | Component::Prefix(_) => None,
    });
    match inside {
        Some(_) => Ok(path),
        None => Err(EngineError::invalid(
            "invalid mount config for type \"volume\": subpath must be a relative path within the volume",
        )),
    }
}

fn tmpfs_request(mount: &MountRequest) -> Result<Planned> {
    let target = check_target("tmpfs", &mount.target)?;
    if !mount.source.is_empty() {
        return Err(EngineError::invalid(
            "invalid mount config for type \"tmpfs\": field Source must not be specified",
        ));
    }
    let mut planned = volume(None, target, String::new());
    planned.point.kind = MountType::Tmpfs;
    planned.point.driver = None;
    planned.point.rw = !mount.read_only;
    planned.point.options = vec!["noexec".to_owned(), "nosuid".to_owned(), "nodev".to_owned()];
    planned.point.options.extend(mount.tmpfs_size.map(|size| format!("size={size}")));
    planned.point.options.extend(mount.tmpfs_mode.map(|mode| format!("mode={mode:o}")));
    for option in &mount.tmpfs_options {
        planned.point.options.push(tmpfs_option(option)?);
    }
    Ok(planned)
}

/// One of those that the API takes in a list, each alone or with a value; as with Docker, these two and no other.
fn tmpfs_option(option: &[String]) -> Result<String> {
    match option.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [flag @ ("exec" | "noexec")] => Ok(flag.to_owned()),
        _ => Err(EngineError::invalid(format!(
            "invalid mount config for type \"tmpfs\": unknown option {:?}: only \"exec\" and \"noexec\" are allowed",
            option.join("=")
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binds(specs: &[&str]) -> Result<Vec<Planned>> {
        let host =
            HostConfig { binds: specs.iter().map(|s| (*s).to_owned()).collect(), ..HostConfig::default() };
        plan(&ContainerConfig::default(), &host, Vec::new())
    }

    #[test]
    fn binds_read_as_docker_reads_them() {
        for (spec, kind, name, source, target, rw) in [
            ("/src:/dst", MountType::Bind, None, "/src", "/dst", true),
            ("/src/../a//b:/dst/:ro,z", MountType::Bind, None, "/a/b", "/dst", false),
            ("data:/dst:rw", MountType::Volume, Some("data"), "", "/dst", true),
            ("/dst", MountType::Volume, None, "", "/dst", true),
        ] {
            let plan = binds(&[spec]).unwrap().remove(0).point;
            assert_eq!(
                (plan.kind, plan.name.as_deref(), plan.source.as_str()),
                (kind, name, source),
                "{spec}"
            );
            assert_eq!((plan.destination.as_str(), plan.rw), (target, rw), "{spec}");
        }
        assert_eq!(binds(&["/a:/b:ro,rshared"]).unwrap()[0].point.propagation, "rshared");
        assert!(binds(&["data:/b:nocopy"]).unwrap()[0].no_copy);
    }

    #[test]
    fn bad_binds_are_refused_in_dockers_words() {
        for (spec, message) in [
            ("/data:ro", "invalid volume specification: '/data:ro'"),
            ("/a:/b:ro:x", "invalid volume specification: '/a:/b:ro:x'"),
            (":/b", "invalid volume specification: ':/b'"),
            ("/a:/b:purple", "invalid mode: purple"),
            ("/a:/b:ro,rw", "invalid mode: ro,rw"),
            ("/a:/b:z,Z", "invalid mode: z,Z"),
            ("data:/b:nocopy,nocopy", "invalid mode: nocopy,nocopy"),
            ("/a:/b:nocopy", "invalid mode: nocopy"),
            ("data:/b:rshared", "invalid mode: rshared"),
            (
                "/a:b",
                "invalid volume specification: '/a:b': invalid mount config for type \"bind\": invalid mount path: 'b' \
                 mount path must be absolute",
            ),
            (
                "/a:/",
                "invalid volume specification: '/a:/': invalid mount config for type \"bind\": invalid specification: \
                 destination can't be '/'",
            ),
            (
                "./a:/b",
                "create ./a: \"./a\" includes invalid characters for a local volume name, only \
                 \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path",
            ),
        ] {
            assert_eq!(binds(&[spec]).unwrap_err().message, message, "{spec}");
        }
        assert_eq!(binds(&["/a:/b", "c0:/b"]).unwrap_err().message, "Duplicate mount point: /b");
    }

    #[test]
    fn an_explicit_mount_replaces_the_images_volume() {
        let config = ContainerConfig {
            volumes: ["/data".to_owned(), "/a/b".to_owned()].into(),
            ..ContainerConfig::default()
        };
        let host = HostConfig { binds: vec!["/src:/data".to_owned()], ..HostConfig::default() };
        let planned = plan(&config, &host, Vec::new()).unwrap();
        let got: Vec<_> = planned.iter().map(|p| (p.point.kind, p.point.destination.as_str())).collect();
        assert_eq!(got, [(MountType::Bind, "/data"), (MountType::Volume, "/a/b")]);
    }

    #[test]
    fn inherited_mounts_yield_to_those_asked_for() {
        let points: Vec<MountPoint> =
            binds(&["/src:/data", "vol:/own"]).unwrap().into_iter().map(|plan| plan.point).collect();
        let host = HostConfig { binds: vec!["/other:/data".to_owned()], ..HostConfig::default() };
        let config = ContainerConfig { volumes: ["/own".to_owned()].into(), ..ContainerConfig::default() };
        let planned = plan(&config, &host, inherit(&points, false).collect()).unwrap();
        let got: Vec<_> =
            planned.iter().map(|p| (p.point.source.as_str(), p.inherited, p.point.rw)).collect();
        assert_eq!(got, [("/other", false, true), ("", true, false)]);
    }

    #[test]
    fn volumes_from_has_a_name_and_a_mode() {
        assert_eq!(parse_volumes_from("db").unwrap(), ("db", true));
        assert_eq!(parse_volumes_from("db:ro").unwrap(), ("db", false));
        for bad in ["", ":ro", "db:purple", "db:nocopy", "db:rshared"] {
            assert!(parse_volumes_from(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bind_mount_without_its_source_is_refused() {
        let mount = MountRequest {
            kind: MountType::Bind,
            source: "/does/not/exist".to_owned(),
            target: "/x".to_owned(),
            read_only: false,
            propagation: None,
            non_recursive: false,
            create_mountpoint: false,
            no_copy: false,
            labels: BTreeMap::new(),
            driver: None,
            tmpfs_size: None,
            tmpfs_mode: None,
            tmpfs_options: Vec::new(),
            read_only_non_recursive: false,
            read_only_force_recursive: false,
            subpath: String::new(),
        };
        let host = HostConfig { mounts: vec![mount], ..HostConfig::default() };
        assert_eq!(
            plan(&ContainerConfig::default(), &host, Vec::new()).unwrap_err().message,
            "invalid mount config for type \"bind\": bind source path does not exist: /does/not/exist"
        );
    }
}
