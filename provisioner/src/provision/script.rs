//! What runs on the machine: plain POSIX shell, over stdin, so that nothing secret stands in an argument.

use std::fmt::Write as _;

/// Tells what the machine is; changes nothing. `key=value` lines.
pub(crate) const PROBE: &str = r#"
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin"
v() { printf '%s=%s\n' "$1" "$2"; }
v os "$(uname -s)"
v arch "$(uname -m)"
v kernel "$(uname -r)"
( . /etc/os-release 2>/dev/null; v distribution "${PRETTY_NAME:-an unknown distribution}" )
sudo=
if [ "$(id -u)" = 0 ]; then v root self
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then v root sudo; sudo='sudo -n'
else v root none; fi
if [ -d /run/systemd/system ]; then v init systemd
elif [ -x /usr/sbin/berth-service ]; then v init berth
elif [ -d /run/openrc ] && command -v rc-service >/dev/null 2>&1; then v init openrc
else v init none; fi
if command -v nft >/dev/null 2>&1; then v firewall nft
elif command -v iptables >/dev/null 2>&1; then v firewall iptables
else v firewall none; fi
sum() { $sudo sha256sum "$1" 2>/dev/null | cut -d' ' -f1; }
v hostd "$(sum /usr/local/bin/hostd)"
if $sudo test -s /etc/hostd/tls/server-key.pem; then v certificate "$(sum /etc/hostd/tls/server.pem)"; fi
if command -v sha256sum >/dev/null 2>&1; then v sha256sum yes; fi
"#;

/// Makes an empty directory that is ours alone, on a disk rather than in memory where there is a choice.
pub(crate) const STAGE: &str = r#"
for dir in /var/tmp /tmp "$HOME"; do
    if staged=$(mktemp -d "$dir/.berth-XXXXXXXX" 2>/dev/null); then
        printf '%s %s\n' "$staged" "$(df -Pk "$staged" 2>/dev/null | awk 'NR==2 {print $4}')"
        exit 0
    fi
done
echo 'no directory for temporary files can be written to' >&2
exit 1
"#;

/// Installs a firewall tool by the distribution's package manager, and nothing else.
pub(crate) const NFTABLES: &str = r#"
set -u
export DEBIAN_FRONTEND=noninteractive
if command -v apt-get >/dev/null; then
    apt='apt-get -q -o DPkg::Lock::Timeout=300'
    $apt install -y --no-install-recommends nftables || { $apt update && $apt install -y --no-install-recommends nftables; }
elif command -v dnf >/dev/null; then dnf install -y nftables
elif command -v yum >/dev/null; then yum install -y nftables
elif command -v zypper >/dev/null; then zypper --non-interactive install nftables
elif command -v apk >/dev/null; then apk add --wait 300 nftables
elif command -v pacman >/dev/null; then pacman -S --noconfirm --needed nftables
else echo 'no package manager that berth knows' >&2; exit 1; fi
"#;

/// Shows the last lines that hostd wrote.
pub(crate) const LOGS: &str = r#"
if [ -d /run/systemd/system ]; then journalctl -u hostd -n 20 --no-pager -o cat 2>&1
elif [ -x /usr/sbin/berth-service ]; then /usr/sbin/berth-service log hostd 2>&1
else tail -n 20 /var/log/hostd.log 2>&1; fi
"#;

/// Writes hostd's log to stdout: the last `tail` lines (or `all`) of those since a moment, then what follows.
///
/// Nothing is lost or told twice between the two: what follows begins at the line where the first part was counted to end.
pub(crate) fn logs(tail: &str, since: Option<time::OffsetDateTime>, follow: bool) -> String {
    let (seconds, at) = since.map_or((String::new(), String::new()), |at| {
        let stamp = at.to_offset(time::UtcOffset::UTC).replace_nanosecond(0).unwrap_or(at);
        let stamp = stamp.format(&time::format_description::well_known::Rfc3339).unwrap_or_default();
        (format!("--since=@{}", at.unix_timestamp()), stamp.trim_end_matches('Z').to_owned())
    });
    let follow = if follow { "-f" } else { "" };
    let wanted = if tail == "all" { "cat".to_owned() } else { format!("tail -n {tail}") };
    format!(
        r#"
s=
if [ "$(id -u)" != 0 ]; then s='sudo -n'; fi
if [ -d /run/systemd/system ]; then exec $s journalctl -q -u hostd --no-pager -o cat -n {tail} {seconds} {follow}; fi
log=/var/log/hostd.log
all=$($s sed -n '$=' "$log") || exit 1
all=${{all:-0}}
# A line without a time belongs to the one before it.
$s head -n "$all" "$log" | awk -v since='{at}' '/^[0-9]+-[0-9]+-[0-9]+T/ {{ on = ($1 >= since) }} on || since == ""' | {wanted}
if [ -n "{follow}" ]; then exec $s tail -n "+$((all + 1))" -F "$log"; fi
"#
    )
}

/// Says `dead` where hostd ends as soon as it is started.
pub(crate) const HEALTH: &str = r#"
if [ -d /run/systemd/system ]; then
    restarts=$(systemctl show -p NRestarts --value hostd 2>/dev/null)
    if [ "${restarts:-0}" -ge 3 ]; then echo dead; fi
elif [ -x /usr/sbin/berth-service ]; then
    [ "$(wc -l < /run/berth/hostd.ended 2>/dev/null || echo 0)" -lt 3 ] || echo dead
elif [ ! -d /run/openrc ]; then
    # One that has ended and is not waited for has no command line.
    pid=$(cat /run/hostd/berth.pid 2>/dev/null)
    [ -n "$(tr -d '\0' < "/proc/$pid/cmdline" 2>/dev/null)" ] || echo dead
fi
"#;

const UNIT: &str = "\
[Unit]
Description=hostd container engine
Wants=network-online.target
After=network-online.target nftables.service
StartLimitIntervalSec=0

[Service]
ExecStart=/usr/local/bin/hostd --config-file /etc/hostd/hostd.json
# Containers outlive hostd: their shims are left alone, and their cgroups are its own business.
KillMode=process
Delegate=yes
Restart=always
RestartSec=1
LimitNOFILE=1048576
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity
OOMScoreAdjust=-500

[Install]
WantedBy=multi-user.target
";

const OPENRC: &str = "\
#!/sbin/openrc-run
description=\"hostd container engine\"
supervisor=supervise-daemon
command=/usr/local/bin/hostd
command_args=\"--config-file /etc/hostd/hostd.json\"
output_log=/var/log/hostd.log
error_log=/var/log/hostd.log
respawn_delay=1
rc_ulimit=\"-n 1048576\"

depend() {
    need net
    after firewall nftables
}
";

const INSTALL_HEAD: &str = r#"
set -eu
umask 077
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin"
changed= unit=
temp=
trap 'if [ -n "$temp" ]; then rm -f "$temp"; fi' EXIT
# put MODE PATH: replaces a file by stdin, whole or not at all, where it differs.
put() {
    mkdir -p "$(dirname "$2")"
    temp="$(dirname "$2")/.new-$$"
    cat > "$temp"
    chmod "$1" "$temp"
    if cmp -s "$temp" "$2"; then rm -f "$temp"; temp=; return 0; fi
    sync "$temp" 2>/dev/null || sync
    mv -f "$temp" "$2"
    temp= changed=yes
    case "$2" in */hostd.service|/etc/init.d/hostd) unit=yes;; esac
}
"#;

const START_SYSTEMD: &str = r#"
# `enable` would have systemd read all units once more, which takes seconds on a slow machine.
systemctl -q --no-reload enable hostd
if [ -n "$unit" ]; then systemctl daemon-reload; fi
if [ -n "$changed" ] || ! systemctl -q is-active hostd; then
    systemctl reset-failed hostd 2>/dev/null || true
    systemctl restart hostd
    echo restarted
fi
"#;

const START_OPENRC: &str = r#"
rc-update -q add hostd default
if [ -n "$changed" ]; then rc-service hostd restart; echo restarted
elif ! rc-service -q hostd status; then rc-service hostd start; echo restarted; fi
"#;

/// The services of our own image are init's, which runs what ends again.
const START_BERTH: &str = r#"
rm -f /run/berth/hostd.ended
if [ -n "$changed" ]; then berth-service restart hostd; echo restarted
elif ! berth-service status hostd >/dev/null; then berth-service start hostd; echo restarted; fi
"#;

const START_NONE: &str = r#"
pidfile=/run/hostd/berth.pid
mkdir -p /run/hostd
running() {
    pid=$(cat "$pidfile" 2>/dev/null) && [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null &&
        tr '\0' ' ' < "/proc/$pid/cmdline" 2>/dev/null | grep -q '/usr/local/bin/hostd '
}
if running && [ -n "$changed" ]; then
    kill "$pid"
    tries=0
    while running && [ "$tries" -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
    if running; then kill -9 "$pid"; fi
fi
if [ -n "$changed" ] || ! running; then
    setsid nohup /usr/local/bin/hostd --config-file /etc/hostd/hostd.json >> /var/log/hostd.log 2>&1 < /dev/null &
    echo "$!" > "$pidfile"
    echo restarted
fi
"#;

/// Where a new hostd waits for its turn: in the directory of the one that it replaces, so that a rename does it.
pub(crate) const STAGED: &str = "/usr/local/bin/.hostd-new";

/// Removes a hostd that is staged.
pub(crate) const UNSTAGE: &str = "rm -f /usr/local/bin/.hostd-new\n";

/// Stages an uploaded hostd of this checksum.
pub(crate) fn stage(path: &str, sha256: &str) -> String {
    format!(
        "{UPGRADE_HEAD}trap 'rm -f \"$new.partial\"' EXIT
cp '{path}' \"$new.partial\"
rm -f '{path}'
echo '{sha256}  '\"$new.partial\" | sha256sum -c - >/dev/null
chmod 755 \"$new.partial\"
sync \"$new.partial\" 2>/dev/null || sync
mv -f \"$new.partial\" \"$new\"
"
    )
}

/// Keeps the hostd that is there as hostd.old.
pub(crate) const KEEP: &str = "ln -f /usr/local/bin/hostd /usr/local/bin/hostd.old && sync\n";

/// Puts the staged hostd of this checksum in place, unless it is there already, and restarts.
pub(crate) fn swap(sha256: &str, init: Init) -> String {
    format!(
        "{UPGRADE_HEAD}if [ \"$(sha256sum < \"$hostd\" | cut -d' ' -f1)\" != {sha256} ]; then
    mv -f \"$new\" \"$hostd\"
    sync
else rm -f \"$new\"; fi
{}",
        start(init)
    )
}

/// Puts hostd.old in place again, and restarts.
pub(crate) fn swap_back(init: Init) -> String {
    format!(
        "{UPGRADE_HEAD}cp -p \"$old\" \"$new\"
sync \"$new\" 2>/dev/null || sync
mv -f \"$new\" \"$hostd\"
sync
{}",
        start(init)
    )
}

const UPGRADE_HEAD: &str = r#"
set -eu
umask 077
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin"
hostd=/usr/local/bin/hostd old=/usr/local/bin/hostd.old new=/usr/local/bin/.hostd-new
changed=yes unit=
"#;

fn start(init: Init) -> &'static str {
    match init {
        Init::Systemd => START_SYSTEMD,
        Init::OpenRc => START_OPENRC,
        Init::Berth => START_BERTH,
        Init::None => START_NONE,
    }
}

/// The init system of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Init {
    Systemd,
    OpenRc,
    /// The one of our own image.
    Berth,
    None,
}

/// What `install` brings.
pub(crate) struct Install<'a> {
    /// Where the new hostd was uploaded, with its checksum; `None` where the machine has it.
    pub(crate) hostd: Option<(&'a str, &'a str)>,
    /// The authority's certificate, the server's and its key; `None` where the machine has them.
    pub(crate) certificates: Option<(&'a str, &'a str, &'a str)>,
    /// The configuration file.
    pub(crate) config: &'a str,
    pub(crate) init: Init,
}

/// The script that installs and, where something changed, restarts.
pub(crate) fn install(what: &Install<'_>) -> String {
    let mut script = INSTALL_HEAD.to_owned();
    if let Some((path, sha256)) = what.hostd {
        // The name comes from mktemp on the machine; the checksum from us.
        let _ = write!(
            script,
            "echo '{sha256}  {path}' | sha256sum -c - >/dev/null\nput 755 /usr/local/bin/hostd < '{path}'\nrm -f '{path}'\n"
        );
    }
    if let Some((ca, cert, key)) = what.certificates {
        put(&mut script, "644", "/etc/hostd/tls/ca.pem", ca);
        put(&mut script, "644", "/etc/hostd/tls/server.pem", cert);
        put(&mut script, "600", "/etc/hostd/tls/server-key.pem", key);
    }
    put(&mut script, "644", "/etc/hostd/hostd.json", what.config);
    match what.init {
        Init::Systemd => {
            put(&mut script, "644", "/etc/systemd/system/hostd.service", UNIT);
            script.push_str(START_SYSTEMD);
        }
        Init::OpenRc => {
            put(&mut script, "755", "/etc/init.d/hostd", OPENRC);
            script.push_str(START_OPENRC);
        }
        Init::Berth => script.push_str(START_BERTH),
        Init::None => script.push_str(START_NONE),
    }
    script
}

fn put(script: &mut String, mode: &str, path: &str, content: &str) {
    let end = if content.ends_with('\n') { "" } else { "\n" };
    let _ = write!(script, "put {mode} {path} <<'BERTH-END'\n{content}{end}BERTH-END\n");
}
