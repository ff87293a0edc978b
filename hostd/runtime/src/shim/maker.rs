//! How a container's processes come to be: the seam between the shim and what builds containers.
//!
//! Whatever makes them, the shim is their parent: it owns their stdio, hears of their end and answers for them.

use super::server::Task;
use crate::Streams;
use crate::cgroup::Cgroup;
use crate::spec::{ExecSpec, Resources};
use crate::wire::{Attempt, Doing, Failure, chain};
use std::os::fd::AsFd;

/// Makes one container's processes. What a kind does not say otherwise goes straight to the kernel.
pub(super) trait Maker: std::fmt::Debug {
    /// Lets the container's process, which is built, exec its program.
    fn start(&mut self, container: &Task) -> Attempt<()>;

    /// Starts a further process in the container.
    fn exec(
        &mut self,
        spec: &ExecSpec,
        attach: Option<Streams>,
        container: &Task,
        cgroup: &Cgroup,
    ) -> Attempt<Task>;

    /// Sends a signal to the container's process.
    fn kill(&mut self, signal: i32, container: &Task) -> Attempt<()> {
        hostd_sys::fork::pidfd_send_signal(container.pidfd.as_fd(), signal)
            .doing(|| format!("send signal {signal}"))
    }

    /// Stops all processes where they are, or lets them go on.
    fn freeze(&mut self, frozen: bool, cgroup: &Cgroup) -> Attempt<()> {
        let done = if frozen { cgroup.freeze() } else { cgroup.thaw() };
        done.map_err(|error| Failure::new(chain(&error)))
    }

    /// Changes limits; those that are `None` stay.
    fn update(&mut self, resources: &Resources, cgroup: &Cgroup) -> Attempt<()> {
        cgroup.update(resources).map_err(|error| Failure::new(chain(&error)))
    }

    /// The container has ended, and everyone was told: takes down what only this kind knows of.
    fn ended(&mut self) {}
}
