//! Folders of this computer in containers: `-v ~/src:/src`.
//!
//! A relative path, and one below the home directory, is meant here and not on the machine, whose home directories nobody
//! knows. A machine on this computer sees such a folder once it is shared; on any other, it is refused unless it is a full
//! path, which then is the machine's own.

use crate::connect::Connection;
use crate::error::{CliError, Doing as _};
use bollard::models::{ContainerCreateBody, MountType};
use std::fs::File;
use std::path::{Path, PathBuf};

/// Puts the machine's names of folders in the place of this computer's.
pub(crate) async fn bring(body: &mut ContainerCreateBody, connection: &Connection) -> Result<(), CliError> {
    let Some(host) = &mut body.host_config else { return Ok(()) };
    for bind in host.binds.iter_mut().flatten() {
        let Some((source, rest)) = bind.split_once(':') else { continue };
        if let Some(there) = shared(source, connection).await? {
            *bind = format!("{there}:{rest}");
        }
    }
    for mount in host.mounts.iter_mut().flatten().filter(|mount| mount.typ == Some(MountType::BIND)) {
        let Some(source) = &mut mount.source else { continue };
        if let Some(there) = shared(source, connection).await? {
            *source = there;
        }
    }
    Ok(())
}

/// Where the machine has it; `None` where it is no folder of this computer's.
async fn shared(source: &str, connection: &Connection) -> Result<Option<String>, CliError> {
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    let Some(folder) = meant_here(source, home.as_deref())? else { return Ok(None) };
    let machine = &connection.machine;
    let driver = machine.driver()?;
    let lock = machine.dir().join("shares.lock");
    let locked = tokio::task::spawn_blocking(move || -> std::io::Result<File> {
        let file = File::options().create(true).truncate(false).write(true).open(lock)?;
        file.lock()?;
        Ok(file)
    });
    let doing = "cannot lock the machine's shared folders";
    let _lock = locked.await.doing(doing)?.doing(doing)?;
    match driver.share(&folder).await.map_err(|error| CliError::from(error).code(125))? {
        Some(there) => Ok(Some(there)),
        None if source.starts_with('/') => Ok(None),
        None => Err(CliError::usage(format!(
            "machine `{}` cannot see '{source}', which is a path of this computer",
            machine.name
        ))
        .code(125)
        .hint("give a full path of the machine's own, or a volume's name")),
    }
}

/// The path as a folder of this computer, where that is what is meant.
fn meant_here(source: &str, home: Option<&Path>) -> Result<Option<PathBuf>, CliError> {
    if let Some(rest) = source.strip_prefix('~') {
        let Some(home) = home.filter(|_| rest.is_empty() || rest.starts_with('/')) else {
            return Err(CliError::usage(format!("cannot tell whose home directory '{source}' is")).code(125));
        };
        return Ok(Some(home.join(rest.trim_start_matches('/'))));
    }
    if source == "." || source == ".." || source.starts_with("./") || source.starts_with("../") {
        return std::path::absolute(source).map(Some).doing(format!("cannot use '{source}'"));
    }
    let path = Path::new(source);
    Ok(home.filter(|home| home.parent().is_some() && path.starts_with(home)).map(|_| path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_path_and_one_below_home_is_meant_here_and_all_else_on_the_machine() {
        let home = Some(Path::new("/home/me"));
        let here = |source: &str| meant_here(source, home).unwrap();
        assert_eq!(here("~/src"), Some("/home/me/src".into()));
        assert_eq!(here("/home/me/src"), Some("/home/me/src".into()));
        assert!(here("./src").unwrap().is_absolute());
        for machines in ["data", "/srv", "/home/meadow", "/", ".hidden-volume"] {
            assert_eq!(here(machines), None, "{machines}");
        }
        assert!(meant_here("~other/src", home).is_err());
        assert_eq!(meant_here("/root/x", Some(Path::new("/"))).unwrap(), None);
    }
}
