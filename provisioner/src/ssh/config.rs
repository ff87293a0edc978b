//! The user's `~/.ssh/config`, as far as it matters here: `Host` (with patterns and negation), `HostName`, `User`,
//! `Port`, `IdentityFile`, `IdentitiesOnly`, `ProxyJump`, `HostKeyAlias`, `Include`. The first value counts, as in
//! OpenSSH. `Match` blocks other than `Match all` never apply; other keywords are left to OpenSSH.

use super::SshError;
use std::path::{Path, PathBuf};

/// What the configuration says of one host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostConfig {
    pub(crate) host_name: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) port: Option<u16>,
    pub(crate) identity_files: Vec<PathBuf>,
    pub(crate) identities_only: Option<bool>,
    pub(crate) proxy_jump: Option<String>,
    pub(crate) host_key_alias: Option<String>,
}

/// A place to log in to, spelt `[user@]host[:port]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) user: Option<String>,
    pub(crate) host: String,
    pub(crate) port: Option<u16>,
}

/// What `~/.ssh/config` and then `/etc/ssh/ssh_config` say of a host.
pub(crate) fn of_host(host: &str) -> Result<HostConfig, SshError> {
    let mut config = HostConfig::default();
    let home = home();
    if let Some(home) = &home {
        apply_file(&mut config, &home.join(".ssh/config"), host, home.join(".ssh").as_path(), home, 0)?;
    }
    let system = Path::new("/etc/ssh");
    apply_file(&mut config, &system.join("ssh_config"), host, system, &home.unwrap_or_default(), 0)?;
    Ok(config)
}

/// The user's home directory.
pub(crate) fn home() -> Option<PathBuf> {
    std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from)
}

fn apply_file(
    config: &mut HostConfig,
    path: &Path,
    host: &str,
    base: &Path,
    home: &Path,
    depth: u8,
) -> Result<(), SshError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(SshError::Config { path: path.display().to_string(), source }),
    };
    let mut applies = true;
    for line in text.lines() {
        let Some((keyword, values)) = split(line) else { continue };
        match keyword.as_str() {
            "host" => applies = matches_any(&values, host),
            "match" => applies = values.len() == 1 && values[0].eq_ignore_ascii_case("all"),
            // OpenSSH allows 16 levels.
            "include" if applies && depth < 16 => {
                for file in values.iter().flat_map(|pattern| included(pattern, base, home)) {
                    apply_file(config, &file, host, base, home, depth + 1)?;
                }
            }
            _ if applies => config.set(&keyword, &values, host, home),
            _ => {}
        }
    }
    Ok(())
}

impl HostConfig {
    fn set(&mut self, keyword: &str, values: &[String], host: &str, home: &Path) {
        let Some(value) = values.first() else { return };
        match keyword {
            "hostname" => _ = self.host_name.get_or_insert_with(|| value.replace("%h", host)),
            "user" => _ = self.user.get_or_insert_with(|| value.clone()),
            "port" => self.port = self.port.or(value.parse().ok()),
            "identityfile" => self.identity_files.push(expand(value, home)),
            "identitiesonly" => _ = self.identities_only.get_or_insert(value.eq_ignore_ascii_case("yes")),
            "proxyjump" => _ = self.proxy_jump.get_or_insert_with(|| value.clone()),
            "hostkeyalias" => _ = self.host_key_alias.get_or_insert_with(|| value.clone()),
            _ => {}
        }
    }
}

/// Keyword in lower case, and its values: `Keyword value "quoted value"` or `Keyword=value`.
fn split(line: &str) -> Option<(String, Vec<String>)> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let end = line.find(|c: char| c.is_whitespace() || c == '=').unwrap_or(line.len());
    let (keyword, rest) = line.split_at(end);
    let rest = rest.trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest);
    let (mut values, mut value, mut quoted, mut any) = (Vec::new(), String::new(), false, false);
    for c in rest.chars() {
        match c {
            '"' => (quoted, any) = (!quoted, true),
            '#' if !quoted && !any => break,
            c if c.is_whitespace() && !quoted => {
                if any {
                    values.push(std::mem::take(&mut value));
                }
                any = false;
            }
            c => {
                value.push(c);
                any = true;
            }
        }
    }
    if any {
        values.push(value);
    }
    Some((keyword.to_ascii_lowercase(), values))
}

/// Whether one pattern matches and none that is negated does.
fn matches_any(patterns: &[String], host: &str) -> bool {
    let mut matched = false;
    for pattern in patterns.iter().flat_map(|list| list.split(',')) {
        match pattern.strip_prefix('!') {
            Some(negated) if glob(negated, host) => return false,
            Some(_) => {}
            None => matched |= glob(pattern, host),
        }
    }
    matched
}

/// `*` stands for any text, `?` for one character; letters match in either case.
fn glob(pattern: &str, text: &str) -> bool {
    fn at(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => (0..=text.len()).any(|skip| at(rest, &text[skip..])),
            (Some((b'?', rest)), Some((_, text))) => at(rest, text),
            (Some((p, rest)), Some((t, text))) => p.eq_ignore_ascii_case(t) && at(rest, text),
            _ => false,
        }
    }
    // Adjacent stars mean the same as one, and would take exponential time.
    let mut pattern = pattern.to_owned();
    while pattern.contains("**") {
        pattern = pattern.replace("**", "*");
    }
    at(pattern.as_bytes(), text.as_bytes())
}

fn expand(path: &str, home: &Path) -> PathBuf {
    match path.strip_prefix("~/").or_else(|| path.strip_prefix("%d/")) {
        Some(rest) => home.join(rest),
        None => PathBuf::from(path),
    }
}

/// The files of an `Include`; wildcards may stand in the last part.
fn included(pattern: &str, base: &Path, home: &Path) -> Vec<PathBuf> {
    let path = expand(pattern, home);
    let path = if path.is_absolute() { path } else { base.join(path) };
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return Vec::new() };
    if !name.contains(['*', '?']) {
        return vec![path];
    }
    let entries = path.parent().and_then(|dir| std::fs::read_dir(dir).ok());
    let mut files: Vec<PathBuf> = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            entry.file_name().to_str().is_some_and(|file| !file.starts_with('.') && glob(name, file))
        })
        .map(|entry| entry.path())
        .collect();
    files.sort();
    files
}

/// The places of a `ProxyJump`, in the order in which they are passed; none for `none`.
pub(crate) fn jumps(value: &str) -> Result<Vec<Place>, SshError> {
    if value.eq_ignore_ascii_case("none") {
        return Ok(Vec::new());
    }
    value.split(',').map(|place| parse_place(place.trim())).collect()
}

fn parse_place(text: &str) -> Result<Place, SshError> {
    let invalid = || SshError::InvalidJump(text.to_owned());
    let rest = text.strip_prefix("ssh://").unwrap_or(text);
    let (user, rest) = match rest.rsplit_once('@') {
        Some((user, rest)) => (Some(user.to_owned()), rest),
        None => (None, rest),
    };
    let (host, port) = if let Some(bracketed) = rest.strip_prefix('[') {
        let (host, after) = bracketed.split_once(']').ok_or_else(invalid)?;
        (host, after.strip_prefix(':'))
    } else {
        match rest.rsplit_once(':') {
            // An IPv6 address without brackets has no port.
            Some((host, port)) if !host.contains(':') => (host, Some(port)),
            _ => (rest, None),
        }
    };
    if host.is_empty() || host.starts_with('-') {
        return Err(invalid());
    }
    let port = port.map(|port| port.parse().map_err(|_| invalid())).transpose()?;
    Ok(Place { user, host: host.to_owned(), port })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str, host: &str) -> HostConfig {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config");
        std::fs::write(&file, text).unwrap();
        std::fs::write(dir.path().join("more.conf"), "User included\nPort 2022\n").unwrap();
        let mut config = HostConfig::default();
        apply_file(&mut config, &file, host, dir.path(), Path::new("/home/u"), 0).unwrap();
        config
    }

    #[test]
    fn the_first_value_that_applies_counts() {
        let text = "
            # comment
            Host web* !web-old
                HostName %h.example.net
                User=\"deploy er\"
                Port = 2200
                IdentityFile ~/.ssh/web
            Host web-old
                User legacy
            Host *
                User nobody
                Port 22
                IdentityFile /keys/any # said last
                ProxyJump a@bastion:2222,[fe80::1]:23
        ";
        let web = parsed(text, "web1");
        assert_eq!(web.host_name.as_deref(), Some("web1.example.net"));
        assert_eq!(web.user.as_deref(), Some("deploy er"));
        assert_eq!(web.port, Some(2200));
        assert_eq!(web.identity_files, [PathBuf::from("/home/u/.ssh/web"), PathBuf::from("/keys/any")]);
        let old = parsed(text, "web-old");
        assert_eq!((old.user.as_deref(), old.host_name), (Some("legacy"), None));
    }

    #[test]
    fn included_files_apply_where_they_stand() {
        let config =
            parsed("Host other\nInclude nothing-here\nHost x\nInclude *.conf\nHost *\nUser later\n", "x");
        assert_eq!((config.user.as_deref(), config.port), (Some("included"), Some(2022)));
        assert_eq!(parsed("Host y\nInclude more.conf\n", "x"), HostConfig::default());
    }

    #[test]
    fn other_match_blocks_never_apply() {
        assert_eq!(
            parsed("Match host x\nUser wrong\nMatch all\nUser right\n", "x").user.as_deref(),
            Some("right")
        );
    }

    #[test]
    fn jumps_are_places_in_order() {
        let place = |user: Option<&str>, host: &str, port| Place {
            user: user.map(Into::into),
            host: host.into(),
            port,
        };
        let cases = [
            ("none", vec![]),
            ("bastion", vec![place(None, "bastion", None)]),
            ("a@b:23,ssh://c", vec![place(Some("a"), "b", Some(23)), place(None, "c", None)]),
            ("[fe80::1]:9", vec![place(None, "fe80::1", Some(9))]),
            ("fe80::1", vec![place(None, "fe80::1", None)]),
        ];
        for (text, places) in cases {
            assert_eq!(jumps(text).unwrap(), places, "{text}");
        }
        for bad in ["", "a,,b", "host:port", "[::1", "-oProxyCommand=x"] {
            assert!(jumps(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn globs_do_not_take_exponential_time() {
        assert!(!glob(&"*".repeat(64), "") || glob("*", ""));
        assert!(glob("A*c?", "abbcd") && !glob("a?", "a") && glob("*", ""));
    }
}
