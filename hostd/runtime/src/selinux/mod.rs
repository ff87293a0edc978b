//! SELinux: whether the host has it, the labels that its policy has for containers, and relabelling files.
//!
//! A container gets two labels: that of its processes and that of its files. Both carry the same pair of categories
//! (`s0:c17,c904`), which no other container has, and by which the policy keeps containers of one type apart. A bind
//! mount's files get the container's label only where asked for (`:Z`, or `:z` for one without categories).

mod categories;
mod context;
mod relabel;

pub use categories::Levels;
pub use context::Context;
pub use relabel::relabel;

use crate::spec::Labels;
use std::fs;
use std::path::{Path, PathBuf};

/// Where a distribution of containers' tools has the labels.
const CONTEXTS: &str = "/usr/share/containers/selinux/contexts";
/// Where the host's policy is named.
const CONFIG: &str = "/etc/selinux/config";
/// The label that no container gets: of the files of one that is not confined.
const LAST: &str = "s0:c1022,c1023";

/// Whether the kernel has SELinux and a policy is loaded.
pub fn is_enabled() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
        && fs::read("/proc/self/attr/current")
            .is_ok_and(|label| !label.starts_with(b"kernel\0") && !label.is_empty())
}

/// The labels that containers get unless told otherwise, before they are told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    process: Context,
    file: Context,
}

impl Policy {
    /// Reads them where this host has them (`lxc_contexts` of its policy).
    ///
    /// # Errors
    /// There are none, or they make no sense; the text names the file.
    pub fn load() -> Result<Self, String> {
        let path = Some(PathBuf::from(CONTEXTS)).filter(|path| path.exists()).unwrap_or_else(|| {
            let config = fs::read_to_string(CONFIG).unwrap_or_default();
            Path::new("/etc/selinux").join(policy_type(&config)).join("contexts/lxc_contexts")
        });
        let named = |why: String| format!("{}: {why}", path.display());
        let text = fs::read_to_string(&path).map_err(|error| named(error.to_string()))?;
        Self::parse(&text).map_err(named)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let find = |key: &str| {
            let value = values(text).find(|(name, _)| *name == key).map(|(_, value)| value);
            value.ok_or_else(|| format!("it names no label for {key}"))?.parse::<Context>()
        };
        Ok(Self { process: find("process")?, file: find("file")? })
    }

    /// The labels of a container that asks for `options` (`disable`, `type:spc_t`, `level:s0:c1,c2` …). The level that
    /// they have is taken in `levels`, and is to be given back with [`Levels::release`].
    ///
    /// # Errors
    /// An option makes no sense, or no level is left.
    pub fn labels(&self, options: &[&str], levels: &Levels) -> Result<Labels, String> {
        let (mut process, mut file) = (self.process.clone(), self.file.clone());
        if options.contains(&"disable") {
            file.level = Some(LAST.to_owned());
            return Ok(Labels { process: String::new(), mount: file.to_string() });
        }
        let mut asked = None;
        for option in options {
            check_option(option)?;
            let (key, value) = option.split_once(':').unwrap_or((option, ""));
            match key {
                "user" => (process.user, file.user) = (value.to_owned(), value.to_owned()),
                "role" => process.role = value.to_owned(),
                "type" => process.kind = value.to_owned(),
                "filetype" => file.kind = value.to_owned(),
                _ => asked = Some(value.to_owned()),
            }
        }
        // A policy without levels has no categories either.
        if process.level.is_some() || asked.is_some() {
            let level = match asked {
                Some(level) => levels.reserve(level),
                None => levels.unique()?,
            };
            (process.level, file.level) = (Some(level.clone()), Some(level));
        }
        Ok(Labels { process: process.to_string(), mount: file.to_string() })
    }
}

/// What `label=` may say.
///
/// # Errors
/// In Docker's words.
pub fn check_option(option: &str) -> Result<(), String> {
    let known = ["user", "role", "level", "type", "filetype"];
    let sound = option == "disable"
        || option.split_once(':').is_some_and(|(key, value)| known.contains(&key) && is_plain(value));
    if sound {
        return Ok(());
    }
    Err(format!(
        "bad label option {option:?}, valid options 'disable' or 'user, role, level, type, filetype' followed by ':' and a value"
    ))
}

/// Nothing that would mean something to those who read labels or mount options.
fn is_plain(value: &str) -> bool {
    !value.is_empty()
        && value.len() <= 4096
        && value.chars().all(|c| c.is_ascii_alphanumeric() || "_.-:,".contains(c))
}

/// The options that give another container the labels of this one.
pub fn options_of(label: &str) -> Vec<String> {
    let Ok(context) = label.parse::<Context>() else { return vec!["disable".to_owned()] };
    let mut options = vec![
        format!("user:{}", context.user),
        format!("role:{}", context.role),
        format!("type:{}", context.kind),
    ];
    options.extend(context.level.map(|level| format!("level:{level}")));
    options
}

/// `SELINUXTYPE` of the host's configuration.
fn policy_type(config: &str) -> String {
    let plain = |name: &&str| !name.is_empty() && !name.contains('/') && *name != "..";
    let found = values(config).find(|(key, _)| *key == "SELINUXTYPE").map(|(_, value)| value);
    found.filter(plain).unwrap_or("targeted").to_owned()
}

/// `key = "value"`, a line each; a value may do without quotes.
fn values(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| {
        let line = line.trim();
        let (key, value) = line.split_once('=').filter(|_| !line.starts_with(['#', ';']))?;
        Some((key.trim(), value.trim().trim_matches('"')))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTEXTS: &str = "# of a policy\nprocess = \"system_u:system_r:container_t:s0\"\n\
                            content = \"system_u:object_r:virt_var_lib_t:s0\"\n\
                            file = \"system_u:object_r:container_file_t:s0\"\nro_file=\"a:b:c:s0\"\n";

    fn labels(options: &[&str]) -> Result<Labels, String> {
        Policy::parse(CONTEXTS).unwrap().labels(options, &Levels::default())
    }

    #[test]
    fn labels_come_from_the_hosts_policy_with_categories_of_their_own() {
        let Labels { process, mount } = labels(&[]).unwrap();
        let level = process.strip_prefix("system_u:system_r:container_t:").unwrap();
        assert!(level.starts_with("s0:c") && level.contains(",c"), "{level}");
        assert_eq!(mount, format!("system_u:object_r:container_file_t:{level}"));
    }

    #[test]
    fn options_change_the_parts_that_they_name() {
        let options = ["type:web_t", "level:s0:c1,c2", "user:user_u", "role:user_r", "filetype:web_file_t"];
        let Labels { process, mount } = labels(&options).unwrap();
        assert_eq!(process, "user_u:user_r:web_t:s0:c1,c2");
        assert_eq!(mount, "user_u:object_r:web_file_t:s0:c1,c2");
        assert_eq!(options_of(&process).join(" "), "user:user_u role:user_r type:web_t level:s0:c1,c2");
        let Labels { process, mount } = labels(&["disable"]).unwrap();
        assert_eq!((process.as_str(), mount.ends_with(":s0:c1022,c1023")), ("", true));
        assert_eq!(options_of(""), ["disable"]);
        for bad in ["purple", "user:", "colour:red", "nested", "type:a b", "type:a\"b"] {
            assert!(labels(&[bad]).unwrap_err().starts_with("bad label option"), "{bad}");
        }
    }

    #[test]
    fn policies_without_labels_for_containers_are_none() {
        assert_eq!(Policy::parse("file = \"a:b:c:s0\"").unwrap_err(), "it names no label for process");
        assert!(Policy::parse("process = \"a\"\nfile = \"a:b:c\"").is_err());
        assert_eq!(policy_type("SELINUX=permissive\nSELINUXTYPE=default\n"), "default");
        assert_eq!(
            (policy_type(""), policy_type("SELINUXTYPE=../x")),
            ("targeted".into(), "targeted".into())
        );
    }
}
