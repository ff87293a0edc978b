//! The load: workers that ask for one thing after the other, about containers of their own.

use crate::Random;
use crate::ledger::{Change, Kind, Ledger};
use crate::remains::MARK;
use e2e::{Answer, TestHost, run};
use serde_json::{Value, json};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

/// Containers that one worker has at most.
const MOST: usize = 6;

/// One that asks.
#[derive(Debug)]
pub(crate) struct Worker {
    number: u64,
    random: Random,
    made: u64,
    pub(crate) ledger: Ledger,
    /// Requests that were answered.
    pub(crate) answered: u64,
}

impl std::fmt::Debug for Random {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Random({})", self.0)
    }
}

impl Worker {
    pub(crate) fn new(number: u64, seed: u64) -> Self {
        let random = Random(seed ^ (number + 1).wrapping_mul(0x5851_f42d_4c95_7f2d));
        Self { number, random, made: 0, ledger: Ledger::default(), answered: 0 }
    }

    /// Asks until told to stop, or until hostd does not answer any more.
    pub(crate) fn work(&mut self, host: &TestHost, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            if self.step(host).is_err() {
                return;
            }
            self.answered += 1;
        }
    }

    fn step(&mut self, host: &TestHost) -> io::Result<()> {
        let names = self.ledger.names();
        let choice = self.random.below(100);
        let name = self.random.pick(&names).filter(|_| choice >= 25 || names.len() >= MOST).cloned();
        let Some(name) = name else { return self.create(host) };
        match choice {
            0..45 => self.change(host, &name, Change::Start, "POST", "start"),
            45..55 => self.change(host, &name, Change::Stop, "POST", "stop?t=0"),
            55..60 => self.change(host, &name, Change::Stop, "POST", "kill"),
            60..66 => self.change(host, &name, Change::Restart, "POST", "restart?t=0"),
            66..70 => self.change(host, &name, Change::Pause, "POST", "pause"),
            70..74 => self.change(host, &name, Change::Unpause, "POST", "unpause"),
            74..84 => self.remove(host, &name),
            84..92 => exec(host, &name),
            92..95 => look(host, &name),
            95..98 => logs(host, &name),
            _ => self.load_image(host),
        }
    }

    fn create(&mut self, host: &TestHost) -> io::Result<()> {
        self.made += 1;
        let name = format!("w{}-{}", self.number, self.made);
        let Some(kind) = self.random.pick(&Kind::ALL).copied() else { return Ok(()) };
        let port = (kind == Kind::Server)
            .then(|| 20_000 + u16::try_from(self.number * 1000 + self.made % 1000).unwrap());
        let body = self.body(&name, kind, port);
        self.ledger.expect(&name, kind, port);
        let outcome = host.api().call("POST", &format!("/containers/create?name={name}"), Some(&body));
        self.ledger.note(&name, Change::Create, &outcome);
        outcome.map(drop)
    }

    fn body(&mut self, name: &str, kind: Kind, port: Option<u16>) -> Value {
        let sleep = format!("sleep {MARK}");
        let (script, policy) = match kind {
            Kind::Sleeper | Kind::Passing => (format!("echo up; exec {sleep}"), "no"),
            Kind::Server => (format!("echo {name} > /index.html; httpd -p 80 -h /; exec {sleep}"), "no"),
            Kind::Always => (format!("exec {sleep}"), "always"),
            Kind::Failing => ("sleep 0.2; exit 3".to_owned(), "on-failure"),
            Kind::Once => ("echo said; exit 7".to_owned(), "no"),
        };
        let mut host = json!({
            "RestartPolicy": { "Name": policy }, "AutoRemove": kind == Kind::Passing,
            "Binds": [format!("data-{}:/data", self.number)],
            "NetworkMode": if self.random.below(3) == 0 { "none" } else { "default" },
        });
        if let Some(port) = port {
            host["NetworkMode"] = json!("default");
            host["PortBindings"] =
                json!({ "80/tcp": [{ "HostIp": "0.0.0.0", "HostPort": port.to_string() }] });
        }
        let mut body = json!({
            "Image": "busybox", "Cmd": ["sh", "-c", script], "Volumes": { "/anonymous": {} }, "StopSignal": "KILL",
            "Tty": self.random.below(3) == 0, "HostConfig": host,
        });
        if self.random.below(4) == 0 {
            body["Healthcheck"] = json!({ "Test": ["CMD", "true"], "Interval": 100_000_000 });
        }
        body
    }

    fn change(
        &mut self,
        host: &TestHost,
        name: &str,
        change: Change,
        method: &str,
        verb: &str,
    ) -> io::Result<()> {
        let outcome = host.api().call(method, &format!("/containers/{name}/{verb}"), None);
        self.ledger.note(name, change, &outcome);
        outcome.map(drop)
    }

    fn remove(&mut self, host: &TestHost, name: &str) -> io::Result<()> {
        let outcome = host.api().call("DELETE", &format!("/containers/{name}?force=1&v=1"), None);
        self.ledger.note(name, Change::Remove, &outcome);
        outcome.map(drop)
    }

    /// One worker brings the image in again and again.
    fn load_image(&mut self, host: &TestHost) -> io::Result<()> {
        if self.number == 0 {
            let busybox = e2e::built("BERTH_TEST_BUSYBOX", "busybox.tar").map_err(io::Error::other)?;
            drop(run(host.docker_command().args(["load", "-q", "-i"]).arg(busybox)));
        }
        Ok(())
    }

    /// Removes all that it has.
    pub(crate) fn clear(&mut self, host: &TestHost) {
        for name in self.ledger.names() {
            self.remove(host, &name).unwrap();
        }
        self.ledger.check(host, 0);
        assert!(self.ledger.names().is_empty(), "not removed: {:#?}", self.ledger);
    }
}

/// A further process in a container, where it runs; its exit code must be its own.
fn exec(host: &TestHost, name: &str) -> io::Result<()> {
    let api = host.api();
    let body = json!({ "Cmd": ["sh", "-c", "exit 5"], "AttachStdout": true });
    let made = api.call("POST", &format!("/containers/{name}/exec"), Some(&body))?;
    let Some(id) = made.json()["Id"].as_str().map(str::to_owned) else { return Ok(()) };
    let started = api.call("POST", &format!("/exec/{id}/start"), Some(&json!({ "Detach": false })))?;
    let ended = api.call("GET", &format!("/exec/{id}/json"), None)?;
    let code = ended.json()["ExitCode"].as_i64();
    // 137 and more: its container was ended under it.
    let good = started.status >= 400 || ended.status == 404 || matches!(code, None | Some(5 | 126.. | -1));
    assert!(good, "an exec in {name} ends with {code:?}: {started:?} {ended:?}");
    Ok(())
}

fn look(host: &TestHost, name: &str) -> io::Result<()> {
    let Answer { status, .. } = host.api().call("GET", &format!("/containers/{name}/json"), None)?;
    assert!([200, 404].contains(&status), "inspect of {name} is answered {status}");
    Ok(())
}

fn logs(host: &TestHost, name: &str) -> io::Result<()> {
    let path = format!("/containers/{name}/logs?stdout=1&stderr=1");
    let Answer { status, .. } = host.api().call("GET", &path, None)?;
    assert!([200, 404].contains(&status), "logs of {name} are answered {status}");
    Ok(())
}
