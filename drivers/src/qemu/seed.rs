//! The NoCloud seed: a small FAT volume named CIDATA from which cloud-init takes who the machine is at its first
//! boot. It carries the machine's SSH host key, so that even the first connect is verified, and is 0600 for that.

use crate::driver::Keys;
use crate::files;
use serde_json::{Value, json};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use uuid::Uuid;

/// Size of the volume: room for keys and names.
const SIZE: u64 = 1 << 20;

/// Writes the seed, atomically. The same input gives the same instance, so that a repeated create changes nothing.
pub(super) fn write(path: &Path, id: Uuid, name: &str, user: &str, keys: &Keys) -> io::Result<()> {
    let partial = files::partial(path);
    let mut image = files::create_private(&partial)?;
    image.set_len(SIZE)?;
    // `local`: nothing here needs the network, so that SSH need not wait for a second stage of cloud-init.
    let meta_data = json!({ "instance-id": id.to_string(), "local-hostname": name, "dsmode": "local" });
    let user_data = format!("#cloud-config\n{}\n", user_data(name, user, keys)?);
    format_volume(&mut image, &[("meta-data", &format!("{meta_data}\n")), ("user-data", &user_data)])?;
    files::commit(&partial, path)
}

fn format_volume<T: Read + Write + Seek>(image: &mut T, entries: &[(&str, &str)]) -> io::Result<()> {
    let options = fatfs::FormatVolumeOptions::new().volume_label(*b"CIDATA     ");
    fatfs::format_volume(&mut *image, options)?;
    image.seek(SeekFrom::Start(0))?;
    let volume = fatfs::FileSystem::new(image, fatfs::FsOptions::new())?;
    for (name, content) in entries {
        volume.root_dir().create_file(name)?.write_all(content.as_bytes())?;
    }
    volume.unmount()
}

/// cloud-config as JSON, which is YAML too and needs no quoting rules.
fn user_data(name: &str, user: &str, keys: &Keys) -> io::Result<Value> {
    let key_type = key_type(&keys.host_public_key)?;
    let account = if user == "root" {
        json!({ "name": "root", "ssh_authorized_keys": [keys.authorized_key.trim()] })
    } else {
        json!({
            "name": user, "gecos": "berth", "shell": "/bin/bash", "lock_passwd": true,
            "sudo": "ALL=(ALL) NOPASSWD:ALL", "ssh_authorized_keys": [keys.authorized_key.trim()],
        })
    };
    Ok(json!({
        "hostname": name,
        "preserve_hostname": false,
        "manage_etc_hosts": "localhost",
        "disable_root": user != "root",
        "ssh_pwauth": false,
        // Host keys that came with the image are everybody's.
        "ssh_deletekeys": true,
        "ssh_keys": {
            format!("{key_type}_private"): keys.host_private_key,
            format!("{key_type}_public"): keys.host_public_key.trim(),
        },
        "ssh": { "emit_keys_to_console": false },
        "no_ssh_fingerprints": true,
        "users": [account],
    }))
}

/// cloud-init's name for the type of a public key's line.
fn key_type(public_line: &str) -> io::Result<&'static str> {
    match public_line.split_whitespace().next() {
        Some("ssh-ed25519") => Ok("ed25519"),
        Some("ssh-rsa") => Ok("rsa"),
        Some(kind) if kind.starts_with("ecdsa-sha2-") => Ok("ecdsa"),
        other => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("host key of type {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_is_a_private_volume_named_cidata_that_holds_the_keys() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seed.img");
        let keys = Keys {
            authorized_key: "ssh-ed25519 AAAAuser me\n".into(),
            host_private_key: "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n-----END OPENSSH PRIVATE KEY-----\n"
                .into(),
            host_public_key: "ssh-ed25519 AAAAhost\n".into(),
            files: Vec::new(),
        };
        write(&path, Uuid::nil(), "dev", "berth", &keys).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        let volume = fatfs::FileSystem::new(
            std::fs::File::open(&path).map(ReadOnly).unwrap(),
            fatfs::FsOptions::new(),
        )
        .unwrap();
        assert_eq!(volume.volume_label(), "CIDATA");
        let mut text = String::new();
        volume.root_dir().open_file("user-data").unwrap().read_to_string(&mut text).unwrap();
        let json: Value = serde_json::from_str(text.strip_prefix("#cloud-config\n").unwrap()).unwrap();
        assert_eq!(json["ssh_keys"]["ed25519_private"], keys.host_private_key);
        assert_eq!(json["users"][0]["ssh_authorized_keys"][0], "ssh-ed25519 AAAAuser me");
    }

    /// fatfs wants to write; reading needs none.
    struct ReadOnly(std::fs::File);
    impl Read for ReadOnly {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(buffer)
        }
    }
    impl Write for ReadOnly {
        fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
            Ok(buffer.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    impl Seek for ReadOnly {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.0.seek(to)
        }
    }
}
