//! docker's contexts and shells' variables: the real docker CLI and the shells that are installed read what berth writes.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Laptop, Said, has};
use std::fs;
use std::process::Command;

/// docker with the laptop's configuration and nothing of ours in the environment.
fn docker(laptop: &Laptop, args: &[&str]) -> Said {
    let mut command = Command::new("docker");
    command.args(args).env("HOME", laptop.dir.path());
    for name in ["DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"] {
        command.env_remove(name);
    }
    Said::of(&mut command)
}

fn berth(laptop: &Laptop, args: &[&str]) -> Command {
    let mut command = laptop.command(args);
    for name in ["DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "NO_PROXY", "no_proxy"] {
        command.env_remove(name);
    }
    command
}

#[test]
fn docker_uses_the_contexts_that_are_kept_in_step_and_others_are_left_alone() {
    if !has("docker") {
        eprintln!("skipped: docker is not on PATH");
        return;
    }
    let laptop = Laptop::new();
    let run = |args: &[&str]| Said::of(&mut berth(&laptop, args));
    laptop.create_none("dev").success();
    docker(&laptop, &["context", "create", "theirs", "--docker", "host=tcp://127.0.0.1:3"]).success();
    docker(&laptop, &["context", "create", "berth-taken", "--docker", "host=tcp://127.0.0.1:3"]).success();
    // Nothing is made before it is asked for.
    assert!(!docker(&laptop, &["context", "ls"]).stdout.contains("berth-dev"));
    run(&["context"]).success().says("missing");
    run(&["context", "sync"]).success().says("berth-dev");
    docker(&laptop, &["context", "use", "berth-dev"]).success();
    let host = ["context", "inspect", "berth-dev", "-f", "{{.Endpoints.docker.Host}}"];
    assert_eq!(docker(&laptop, &host).success().stdout.trim(), "tcp://127.0.0.1:1");
    docker(&laptop, &["ps"]).says("127.0.0.1:1");
    run(&["context"]).success().says("in step");

    // From now on they come and go with the machines.
    Said::of(&mut berth(&laptop, &["create", "--driver", "none", "--none-url", "tcp://127.0.0.1:2", "more"]))
        .success();
    docker(&laptop, &["context", "inspect", "berth-more"]).success();
    Said::of(&mut berth(
        &laptop,
        &["create", "--driver", "none", "--none-url", "tcp://127.0.0.1:2", "taken"],
    ))
    .success();
    run(&["context", "sync"]).exits(1).says("berth-taken");
    run(&["machine", "rm", "-y", "taken"]).success();
    run(&["machine", "rm", "-y", "dev"]).success();
    let listed = docker(&laptop, &["context", "ls"]).success();
    assert!(!listed.stdout.contains("berth-dev"), "{listed:?}");
    listed.says("theirs").says("berth-taken").says("default *");

    let mut exported = berth(&laptop, &["context", "ls"]);
    Said::of(exported.env("DOCKER_HOST", "tcp://192.0.2.1:1"))
        .success()
        .says("warning: DOCKER_HOST=tcp://192.0.2.1:1");
    run(&["context", "rm"]).success().says("berth-more");
    let left = docker(&laptop, &["context", "ls"]).success().says("theirs").says("berth-taken");
    assert!(!left.stdout.contains("berth-more"), "{left:?}");
    laptop.create_none("late").success();
    assert!(!docker(&laptop, &["context", "ls"]).stdout.contains("berth-late"));
}

#[test]
fn a_context_has_the_certificates_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let laptop = Laptop::new();
    let authority = certs::Authority::load_or_create(&laptop.dir.path().join("ca")).unwrap();
    let leaf = authority.issue_client("test").unwrap();
    let bundle = laptop.dir.path().join("client");
    certs::write_client_bundle(&bundle, authority.cert_pem(), &leaf).unwrap();
    let file = |name: &str| bundle.join(name).to_str().unwrap().to_owned();
    let tls = [file("ca.pem"), file("cert.pem"), file("key.pem")];
    let create = ["create", "--driver", "none", "--none-url", "tcp://127.0.0.1:1", "--none-tls-ca", &tls[0]];
    let rest = ["--none-tls-cert", &tls[1], "--none-tls-key", &tls[2], "m"];
    Said::of(&mut berth(&laptop, &[&create[..], &rest].concat())).success();
    Said::of(&mut berth(&laptop, &["context", "sync"])).success();
    let contexts = laptop.dir.path().join(".docker/contexts/tls");
    let context = fs::read_dir(contexts).unwrap().next().unwrap().unwrap().path().join("docker");
    assert_eq!(fs::read(context.join("cert.pem")).unwrap(), fs::read(&tls[1]).unwrap());
    let mode = fs::metadata(context.join("key.pem")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    // What was changed or broken is mended by the next change of a machine.
    fs::write(context.join("cert.pem"), "old").unwrap();
    Said::of(&mut berth(&laptop, &["context"])).success().says("outdated");
    laptop.create_none("other").success();
    assert_eq!(fs::read(context.join("cert.pem")).unwrap(), fs::read(&tls[1]).unwrap());
}

#[test]
fn each_shell_takes_over_what_env_says() {
    let laptop = Laptop::new();
    laptop.create_none("dev").success();
    let berth = env!("CARGO_BIN_EXE_berth");
    let shells = [
        (
            "bash",
            "eval \"$($B env $F dev)\"; echo \"[$DOCKER_HOST][$BERTH_MACHINE][$NO_PROXY][$DOCKER_CERT_PATH]\"",
        ),
        (
            "dash",
            "eval \"$($B env $F dev)\"; echo \"[$DOCKER_HOST][$BERTH_MACHINE][$NO_PROXY][$DOCKER_CERT_PATH]\"",
        ),
        (
            "zsh",
            "eval \"$($B env ${=F} dev)\"; echo \"[$DOCKER_HOST][$BERTH_MACHINE][$NO_PROXY][$DOCKER_CERT_PATH]\"",
        ),
        (
            "fish",
            "eval $B env (string split ' ' $F) dev | source; echo \"[$DOCKER_HOST][$BERTH_MACHINE][$NO_PROXY][$DOCKER_CERT_PATH]\"",
        ),
    ];
    for (shell, script) in shells {
        if !has(shell) {
            eprintln!("skipped: {shell} is not on PATH");
            continue;
        }
        let run = |flags: &str| {
            let mut command = Command::new(shell);
            command.args(["-c", script]).env("B", berth).env("F", flags).env("NO_PROXY", "one.example");
            // The shell that runs it counts, not the one that the user logs in with.
            command
                .env("BERTH_HOME", laptop.home())
                .env("SHELL", "/usr/bin/fish")
                .env("DOCKER_CERT_PATH", "/old");
            Said::of(command.env_remove("no_proxy").env_remove("BERTH_MACHINE")).success().stdout
        };
        assert_eq!(run("--no-proxy"), "[tcp://127.0.0.1:1][dev][one.example,127.0.0.1][]\n", "{shell}");
        assert_eq!(run("-u"), "[][][one.example][]\n", "{shell}");
    }
    let socket = laptop.home().join("proxy.sock");
    let proxy = laptop.berth(&["env", "--proxy", "--shell", "bash"]).success().says("berth proxy");
    assert!(
        proxy.stdout.contains(&format!("export DOCKER_HOST=\"unix://{}\"", socket.display())),
        "{proxy:?}"
    );
    assert!(proxy.stdout.contains("unset BERTH_MACHINE"), "{proxy:?}");
    for (shell, line) in [
        ("tcsh", "setenv DOCKER_HOST 'tcp://127.0.0.1:1';"),
        ("emacs", "(setenv \"DOCKER_HOST\" \"tcp://127.0.0.1:1\")"),
        ("powershell", "$Env:DOCKER_HOST = 'tcp://127.0.0.1:1'"),
        ("cmd", "SET DOCKER_HOST=tcp://127.0.0.1:1"),
        ("nu", "$env.DOCKER_HOST = \"tcp://127.0.0.1:1\""),
    ] {
        laptop.berth(&["env", "--shell", shell, "dev"]).success().says(line);
    }
}
