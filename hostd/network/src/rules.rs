//! The firewall as it should be, and the calls that make it so.

use crate::error::NetworkError;
use crate::firewall::{Firewall, Mapping, Ruleset};
use std::sync::{Mutex, PoisonError};

/// Keeps our table in the kernel and the list of what it should say in step.
pub(crate) struct Rules {
    firewall: Box<dyn Firewall>,
    /// Locked while the kernel's rules change, so that they change in the order of this list.
    wanted: Mutex<Wanted>,
}

struct Wanted {
    rules: Ruleset,
    /// Whether the kernel has them, as far as we know.
    in_force: bool,
}

impl Rules {
    pub(crate) fn new(firewall: Box<dyn Firewall>, rules: Ruleset) -> Self {
        Self { firewall, wanted: Mutex::new(Wanted { rules, in_force: false }) }
    }

    /// Puts everything in force.
    pub(crate) fn enforce(&self) -> Result<(), NetworkError> {
        self.publish(&[])
    }

    /// What else on this host drops packets.
    pub(crate) fn foreign_drops(&self) -> Option<String> {
        self.firewall.foreign_drops()
    }

    /// Adds `mappings`; none of them on error. Without any this only makes sure that our rules are in force, which
    /// costs nothing when they are.
    pub(crate) fn publish(&self, mappings: &[Mapping]) -> Result<(), NetworkError> {
        if mappings.is_empty() && self.lock().in_force {
            return Ok(());
        }
        let published =
            self.change(|wanted| wanted.extend_from_slice(mappings), |firewall| firewall.publish(mappings));
        if published.is_err() {
            self.lock().rules.mappings.retain(|mapping| !mappings.contains(mapping));
        }
        published
    }

    /// Takes `mappings` away.
    pub(crate) fn withdraw(&self, mappings: &[Mapping]) -> Result<(), NetworkError> {
        if mappings.is_empty() {
            return Ok(());
        }
        self.change(
            |wanted| wanted.retain(|mapping| !mappings.contains(mapping)),
            |firewall| firewall.withdraw(mappings),
        )
    }

    /// Changes the list by `edit` and the kernel by `step`. Where the step fails (somebody flushed or edited our table)
    /// or nothing is in force yet, the kernel gets the whole list anew.
    fn change(
        &self,
        edit: impl FnOnce(&mut Vec<Mapping>),
        step: impl FnOnce(&dyn Firewall) -> Result<(), NetworkError>,
    ) -> Result<(), NetworkError> {
        let mut wanted = self.lock();
        edit(&mut wanted.rules.mappings);
        if wanted.in_force {
            match step(&*self.firewall) {
                Ok(()) => return Ok(()),
                Err(e) => tracing::warn!(
                    "firewall rules are not as they were left, putting all in place again: {e}"
                ),
            }
        }
        wanted.in_force = false;
        self.firewall.replace(&wanted.rules)?;
        wanted.in_force = true;
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
