//! Steps that make a machine a container host. Each looks first, and changes only what differs.
//!
//! ```text
//! wait for SSH ─▶ probe ─▶ firewall tool ─▶ upload hostd ─▶ install: binary, certificates,
//!                                                            configuration, service ─▶ verify over mutual TLS (or SSH)
//! ```
//! It writes /usr/local/bin/hostd, /etc/hostd and a service, and nothing else on the machine: no updates, no change of
//! the host's name, no other engine touched.

mod binary;
mod certificate;
pub(crate) mod engine;
mod placed;
mod script;
mod upgrade;

pub(crate) use script::logs;
pub(crate) use upgrade::{Upgraded, Wanted, upgrade};

pub(crate) use binary::of_this_host;
pub(crate) use placed::{came_with, files};

use crate::connect::{self, Via};
use crate::error::{CliError, Doing as _};
use crate::ssh::{Session, Target};
use crate::store::{Machine, Store, authority};
use crate::ui::Progress;
use binary::Binary;
use certs::Authority;
use drivers::driver::{Driver, MachineState, Reporter as _};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use script::{Init, Install};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior};

/// How long a machine that was just started may take to let us in: software emulation is slow.
pub(crate) const BOOT: Duration = Duration::from_secs(420);
/// How long hostd may take to answer once it was started.
const ANSWER: Duration = Duration::from_secs(60);
/// How often an engine that is awaited is asked, and how many questions may wait for an answer.
const ASK_EVERY: Duration = Duration::from_millis(200);
const ASK_MOST: usize = 6;

/// Where a machine's SSH is.
pub(crate) fn target(machine: &Machine, driver: &dyn Driver) -> Result<Target, CliError> {
    connect::ssh_target(machine, driver)?.ok_or_else(|| {
        CliError::new(format!("machine `{}` has no SSH", machine.name))
            .hint(format!("driver `{}` knows only its engine", machine.record.driver))
    })
}

/// Runs all steps. The caller holds the machine's lock.
pub(crate) async fn run(
    machine: &mut Machine,
    driver: &dyn Driver,
    store: &Store,
    progress: &Progress,
    accept_host_key: bool,
) -> Result<(), CliError> {
    let mut target = target(machine, driver)?;
    target.accept_any = accept_host_key;
    progress.step("Waiting for SSH");
    let session = wait_for_ssh(&target, driver).await?;
    let provisioned = with_session(&session, machine, driver, store, progress).await;
    session.close().await;
    provisioned?;
    progress.finish();
    Ok(())
}

async fn with_session(
    session: &Session,
    machine: &mut Machine,
    driver: &dyn Driver,
    store: &Store,
    progress: &Progress,
) -> Result<(), CliError> {
    pin(session, machine, progress)?;
    progress.step("Looking at the machine");
    let facts = Facts::ask(session).await?;
    progress.step(&format!(
        "Found {} ({}, {})",
        facts.get("distribution"),
        facts.get("arch"),
        facts.get("init")
    ));
    if facts.get("firewall") == "none" {
        progress.step("Installing nftables, which is missing");
        as_root(session, &facts, script::NFTABLES, "cannot install nftables").await?;
    }
    let binary = binary::find(facts.get("arch"))?;
    let uploaded = if facts.get("hostd") == binary.sha256 {
        None
    } else {
        Some(upload(session, &binary, progress).await?)
    };
    progress.step("Installing certificates, configuration and service");
    let installed = install(session, &facts, machine, driver, store, uploaded.as_ref()).await;
    if let (Some(uploaded), Err(_)) = (&uploaded, &installed) {
        // The error that is reported is the one that came first.
        let _ = session.run(&format!("rm -rf '{}'", uploaded.dir), b"").await;
    }
    installed?;
    let by = if machine.via() == Via::Ssh { "SSH" } else { "mutual TLS" };
    progress.step(&format!("Verifying the engine over {by}"));
    match verify_installed(session, &facts, machine, driver, progress).await {
        Ok(()) => Ok(()),
        Err(error) => {
            let mut hint = last_of_log(session, &facts).await;
            if !driver.features().start_stop && machine.via() == Via::Tls {
                // A network of somebody else's lies between.
                hint.push_str(&format!(
                    "\n  with `--via tls` berth speaks to {} directly, not through SSH and its jump hosts: that port must be open",
                    driver.url()?
                ));
            }
            Err(CliError::new(format!("hostd on machine `{}` does not answer", machine.name))
                .because(error)
                .hint(hint))
        }
    }
}

/// What hostd wrote last, as a hint.
async fn last_of_log(session: &Session, facts: &Facts) -> String {
    let log = match as_root(session, facts, script::LOGS, "cannot read hostd's log").await {
        Ok(log) => log,
        Err(_) => {
            return "hostd's log could not be read; `berth ssh` shows whether the machine can be reached"
                .to_owned();
        }
    };
    let lines: Vec<&str> = log.lines().collect();
    let last = lines[lines.len().saturating_sub(20)..].join("\n  ");
    if last.trim().is_empty() {
        "hostd has written no log".to_owned()
    } else {
        format!("the last lines of hostd's log on the machine:\n  {last}")
    }
}

/// Until the machine lets us in; a host that is there already gets one try.
async fn wait_for_ssh(target: &Target, driver: &dyn Driver) -> Result<Session, CliError> {
    let patience = if driver.features().start_stop { BOOT } else { Duration::ZERO };
    let until = Instant::now() + patience;
    loop {
        let error = match Session::connect(target).await {
            Ok(session) => return Ok(session),
            Err(error) => error,
        };
        if error.may_pass() && Instant::now() < until && !has_stopped(driver).await {
            tokio::time::sleep(Duration::from_millis(500)).await;
            continue;
        }
        let error = CliError::from(error);
        return Err(match console(driver).await {
            Some(tail) => error.hint(tail),
            None => error,
        });
    }
}

/// From the first contact on, the machine must show the same key.
fn pin(session: &Session, machine: &mut Machine, progress: &Progress) -> Result<(), CliError> {
    if let Some(fingerprint) = session.first_contact() {
        progress.say(&format!(
            "first contact with `{}`: host key {fingerprint}, trusted from now on",
            machine.name
        ));
    }
    if let Some(key) = session.host_key()
        && (machine.record.ssh.host_keys.is_empty() || session.first_contact().is_some())
    {
        machine.record.ssh.host_keys = vec![key];
        machine.save()?;
    }
    Ok(())
}

/// What the probe found.
struct Facts(BTreeMap<String, String>);

impl Facts {
    async fn ask(session: &Session) -> Result<Self, CliError> {
        let output = session.run("sh -s", script::PROBE.as_bytes()).await?;
        let pairs = output.stdout.lines().filter_map(|line| line.split_once('='));
        let facts = Self(pairs.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect());
        if facts.get("os") != "Linux" {
            let found = if facts.get("os").is_empty() { output.stderr.trim() } else { facts.get("os") };
            return Err(CliError::new("the machine does not run Linux").because(format!("it says: {found}")));
        }
        if facts.get("root") == "none" {
            return Err(CliError::new(
                "the user on the machine is neither root nor may use sudo without a password",
            )
            .hint("log in as root, or give the user passwordless sudo"));
        }
        if facts.get("sha256sum").is_empty() {
            return Err(
                CliError::new("the machine has no sha256sum").hint("install coreutils or busybox there")
            );
        }
        Ok(facts)
    }

    fn get(&self, key: &str) -> &str {
        self.0.get(key).map_or("", String::as_str)
    }

    fn init(&self) -> Init {
        match self.get("init") {
            "systemd" => Init::Systemd,
            "openrc" => Init::OpenRc,
            "berth" => Init::Berth,
            _ => Init::None,
        }
    }
}

/// Runs a script as root and answers its stdout.
async fn as_root(session: &Session, facts: &Facts, script: &str, doing: &str) -> Result<String, CliError> {
    let command = if facts.get("root") == "self" { "sh -s" } else { "sudo -n sh -s" };
    let output = session.run(command, script.as_bytes()).await?;
    if output.status == 0 {
        return Ok(output.stdout);
    }
    let said = if output.stderr.trim().is_empty() { output.stdout.trim() } else { output.stderr.trim() };
    let last: Vec<&str> = said.lines().rev().take(5).collect();
    let last: Vec<&str> = last.into_iter().rev().collect();
    let error = CliError::new(doing).because(format!("exit status {}: {}", output.status, last.join("\n")));
    Err(if said.contains("No space left") { error.hint("free some space on the machine") } else { error })
}

/// A hostd that lies ready on the machine.
struct Uploaded {
    dir: String,
    path: String,
    sha256: String,
}

async fn upload(session: &Session, binary: &Binary, progress: &Progress) -> Result<Uploaded, CliError> {
    let staged = session.run("sh -s", script::STAGE.as_bytes()).await?;
    let (dir, free) = staged.stdout.trim().split_once(' ').unwrap_or((staged.stdout.trim(), ""));
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if staged.status != 0 || !dir.starts_with('/') || !dir.chars().all(plain) {
        return Err(
            CliError::new("cannot make a temporary directory on the machine").because(staged.stderr.trim())
        );
    }
    let uploaded =
        Uploaded { dir: dir.to_owned(), path: format!("{dir}/hostd"), sha256: binary.sha256.clone() };
    let megabytes = |bytes: u64| bytes.div_ceil(1 << 20);
    let full = |free: u64| {
        CliError::new("the machine's disk is full")
            .because(format!("{dir} has {free} MB free, and hostd needs {} MB twice", megabytes(binary.size)))
            .hint("free some space on the machine")
    };
    let free = free.parse::<u64>().ok().map(|kilobytes| kilobytes / 1024);
    let result = match free.filter(|free| *free < megabytes(binary.size)) {
        Some(free) => Err(full(free)),
        None => session
            .upload(&binary.path, &uploaded.path, |done| {
                progress.progress("Uploading hostd", done, Some(binary.size))
            })
            .await
            .map_err(CliError::from),
    };
    if let Err(error) = result {
        let _ = session.run(&format!("rm -rf '{dir}'"), b"").await;
        return Err(error);
    }
    Ok(uploaded)
}

async fn install(
    session: &Session,
    facts: &Facts,
    machine: &mut Machine,
    driver: &dyn Driver,
    store: &Store,
    uploaded: Option<&Uploaded>,
) -> Result<(), CliError> {
    let ca = Authority::load_or_create(&store.certs_dir()).doing("cannot use the certificate authority")?;
    let address = driver.address().await?;
    let on_machine = Some(facts.get("certificate")).filter(|sum| !sum.is_empty());
    let fresh = certificate::needed(machine, &ca, &address, on_machine)?;
    let config = config(machine, driver)?;
    let install = Install {
        hostd: uploaded.map(|uploaded| (uploaded.path.as_str(), uploaded.sha256.as_str())),
        certificates: fresh
            .as_ref()
            .map(|(leaf, _)| (ca.cert_pem(), leaf.cert_pem.as_str(), leaf.key_pem.as_str())),
        config: &config,
        init: facts.init(),
    };
    as_root(session, facts, &script::install(&install), "cannot install hostd on the machine").await?;
    if let Some(uploaded) = uploaded {
        session.run(&format!("rm -rf '{}'", uploaded.dir), b"").await?;
    }
    if let Some((_, note)) = fresh {
        machine.record.server_certificate = Some(note);
        machine.save()?;
    }
    Ok(())
}

/// Keys of hostd's configuration that are ours, as we could not reach it without.
pub(crate) const OWN_KEYS: [&str; 5] = ["hosts", "tlsverify", "tlscacert", "tlscert", "tlskey"];

/// `/etc/hostd/hostd.json`.
fn config(machine: &Machine, driver: &dyn Driver) -> Result<String, CliError> {
    // Where ports are forwarded, the one in the URL is the laptop's.
    let port = if driver.features().forwards_ports { 2376 } else { authority(&driver.url()?).1 };
    let mut hosts = vec!["unix:///run/hostd.sock".to_owned()];
    // Nobody would come by a port.
    if machine.record.via != Via::Ssh {
        hosts.push(format!("tcp://0.0.0.0:{port}"));
    }
    let mut config = serde_json::json!({
        "hosts": hosts,
        "tlsverify": true,
        "tlscacert": "/etc/hostd/tls/ca.pem",
        "tlscert": "/etc/hostd/tls/server.pem",
        "tlskey": "/etc/hostd/tls/server-key.pem",
    });
    for (key, value) in machine.record.hostd.iter().filter(|(key, _)| !OWN_KEYS.contains(&key.as_str())) {
        config[key] = serde_json::to_value(value).doing(format!("cannot write `{key}` for hostd"))?;
    }
    let text = serde_json::to_string_pretty(&config).doing("cannot write hostd's configuration")?;
    Ok(text + "\n")
}

/// Until the engine answers as the machine that it should be.
pub(crate) async fn verify(
    machine: &Machine,
    driver: &dyn Driver,
    patience: Duration,
) -> Result<(), CliError> {
    let until = Instant::now() + patience;
    let (mut asked, mut patient) = (FuturesUnordered::new(), false);
    let most = if machine.via() == Via::Ssh { 1 } else { ASK_MOST };
    let (mut ticks, mut count) = (tokio::time::interval(ASK_EVERY), 0_u32);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = None;
    loop {
        tokio::select! {
            biased;
            Some((was_patient, answer)) = asked.next() => match answer {
                Ok(()) => return Ok(()),
                Err(error) => {
                    if was_patient {
                        patient = false;
                    }
                    last = Some(error);
                }
            },
            _ = ticks.tick() => {
                count += 1;
                let over = Instant::now() >= until || (count % 8 == 0 && has_stopped(driver).await);
                match last.take_if(|_| over && asked.is_empty()) {
                    Some(error) => return Err(error),
                    None if asked.len() < most && (!over || last.is_none()) => {
                        asked.push(ask(machine, driver, !patient));
                        patient = true;
                    }
                    None => {}
                }
            }
        }
    }
}

/// Asks once. What was dialled before the machine's network was up may never be answered, and what is dialled after that
/// takes its time where instructions are translated: so one is given long, and others beside it a moment.
async fn ask(machine: &Machine, driver: &dyn Driver, patiently: bool) -> (bool, Result<(), CliError>) {
    let limit = if patiently { Duration::from_secs(10) } else { Duration::from_millis(1500) };
    let answer = match tokio::time::timeout(limit, engine::get_verifying(machine, driver, "/_ping")).await {
        Ok(answer) => answer.map(drop),
        Err(_) => match driver.url() {
            Ok(url) => Err(CliError::new(format!("{url} did not answer in time"))),
            Err(error) => Err(error.into()),
        },
    };
    (patiently, answer)
}

/// Whether the machine is known to be off, so that waiting for it is in vain.
async fn has_stopped(driver: &dyn Driver) -> bool {
    driver.features().start_stop
        && matches!(driver.state().await, Ok(MachineState::Stopped | MachineState::Absent))
}

/// The end of the machine's console as a hint, where there is one.
pub(crate) async fn console(driver: &dyn Driver) -> Option<String> {
    let tail = driver.console_tail().await?;
    let tail = tail.trim();
    let indented = || format!("the end of the machine's console:\n  {}", tail.replace('\n', "\n  "));
    (!tail.is_empty()).then(indented)
}

/// The same for an engine that was just installed; one that keeps ending is not waited for.
async fn verify_installed(
    session: &Session,
    facts: &Facts,
    machine: &Machine,
    driver: &dyn Driver,
    progress: &Progress,
) -> Result<(), CliError> {
    let until = Instant::now() + ANSWER;
    let mut answers_over_ssh = false;
    loop {
        // A port that is filtered says nothing for as long as one listens.
        let patience = if answers_over_ssh { Duration::from_secs(3) } else { Duration::from_secs(12) };
        let verified = tokio::time::timeout(patience, verify(machine, driver, Duration::from_secs(2))).await;
        let error = match verified {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error,
            Err(_) => CliError::new(format!("{} did not answer in time", driver.url()?)),
        };
        if answers_over_ssh {
            // It listens everywhere or nowhere, so that something on the way keeps us from its port.
            progress.say(&format!(
                "{} cannot be reached from here: its engine is reached over SSH",
                driver.url()?
            ));
            return Ok(());
        }
        if machine.via() == Via::Auto {
            let asked = tokio::time::timeout(Duration::from_secs(10), engine::get(machine, "/_ping")).await;
            answers_over_ssh = matches!(asked, Ok(Ok(_)));
        }
        // Only to be done sooner: a session that breaks says nothing of the engine.
        let health = as_root(session, facts, script::HEALTH, "cannot ask for hostd's service").await;
        if health.is_ok_and(|health| health.trim() == "dead") || Instant::now() >= until {
            return Err(error);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
