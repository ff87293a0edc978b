//! Health checks: a probe runs in a container now and then, and what it says is the container's health.
//!
//! One task per running container that has a check; it ends with the run, at a pause, and with the daemon, and starts
//! anew with the next run, at the end of the pause, and when the daemon finds the container again. What the probes said
//! stands in the container's record and in the journal, not in the database: it means nothing after a reboot, and a
//! probe must not cost an fsync. The shim keeps a note of each probe, so that the next daemon sees to the end of one
//! that is under way (see `left`).

mod left;

use crate::container::Container;
use crate::error::{EngineError, Result};
use crate::model::{ContainerRecord, Health, HealthStatus, Healthcheck, ProbeResult, Status};
use crate::{Engine, names, spec};
use hostd_runtime::Streams;
use hostd_runtime::spec::ExecSpec;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

pub(crate) use left::LeftProbe;

const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: u32 = 3;
/// Shortest duration that may be asked for, in nanoseconds.
const SHORTEST: i64 = 1_000_000;
/// Results that are kept.
const KEPT: usize = 5;
/// Bytes of a probe's output that are kept.
const LONGEST_OUTPUT: usize = 4096;
/// What is waited for a probe that was killed.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Refuses what makes no sense, in Docker's words.
pub(crate) fn validate(check: &Healthcheck) -> Result<()> {
    for (name, value) in [
        ("Interval", check.interval),
        ("Timeout", check.timeout),
        ("StartPeriod", check.start_period),
        ("StartInterval", check.start_interval),
    ] {
        if value != 0 && value < SHORTEST {
            return Err(EngineError::invalid(format!("{name} in Healthcheck cannot be less than 1ms")));
        }
    }
    if check.retries < 0 {
        return Err(EngineError::invalid("Retries in Healthcheck cannot be negative"));
    }
    match check.test.first().map(String::as_str) {
        None | Some("NONE" | "CMD" | "CMD-SHELL") => Ok(()),
        Some(other) => {
            Err(EngineError::invalid(format!("Unknown healthcheck type {other:?} (expected 'CMD')")))
        }
    }
}

/// A check, with defaults filled in.
struct Probe {
    args: Vec<String>,
    interval: Duration,
    timeout: Duration,
    start_period: Duration,
    start_interval: Duration,
    retries: u32,
}

impl Probe {
    /// `None` where none is asked for.
    fn of(record: &ContainerRecord) -> Option<Self> {
        let check = record.config.healthcheck.as_ref()?;
        let (kind, rest) = check.test.split_first()?;
        let args = match kind.as_str() {
            "CMD" if !rest.is_empty() => rest.to_vec(),
            "CMD-SHELL" if !rest.is_empty() => {
                let shell = record.config.shell.clone().filter(|shell| !shell.is_empty());
                let mut args = shell.unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned()]);
                args.extend_from_slice(rest);
                args
            }
            _ => return None,
        };
        let or = |nanoseconds: i64, default: Duration| match u64::try_from(nanoseconds) {
            Ok(set) if set > 0 => Duration::from_nanos(set),
            _ => default,
        };
        Some(Self {
            args,
            interval: or(check.interval, INTERVAL),
            timeout: or(check.timeout, TIMEOUT),
            start_period: or(check.start_period, Duration::ZERO),
            start_interval: or(check.start_interval, START_INTERVAL),
            retries: u32::try_from(check.retries).ok().filter(|retries| *retries > 0).unwrap_or(RETRIES),
        })
    }

    /// What is waited before the next probe of a container that has run for `age`.
    fn pause(&self, age: time::Duration, status: HealthStatus) -> Duration {
        if status == HealthStatus::Starting && age < self.start_period {
            self.start_interval
        } else {
            self.interval
        }
    }
}

/// The health at the start of a run; what earlier runs have said stays in the log.
pub(crate) fn at_start(record: &ContainerRecord) -> Option<Health> {
    Probe::of(record)?;
    let log = record.state.health.as_ref().map(|health| health.log.clone()).unwrap_or_default();
    Some(Health { status: HealthStatus::Starting, failing_streak: 0, log })
}

impl Health {
    /// Takes in a result. Failures in the start period count only once there was a success.
    fn take(&mut self, result: ProbeResult, retries: u32, in_start_period: bool) {
        if result.exit_code == 0 {
            self.failing_streak = 0;
            self.status = HealthStatus::Healthy;
        } else if self.status != HealthStatus::Starting || !in_start_period {
            self.failing_streak += 1;
            if self.failing_streak >= retries {
                self.status = HealthStatus::Unhealthy;
            }
        }
        self.log.push(result);
        let surplus = self.log.len().saturating_sub(KEPT);
        self.log.drain(..surplus);
    }
}

impl Engine {
    /// Probes a running container from now on, where that is asked for. What an earlier daemon has `left` under way is
    /// seen to its end before.
    pub(crate) fn watch_health(&self, container: &Arc<Container>, left: Vec<LeftProbe>) {
        let record = container.record();
        let (Some(probe), Some(run), Some(live)) =
            (Probe::of(&record), record.state.started_at, container.live_now())
        else {
            return;
        };
        let stop = self.0.closing.child_token();
        container.set_prober(Some(stop.clone()));
        let (engine, container) = (self.clone(), Arc::clone(container));
        tokio::spawn(async move {
            if engine.see_out(&container, &live, &probe, run, &stop, left).await {
                engine.keep_probing(&container, &live, &probe, run, stop).await;
            }
        });
    }

    async fn keep_probing(
        &self,
        container: &Container,
        live: &hostd_runtime::Container,
        probe: &Probe,
        run: OffsetDateTime,
        stop: CancellationToken,
    ) {
        loop {
            let status = container.record().state.health.as_ref().map(|health| health.status);
            let pause =
                probe.pause(OffsetDateTime::now_utc() - run, status.unwrap_or(HealthStatus::Starting));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return,
            }
            let Ok(id) = names::random_id() else { continue };
            let result = tokio::select! {
                result = self.probe(container, live, probe, &id) => result,
                () = stop.cancelled() => {
                    // Its run is over or it is frozen; a daemon that goes leaves it alone.
                    if !self.0.closing.is_cancelled() {
                        let _ = live.kill_exec(&id).await;
                    }
                    return;
                }
            };
            if !self.note_probe(container, probe, run, result).await {
                return;
            }
        }
    }

    /// Runs one probe.
    async fn probe(
        &self,
        container: &Container,
        live: &hostd_runtime::Container,
        probe: &Probe,
        id: &str,
    ) -> ProbeResult {
        let start = OffsetDateTime::now_utc();
        let line = probe.args.join(" ");
        let facts = [("execID", id.to_owned())];
        self.tell(container, format!("exec_create: {line}"), &facts);
        self.tell(container, format!("exec_start: {line}"), &facts);
        let spec = self.probe_spec(&container.record(), probe, id, start);
        let mut output = Output::default();
        let run = run(live, spec, &mut output);
        let ended = tokio::time::timeout(probe.timeout, run).await;
        let (exit_code, output) = match ended {
            Ok(Ok(code)) => (code, output.text()),
            Ok(Err(error)) => (-1, EngineError::from(error).chain()),
            Err(_) => {
                end(live, id).await;
                (-1, exceeded(probe.timeout, &output.text()))
            }
        };
        self.probe_ended(container, id, start, exit_code, output)
    }

    fn probe_ended(
        &self,
        container: &Container,
        id: &str,
        start: OffsetDateTime,
        exit_code: i32,
        output: String,
    ) -> ProbeResult {
        let code = if exit_code < 0 { 137 } else { exit_code };
        self.tell(container, "exec_die", &[("execID", id.to_owned()), ("exitCode", code.to_string())]);
        ProbeResult { start, end: OffsetDateTime::now_utc(), exit_code, output }
    }

    fn probe_spec(
        &self,
        record: &ContainerRecord,
        probe: &Probe,
        id: &str,
        start: OffsetDateTime,
    ) -> ExecSpec {
        ExecSpec {
            note: left::note(start),
            id: id.to_owned(),
            args: probe.args.clone(),
            env: spec::environment(record, self.linked_environment(record).unwrap_or_default()),
            cwd: record.config.working_dir.clone(),
            user: record.config.user.clone(),
            tty: false,
            console_size: None,
            stdin: false,
            privileged: false,
        }
    }

    /// Puts a result on record; `false` once the run that it is about is over.
    async fn note_probe(
        &self,
        container: &Container,
        probe: &Probe,
        run: OffsetDateTime,
        result: ProbeResult,
    ) -> bool {
        let turn = container.turn().await;
        let record = container.record();
        let Some(before) = record.state.health.as_ref().map(|health| health.status) else { return false };
        if record.state.status != Status::Running || record.state.started_at != Some(run) {
            return false;
        }
        let in_start_period = result.start - run < probe.start_period;
        let noted = container.change(&turn, |record| {
            if let Some(health) = &mut record.state.health {
                health.take(result, probe.retries, in_start_period);
            }
        });
        if let Err(error) = self.0.journal.note(&noted) {
            tracing::warn!(id = container.id, %error, "cannot note the result of a health check");
        }
        // While the turn is held, so that the end of the run is told after it.
        let now = noted.state.health.as_ref().map_or(before, |health| health.status);
        if now != before {
            self.tell(container, format!("health_status: {}", now.as_str()), &[]);
        }
        drop(turn);
        true
    }
}

/// Runs a probe to its end.
async fn run(
    live: &hostd_runtime::Container,
    spec: ExecSpec,
    output: &mut Output,
) -> Result<i32, hostd_runtime::RuntimeError> {
    let exec = live.exec(spec, Some(Streams { stdin: false, stdout: true, stderr: true })).await?;
    if let Some(stream) = exec.stream {
        output.read(stream).await;
    }
    Ok(exec.handle.wait().await?.code)
}

/// Ends a probe that takes too long, with all that it has started.
async fn end(live: &hostd_runtime::Container, id: &str) {
    if let Err(error) = live.kill_exec(id).await {
        tracing::debug!(exec = id, %error, "cannot kill a health check");
        return;
    }
    if let Ok(Some(exec)) = live.exec_again(id).await {
        let _ = tokio::time::timeout(LAST_WORDS, exec.handle.wait()).await;
    }
}

fn exceeded(timeout: Duration, output: &str) -> String {
    let colon = if output.is_empty() { "" } else { ": " };
    format!("Health check exceeded timeout ({}){colon}{output}", go_duration(timeout))
}

/// `1m30s`, `1.5s`, `500ms`: as Go prints a duration.
fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds == 0 {
        return format!("{}ms", duration.as_nanos() as f64 / 1e6);
    }
    let rest = (duration - Duration::from_secs(seconds - seconds % 60)).as_secs_f64();
    match (seconds / 3600, seconds / 60 % 60) {
        (0, 0) => format!("{rest}s"),
        (0, minutes) => format!("{minutes}m{rest}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{rest}s"),
    }
}

/// The beginning of what a probe prints.
#[derive(Default)]
struct Output {
    kept: Vec<u8>,
    cut: bool,
}

impl Output {
    /// Reads frames (an 8-byte head: stream, 0, 0, 0, big-endian length) up to the end.
    async fn read(&mut self, mut stream: UnixStream) {
        let (mut head, mut chunk) = ([0; 8], [0; 1024]);
        while stream.read_exact(&mut head).await.is_ok() {
            let mut left = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
            while left > 0 {
                let most = left.min(chunk.len());
                match stream.read(&mut chunk[..most]).await {
                    Ok(got) if got > 0 => {
                        self.keep(&chunk[..got]);
                        left -= got;
                    }
                    _ => return,
                }
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = LONGEST_OUTPUT - self.kept.len();
        self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.cut |= bytes.len() > room;
    }

    fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.kept);
        if self.cut { format!("{text}...") } else { text.into_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::tests::record;

    fn result(exit_code: i32) -> ProbeResult {
        let at = OffsetDateTime::UNIX_EPOCH;
        ProbeResult { start: at, end: at, exit_code, output: String::new() }
    }

    #[test]
    fn health_follows_the_results_as_dockers_does() {
        use HealthStatus as S;
        let start = || Health { status: S::Starting, failing_streak: 0, log: Vec::new() };
        // (exit code, in the start period) … and what is to come of it with two retries
        for (results, status, streak) in [
            (&[(1, false)][..], S::Starting, 1),
            (&[(1, false), (1, false)], S::Unhealthy, 2),
            (&[(1, true), (1, true), (1, true)], S::Starting, 0),
            (&[(0, true), (1, true), (1, true)], S::Unhealthy, 2),
            (&[(0, false), (1, false)], S::Healthy, 1),
            (&[(1, false), (-1, false), (0, false)], S::Healthy, 0),
        ] {
            let mut health = start();
            for (code, in_start_period) in results {
                health.take(result(*code), 2, *in_start_period);
            }
            assert_eq!((health.status, health.failing_streak), (status, streak), "{results:?}");
        }
        let mut health = start();
        (0..9).for_each(|code| health.take(result(code), 2, false));
        assert_eq!(health.log.iter().map(|r| r.exit_code).collect::<Vec<_>>(), [4, 5, 6, 7, 8]);
    }

    #[test]
    fn the_test_becomes_a_command() {
        let mut record = record("aa", "web");
        for (test, shell, args) in [
            (&["CMD", "a", "b"][..], None, Some(&["a", "b"][..])),
            (&["CMD-SHELL", "a && b"], None, Some(&["/bin/sh", "-c", "a && b"])),
            (&["CMD-SHELL", "x"], Some("bash"), Some(&["bash", "x"])),
            (&["NONE"], None, None),
            (&["CMD"], None, None),
            (&[], None, None),
        ] {
            let test = test.iter().map(|part| (*part).to_owned()).collect();
            record.config.healthcheck = Some(Healthcheck { test, ..Healthcheck::default() });
            record.config.shell = shell.map(|shell| vec![shell.to_owned()]);
            let got = Probe::of(&record).map(|probe| probe.args);
            assert_eq!(
                got.as_deref(),
                args.map(|a| a.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()).as_deref()
            );
        }
    }

    #[test]
    fn the_start_interval_counts_until_the_first_success_or_the_end_of_the_start_period() {
        let mut record = record("aa", "web");
        let test = vec!["CMD".to_owned(), "x".to_owned()];
        record.config.healthcheck =
            Some(Healthcheck { test, start_period: 10_000_000_000, ..Healthcheck::default() });
        let probe = Probe::of(&record).unwrap();
        let at = time::Duration::seconds;
        assert_eq!(probe.pause(at(1), HealthStatus::Starting), START_INTERVAL);
        assert_eq!(probe.pause(at(1), HealthStatus::Healthy), INTERVAL);
        assert_eq!(probe.pause(at(11), HealthStatus::Starting), INTERVAL);
    }

    #[test]
    fn long_output_is_cut_and_says_so() {
        let mut output = Output::default();
        output.keep(&[b'x'; 4000]);
        output.keep(&[b'y'; 96]);
        assert_eq!(output.text().len(), 4096);
        output.keep(b"z");
        assert!(output.text().ends_with("y..."));
    }

    #[test]
    fn durations_read_as_in_go() {
        for (millis, text) in
            [(500, "500ms"), (1000, "1s"), (1500, "1.5s"), (90_000, "1m30s"), (3_600_000, "1h0m0s")]
        {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
        }
        assert_eq!(exceeded(Duration::from_secs(2), "a"), "Health check exceeded timeout (2s): a");
    }

    #[test]
    fn senseless_checks_are_refused_in_dockers_words() {
        let check = |check: Healthcheck| validate(&check).unwrap_err().message;
        let base = Healthcheck::default;
        assert_eq!(
            check(Healthcheck { interval: 10, ..base() }),
            "Interval in Healthcheck cannot be less than 1ms"
        );
        assert_eq!(check(Healthcheck { retries: -1, ..base() }), "Retries in Healthcheck cannot be negative");
        assert!(check(Healthcheck { test: vec!["x".to_owned()], ..base() }).contains("Unknown healthcheck"));
    }
}
