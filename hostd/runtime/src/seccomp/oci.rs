//! A profile as `linux.seccomp` of the OCI runtime specification has it, for runtimes that compile it themselves.

use super::profile::{Action, Op, Profile, Rule, kernel_version};
use super::{SeccompError, applies, default};
use crate::capabilities::CapSet;
use crate::spec::Seccomp;
use serde_json::{Value, json};

/// The native architecture with those that its programs may use too, as Docker names them.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURES: &[&str] = &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"];
#[cfg(target_arch = "aarch64")]
const ARCHITECTURES: &[&str] = &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"];

/// The rules that are there for these capabilities on this machine; `None` for an unconfined container.
pub(crate) fn oci(seccomp: &Seccomp, caps: CapSet) -> Result<Option<Value>, SeccompError> {
    let profile = match seccomp {
        Seccomp::Default => default::profile(),
        Seccomp::Profile(text) => Profile::from_json(text)?,
        Seccomp::Unconfined => return Ok(None),
    };
    let release = rustix::system::uname();
    let kernel = kernel_version(&release.release().to_string_lossy()).unwrap_or((4, 18));
    // A rule with the default's action is refused by some, and changes nothing.
    let rules = profile.rules.iter().filter(|r| r.action != profile.default && applies(r, caps, kernel));
    let architectures: Vec<_> =
        ARCHITECTURES.iter().filter(|own| **own == super::NATIVE || profile.covers(own)).collect();
    let mut value = json!({
        "defaultAction": name(profile.default),
        "architectures": architectures,
        "syscalls": rules.map(rule).collect::<Vec<_>>(),
    });
    if let Some(errno) = errno(profile.default) {
        value["defaultErrnoRet"] = json!(errno);
    }
    Ok(Some(value))
}

fn rule(rule: &Rule) -> Value {
    let args: Vec<_> = rule
        .args
        .iter()
        .map(|arg| json!({ "index": arg.index, "value": arg.value, "valueTwo": arg.value_two, "op": operator(arg.op) }))
        .collect();
    let names: Vec<&str> = rule.names().collect();
    let mut value = json!({ "names": names, "action": name(rule.action), "args": args });
    if let Some(errno) = errno(rule.action) {
        value["errnoRet"] = json!(errno);
    }
    value
}

fn name(action: Action) -> &'static str {
    match action {
        Action::Allow => "SCMP_ACT_ALLOW",
        Action::Errno(_) => "SCMP_ACT_ERRNO",
        Action::KillThread => "SCMP_ACT_KILL_THREAD",
        Action::KillProcess => "SCMP_ACT_KILL_PROCESS",
        Action::Trap => "SCMP_ACT_TRAP",
        Action::Trace(_) => "SCMP_ACT_TRACE",
        Action::Log => "SCMP_ACT_LOG",
    }
}

/// The number that goes with an action, where one does.
fn errno(action: Action) -> Option<u16> {
    match action {
        Action::Errno(number) | Action::Trace(number) => Some(number),
        _ => None,
    }
}

fn operator(op: Op) -> &'static str {
    match op {
        Op::Ne => "SCMP_CMP_NE",
        Op::Lt => "SCMP_CMP_LT",
        Op::Le => "SCMP_CMP_LE",
        Op::Eq => "SCMP_CMP_EQ",
        Op::Ge => "SCMP_CMP_GE",
        Op::Gt => "SCMP_CMP_GT",
        Op::MaskedEq => "SCMP_CMP_MASKED_EQ",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named<'a>(form: &'a Value, call: &str) -> Vec<&'a Value> {
        let rules = form["syscalls"].as_array().unwrap().iter();
        rules.filter(|rule| rule["names"].as_array().unwrap().contains(&json!(call))).collect()
    }

    #[test]
    fn the_default_profile_depends_on_the_capabilities() {
        let confined = CapSet::for_container(false, &[], &[]).unwrap();
        let form = oci(&Seccomp::Default, confined).unwrap().unwrap();
        assert_eq!((&form["defaultAction"], &form["defaultErrnoRet"]), (&json!("SCMP_ACT_ERRNO"), &json!(1)));
        assert!(named(&form, "mount").is_empty());
        let clone = named(&form, "clone");
        assert_eq!(clone.len(), 1);
        assert_eq!(clone[0]["args"][0]["op"], "SCMP_CMP_MASKED_EQ");
        assert_eq!(named(&form, "clone3")[0]["errnoRet"], 38);
        let admin = CapSet::for_container(false, &["SYS_ADMIN".to_owned()], &[]).unwrap();
        let form = oci(&Seccomp::Default, admin).unwrap().unwrap();
        assert!(
            !named(&form, "mount").is_empty()
                && named(&form, "clone3").iter().all(|r| r["errnoRet"].is_null())
        );
        assert!(oci(&Seccomp::Unconfined, confined).unwrap().is_none());
    }

    #[test]
    fn a_users_profile_is_carried_over() {
        let text = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["chmod"],"action":"SCMP_ACT_ERRNO","errnoRet":5,
            "args":[{"index":1,"value":511,"op":"SCMP_CMP_EQ"}]}]}"#;
        let form = oci(&Seccomp::Profile(text.to_owned()), CapSet::EMPTY).unwrap().unwrap();
        assert_eq!(form["defaultAction"], "SCMP_ACT_ALLOW");
        let rule = named(&form, "chmod")[0];
        assert_eq!((&rule["errnoRet"], &rule["args"][0]["value"]), (&json!(5), &json!(511)));
    }
}
