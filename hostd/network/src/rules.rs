//! The firewall as it should be, and the calls that make it so.

use crate::error::NetworkError;
use crate::firewall::{Entries, Firewall, Mapping, Ruleset};
use crate::linked::{Call, Party};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Keeps our tables in the kernel and the list of what they should say in step.
pub(crate) struct Rules {
    firewall: Box<dyn Firewall>,
    /// Locked while the kernel's rules change, so that they change in the order of this list.
    wanted: Mutex<Wanted>,
}

struct Wanted {
    rules: Ruleset,
    /// Whether the kernel has them, as far as we know.
    in_force: bool,
    /// Why containers that are kept apart cannot be linked, if so.
    no_links: Option<String>,
}

impl Rules {
    pub(crate) fn new(firewall: Box<dyn Firewall>, rules: Ruleset) -> Self {
        Self { firewall, wanted: Mutex::new(Wanted { rules, in_force: false, no_links: None }) }
    }

    /// Puts everything in force.
    pub(crate) fn enforce(&self) -> Result<(), NetworkError> {
        self.apply(&mut self.lock(), &Entries::default(), |_| Ok(()))
    }

    /// What else on this host drops packets.
    pub(crate) fn foreign_drops(&self) -> Option<String> {
        self.firewall.foreign_drops()
    }

    /// Why containers that are kept apart cannot be linked, if so.
    pub(crate) fn no_links(&self) -> Option<String> {
        self.lock().no_links.clone()
    }

    /// Whether the port `interface` of the bridge is to be kept from all other ports.
    pub(crate) fn isolates(&self, interface: &str) -> bool {
        let wanted = self.lock();
        let links_hold = wanted.in_force && wanted.no_links.is_none();
        let together = wanted.rules.icc || (links_hold && wanted.rules.parties.is_linked(interface));
        !together
    }

    /// Adds the container at the port `interface` with its `mappings`; none of it on error. Without ports and links this
    /// only makes sure that our rules are in force, which costs nothing when they are. Answers the ports of the bridge
    /// that the container's links connect.
    pub(crate) fn publish(
        &self,
        party: Party,
        interface: &str,
        mappings: &[Mapping],
    ) -> Result<Vec<String>, NetworkError> {
        let mut wanted = self.lock();
        if !wanted.rules.icc {
            wanted.rules.parties.add(party);
        }
        wanted.rules.mappings.extend_from_slice(mappings);
        let entries =
            Entries { mappings: mappings.to_vec(), calls: wanted.rules.parties.calls_of(interface) };
        let applied = self.apply(&mut wanted, &entries, |firewall| firewall.publish(&entries));
        let published = applied.and_then(|()| match &wanted.no_links {
            Some(why) if !entries.calls.is_empty() => Err(NetworkError::NoLinks(why.clone())),
            _ => Ok(()),
        });
        if published.is_err() {
            wanted.rules.parties.remove(interface);
            wanted.rules.mappings.retain(|mapping| !mappings.contains(mapping));
        }
        published.map(|()| ends(&entries.calls))
    }

    /// Takes the container at the port `interface` and its `mappings` away. Answers the ports of the bridge that links
    /// connected with it.
    pub(crate) fn withdraw(
        &self,
        interface: &str,
        mappings: &[Mapping],
    ) -> Result<Vec<String>, NetworkError> {
        let mut wanted = self.lock();
        let calls = wanted.rules.parties.calls_of(interface);
        wanted.rules.parties.remove(interface);
        wanted.rules.mappings.retain(|mapping| !mappings.contains(mapping));
        self.take_away(&mut wanted, Entries { mappings: mappings.to_vec(), calls })
    }

    /// Takes the link to the container `target` from the one at `interface`; answers as [`Self::withdraw`] does.
    pub(crate) fn unlink(&self, interface: &str, target: &str) -> Result<Vec<String>, NetworkError> {
        let mut wanted = self.lock();
        let mut calls = wanted.rules.parties.calls_of(interface);
        wanted.rules.parties.unlink(interface, target);
        let left = wanted.rules.parties.calls_of(interface);
        calls.retain(|call| !left.contains(call));
        self.take_away(&mut wanted, Entries { mappings: Vec::new(), calls })
    }

    fn take_away(&self, wanted: &mut Wanted, mut entries: Entries) -> Result<Vec<String>, NetworkError> {
        let ends = ends(&entries.calls);
        if wanted.no_links.is_some() {
            // They were never in force.
            entries.calls.clear();
        }
        if !entries.is_empty() {
            self.apply(wanted, &entries, |firewall| firewall.withdraw(&entries))?;
        }
        Ok(ends)
    }

    /// Changes the kernel by `step`, which does for `entries` what the list says already. Where the step fails (somebody
    /// flushed or edited our tables) or nothing is in force yet, the kernel gets the whole list anew.
    fn apply(
        &self,
        wanted: &mut Wanted,
        entries: &Entries,
        step: impl FnOnce(&dyn Firewall) -> Result<(), NetworkError>,
    ) -> Result<(), NetworkError> {
        if wanted.in_force {
            if entries.is_empty() {
                return Ok(());
            }
            match step(&*self.firewall) {
                Ok(()) => return Ok(()),
                Err(e) => tracing::warn!(
                    "firewall rules are not as they were left, putting all in place again: {e}"
                ),
            }
        }
        let replaced = self.firewall.replace(&wanted.rules);
        wanted.no_links = match &replaced {
            Ok(no_links) => no_links.clone(),
            Err(e) => Some(e.to_string()),
        };
        wanted.in_force = replaced.is_ok();
        replaced.map(drop)
    }

    fn lock(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The ports of the bridge that `calls` connect.
fn ends(calls: &[Call]) -> Vec<String> {
    let mut ends: Vec<_> = calls.iter().flat_map(Call::interfaces).map(str::to_owned).collect();
    ends.sort_unstable();
    ends.dedup();
    ends
}
