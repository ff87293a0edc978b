//! The part of hooks that the container's first process has.

use super::devices::Node;
use super::rootfs::Root;
use super::{GO, HOOKS, expect, identity};
use crate::Kernel;
use crate::capabilities::CapSet;
use crate::hooks::{Kind, Runner};
use crate::oci::Config;
use crate::spec::ContainerSpec;
use crate::wire::{self, Attempt, Doing};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

/// Where hooks are run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HookSite<'a> {
    pub(crate) runner: &'a Runner,
    /// As other runtimes would be told it.
    pub(crate) cgroup: &'a str,
}

impl HookSite<'_> {
    /// Where hooks see the root file system before the container turns to it; made.
    pub(super) fn rootfs(&self) -> Attempt<String> {
        let path = format!("{}/rootfs", self.runner.bundle);
        std::fs::create_dir(&path).doing(|| format!("make {path}"))?;
        Ok(path)
    }

    /// Describes the container, has the shim run what is to be run in the host's namespaces, then runs what is to be run
    /// in the container's. The root is mounted with all that belongs on it, and still one directory among the host's.
    pub(super) fn run(
        &self,
        sync: &OwnedFd,
        root: &Root,
        spec: &ContainerSpec,
        nodes: &[Node],
        caps: CapSet,
        kernel: Kernel,
    ) -> Attempt<()> {
        let bundle = &self.runner.bundle;
        let user = identity::resolve(root, &spec.user, &spec.group_add)?;
        let host_pid = std::fs::read_link("/proc/self").doing(|| "read /proc/self".into())?;
        let config = Config {
            spec,
            kernel,
            caps,
            user: &user,
            nodes,
            bound_devices: &[],
            rootfs: &format!("{bundle}/rootfs"),
            cgroup: self.cgroup,
            netns: Some(&format!("/proc/{}/ns/net", host_pid.display())),
            userns: None,
            shm: None,
        };
        write_private(&format!("{bundle}/config.json"), &config.oci()?.to_string())?;
        wire::send_fds(sync.as_fd(), &[HOOKS], &[]).doing(|| "tell the shim".into())?;
        expect(sync, GO)?;
        rustix::process::chdir(bundle.as_str()).doing(|| format!("enter {bundle}"))?;
        self.runner.run(Kind::CreateContainer, own_pid())
    }
}

/// An environment holds secrets.
fn write_private(path: &str, text: &str) -> Attempt<()> {
    let doing = || format!("write {path}");
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).doing(doing)?;
    std::io::Write::write_all(&mut file, text.as_bytes()).doing(doing)
}

/// This process's pid in its own namespace, which is what hooks there are told.
pub(super) fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_pid()
}
