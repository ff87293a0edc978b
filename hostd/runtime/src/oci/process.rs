//! A process: the container's first, or one of an exec.

use super::compact;
use crate::capabilities::CapSet;
use crate::container::identity::User;
use crate::container::program;
use crate::spec::{TtySize, Ulimit};
use serde_json::{Value, json};

/// A process to be.
#[derive(Debug)]
pub(crate) struct Process<'a> {
    pub(crate) args: &'a [String],
    pub(crate) env: &'a [String],
    pub(crate) cwd: &'a str,
    pub(crate) user: &'a User,
    pub(crate) tty: bool,
    pub(crate) console_size: Option<TtySize>,
    pub(crate) caps: CapSet,
    pub(crate) no_new_privileges: bool,
    pub(crate) ulimits: &'a [Ulimit],
    pub(crate) oom_score_adj: i32,
    pub(crate) apparmor: Option<&'a str>,
    pub(crate) selinux: Option<&'a str>,
}

impl Process<'_> {
    /// The specification's `process` object.
    pub(crate) fn oci(&self) -> Value {
        let User { uid, gid, groups, home } = self.user;
        let size = self.console_size.map(|size| json!({ "height": size.rows, "width": size.cols }));
        compact(json!({
            "terminal": self.tty,
            "consoleSize": size,
            "user": { "uid": uid, "gid": gid, "additionalGids": groups },
            "args": self.args,
            "env": program::environment(self.env, home),
            "cwd": if self.cwd.is_empty() { "/" } else { self.cwd },
            "capabilities": self.capabilities(),
            "rlimits": self.ulimits.iter().map(rlimit).collect::<Vec<_>>(),
            "noNewPrivileges": self.no_new_privileges,
            "oomScoreAdj": self.oom_score_adj,
            "apparmorProfile": self.apparmor,
            "selinuxLabel": self.selinux,
        }))
    }

    /// What execve(2) leaves: other users than root have none but in their bounding set.
    fn capabilities(&self) -> Value {
        let all = self.caps.names();
        let own: &[String] = if self.user.uid == 0 { &all } else { &[] };
        json!({ "bounding": all, "effective": own, "permitted": own, "inheritable": [], "ambient": [] })
    }
}

fn rlimit(limit: &Ulimit) -> Value {
    let name = limit.name.to_ascii_uppercase();
    // Below zero is no limit, the highest number there.
    let value = |number: i64| u64::try_from(number).unwrap_or(u64::MAX);
    json!({
        "type": format!("RLIMIT_{}", name.trim_start_matches("RLIMIT_")),
        "soft": value(limit.soft),
        "hard": value(limit.hard),
    })
}
