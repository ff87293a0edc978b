//! Who the program runs as: `/etc/passwd` and `/etc/group` of the container, read by ourselves.

use super::rootfs::Root;
use crate::wire::{Attempt, Failure};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::fs::File;
use std::io::Read;

/// Most that is read of either file.
const LONGEST: u64 = 8 << 20;

/// A user as the kernel wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

/// Resolves `user` (as in `docker run -u`) and further groups.
pub(crate) fn resolve(root: &Root, user: &str, group_add: &[String]) -> Attempt<User> {
    let passwd = read(root, "/etc/passwd")?;
    let group = read(root, "/etc/group")?;
    find(&passwd, &group, user, group_add).map_err(Failure::new)
}

/// A file's text; empty where there is no such file.
fn read(root: &Root, path: &str) -> Attempt<String> {
    let fail = |why: String| Failure::new(format!("cannot read {path}: {why}"));
    // Not to hang on a FIFO in its place.
    let fd = match root.open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(String::new()),
        Err(error) => return Err(fail(error.to_string())),
    };
    let file = File::from(fd);
    let meta = file.metadata().map_err(|e| fail(e.to_string()))?;
    if !meta.is_file() || meta.len() > LONGEST {
        return Err(fail("not a regular file of reasonable size".into()));
    }
    let mut text = Vec::with_capacity(meta.len() as usize);
    file.take(LONGEST).read_to_end(&mut text).map_err(|e| fail(e.to_string()))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// "Stay who you are" to the kernel, as a uid and as a gid.
const NOBODY_ELSE: u32 = u32::MAX;
const OUT_OF_RANGE: &str = "uids and gids must be in range 0-2147483647";

/// A number as uids and gids are; `None` for a name.
fn number(text: &str) -> Result<Option<u32>, String> {
    match text.parse::<i64>() {
        Ok(n) if (0..=i64::from(i32::MAX)).contains(&n) => Ok(Some(n as u32)),
        Ok(_) => Err(OUT_OF_RANGE.into()),
        Err(_) => Ok(None),
    }
}

fn find(passwd: &str, group: &str, user: &str, group_add: &[String]) -> Result<User, String> {
    let (name, wanted_group) = user.split_once(':').unwrap_or((user, ""));
    let wanted_uid = if name.is_empty() { Some(0) } else { number(name)? };
    // A name goes before a number that reads the same.
    let entry = |by: &dyn Fn(&[&str]) -> bool| {
        passwd.lines().map(|l| l.split(':').collect::<Vec<_>>()).find(|f| f.len() >= 4 && by(f))
    };
    let found = entry(&|f| !name.is_empty() && f[0] == name)
        .or_else(|| wanted_uid.and_then(|uid| entry(&|f| f[2].parse() == Ok(uid))));
    let (uid, mut gid, login, home) = match (&found, wanted_uid) {
        (Some(f), _) => {
            let bad = || format!("unable to find user {name}: invalid entry in passwd file");
            let uid = f[2].parse().map_err(|_| bad())?;
            (uid, f[3].parse().map_err(|_| bad())?, f[0], f.get(5).copied().unwrap_or("/"))
        }
        (None, Some(uid)) => (uid, 0, "", "/"),
        (None, None) => {
            return Err(format!("unable to find user {name}: no matching entries in passwd file"));
        }
    };
    let mut groups = Vec::new();
    if wanted_group.is_empty() {
        for fields in group.lines().map(|l| l.split(':').collect::<Vec<_>>()) {
            let member = fields.len() >= 4 && !login.is_empty() && fields[3].split(',').any(|m| m == login);
            if let (true, Ok(id)) = (member, fields.get(2).copied().unwrap_or_default().parse()) {
                groups.push(id);
            }
        }
    } else {
        gid = find_group(group, wanted_group)?;
    }
    for extra in group_add {
        groups.push(find_group(group, extra)?);
    }
    // The first group too: else a setgid program that changes it could lose what denies it (CVE-2022-36109).
    groups.push(gid);
    if uid == NOBODY_ELSE || groups.contains(&NOBODY_ELSE) {
        return Err(OUT_OF_RANGE.into());
    }
    groups.sort_unstable();
    groups.dedup();
    let home = if home.is_empty() { "/" } else { home }.to_owned();
    Ok(User { uid, gid, groups, home })
}

fn find_group(group: &str, wanted: &str) -> Result<u32, String> {
    let by_name = group.lines().map(|l| l.split(':').collect::<Vec<_>>()).find(|f| f[0] == wanted);
    if let Some(id) = by_name.and_then(|f| f.get(2)?.parse().ok()) {
        return Ok(id);
    }
    number(wanted)?.ok_or_else(|| format!("unable to find group {wanted}: no matching entries in group file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/srv/web:/bin/false\n1000:x:7:7::/seven:\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nadm:x:4:web,other\nlog:x:50:web\n";

    fn found(user: &str, add: &[&str]) -> Result<(u32, u32, Vec<u32>, String), String> {
        let add: Vec<String> = add.iter().map(|g| (*g).to_owned()).collect();
        find(PASSWD, GROUP, user, &add).map(|u| (u.uid, u.gid, u.groups, u.home))
    }

    #[test]
    fn users_resolve_as_with_docker() {
        let cases: [(&str, u32, u32, &[u32], &str); 8] = [
            ("", 0, 0, &[0], "/root"),
            ("web", 33, 34, &[4, 34, 50], "/srv/web"),
            ("33", 33, 34, &[4, 34, 50], "/srv/web"),
            ("web:adm", 33, 4, &[4], "/srv/web"),
            ("5000", 5000, 0, &[0], "/"),
            ("5000:6000", 5000, 6000, &[6000], "/"),
            ("1000", 7, 7, &[7], "/seven"),
            (":web", 0, 34, &[34], "/root"),
        ];
        for (user, uid, gid, groups, home) in cases {
            assert_eq!(found(user, &[]).unwrap(), (uid, gid, groups.to_vec(), home.to_owned()), "{user}");
        }
        assert_eq!(found("5000", &["log", "77"]).unwrap().2, [0, 50, 77]);
    }

    #[test]
    fn errors_are_in_dockers_words() {
        let says = |user: &str| found(user, &[]).unwrap_err();
        assert_eq!(says("foo"), "unable to find user foo: no matching entries in passwd file");
        assert_eq!(says("web:foo"), "unable to find group foo: no matching entries in group file");
        assert_eq!(says("-5"), OUT_OF_RANGE);
        // Neither may the image's own files name such: to setresuid(2) it would mean to stay root.
        for (passwd, group) in [
            ("all:x:4294967295:1::/:\n", ""),
            ("all:x:1:4294967295::/:\n", ""),
            ("all:x:1:1::/:\n", "many:x:4294967295:all\n"),
        ] {
            assert_eq!(find(passwd, group, "all", &[]).unwrap_err(), OUT_OF_RANGE, "{passwd}{group}");
        }
    }
}
