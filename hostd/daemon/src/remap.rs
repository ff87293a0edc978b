//! `--userns-remap`: whose subordinate ids stand for those of containers, read as dockerd reads it from `/etc/passwd`,
//! `/etc/group`, `/etc/subuid` and `/etc/subgid`.

use crate::Result;
use crate::failure::Failure;
use hostd_engine::{Extent, IdMap};
use std::process::Command;

/// Stands for [`DEFAULT_USER`], which is made where it is missing.
const DEFAULT: &str = "default";
const DEFAULT_USER: &str = "dockremap";
/// How many ids the default user gets.
const DEFAULT_COUNT: u32 = 65536;
/// Where ranges begin that nobody has yet.
const FIRST_FREE: u32 = 100_000;

/// The ids for `user[:group]`, each by name or number; `None` for root, who would stand for itself.
pub(crate) fn resolve(spec: &str) -> Result<Option<IdMap>> {
    if spec == DEFAULT {
        make_default_user()?;
    }
    let (user, uid) = find(spec, &read("/etc/passwd")?, &read("/etc/group")?).map_err(Failure::new)?;
    if user == "root" {
        tracing::warn!("user namespaces: root cannot be remapped with itself; user namespaces are off");
        return Ok(None);
    }
    let ids = |path: &str, kind: &str| -> Result<Vec<Extent>> {
        let found = extents(&read(path)?, &user, uid);
        if found.is_empty() {
            return Err(Failure::new(format!("no {kind} ranges found for user {user:?}"))
                .hint(format!("add a line `{user}:{FIRST_FREE}:{DEFAULT_COUNT}` to {path}")));
        }
        Ok(found)
    };
    Ok(Some(IdMap { uids: ids("/etc/subuid", "subuid")?, gids: ids("/etc/subgid", "subgid")? }))
}

fn read(path: &str) -> Result<String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(Failure::new(format!("cannot read {path}")).because(error)),
    }
}

/// Name and number of the user; the group must exist and counts for nothing else, as with dockerd.
fn find(spec: &str, passwd: &str, group: &str) -> Result<(String, u32), String> {
    let parts: Vec<&str> = spec.split(':').collect();
    let [who, groups @ ..] = &parts[..] else { return Err(String::new()) };
    if groups.len() > 1 {
        return Err(format!("Invalid user/group specification in --userns-remap: {spec:?}"));
    }
    let who = if spec == DEFAULT { DEFAULT_USER } else { who };
    let rows = |text: &str| -> Vec<(String, u32)> {
        let row = |line: &str| {
            let fields: Vec<&str> = line.split(':').collect();
            Some((fields.first()?.to_string(), fields.get(2)?.parse().ok()?))
        };
        text.lines().filter_map(row).collect()
    };
    let (users, known_groups) = (rows(passwd), rows(group));
    let user = match who.parse::<u32>() {
        Ok(uid) => users
            .into_iter()
            .find(|(_, id)| *id == uid)
            .ok_or_else(|| format!("Uid {uid} has no entry in /etc/passwd"))?,
        Err(_) => users.into_iter().find(|(name, _)| name == who).ok_or_else(|| {
            format!("Error during uid lookup for {who:?}: no matching entries in passwd file")
        })?,
    };
    // Without a group, the one that is called as the user.
    let wanted = groups.first().copied().unwrap_or(who);
    let known = match wanted.parse::<u32>() {
        Ok(gid) if !known_groups.iter().any(|(_, id)| *id == gid) => {
            Err(format!("Gid {gid} has no entry in /etc/group"))
        }
        Err(_) if !known_groups.iter().any(|(name, _)| name == wanted) => {
            Err(format!("Error during gid lookup for {wanted:?}: no matching entries in group file"))
        }
        _ => Ok(()),
    };
    known.map(|()| user)
}

/// A user's ranges, one after the other in the container, which begins with its root (subuid(5)).
fn extents(text: &str, user: &str, uid: u32) -> Vec<Extent> {
    let mut next = 0_u32;
    let mut found = Vec::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.trim().split(':').collect();
        let [owner, first, count] = fields[..] else { continue };
        if owner != user && owner.parse() != Ok(uid) {
            continue;
        }
        let (Ok(host), Ok(count)) = (first.parse::<u32>(), count.parse::<u32>()) else { continue };
        let Some(after) = next.checked_add(count).filter(|_| count > 0 && host.checked_add(count).is_some())
        else {
            continue;
        };
        found.push(Extent { container: next, host, count });
        next = after;
    }
    found
}

/// Makes the user that `default` stands for, and gives it ranges, where that is missing; with the system's own tools,
/// which know about locks and about other databases of users.
fn make_default_user() -> Result<()> {
    let known = |path: &str| -> Result<bool> {
        Ok(read(path)?.lines().any(|line| line.split(':').next() == Some(DEFAULT_USER)))
    };
    if !known("/etc/passwd")? {
        let args = ["--system", "--user-group", "--no-create-home", "--shell", "/bin/false", DEFAULT_USER];
        tool("useradd", &args)?;
    }
    for (path, option) in [("/etc/subuid", "--add-subuids"), ("/etc/subgid", "--add-subgids")] {
        if !known(path)? {
            let first = first_free(&read(path)?);
            let range = format!("{first}-{}", first.saturating_add(DEFAULT_COUNT - 1));
            tool("usermod", &[option, &range, DEFAULT_USER])?;
        }
    }
    Ok(())
}

/// The first id behind all ranges that are taken.
fn first_free(text: &str) -> u32 {
    let end = |line: &str| {
        let fields: Vec<&str> = line.trim().split(':').collect();
        let [_, first, count] = fields[..] else { return None };
        first.parse::<u32>().ok()?.checked_add(count.parse().ok()?)
    };
    text.lines().filter_map(end).max().unwrap_or(0).max(FIRST_FREE)
}

fn tool(program: &str, args: &[&str]) -> Result<()> {
    let failed = || Failure::new(format!("Error during {DEFAULT_USER:?} user creation"));
    let output = Command::new(program)
        .args(args)
        .output()
        .map_err(|error| failed().because(std::io::Error::other(format!("{program}: {error}"))))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(failed().because(std::io::Error::other(format!("{program}: {words}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0::/:/bin/sh\nana:x:1000:1000::/:\nbob:x:1001:100::/:\ndockremap:x:999:998::/:\n";
    const GROUP: &str = "root:x:0:\nana:x:1000:\nusers:x:100:\ndockremap:x:998:\n";

    #[test]
    fn users_are_found_by_name_and_number_with_their_group() {
        for (spec, found) in [
            ("default", Ok(("dockremap", 999))),
            ("ana", Ok(("ana", 1000))),
            ("1000", Ok(("ana", 1000))),
            ("bob:users", Ok(("bob", 1001))),
            ("1001:100", Ok(("bob", 1001))),
            ("bob", Err("Error during gid lookup for \"bob\": no matching entries in group file")),
            ("1001", Err("Gid 1001 has no entry in /etc/group")),
            ("bob:7", Err("Gid 7 has no entry in /etc/group")),
            ("eve", Err("Error during uid lookup for \"eve\": no matching entries in passwd file")),
            ("7", Err("Uid 7 has no entry in /etc/passwd")),
            ("a:b:c", Err("Invalid user/group specification in --userns-remap: \"a:b:c\"")),
        ] {
            let expected = found.map(|(name, uid)| (name.to_owned(), uid)).map_err(str::to_owned);
            assert_eq!(find(spec, PASSWD, GROUP), expected, "{spec}");
        }
    }

    #[test]
    fn ranges_follow_one_another_and_those_that_make_no_sense_are_passed_over() {
        let text = "ana:100000:65536\nbob:1:1\n1000:300000:10\nana:x:5\nana:5\nana:4294967295:2\n";
        let expected = [
            Extent { container: 0, host: 100_000, count: 65536 },
            Extent { container: 65536, host: 300_000, count: 10 },
        ];
        assert_eq!(extents(text, "ana", 1000), expected);
        assert!(extents(text, "eve", 7).is_empty());
        assert_eq!((first_free(text), first_free("a:1:2\n")), (300_010, FIRST_FREE));
    }
}
