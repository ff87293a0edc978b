//! The hops over SSH. One session is tried; what it failed with tells at which hop.

use super::{Found, Report, Trouble, trouble};
use crate::connect;
use crate::error::CliError;
use crate::ssh::{Session, SshError, Target};
use crate::store::Machine;
use drivers::driver::Driver;

pub(super) const HOPS: [&str; 4] = ["SSH port", "SSH host key", "SSH log-in", "hostd service"];

/// Tells how hostd's service stands, in a word.
const SERVICE: &str = r#"
s=
if [ "$(id -u)" != 0 ]; then s='sudo -n'; fi
if [ -d /run/systemd/system ]; then systemctl is-active hostd
elif [ -d /run/openrc ] && command -v rc-service >/dev/null 2>&1; then
    if $s rc-service -q hostd status; then echo active; else echo inactive; fi
elif [ -x /usr/sbin/berth-service ]; then
    if $s /usr/sbin/berth-service status hostd >/dev/null; then echo active; else echo inactive; fi
else
    pid=$($s cat /run/hostd/berth.pid 2>/dev/null)
    if [ -n "$pid" ] && [ -n "$(tr -d '\0' < "/proc/$pid/cmdline" 2>/dev/null)" ]; then echo active; else echo inactive; fi
fi
"#;

/// Where a session's failure lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Port,
    HostKey,
    LogIn,
}

/// Answers the session, where there is one.
pub(super) async fn examine(report: &mut Report, machine: &Machine, driver: &dyn Driver) -> Option<Session> {
    let name = &machine.name;
    let target = match connect::ssh_target(machine, driver) {
        Ok(Some(target)) => Target { may_ask: false, ..target },
        Ok(None) => {
            report.skip(&HOPS, &format!("driver {} knows no SSH", driver.kind()));
            return None;
        }
        Err(error) => {
            let found: Found<(String, ())> = Err(trouble(error.to_string(), format!("`berth start {name}`")));
            report.tell(HOPS[0], found).await;
            report.skip(&HOPS[1..], "SSH is nowhere");
            return None;
        }
    };
    let place = format!("{}:{}", target.endpoint.host, target.endpoint.port);
    let mut failure = None;
    let slow = format!("open port {} on the machine's firewall and those before it", target.endpoint.port);
    let connected = report
        .ask(HOPS[0], &slow, async {
            match Session::connect(&target).await {
                Ok(session) => Ok((format!("{place} answers"), Some(session))),
                Err(error) => {
                    let at = at(&error);
                    let trouble = explain(machine, &target, error);
                    if at == At::Port {
                        return Err(trouble);
                    }
                    failure = Some((at, trouble));
                    Ok((format!("{place} answers"), None))
                }
            }
        })
        .await;
    let Some(session) = connected else {
        report.skip(&HOPS[1..], "there is no SSH session");
        return None;
    };
    match failure {
        None => {
            report.tell(HOPS[1], Ok(("it is the expected one".to_owned(), ()))).await;
            report.tell(HOPS[2], Ok((format!("as {}", target.endpoint.user), ()))).await;
        }
        Some((At::HostKey | At::Port, trouble)) => {
            report.tell::<()>(HOPS[1], Err(trouble)).await;
            report.skip(&HOPS[2..], "there is no SSH session");
        }
        Some((At::LogIn, trouble)) => {
            report.tell(HOPS[1], Ok(("it is the expected one".to_owned(), ()))).await;
            report.tell::<()>(HOPS[2], Err(trouble)).await;
            report.skip(&HOPS[3..], "there is no SSH session");
        }
    }
    let session = session?;
    if driver.features().provisions {
        let slow = format!("`berth ssh {name}` shows whether the machine is overloaded");
        report.ask(HOPS[3], &slow, service(machine, &session)).await;
    } else {
        report.skip(&HOPS[3..], &format!("driver {} leaves the engine alone", driver.kind()));
    }
    Some(session)
}

fn at(error: &SshError) -> At {
    match error {
        SshError::HostKeyChanged { .. } => At::HostKey,
        SshError::Refused { .. }
        | SshError::Encrypted { .. }
        | SshError::Key { .. }
        | SshError::Terminal(_) => At::LogIn,
        _ => At::Port,
    }
}

fn explain(machine: &Machine, target: &Target, error: SshError) -> Trouble {
    let name = &machine.name;
    let remedy = match &error {
        SshError::HostKeyChanged { .. } => {
            format!(
                "where the machine was installed anew: `berth provision --accept-host-key {name}`; else someone is in between"
            )
        }
        SshError::Refused { user, .. } => {
            format!("add berth's key or yours to ~{user}/.ssh/authorized_keys on the machine")
        }
        SshError::Encrypted { key } => format!("`ssh-add {key}`"),
        SshError::Key { key, .. } => format!("`ssh-keygen -y -f {key}` must read the key"),
        SshError::Config { path, .. } => format!("mend {path}"),
        SshError::NotThrough { through, .. } => format!("see to {through}, which must reach the machine"),
        _ => {
            format!("start the machine and its sshd, and open port {} on the way there", target.endpoint.port)
        }
    };
    trouble(CliError::from(error).one_line(), remedy)
}

async fn service(machine: &Machine, session: &Session) -> Found<(String, ())> {
    let name = &machine.name;
    let remedy =
        || format!("`berth provision {name}` brings it up; `berth logs --tail 20 {name}` tells why it ended");
    let said = session.run("sh -s", SERVICE.as_bytes()).await;
    let said = said.map_err(|error| trouble(CliError::from(error).one_line(), remedy()))?;
    match said.stdout.trim() {
        "active" => Ok(("it runs".to_owned(), ())),
        other => Err(trouble(format!("it does not run ({other})"), remedy())),
    }
}
