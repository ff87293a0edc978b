//! Health checks, driven by the stock docker CLI.
#![allow(missing_docs, clippy::unwrap_used)]

use e2e::{TestHost, eventually, host, run};

/// Runs a container that is well as long as it has a file `/well`.
fn well_while_the_file_is_there(host: &TestHost, name: &str) {
    let test = "echo looked; test -f /well";
    let args = ["run", "-d", "--name", name, "--health-interval", "200ms", "--health-retries", "2"];
    let mut command = host.docker_command();
    command.args(args).args(["--health-cmd", test, "busybox", "sh", "-c", "touch /well; sleep 1000"]);
    run(&mut command).success();
}

fn status(host: &TestHost, name: &str) -> String {
    host.field(name, "{{.State.Health.Status}}")
}

fn becomes(host: &TestHost, name: &str, wanted: &str) {
    eventually(&format!("{name} to be {wanted}"), || (status(host, name) == wanted).then_some(()));
}

#[test]
fn health_goes_from_starting_to_healthy_to_unhealthy_and_back() {
    let host = host!();
    well_while_the_file_is_there(&host, "box");
    becomes(&host, "box", "healthy");
    host.docker(["ps"]).says("(healthy)");
    assert_eq!(host.docker(["ps", "-q", "--filter", "health=healthy"]).text().lines().count(), 1);
    assert_eq!(host.docker(["ps", "-q", "--filter", "health=none"]).text(), "");
    host.docker(["exec", "box", "rm", "/well"]).success();
    becomes(&host, "box", "unhealthy");
    host.docker(["ps"]).says("(unhealthy)");
    assert_ne!(host.field("box", "{{.State.Health.FailingStreak}}"), "0");
    let log = host.field("box", "{{range .State.Health.Log}}{{.ExitCode}} {{.Output}}{{end}}");
    assert!(log.contains("1 looked"), "{log}");
    eventually("five results", || (host.field("box", "{{len .State.Health.Log}}") == "5").then_some(()));
    host.docker(["exec", "box", "touch", "/well"]).success();
    becomes(&host, "box", "healthy");
    let args = ["events", "--since", "1h", "--until", "0s", "--filter", "event=health_status"];
    let expected = "health_status: healthy\nhealth_status: unhealthy\nhealth_status: healthy";
    eventually("the events of all changes", || {
        let seen = run(host.docker_command().args(args).args(["--format", "{{.Action}}"])).text();
        (seen == expected).then_some(())
    });
    // What does not run is not well.
    host.docker(["stop", "-t", "0", "box"]).success();
    assert_eq!(status(&host, "box"), "unhealthy");
}

#[test]
fn a_probe_that_takes_too_long_is_killed_with_all_that_it_started() {
    let host = host!();
    let args = ["run", "-d", "--name", "box", "--health-interval", "100ms", "--health-timeout", "500ms"];
    let test = "echo begun; sleep 31415 & sleep 27182";
    let more = ["--health-retries", "1", "--health-cmd", test, "busybox", "sleep", "1000"];
    run(host.docker_command().args(args).args(more)).success();
    becomes(&host, "box", "unhealthy");
    let last = host.field("box", "{{with index .State.Health.Log 0}}{{.ExitCode}} {{.Output}}{{end}}");
    assert_eq!(last, "-1 Health check exceeded timeout (500ms): begun");
    // One probe may run at any moment, never a second.
    for _ in 0..5 {
        let processes = host.docker(["top", "box"]).text();
        assert!(processes.matches("31415").count() <= 2, "{processes}");
        std::thread::sleep(std::time::Duration::from_millis(300));
    }
    eventually("the events of a probe", || {
        let args = ["events", "--since", "1h", "--until", "0s", "--filter", "container=box"];
        let seen = run(host.docker_command().args(args).args(["--format", "{{.Action}}"])).text();
        ["exec_create: /bin/sh -c echo begun", "exec_start: ", "exec_die", "health_status: unhealthy"]
            .iter()
            .all(|action| seen.contains(action))
            .then_some(())
    });
}

#[test]
fn health_outlives_the_daemon_and_probing_goes_on() {
    let mut host = host!();
    well_while_the_file_is_there(&host, "box");
    becomes(&host, "box", "healthy");
    host.kill();
    host.up();
    assert_eq!(status(&host, "box"), "healthy", "it is not lost with the daemon");
    host.docker(["exec", "box", "rm", "/well"]).success();
    becomes(&host, "box", "unhealthy");
}

#[test]
fn a_probe_under_way_when_the_daemon_is_killed_still_has_its_timeout() {
    let mut host = host!();
    let args = ["run", "-d", "--name", "box", "--health-interval", "100ms", "--health-timeout", "5s"];
    let test = "touch /begun; sleep 31415";
    let more = ["--health-retries", "1", "--health-cmd", test, "busybox", "sleep", "1000"];
    run(host.docker_command().args(args).args(more)).success();
    eventually("the first probe", || {
        (host.docker(["exec", "box", "test", "-e", "/begun"]).code() == 0).then_some(())
    });
    host.kill();
    let killed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    host.up();
    becomes(&host, "box", "unhealthy");
    let first = host.field("box", "{{with index .State.Health.Log 0}}{{.Start.UnixNano}} {{.Output}}{{end}}");
    let (start, output) = first.split_once(' ').unwrap();
    assert!(start.parse::<u128>().unwrap() < killed, "its result counts: {first}");
    assert_eq!(output, "Health check exceeded timeout (5s)");
    let processes = host.docker(["top", "box"]).text();
    assert!(processes.matches("31415").count() <= 2, "it was killed: {processes}");
}

#[test]
fn a_paused_container_is_not_probed() {
    let host = host!();
    let args = ["run", "-d", "--name", "box", "--health-interval", "100ms", "--health-cmd"];
    run(host.docker_command().args(args).args(["echo x >> /count", "busybox", "sleep", "1000"])).success();
    becomes(&host, "box", "healthy");
    host.docker(["pause", "box"]).success();
    let log = || host.field("box", "{{range .State.Health.Log}}{{.Start}} {{end}}");
    let before = log();
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(log(), before);
    assert_eq!(status(&host, "box"), "healthy");
    host.docker(["unpause", "box"]).success();
    eventually("the next probe", || (log() != before).then_some(()));
}

#[test]
fn checks_are_switched_off_refused_and_kept_quiet_while_a_container_starts() {
    let host = host!();
    host.docker(["run", "-d", "--name", "none", "--no-healthcheck", "busybox", "sleep", "1000"]).success();
    assert_eq!(host.field("none", "{{.State.Health}} {{.Config.Healthcheck.Test}}"), "<nil> [NONE]");
    host.docker(["create", "--health-cmd", "true", "--health-interval", "10us", "busybox"])
        .failure()
        .says("Interval in Healthcheck cannot be less than 1ms");
    let args = ["run", "-d", "--name", "slow", "--health-cmd", "false", "--health-start-period", "1h"];
    let more = ["--health-start-interval", "50ms", "--health-retries", "1", "busybox", "sleep", "1000"];
    run(host.docker_command().args(args).args(more)).success();
    eventually("some failures", || (host.field("slow", "{{len .State.Health.Log}}") == "5").then_some(()));
    assert_eq!(host.field("slow", "{{.State.Health.Status}} {{.State.Health.FailingStreak}}"), "starting 0");
    host.docker(["ps"]).says("(health: starting)");
}
