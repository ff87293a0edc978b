//! What hostd and a shim say to each other when one of them is younger, or does not know how to behave.

use crate::host::*;
use hostd_runtime::Found;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A frame around `json`.
fn framed(json: &str) -> Vec<u8> {
    [&(json.len() as u32).to_le_bytes()[..], &[0; 4], json.as_bytes()].concat()
}

fn read_frame(from: &mut UnixStream) -> std::io::Result<String> {
    let mut head = [0; 8];
    from.read_exact(&mut head)?;
    let mut text = vec![0; u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize];
    from.read_exact(&mut text)?;
    Ok(String::from_utf8(text).unwrap())
}

fn ask(stream: &mut UnixStream, json: &str) -> String {
    stream.write_all(&framed(json)).unwrap();
    read_frame(stream).unwrap()
}

/// Connects to the shim in this directory.
fn connect(bundle: &Path) -> UnixStream {
    let stream = UnixStream::connect(bundle.join("shim.sock")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

pub(crate) async fn a_shim_outlives_what_it_does_not_understand(host: Host) {
    let spec = host.spec("exec sleep 1000");
    let id = spec.id.clone();
    let container = host.up(spec).await;
    let bundle = host.dir.path().join("exec").join(&id);
    let mut stream = connect(&bundle);
    for strange in [r#"{"Dance":{"tempo":3}}"#, r#""Sing""#, r#"{"Kill":"loudly"}"#, "{", "", "\u{0}"] {
        let reply = ask(&mut stream, strange);
        assert!(
            reply.starts_with(r#"{"Failed""#) && reply.contains("does not understand"),
            "{strange}: {reply}"
        );
    }
    // The same connection goes on, and a field that is new does no harm.
    assert!(ask(&mut stream, r#""Hello""#).contains(&format!(r#""pid":{}"#, container.pid())));
    assert_eq!(
        ask(&mut stream, r#"{"Resize":{"rows":1,"cols":1,"depth":1}}"#).matches("no terminal").count(),
        1
    );
    // One that announces more than is allowed is not listened to; one that stops half-way holds up nobody for long.
    let mut loud = connect(&bundle);
    loud.write_all(&[0xff; 8]).unwrap();
    assert_eq!(loud.read(&mut [0]).unwrap(), 0, "it hangs up");
    let mut slow = connect(&bundle);
    slow.write_all(&framed(r#""Hello""#)[..5]).unwrap();
    let (code, out, _) = host.exec(&container, &["echo", "served"]).await;
    assert_eq!((code, out.as_str()), (0, "served\n"));
    assert_eq!(slow.read(&mut [0]).unwrap(), 0, "it hangs up");
    host.runtime.remove(&id).await.unwrap();
    host.assert_nothing_left(&id);
}

pub(crate) async fn a_shim_with_too_many_callers_serves_those_it_has(host: Host) {
    let spec = host.spec("exec sleep 1000");
    let id = spec.id.clone();
    let container = host.up(spec).await;
    let bundle = host.dir.path().join("exec").join(&id);
    let mut first = connect(&bundle);
    assert!(ask(&mut first, r#""Hello""#).contains("Hello"));
    let shim = fs::read_to_string(format!("/proc/{}/stat", container.pid())).unwrap();
    let shim: i32 = shim.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap().parse().unwrap();
    let open = fs::read_dir(format!("/proc/{shim}/fd")).unwrap().count();
    let limit = format!("--nofile={0}:{0}", open + 12);
    assert!(Command::new("prlimit").args(["--pid", &shim.to_string(), &limit]).status().unwrap().success());
    let callers: Vec<_> = (0..40).map(|_| connect(&bundle)).collect();
    assert!(ask(&mut first, r#""Hello""#).contains("Hello"), "who is connected is still served");
    let time = || {
        let stat = fs::read_to_string(format!("/proc/{shim}/stat")).unwrap();
        let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().map(str::to_owned).collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let before = time();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(time() - before < 50, "it spins while it waits for descriptors");
    drop(callers);
    // Those that were waiting to be let in go one by one.
    let served = async {
        while container.exec(exec_spec(&["true"]), None).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    limited(served).await;
    host.runtime.remove(&id).await.unwrap();
}

/// A shim as the first hostd had them: it tells no version, and hangs up on what it does not know.
fn serve_as_version_0(listener: UnixListener, mut sleeper: std::process::Child) {
    let pid = sleeper.id();
    let mut waiters = Vec::new();
    loop {
        let (mut stream, _) = listener.accept().unwrap();
        while let Ok(request) = read_frame(&mut stream) {
            let reply = match request.as_str() {
                r#""Hello""# => format!(r#"{{"Hello":{{"pid":{pid},"started":true}}}}"#),
                r#"{"Kill":15}"# => {
                    sleeper.kill().unwrap();
                    sleeper.wait().unwrap();
                    r#""Done""#.to_owned()
                }
                r#""Wait""# => {
                    waiters.push(stream.try_clone().unwrap());
                    break;
                }
                request if request.starts_with(r#"{"ExecPid""#) => r#""NoSuchExec""#.to_owned(),
                _ => break,
            };
            stream.write_all(&framed(&reply)).unwrap();
            if request == r#"{"Kill":15}"# {
                for mut waiter in waiters {
                    // As a younger one could.
                    waiter.write_all(&framed(r#"{"Weather":"fine"}"#)).unwrap();
                    waiter.write_all(&framed(r#"{"Exited":{"code":143,"at":1700000000000000000}}"#)).unwrap();
                }
                return;
            }
        }
    }
}

pub(crate) async fn a_container_of_an_older_hostd_goes_on(host: Host) {
    let id = "0".repeat(64);
    let bundle = host.dir.path().join("exec").join(&id);
    fs::create_dir(&bundle).unwrap();
    fs::write(bundle.join("state.json"), format!(r#"{{"cgroup_parent":"{}"}}"#, host.cgroup)).unwrap();
    let listener = UnixListener::bind(bundle.join("shim.sock")).unwrap();
    let sleeper = Command::new("sleep").arg("1000").spawn().unwrap();
    let pid = sleeper.id() as i32;
    let shim = std::thread::spawn(move || serve_as_version_0(listener, sleeper));
    let Found::Running(container) = limited(host.another_runtime().reattach(&id)).await.unwrap() else {
        panic!("it runs")
    };
    assert_eq!(container.pid(), pid);
    assert!(container.exec_again("x").await.unwrap().is_none());
    // What its shim is too old for is refused, and not tried.
    let error = container.kill_exec("x").await.unwrap_err().to_string();
    assert!(error.contains("started by an older hostd"), "{error}");
    container.kill(15).await.unwrap();
    let exit = limited(container.wait()).await.unwrap();
    assert_eq!((exit.code, exit.oom_killed), (143, false));
    shim.join().unwrap();
    host.runtime.remove(&id).await.unwrap();
}
