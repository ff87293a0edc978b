//! What is known about containers by what hostd has answered.

use e2e::{Answer, TestHost, eventually, run};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// What a container does when it runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    /// Sleeps.
    Sleeper,
    /// Sleeps, and is started again whatever ends it.
    Always,
    /// Ends with code 3 after a moment, and is started again.
    Failing,
    /// Sleeps, and is removed when it ends.
    Passing,
    /// Ends with code 7.
    Once,
    /// Sleeps behind a published port.
    Server,
}

impl Kind {
    pub(crate) const ALL: [Self; 6] =
        [Self::Sleeper, Self::Always, Self::Failing, Self::Passing, Self::Once, Self::Server];

    /// States that it may be in once a start was acknowledged, and nothing else happened.
    fn started(self) -> &'static [&'static str] {
        match self {
            Self::Sleeper | Self::Server | Self::Passing => &["running"],
            Self::Always | Self::Failing => &["running", "restarting"],
            Self::Once => &["running", "exited"],
        }
    }

    /// States that it may be in once its run has ended.
    fn ended(self) -> &'static [&'static str] {
        if self == Self::Passing { &[GONE] } else { &["exited"] }
    }
}

/// What a worker asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Change {
    Create,
    Start,
    /// Stop or kill: both for good.
    Stop,
    Restart,
    Pause,
    Unpause,
    Remove,
}

impl Change {
    /// Whether its first step is a stop.
    fn stops(self) -> bool {
        matches!(self, Self::Stop | Self::Restart | Self::Remove)
    }
}

/// The state of a container that does not exist.
const GONE: &str = "gone";

#[derive(Debug)]
struct Entry {
    id: Option<String>,
    kind: Kind,
    port: Option<u16>,
    /// States that it may be in.
    may_be: BTreeSet<&'static str>,
    /// A shim of it was killed: its exit code says nothing any more.
    shaken: bool,
    /// A stop, or what begins with one, was asked for and not answered: its restart policy may leave it alone from now on.
    half_stopped: bool,
    /// What led to this, for the report of a failure.
    story: Vec<String>,
}

/// The containers of one worker, by name.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    entries: BTreeMap<String, Entry>,
}

impl Ledger {
    /// Those that may exist.
    pub(crate) fn names(&self) -> Vec<String> {
        self.entries.keys().cloned().collect()
    }

    /// Notes a new name, before anything is asked about it.
    pub(crate) fn expect(&mut self, name: &str, kind: Kind, port: Option<u16>) {
        let entry = Entry {
            id: None,
            kind,
            port,
            may_be: [GONE].into(),
            shaken: false,
            half_stopped: false,
            story: Vec::new(),
        };
        self.entries.insert(name.to_owned(), entry);
    }

    /// Notes what came of a request.
    pub(crate) fn note(&mut self, name: &str, change: Change, outcome: &io::Result<Answer>) {
        let entry = self.entries.get_mut(name).unwrap();
        let told = match outcome {
            Ok(answer) => format!("{change:?}: {} {}", answer.status, answer.message()),
            Err(error) => format!("{change:?}: {error}"),
        };
        entry.story.push(told);
        let (to, on_the_way): (&[&str], &[&str]) = match change {
            Change::Create => (&["created"], &[GONE]),
            Change::Start => (entry.kind.started(), &["created", "exited"]),
            Change::Stop => (entry.kind.ended(), &["running", "paused", "restarting"]),
            Change::Restart => (entry.kind.started(), &["running", "exited", "created", "restarting"]),
            // One that ends by itself may have done so in the moment before.
            Change::Pause if matches!(entry.kind, Kind::Failing | Kind::Once) => {
                (&["paused", "running", "restarting", "exited"], &[])
            }
            Change::Unpause if matches!(entry.kind, Kind::Failing | Kind::Once) => {
                (&["running", "restarting", "exited"], &["paused"])
            }
            Change::Pause => (&["paused"], &["running"]),
            Change::Unpause => (&["running"], &["paused"]),
            Change::Remove => (&[GONE], &["exited", "created"]),
        };
        match outcome {
            Ok(answer) if answer.status < 300 => {
                entry.may_be = to.iter().copied().collect();
                if let (Change::Create, Value::String(id)) = (change, &answer.json()["Id"]) {
                    crate::remains::remember(id);
                    entry.id = Some(id.clone());
                }
                if change == Change::Start || change == Change::Restart {
                    entry.shaken = false;
                    entry.half_stopped = false;
                }
            }
            Ok(answer) => self.refused(name, change, answer),
            Err(_) => {
                entry.half_stopped |= change.stops();
                entry.may_be.extend(to);
                entry.may_be.extend(on_the_way);
                // Cut off between the end of its run and the rest of what was asked for.
                entry.may_be.extend(entry.kind.ended());
            }
        }
    }

    fn refused(&mut self, name: &str, change: Change, answer: &Answer) {
        let entry = self.entries.get_mut(name).unwrap();
        match answer.status {
            404 => {
                let allowed =
                    change == Change::Create || entry.may_be.contains(GONE) || entry.kind == Kind::Passing;
                assert!(allowed, "{name} was acknowledged and is lost: {entry:#?}");
                if change != Change::Create {
                    entry.may_be = [GONE].into();
                }
            }
            // It was so before, or its state forbids it: nothing has changed by that.
            304 | 409 => {}
            // A shim was killed while it was asked, say, or hostd goes down.
            500 | 503 => {
                entry.half_stopped |= change.stops();
                entry.may_be.extend(["running", "exited", "created", "restarting", "dead"]);
            }
            other => panic!("{name}: {change:?} is answered {other} {}: {entry:#?}", answer.message()),
        }
    }

    /// hostd was started anew: what is always to run does, even after a stop by a user.
    pub(crate) fn hostd_is_back(&mut self) {
        for entry in self.entries.values_mut().filter(|entry| entry.kind == Kind::Always) {
            if entry.may_be.contains("exited") {
                entry.may_be.extend(["running", "restarting"]);
            }
        }
    }

    /// The shim of a container was killed.
    pub(crate) fn lost_its_shim(&mut self, id: &str) {
        let mine = self.entries.values_mut().find(|entry| entry.id.as_deref() == Some(id));
        let Some(entry) = mine else { return };
        entry.story.push("its shim was killed".to_owned());
        entry.shaken = true;
        entry.may_be.extend(entry.kind.ended());
        // A start that was under way has failed.
        entry.may_be.extend(["created", "exited", "running", "restarting"]);
    }

    /// Every container is in a state that it may be in, sooner or later; what it is in now is what it may be in.
    pub(crate) fn check(&mut self, host: &TestHost, round: u64) {
        let mut seen = BTreeMap::new();
        let mut wrong = Vec::new();
        for _ in 0..600 {
            seen = states(host);
            wrong = self.entries.iter().filter(|(name, entry)| !entry.fits(seen.get(*name))).collect();
            if wrong.is_empty() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        assert!(wrong.is_empty(), "round {round}: these are not as acknowledged: {wrong:#?}\n{seen:#?}");
        for (name, entry) in &mut self.entries {
            let now = seen.get(name);
            entry.story.push(format!("round {round}: {now:?}"));
            let Some(now) = now else { continue };
            crate::remains::remember(&now.id);
            entry.id = Some(now.id.clone());
            let state = entry.may_be.iter().copied().find(|state| *state == now.state);
            entry.may_be = match state {
                // Those that come and go may do so until they are told otherwise.
                Some("running" | "restarting") => {
                    let given_up: &[_] = if entry.half_stopped { &["exited"] } else { &[] };
                    entry.kind.started().iter().chain(given_up).copied().collect()
                }
                Some(state) => [state].into(),
                None => continue,
            };
        }
        self.entries.retain(|name, _| seen.contains_key(name));
    }

    /// Those that serve a port answer there.
    pub(crate) fn check_ports(&self, host: &TestHost) {
        for (name, entry) in &self.entries {
            let Some(port) = entry.port.filter(|_| entry.may_be == ["running"].into()) else { continue };
            let url = format!("http://127.0.0.1:{port}/");
            eventually(&format!("the port of {name}: {entry:#?}"), || {
                let page = run(host.inside("curl").args(["-sS", "--max-time", "2", &url]));
                page.stdout().contains(name.as_str()).then_some(())
            });
        }
    }
}

/// What a container is like.
#[derive(Debug)]
struct Seen {
    id: String,
    state: String,
    status: String,
}

impl Entry {
    fn fits(&self, seen: Option<&Seen>) -> bool {
        let Some(seen) = seen else { return self.may_be.contains(GONE) };
        let code = self.kind != Kind::Once
            || self.shaken
            || seen.state != "exited"
            || seen.status.starts_with("Exited (7)")
            // Killed before it got that far.
            || seen.status.starts_with("Exited (137)");
        self.may_be.contains(seen.state.as_str()) && code
    }
}

fn states(host: &TestHost) -> BTreeMap<String, Seen> {
    let answer = host.api().call("GET", "/containers/json?all=1", None).unwrap_or_else(|error| {
        let status = std::fs::read_to_string(format!("/proc/{}/status", host.pid())).unwrap_or_default();
        panic!("hostd gives no list: {error}; its process: {}", status.lines().nth(2).unwrap_or("gone"))
    });
    let list = answer.json();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = list.as_array().unwrap_or_else(|| panic!("no list: {answer:?}"));
    list.iter()
        .map(|item| {
            let name = text(&item["Names"][0]).trim_start_matches('/').to_owned();
            (name, Seen { id: text(&item["Id"]), state: text(&item["State"]), status: text(&item["Status"]) })
        })
        .collect()
}
