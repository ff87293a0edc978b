//! The init that containers of other runtimes get by `--init`: a copy of this program, and no link to it, since what a
//! container with enough rights does to its own copy must not be done to the daemon.
//!
//! ```text
//! <data-root>/init/<what identifies the program>    mounted read-only; those of earlier versions go when one is made
//! ```

use crate::Engine;
use crate::error::{Result, io};
use crate::model::HostConfig;
use hostd_runtime::INIT_PATH;
use hostd_runtime::spec::{ContainerSpec, Mount, MountKind};
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

impl Engine {
    /// Puts the init in front of a program that another runtime starts. As with Docker, only where it becomes process 1.
    pub(crate) fn give_init(&self, host: &HostConfig, spec: &mut ContainerSpec) -> Result<()> {
        let first = matches!(host.pid_mode.as_str(), "" | "private");
        if spec.runtime.is_none() || !spec.init || !first {
            return Ok(());
        }
        let dir = self.0.config.data_root.join("init");
        let source = copy_of(&self.0.config.shim_exe, &dir)
            .map_err(io(format!("cannot copy the init to {}", dir.display())))?;
        let kind = MountKind::Bind {
            source,
            propagation: None,
            recursive: false,
            attributes: 0,
            shallow: false,
            subpath: None,
        };
        spec.mounts.push(Mount { destination: INIT_PATH.to_owned(), kind, read_only: true });
        spec.args.splice(0..0, [INIT_PATH.to_owned(), "--".to_owned()]);
        Ok(())
    }
}

/// A copy of `program` in `dir`, made when it is missing: whole, or not under this name.
fn copy_of(program: &Path, dir: &Path) -> std::io::Result<PathBuf> {
    let meta = fs::metadata(program)?;
    let name = format!(
        "{:x}-{:x}-{:x}-{:x}.{:x}",
        meta.dev(),
        meta.ino(),
        meta.size(),
        meta.mtime(),
        meta.mtime_nsec()
    );
    let path = dir.join(&name);
    if path.exists() {
        return Ok(path);
    }
    fs::create_dir_all(dir)?;
    // Two may make it at once; both are whole, and containers that have another already keep it.
    let fresh = dir.join(format!("{name}.{}", crate::names::random_id().map_err(std::io::Error::other)?));
    let made = (|| {
        let mut copy = File::create_new(&fresh)?;
        std::io::copy(&mut File::open(program)?, &mut copy)?;
        copy.set_permissions(fs::Permissions::from_mode(0o755))?;
        copy.sync_all()?;
        fs::rename(&fresh, &path)
    })();
    if made.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    made?;
    for other in
        fs::read_dir(dir)?.flatten().filter(|entry| !entry.file_name().to_string_lossy().starts_with(&name))
    {
        let _ = fs::remove_file(other.path());
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_copied_once_and_a_new_one_takes_its_place() {
        let dir = std::env::temp_dir().join(format!("hostd-init-{}", std::process::id()));
        let (program, copies) = (dir.join("program"), dir.join("init"));
        fs::create_dir_all(&dir).unwrap();
        fs::write(&program, "one").unwrap();
        let first = copy_of(&program, &copies).unwrap();
        assert_eq!(fs::read_to_string(&first).unwrap(), "one");
        assert_eq!(fs::metadata(&first).unwrap().mode() & 0o777, 0o755);
        let inode = fs::metadata(&first).unwrap().ino();
        assert_eq!(copy_of(&program, &copies).unwrap(), first);
        assert_eq!(fs::metadata(&first).unwrap().ino(), inode, "it was there");
        fs::write(&program, "another").unwrap();
        let second = copy_of(&program, &copies).unwrap();
        assert_eq!(fs::read_to_string(&second).unwrap(), "another");
        assert_eq!(fs::read_dir(&copies).unwrap().count(), 1, "the first is gone");
        fs::remove_dir_all(dir).unwrap();
    }
}
