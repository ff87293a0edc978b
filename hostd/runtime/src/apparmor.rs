//! AppArmor: whether the host has it, and the profile that containers get unless told otherwise.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

/// Name of the default profile: Docker's, so that a host's own rules about it hold here too.
pub const DEFAULT_PROFILE: &str = "docker-default";

const PROFILES: &str = "/sys/kernel/security/apparmor/profiles";

/// Whether the kernel enforces AppArmor profiles.
pub fn is_enabled() -> bool {
    Path::new("/sys/kernel/security/apparmor").exists()
        && fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y"))
}

/// The program that loads profiles, where it is installed.
pub fn parser() -> Option<PathBuf> {
    ["/sbin/apparmor_parser", "/usr/sbin/apparmor_parser"].map(PathBuf::from).into_iter().find(|p| p.exists())
}

/// Loads the default profile unless it is loaded: updates of the system may have unloaded it.
///
/// # Errors
/// There is no `apparmor_parser`, or it refuses.
pub fn ensure_default() -> io::Result<()> {
    // One at a time: the others find it loaded.
    static LOADING: Mutex<()> = Mutex::new(());
    let _loading = LOADING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if is_loaded(&fs::read_to_string(PROFILES)?, DEFAULT_PROFILE) {
        return Ok(());
    }
    let parser = parser().ok_or_else(|| io::Error::other("apparmor_parser is not installed"))?;
    // Neither reads nor writes its cache: the profile stands in no file.
    let mut child = Command::new(&parser)
        .args(["--replace", "--skip-read-cache", "--quiet"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(profile(DEFAULT_PROFILE, &own_label()).as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{} ended with {}: {}", parser.display(), output.status, words.trim())))
}

/// Whether the kernel's list of profiles has this one.
fn is_loaded(list: &str, name: &str) -> bool {
    list.lines().any(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(" (")))
}

/// The profile of hostd itself, from which signals must get through.
fn own_label() -> String {
    let label = ["/proc/self/attr/apparmor/current", "/proc/self/attr/current"]
        .into_iter()
        .find_map(|path| fs::read_to_string(path).ok());
    // `name (mode)`, or `unconfined`.
    let label = label.unwrap_or_default();
    let name = label.trim().rsplit_once(" (").map_or(label.trim(), |(name, _)| name);
    if name.is_empty() { "unconfined".to_owned() } else { name.to_owned() }
}

/// Docker's default policy: what a container does not need of `/proc`, `/sys` and mounts is out of reach.
fn profile(name: &str, daemon: &str) -> String {
    let installed = |path: &str| Path::new("/etc/apparmor.d").join(path).exists();
    let abi = if installed("abi/3.0") { "abi <abi/3.0>,\n" } else { "" };
    let proc = if installed("tunables/global") { "#include <tunables/global>\n" } else { "@{PROC}=/proc/\n" };
    let header = format!("{abi}{proc}");
    format!(
        r#"{header}profile {name} flags=(attach_disconnected,mediate_deleted) {{
  network,
  capability,
  file,
  umount,

  # From the daemon, and between the container's own processes.
  signal (receive) peer=unconfined,
  signal (receive) peer={daemon},
  signal (send,receive) peer={name},

  # Below /proc only what belongs to processes, and the parameters that are the container's own.
  deny @{{PROC}}/* w,
  deny @{{PROC}}/{{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9/]*}}/** w,
  deny @{{PROC}}/sys/[^k]** w,
  deny @{{PROC}}/sys/kernel/{{?,??,[^s][^h][^m]**}} w,
  deny @{{PROC}}/sysrq-trigger rwklx,
  deny @{{PROC}}/kcore rwklx,

  deny mount,

  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,

  ptrace (trace,read,tracedby,readby) peer={name},
}}
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_loaded_only_under_its_whole_name() {
        let list = "docker-default-2 (enforce)\n/usr/sbin/sshd (complain)\n";
        assert!(!is_loaded(list, DEFAULT_PROFILE) && is_loaded(list, "/usr/sbin/sshd"));
        assert!(is_loaded("docker-default (enforce)\n", DEFAULT_PROFILE));
    }

    #[test]
    fn the_profile_names_itself_and_the_daemon() {
        let text = profile("docker-default", "unconfined");
        for words in ["profile docker-default flags=", "peer=docker-default,", "deny mount,", "}\n"] {
            assert!(text.contains(words), "{words}:\n{text}");
        }
    }
}
