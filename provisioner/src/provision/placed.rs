//! Machines that come with hostd, and with the files that it needs from its first start on: there is nothing to do but wait
//! for its answer. Where anything differs, they are provisioned over SSH like any other.

use super::{binary, certificate, config, verify};
use crate::connect::Via;
use crate::error::{CliError, Doing as _};
use crate::store::{Machine, ServerCertificate, Store};
use crate::ui::Progress;
use certs::Authority;
use drivers::driver::{Driver, PlacedFile, Reporter as _};
use std::time::Duration;

/// How long such an engine may take from the machine's start on. After that, SSH shows what is wrong with it.
const PATIENCE: Duration = Duration::from_secs(180);

/// hostd's files for a machine that is about to be made, and what is to be noted once it is; `None` where its driver
/// places none.
pub(crate) async fn files(
    machine: &Machine,
    driver: &dyn Driver,
    store: &Store,
) -> Result<Option<(Vec<PlacedFile>, ServerCertificate)>, CliError> {
    if !driver.features().places_files {
        return Ok(None);
    }
    let ca = Authority::load_or_create(&store.certs_dir()).doing("cannot use the certificate authority")?;
    let Some((leaf, note)) = certificate::needed(machine, &ca, &driver.address().await?, None)? else {
        return Ok(None);
    };
    let file = |path: &str, mode, content: &str| PlacedFile {
        path: path.to_owned(),
        mode,
        content: format!("{}\n", content.trim_end()),
    };
    let files = vec![
        file("/etc/hostd/tls/ca.pem", 0o644, ca.cert_pem()),
        file("/etc/hostd/tls/server.pem", 0o644, &leaf.cert_pem),
        file("/etc/hostd/tls/server-key.pem", 0o600, &leaf.key_pem),
        file("/etc/hostd/hostd.json", 0o644, &config(machine, driver)?),
    ];
    Ok(Some((files, note)))
}

/// Whether the machine came with this berth's hostd, and it answers. The caller holds the machine's lock.
pub(crate) async fn came_with(
    machine: &Machine,
    driver: &dyn Driver,
    progress: &Progress,
) -> Result<bool, CliError> {
    // One that is spoken to over SSH alone has to wait for that anyway.
    let quick = machine.record.server_certificate.is_some() && machine.via() != Via::Ssh;
    let Some(there) = driver.engine().filter(|_| quick) else { return Ok(false) };
    if binary::find(std::env::consts::ARCH)?.sha256 != there {
        progress.say("the machine's image has another hostd than this berth: it is replaced now, and `berth image build` spares that");
        return Ok(false);
    }
    progress.step("Waiting for the engine");
    match verify(machine, driver, PATIENCE).await {
        Ok(()) => {
            progress.finish();
            Ok(true)
        }
        Err(error) => {
            progress.warn(&format!("the engine does not answer yet: {}", error.one_line()));
            Ok(false)
        }
    }
}
