//! Another hostd on a machine, with the way back.
//!
//! ```text
//! /usr/local/bin/.hostd-new   staged: uploaded, its checksum right, and it told its version
//! /usr/local/bin/hostd.old    the one before, from the swap on
//! ```
//! Staged ─▶ swapped, restarted ─▶ verified: the engine answers as it should, and as the version that it should be. One
//! that does not is swapped back. Containers run on, as hostd finds them again when it starts. Each step looks first, so
//! that all may be taken again after an interruption; the journal tells whether what lies at hostd's place was ever
//! verified, since one that was not must not become `hostd.old`.

use super::binary::{self, Binary};
use super::script;
use super::{Facts, as_root, last_of_log, target, upload, verify_installed, wait_for_ssh};
use crate::error::CliError;
use crate::ssh::Session;
use crate::store::{Event, Journal, Machine, Steps};
use crate::ui::Progress;
use drivers::driver::{Driver, Reporter as _};
use std::path::PathBuf;

/// A step of `upgrade`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum UpgradeStep {
    /// The new hostd lies beside the old one.
    Staged,
    /// It has the old one's place, and runs.
    Swapped,
    /// It answers.
    Verified,
}

impl Steps for UpgradeStep {
    const ALL: &'static [Self] = &[Self::Staged, Self::Swapped, Self::Verified];
    const FILE: &'static str = "upgrade";

    fn word(self) -> &'static str {
        match self {
            Self::Staged => "staged",
            Self::Swapped => "swapped",
            Self::Verified => "verified",
        }
    }
}

/// Which hostd is wanted.
pub(crate) struct Wanted {
    /// This file, instead of the one that came with berth.
    pub(crate) file: Option<PathBuf>,
    /// This version of those that lie with berth.
    pub(crate) version: Option<String>,
    /// An older one will do.
    pub(crate) downgrade: bool,
}

/// What came of it.
pub(crate) enum Upgraded {
    /// It is what was wanted already.
    Already(String),
    /// From one version to another.
    Now { from: String, to: String },
}

/// One upgrade under way.
struct Upgrade<'a> {
    session: &'a Session,
    facts: Facts,
    machine: &'a Machine,
    driver: &'a dyn Driver,
    progress: &'a Progress,
    journal: Journal<UpgradeStep>,
}

/// Runs it. The caller holds the machine's lock.
pub(crate) async fn upgrade(
    machine: &Machine,
    driver: &dyn Driver,
    wanted: &Wanted,
    progress: &Progress,
) -> Result<Upgraded, CliError> {
    let target = target(machine, driver)?;
    progress.step("Waiting for SSH");
    let session = wait_for_ssh(&target, driver).await?;
    let upgraded = async {
        progress.step("Looking at the machine");
        let facts = Facts::ask(&session).await?;
        let journal = machine.journal_of();
        Upgrade { session: &session, facts, machine, driver, progress, journal }.run(wanted).await
    };
    let upgraded = upgraded.await;
    session.close().await;
    upgraded
}

impl Upgrade<'_> {
    async fn run(&self, wanted: &Wanted) -> Result<Upgraded, CliError> {
        let before = self.facts.get("hostd");
        if before.is_empty() {
            let name = &self.machine.name;
            return Err(CliError::new(format!("machine `{name}` has no hostd"))
                .hint(format!("`berth provision {name}` installs it")));
        }
        let binary = binary::choose(self.facts.get("arch"), wanted)?;
        // The last upgrade may have been interrupted at any of its steps.
        let steps = self.journal.steps()?;
        let pending =
            steps.iter().any(|(step, event)| *step == UpgradeStep::Swapped && *event != Event::Undone);
        let from = self.version("/usr/local/bin/hostd").await;
        if before == binary.sha256 && !pending {
            self.journal.end()?;
            return Ok(Upgraded::Already(from.unwrap_or_else(|| "unknown".to_owned())));
        }
        let to = self.stage(&binary, from.as_deref(), wanted).await?;
        self.swap(&binary, pending).await?;
        self.journal.plan(UpgradeStep::Verified)?;
        self.progress.step("Verifying that it answers");
        if let Err(error) = self.verify(&to).await {
            return Err(self.roll_back(error).await);
        }
        self.journal.end()?;
        Ok(Upgraded::Now { from: from.unwrap_or_else(|| "unknown".to_owned()), to })
    }

    /// Brings the new hostd beside the old one; answers its version.
    async fn stage(&self, binary: &Binary, from: Option<&str>, wanted: &Wanted) -> Result<String, CliError> {
        let Self { session, facts, progress, .. } = self;
        self.journal.plan(UpgradeStep::Staged)?;
        let uploaded = upload(session, binary, progress).await?;
        let staged =
            as_root(session, facts, &script::stage(&uploaded.path, &binary.sha256), "cannot stage hostd")
                .await;
        // What was uploaded has been moved, or is of no use.
        let _ = session.run(&format!("rm -rf '{}'", uploaded.dir), b"").await;
        staged?;
        let refuse = async |error: CliError| -> CliError {
            // Nothing else was touched.
            let removed =
                as_root(session, facts, script::UNSTAGE, "cannot remove what was staged").await.is_ok();
            if removed && !self.is_swapped() {
                let _ = self.journal.end();
            }
            error
        };
        let Some(to) = self.version(script::STAGED).await else {
            return Err(refuse(
                CliError::new(format!("{} does not run on the machine", binary.path.display()))
                    .hint("`hostd --version` must tell a version there"),
            )
            .await);
        };
        if let Some(from) = from
            && older(&to, from)
            && !wanted.downgrade
        {
            let error = CliError::new(format!("hostd {to} is older than the machine's {from}"));
            return Err(refuse(
                error.hint("say `--force`: an older hostd may not read what a newer one wrote"),
            )
            .await);
        }
        self.journal.done(UpgradeStep::Staged)?;
        Ok(to)
    }

    fn is_swapped(&self) -> bool {
        let steps = self.journal.steps().unwrap_or_default();
        steps.iter().any(|(step, event)| *step == UpgradeStep::Swapped && *event != Event::Undone)
    }

    async fn swap(&self, binary: &Binary, pending: bool) -> Result<(), CliError> {
        self.progress.step("Putting the new hostd in place of the old one");
        if !pending {
            as_root(self.session, &self.facts, script::KEEP, "cannot keep the old hostd").await?;
        }
        self.journal.plan(UpgradeStep::Swapped)?;
        let script = script::swap(&binary.sha256, self.facts.init());
        as_root(self.session, &self.facts, &script, "cannot put hostd in place").await?;
        Ok(self.journal.done(UpgradeStep::Swapped)?)
    }

    /// Until the engine answers as it should, and is the one that was brought.
    async fn verify(&self, version: &str) -> Result<(), CliError> {
        let Self { session, facts, machine, driver, progress, .. } = self;
        verify_installed(session, facts, machine, *driver, progress).await?;
        let answers = super::engine::version(machine).await?;
        if version.split_whitespace().last() == Some(answers.as_str()) {
            return Ok(());
        }
        Err(CliError::new(format!("it answers as version {answers}, not as {version}")))
    }

    /// Puts the old hostd back; answers the error to tell.
    async fn roll_back(&self, error: CliError) -> CliError {
        let Self { session, facts, machine, .. } = self;
        let name = &machine.name;
        let log = last_of_log(session, facts).await;
        self.progress.step("It does not answer: putting the old hostd back");
        let back = async {
            let script = script::swap_back(facts.init());
            as_root(session, facts, &script, "cannot put the old hostd back").await?;
            verify_installed(session, facts, machine, self.driver, self.progress).await?;
            self.journal.note(Event::Undone, UpgradeStep::Swapped)?;
            self.journal.end()?;
            Ok::<(), CliError>(())
        };
        let failed = CliError::new(format!("the new hostd on machine `{name}` does not answer"))
            .because(error)
            .hint(log);
        match back.await {
            Ok(()) => failed.also_hint("the old hostd is back, and answers; containers were left alone"),
            Err(worse) => failed.also_hint(format!(
                "the old one is not back ({}): `berth upgrade {name}` tries once more, `berth provision {name}` installs anew",
                worse.one_line()
            )),
        }
    }

    /// What a hostd on the machine says that it is: `0.1.0`.
    async fn version(&self, path: &str) -> Option<String> {
        let script = format!("timeout 20 {path} --version </dev/null\n");
        let said = as_root(self.session, &self.facts, &script, "cannot ask hostd for its version").await;
        said.ok()?
            .trim()
            .strip_prefix("hostd ")
            .map(str::to_owned)
            .filter(|version| numbers(version).is_some())
    }
}

/// `1.2.3` of a version, without what may follow it.
fn numbers(version: &str) -> Option<[u64; 3]> {
    let core = version.split(['-', '+', ' ']).next()?;
    let mut parts = core.split('.').map(str::parse);
    let numbers = [parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?];
    parts.next().is_none().then_some(numbers)
}

/// Whether the first version is older than the second; those of one number count as equal.
fn older(version: &str, than: &str) -> bool {
    matches!((numbers(version), numbers(than)), (Some(a), Some(b)) if a < b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        for (version, than, is_older) in [
            ("0.1.0", "0.2.0", true),
            ("0.9.0", "0.10.0", true),
            ("1.0.0-rc.1", "1.0.0", false),
            ("1.0.0", "1.0.0", false),
            ("2.0.0", "1.9.9", false),
        ] {
            assert_eq!(older(version, than), is_older, "{version} {than}");
        }
        for none in ["", "1", "1.2", "1.2.x", "1.2.3.4"] {
            assert_eq!(numbers(none), None, "{none}");
        }
    }
}
