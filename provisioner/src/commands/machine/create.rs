//! `berth create`: reserve the name, then keys, driver, certificates, hostd; each step in the journal before it is taken.

use crate::connect::{self, Via};
use crate::context::Context;
use crate::error::{CliError, Doing as _, PRECHECK};
use crate::fleet::Declared;
use crate::provision;
use crate::ssh::keys;
use crate::store::{
    Label, Labels, Machine, MachineName, NamePattern, Record, SCHEMA, ServerCertificate, Ssh, Stage, Step,
    StoreError, save_record,
};
use crate::ui::Progress;
use certs::Authority;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches};
use drivers::driver::{Driver, ErrorKind, Flag, FlagValues, Keys, MachineContext, Reporter as _};
use drivers::registry;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use time::OffsetDateTime;
use tokio::signal::unix::{SignalKind, signal};
use uuid::Uuid;

/// Create machines
///
/// Makes them through their driver, installs hostd over SSH, and verifies the engine over mutual TLS. The first machine
/// becomes the active one. Several are made at once; one that fails leaves the others. A driver has flags of its own: `berth create --driver qemu --help` shows them.
#[derive(Debug, clap::Args)]
pub(crate) struct CreateArgs {
    /// Name of the machine (can be repeated; `web-{1..8}` and `web-{a,b}` stand for several)
    #[arg(value_name = "NAME", required_unless_present = "file")]
    names: Vec<NamePattern>,
    /// Create the machine that a file declares: name, driver, flags, labels, hostd
    #[arg(long, short, value_name = "FILE", conflicts_with_all = ["names", "labels", "resume"])]
    file: Option<PathBuf>,
    /// Driver that makes it
    #[arg(long, short, env = "BERTH_DRIVER", default_value = registry::kinds()[0])]
    driver: String,
    /// Go on with a create that was interrupted
    #[arg(long)]
    resume: bool,
    /// Label of the machine (can be repeated)
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<Label>,
    /// How many machines are made at a time
    #[arg(long, value_name = "NUMBER", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    parallel: u16,
}

/// What a machine is to be.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    /// Kind of driver.
    pub(crate) driver: String,
    /// Its flags.
    pub(crate) flags: FlagValues,
    /// What the user says of it.
    pub(crate) labels: Labels,
    /// The fleet that it belongs to.
    pub(crate) fleet: Option<String>,
    /// Keys of hostd's configuration.
    pub(crate) hostd: toml::Table,
}

impl Wanted {
    /// What a file declares.
    pub(super) fn declared(declared: &Declared, fleet: Option<&str>) -> Self {
        let Declared { driver, flags, labels, hostd } = declared.clone();
        Self { driver, flags, labels, fleet: fleet.map(str::to_owned), hostd }
    }
}

impl CreateArgs {
    /// The names, each once.
    fn names(&self) -> Result<Vec<MachineName>, CliError> {
        let mut names: Vec<MachineName> = Vec::new();
        for name in self.names.iter().flat_map(|pattern| &pattern.0) {
            if names.contains(name) {
                return Err(CliError::usage(format!("`{name}` is named twice")));
            }
            names.push(name.clone());
        }
        Ok(names)
    }

    fn wanted(&self, flags: FlagValues) -> Wanted {
        let labels = self.labels.iter().map(|label| (label.key.clone(), label.value.clone())).collect();
        Wanted { driver: self.driver.clone(), flags, labels, ..Wanted::default() }
    }
}

/// The flags of the driver that the command line chooses.
pub(crate) fn driver_flags(argv: &[OsString]) -> Result<Vec<Arg>, CliError> {
    let kind = chosen_driver(argv);
    let flags = registry::flags(&kind).ok_or_else(|| {
        let unknown = registry::from_flags(&kind, &FlagValues::new(), nowhere()).err();
        unknown.map_or_else(|| CliError::usage(format!("unknown driver `{kind}`")), CliError::from)
    })?;
    Ok(flags.into_iter().map(|flag| argument(&flag)).collect())
}

fn nowhere() -> MachineContext {
    MachineContext {
        name: String::new(),
        id: Uuid::nil(),
        dir: "/nonexistent".into(),
        cache: "/nonexistent".into(),
    }
}

fn chosen_driver(argv: &[OsString]) -> String {
    let text = |arg: &OsString| arg.to_string_lossy().into_owned();
    let mut chosen = None;
    for (at, arg) in argv.iter().enumerate() {
        let arg = text(arg);
        if arg == "--" {
            break;
        } else if arg == "--driver" || arg == "-d" {
            chosen = argv.get(at + 1).map(text);
        } else if let Some(value) = arg.strip_prefix("--driver=") {
            chosen = Some(value.to_owned());
        } else if let Some(value) = arg.strip_prefix("-d").filter(|_| !arg.starts_with("--")) {
            chosen = Some(value.strip_prefix('=').unwrap_or(value).to_owned());
        }
    }
    chosen
        .or_else(|| std::env::var("BERTH_DRIVER").ok().filter(|kind| !kind.is_empty()))
        .unwrap_or_else(|| registry::kinds()[0].to_owned())
}

fn argument(flag: &Flag) -> Arg {
    let help = match &flag.default {
        Some(default) => format!("{} [default: {default}]", flag.help),
        None => flag.help.to_owned(),
    };
    let arg = Arg::new(flag.name).long(flag.name).help(help).help_heading("Options of the driver");
    let arg = match flag.env {
        Some(env) => arg.env(env).hide_env_values(flag.secret),
        None => arg,
    };
    if flag.switch {
        arg.action(ArgAction::SetTrue)
    } else {
        arg.value_name(flag.value_name).action(ArgAction::Set)
    }
}

/// The driver's flags as they were given, or as they are by default.
fn values(kind: &str, matches: &ArgMatches) -> FlagValues {
    let given = |flag: Flag| {
        let value = if flag.switch {
            matches.get_flag(flag.name).then(|| "true".to_owned())
        } else {
            matches.get_one::<String>(flag.name).cloned().or(flag.default)
        };
        value.map(|value| (flag.name.to_owned(), value))
    };
    registry::flags(kind).into_iter().flatten().filter_map(given).collect()
}

/// The flags without those that are secret, as they may stand in a record.
pub(crate) fn open_flags(kind: &str, flags: &FlagValues) -> FlagValues {
    let known = registry::flags(kind).unwrap_or_default();
    let open = |name: &String| known.iter().any(|flag| flag.name == name.as_str() && !flag.secret);
    flags.iter().filter(|(name, _)| open(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// The file alone says what the machine is.
fn refuse_flags(args: &CreateArgs, matches: &ArgMatches) -> Result<(), CliError> {
    let Some(given) = matches.subcommand_matches("create") else { return Ok(()) };
    let told = |id: &str| given.value_source(id) == Some(ValueSource::CommandLine);
    let flags = registry::flags(&args.driver).unwrap_or_default();
    let Some(id) = flags.iter().map(|flag| flag.name).chain(["driver"]).find(|id| told(id)) else {
        return Ok(());
    };
    Err(CliError::usage(format!("--{id} stands beside --file")).hint("say it in the file"))
}

/// Runs it.
pub(crate) fn run(args: &CreateArgs, matches: &ArgMatches, context: &Context) -> Result<ExitCode, CliError> {
    let flags =
        matches.subcommand_matches("create").map(|given| values(&args.driver, given)).unwrap_or_default();
    let (names, wanted) = match &args.file {
        Some(file) => {
            refuse_flags(args, matches)?;
            let (name, declared) = crate::fleet::read_machine(file)?;
            (vec![name], Wanted::declared(&declared, None))
        }
        None => (args.names()?, args.wanted(flags)),
    };
    context.block_on(until_interrupted(&names, context, async {
        super::each_of(&names, args.parallel.into(), |name, progress| {
            let (wanted, alone) = (&wanted, names.len() == 1);
            async move {
                create_or_resume(&name, wanted, args.resume, context, &progress).await?;
                if alone { tell_active(&name, context, &progress) } else { Ok(()) }
            }
        })
        .await
    }))
}

/// Runs a create to its end, or to a signal.
pub(super) async fn until_interrupted<T>(
    names: &[MachineName],
    context: &Context,
    work: impl Future<Output = Result<T, CliError>>,
) -> Result<T, CliError> {
    let mut interrupted = signal(SignalKind::interrupt()).doing("cannot wait for signals")?;
    let mut terminated = signal(SignalKind::terminate()).doing("cannot wait for signals")?;
    tokio::select! {
        created = work => created,
        _ = interrupted.recv() => Err(stopped(names, context)),
        _ = terminated.recv() => Err(stopped(names, context)),
    }
}

fn stopped(names: &[MachineName], context: &Context) -> CliError {
    let all: Vec<&str> = names.iter().map(MachineName::as_str).collect();
    let unfinished = |name: &&MachineName| {
        let loaded = context.store.contains(name).then(|| context.store.load(name));
        loaded.is_some_and(|loaded| loaded.is_ok_and(|machine| machine.record.state == Stage::Creating))
    };
    let begun: Vec<&str> = names.iter().filter(unfinished).map(MachineName::as_str).collect();
    let machines = if all.len() == 1 { "machine" } else { "machines" };
    let error = CliError::new(format!("create of {machines} `{}` was interrupted", all.join(" "))).code(130);
    if begun.is_empty() {
        return error.hint("no machine was left unfinished");
    }
    let begun = begun.join(" ");
    error.hint(format!(
        "go on with `berth create --resume {begun}`, or remove with `berth machine rm {begun}`"
    ))
}

/// Makes one machine, or goes on making it.
pub(super) async fn create_or_resume(
    name: &MachineName,
    wanted: &Wanted,
    resume: bool,
    context: &Context,
    progress: &Progress,
) -> Result<(), CliError> {
    let (mut machine, mut driver, _lock) = if resume {
        let lock = context.store.lock(name)?;
        let machine = context.store.load(name)?;
        if machine.record.state == Stage::Ready {
            progress.say(&format!("machine `{name}` is complete: there is nothing to go on with"));
            return Ok(());
        }
        let driver = machine.driver()?;
        (machine, driver, lock)
    } else {
        begin(name, wanted, context, progress).await?
    };
    let built = build(&mut machine, driver.as_mut(), context, progress).await;
    progress.finish_if(built.is_ok());
    built.map_err(|error| {
        let resume =
            format!("`berth create --resume {name}` goes on from here, `berth machine rm {name}` removes it");
        error.also_hint(resume)
    })?;
    connect::watch_ports(&machine);
    let active = context.store.set_active_if_none(name)?;
    progress.say(&format!("Machine `{name}` is ready{}", if active { " and active" } else { "" }));
    Ok(())
}

fn tell_active(name: &MachineName, context: &Context, progress: &Progress) -> Result<(), CliError> {
    if context.store.active()?.as_ref() != Some(name) {
        progress.say(&format!("`berth use {name}` makes it the active one"));
    }
    Ok(())
}

type Begun = (Machine, Box<dyn Driver>, crate::store::MachineLock);

/// Checks this host and takes the name.
async fn begin(
    name: &MachineName,
    wanted: &Wanted,
    context: &Context,
    progress: &Progress,
) -> Result<Begun, CliError> {
    let store = &context.store;
    if store.contains(name) {
        // Says which: complete or interrupted. A broken record counts as taken.
        let interrupted = store.load(name).is_ok_and(|machine| machine.record.state == Stage::Creating);
        let name = name.to_string();
        return Err(if interrupted { StoreError::Interrupted(name) } else { StoreError::Exists(name) }.into());
    }
    let id = Uuid::new_v4();
    let machine_context = MachineContext {
        name: name.to_string(),
        id,
        dir: store.dir(name).join("driver"),
        cache: store.home().join("cache"),
    };
    let driver = registry::from_flags(&wanted.driver, &wanted.flags, machine_context)?;
    driver.check(progress).await.map_err(|error| {
        let usage = error.kind == ErrorKind::Usage;
        let error = CliError::from(error);
        if usage { error } else { error.code(PRECHECK) }
    })?;
    if context.told_via == Some(Via::Ssh) && !(driver.features().ssh && driver.features().provisions) {
        return Err(CliError::usage(format!("driver `{}` has no SSH for --via ssh", wanted.driver)));
    }
    let record = Record {
        schema: SCHEMA,
        id,
        name: name.to_string(),
        driver: wanted.driver.clone(),
        state: Stage::Creating,
        labels: wanted.labels.clone(),
        fleet: wanted.fleet.clone(),
        flags: open_flags(&wanted.driver, &wanted.flags),
        hostd: wanted.hostd.clone(),
        created: OffsetDateTime::now_utc().replace_nanosecond(0).doing("cannot tell the time")?,
        ssh: Ssh::default(),
        via: context.told_via.unwrap_or_default(),
        server_certificate: None,
        driver_config: driver.config(),
    };
    let lock = store.lock(name)?;
    let machine = store.reserve(name, record)?;
    Ok((machine, driver, lock))
}

/// The steps, from wherever the journal says that they stopped. All are idempotent, so that all are taken again.
async fn build(
    machine: &mut Machine,
    driver: &mut dyn Driver,
    context: &Context,
    progress: &Progress,
) -> Result<(), CliError> {
    let journal = machine.journal();
    // What `rm` and `--resume` go by is planned and done below; where this cannot be written, nor can that.
    let places = machine.journal();
    progress.on_step(move |place| drop(places.reached(place)));
    journal.plan(Step::Keys)?;
    let mut keys = keys::load_or_create(&machine.dir(), machine.name.as_str())?;
    journal.done(Step::Keys)?;

    progress.step(&format!("Creating machine `{}` with driver {}", machine.name, machine.record.driver));
    // What an interrupted create may have placed already is not known, and is replaced over SSH.
    let placed = if journal.steps()?.iter().any(|(step, _)| *step == Step::Driver) {
        None
    } else {
        provision::files(machine, driver, &context.store).await?
    };
    let note = placed.map(|(files, note)| {
        keys.files = files;
        note
    });
    journal.plan(Step::Driver)?;
    create_through(machine, driver, &keys, note, progress).await?;
    journal.done(Step::Driver)?;

    journal.plan(Step::Certificates)?;
    client_certificate(machine, driver, context)?;
    journal.done(Step::Certificates)?;

    if driver.features().provisions {
        journal.plan(Step::Provision)?;
        if !provision::came_with(machine, driver, progress).await? {
            provision::run(machine, driver, &context.store, progress, false).await?;
        }
        journal.done(Step::Provision)?;
    }
    machine.record.state = Stage::Ready;
    machine.save()?;
    Ok(())
}

async fn create_through(
    machine: &mut Machine,
    driver: &mut dyn Driver,
    keys: &Keys,
    placed: Option<ServerCertificate>,
    progress: &Progress,
) -> Result<(), CliError> {
    let (dir, record) = (machine.dir(), machine.record.clone());
    let save = move |config: &toml::Table| -> io::Result<()> {
        let record = Record { driver_config: config.clone(), ..record.clone() };
        save_record(&dir, &record).map_err(io::Error::other)
    };
    driver.create(keys, progress, &save).await?;
    machine.record.driver_config = driver.config();
    if driver.features().delivers_host_key {
        machine.record.ssh.host_keys = vec![keys.host_public_key.clone()];
    }
    if placed.is_some() {
        machine.record.server_certificate = placed;
    }
    Ok(machine.save()?)
}

/// The client certificate with which the laptop speaks to the engine: ours, or the one that a `none` machine names.
fn client_certificate(machine: &Machine, driver: &dyn Driver, context: &Context) -> Result<(), CliError> {
    let dir = machine.dir();
    if driver.features().provisions {
        let ca = Authority::load_or_create(&context.store.certs_dir())
            .doing("cannot use the certificate authority")?;
        let leaf =
            ca.issue_client(&format!("berth {}", machine.name)).doing("cannot issue a client certificate")?;
        return certs::write_client_bundle(&dir, ca.cert_pem(), &leaf)
            .doing("cannot store the client certificate");
    }
    let config = driver.config();
    let files = [("tls-ca", "ca.pem", 0o644), ("tls-cert", "cert.pem", 0o644), ("tls-key", "key.pem", 0o600)];
    for (key, file, mode) in files {
        let Some(path) = config.get(key).and_then(toml::Value::as_str) else { continue };
        let text = crate::store::files::read(path.as_ref(), 1 << 20).doing(format!("cannot read {path}"))?;
        crate::store::files::write(&dir.join(file), text.as_bytes(), mode)
            .doing(format!("cannot store {file}"))?;
    }
    Ok(())
}
