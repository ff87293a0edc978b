//! The qemu driver on real QEMUs, and what it says where something is missing or wrong.
#![allow(clippy::unwrap_used)]

mod common;

use common::tiny::{self, Tiny};
use common::{Reported, host_with, machine_in, processes_of, temporary_machine};
use drivers::driver::{
    Driver, DriverError, ErrorKind, FlagValues, Forward, MachineContext, MachineState, Reporter,
};
use drivers::registry;
use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const LOCALHOST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn qemu(flags: &FlagValues, context: MachineContext) -> Box<dyn Driver> {
    registry::from_flags("qemu", flags, context).unwrap()
}

async fn create(driver: &mut Box<dyn Driver>) -> Result<(), DriverError> {
    driver.create(&tiny::keys(), &Reported::default(), &|_| Ok(())).await
}

/// The whole chain of an error, as it is printed.
fn chain(error: &DriverError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

fn assert_nothing_left(context: &MachineContext) {
    assert!(!context.dir.exists(), "{} is left", context.dir.display());
    assert_eq!(processes_of(context.id), Vec::<String>::new());
}

fn free_port() -> u16 {
    TcpListener::bind((LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// A page from a guest that may still be booting.
fn page(port: u16) -> String {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let mut answer = String::new();
        let fetched = TcpStream::connect_timeout(&SocketAddr::new(LOCALHOST, port), Duration::from_secs(5))
            .and_then(|mut stream| {
                stream.set_read_timeout(Some(Duration::from_secs(5)))?;
                stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n")?;
                stream.read_to_string(&mut answer)
            });
        if fetched.is_ok() && answer.contains("200 OK") {
            return answer.lines().last().unwrap_or_default().to_owned();
        }
        assert!(Instant::now() < deadline, "no page from port {port}: {fetched:?} {answer:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[tokio::test]
async fn forwards_are_brought_to_exactly_the_set_that_is_asked_for() {
    let Some(tiny) = Tiny::get() else { return };
    let (_dir, context) = temporary_machine("forwards");
    let mut driver = qemu(&tiny.flags(), context.clone());
    create(&mut driver).await.unwrap();
    let forward = |host_port, guest_port| Forward { udp: false, host_ip: LOCALHOST, host_port, guest_port };
    let (a, b) = (free_port(), free_port());

    driver.set_forwards(&[forward(a, 80), forward(b, 81)]).await.unwrap();
    driver.set_forwards(&[forward(a, 80), forward(b, 81)]).await.unwrap();
    assert_eq!((page(a), page(b)), ("port 80".to_owned(), "port 81".to_owned()));

    driver.set_forwards(&[forward(b, 80)]).await.unwrap();
    assert_eq!(page(b), "port 80");
    assert!(TcpStream::connect((LOCALHOST, a)).is_err(), "port {a} is still forwarded");

    let taken = TcpListener::bind((LOCALHOST, 0)).unwrap();
    let taken_port = taken.local_addr().unwrap().port();
    let error = driver.set_forwards(&[forward(a, 81), forward(taken_port, 80)]).await.unwrap_err();
    assert!(error.what.contains(&taken_port.to_string()), "{error}");
    assert_eq!(page(a), "port 81", "what can be forwarded is, past a failure");

    let v6 = Forward { host_ip: IpAddr::V6(Ipv6Addr::LOCALHOST), ..forward(a, 80) };
    assert_eq!(driver.set_forwards(&[v6]).await.unwrap_err().kind, ErrorKind::Unsupported);

    // The guest is up, as it has served pages: it hears the power button.
    let asked = Instant::now();
    driver.stop().await.unwrap();
    assert!(
        asked.elapsed() < Duration::from_secs(55),
        "the guest was not asked, but powered off after the time limit"
    );
    assert!(driver.console_tail().await.unwrap().contains("tiny guest is up"));
    driver.remove().await.unwrap();
    assert_nothing_left(&context);
}

#[tokio::test]
async fn a_port_that_is_taken_while_the_machine_is_stopped_is_chosen_anew() {
    let Some(tiny) = Tiny::get() else { return };
    let (_dir, context) = temporary_machine("ports");
    let mut driver = qemu(&tiny.flags(), context.clone());
    create(&mut driver).await.unwrap();
    let before = driver.ssh().unwrap().unwrap().port;
    let stored = driver.config();
    driver.kill().await.unwrap();
    let _taken = TcpListener::bind((LOCALHOST, before)).unwrap();
    driver.start().await.unwrap();
    let after = driver.ssh().unwrap().unwrap().port;
    assert_ne!(before, after);
    // Also for one who has the configuration from before.
    let other = registry::open("qemu", &stored, context.clone()).unwrap();
    assert_eq!(other.ssh().unwrap().unwrap().port, after);
    driver.remove().await.unwrap();
    assert_nothing_left(&context);
}

#[tokio::test]
async fn a_port_that_the_user_chose_and_another_has_is_refused_before_anything_is_made() {
    let Some(tiny) = Tiny::get() else { return };
    let (_dir, context) = temporary_machine("taken");
    let taken = TcpListener::bind((LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let mut flags = tiny.flags();
    flags.insert("qemu-engine-port".into(), port.clone());
    let error = qemu(&flags, context.clone()).check(&Reported::default()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Precheck);
    assert!(error.what.contains(&port), "{error}");
    assert!(error.hint.unwrap().contains("--qemu-engine-port"));
    assert_nothing_left(&context);
}

#[tokio::test]
async fn a_machine_in_a_directory_with_a_long_path_is_controlled_all_the_same() {
    let Some(tiny) = Tiny::get() else { return };
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("a".repeat(60)).join("b,c=d e".repeat(10));
    let context = machine_in(&deep, "deep");
    let mut driver = qemu(&tiny.flags(), context.clone());
    create(&mut driver).await.unwrap();
    assert_eq!(driver.state().await.unwrap(), MachineState::Running);
    driver.set_forwards(&[]).await.unwrap();
    driver.remove().await.unwrap();
    assert_nothing_left(&context);
}

#[tokio::test]
async fn an_image_that_is_no_disk_is_refused_before_anything_is_made() {
    if !host_with(&["qemu-img"]) {
        return;
    }
    let (dir, context) = temporary_machine("page");
    let image = dir.path().join("image.qcow2");
    let flags = FlagValues::from([("qemu-image".into(), image.to_str().unwrap().into())]);
    let check = async || qemu(&flags, context.clone()).check(&Reported::default()).await.unwrap_err();
    assert!(check().await.what.contains("no image at"));
    std::fs::write(&image, "<html>Not found</html>").unwrap();
    let error = check().await;
    assert_eq!(error.kind, ErrorKind::Precheck);
    assert!(error.what.contains("it is a web page"), "{error}");
    // It begins like a disk and is none.
    std::fs::write(&image, b"QFI\xfb\0\0\0\x03garbage").unwrap();
    assert!(check().await.what.contains("cannot use the image"));
    assert_nothing_left(&context);
}

#[tokio::test]
async fn without_an_image_the_error_tells_how_to_make_one() {
    if !host_with(&["qemu-img"]) {
        return;
    }
    let (_dir, context) = temporary_machine("none");
    let error = qemu(&FlagValues::new(), context).check(&Reported::default()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Precheck);
    assert!(error.hint.unwrap().contains("berth image build"));
}

#[tokio::test]
async fn a_disk_smaller_than_its_image_is_refused_with_the_size_it_needs() {
    if !host_with(&["qemu-img"]) {
        return;
    }
    let (dir, context) = temporary_machine("small");
    let image = dir.path().join("image.qcow2");
    assert!(
        Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2"])
            .arg(&image)
            .arg("3G")
            .status()
            .unwrap()
            .success()
    );
    let flags = FlagValues::from([
        ("qemu-image".into(), image.to_str().unwrap().to_owned()),
        ("qemu-disk-size".into(), "2G".into()),
    ]);
    let error = qemu(&flags, context).check(&Reported::default()).await.unwrap_err();
    assert!(error.what.contains("3072 MiB"), "{error}");
}

/// Serves `content` to everyone who asks, in the background; returns the URL.
fn serve(content: Vec<u8>) -> String {
    let listener = TcpListener::bind((LOCALHOST, 0)).unwrap();
    let url = format!("http://{}/image.qcow2", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut line = String::new();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
                line.clear();
            }
            let head =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", content.len());
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&content));
        }
    });
    url
}

/// Files in the cache of images.
fn cached(context: &MachineContext) -> Vec<PathBuf> {
    std::fs::read_dir(context.cache.join("images"))
        .map(|dir| dir.flatten().map(|e| e.path()).collect())
        .unwrap_or_default()
}

#[tokio::test]
async fn a_download_with_another_checksum_or_that_is_no_disk_leaves_nothing() {
    if !host_with(&["qemu-img"]) {
        return;
    }
    let page = b"<html>moved</html>".to_vec();
    let right = hex::encode(Sha256::digest(&page));
    let url = serve(page);
    for (checksum, words) in [("0".repeat(64), "another checksum"), (right, "it is a web page")] {
        let (_dir, context) = temporary_machine("download");
        let flags = FlagValues::from([
            ("qemu-image".into(), format!("{url}#sha256:{checksum}")),
            ("qemu-accel".into(), "tcg".into()),
        ]);
        let mut driver = qemu(&flags, context.clone());
        driver.check(&Reported::default()).await.unwrap();
        let error = create(&mut driver).await.unwrap_err();
        assert!(chain(&error).contains(words), "{}", chain(&error));
        assert_eq!(cached(&context), Vec::<PathBuf>::new());
        driver.remove().await.unwrap();
        assert_nothing_left(&context);
    }
}

#[tokio::test]
async fn an_image_is_downloaded_once_and_a_machine_boots_from_it() {
    let Some(tiny) = Tiny::get() else { return };
    let disk = std::fs::read(&tiny.disk).unwrap();
    let checksum = hex::encode(Sha256::digest(&disk));
    let (_dir, context) = temporary_machine("url");
    let mut flags = tiny.flags();
    flags.insert("qemu-image".into(), format!("{}#sha256:{checksum}", serve(disk)));
    let mut driver = qemu(&flags, context.clone());
    create(&mut driver).await.unwrap();
    assert_eq!(driver.state().await.unwrap(), MachineState::Running);
    assert_eq!(cached(&context).len(), 1);
    // The server is not asked again: nothing listens there.
    let mut flags = tiny.flags();
    flags.insert("qemu-image".into(), format!("http://127.0.0.1:1/image.qcow2#sha256:{checksum}"));
    let mut second = qemu(
        &flags,
        MachineContext { cache: context.cache.clone(), ..machine_in(&context.dir.join("../.."), "second") },
    );
    create(&mut second).await.unwrap();
    for driver in [&mut driver, &mut second] {
        driver.remove().await.unwrap();
    }
    assert_nothing_left(&context);
}

#[tokio::test]
async fn a_qemu_that_lost_its_pid_file_is_found_and_removed() {
    let Some(tiny) = Tiny::get() else { return };
    let (_dir, context) = temporary_machine("lost");
    let mut driver = qemu(&tiny.flags(), context.clone());
    create(&mut driver).await.unwrap();
    std::fs::remove_file(context.dir.join("qemu.pid")).unwrap();
    create(&mut driver).await.unwrap();
    assert_eq!(processes_of(context.id).len(), 1);
    driver.remove().await.unwrap();
    assert_nothing_left(&context);
}

#[tokio::test]
async fn a_foreign_process_that_got_the_pid_is_left_alone() {
    let Some(tiny) = Tiny::get() else { return };
    let (_dir, context) = temporary_machine("foreign");
    let mut driver = qemu(&tiny.flags(), context.clone());
    create(&mut driver).await.unwrap();
    driver.kill().await.unwrap();
    let mut foreign = Command::new("sleep").arg("600").spawn().unwrap();
    std::fs::write(context.dir.join("qemu.pid"), foreign.id().to_string()).unwrap();
    assert_eq!(driver.state().await.unwrap(), MachineState::Stopped);
    driver.remove().await.unwrap();
    let alive = foreign.try_wait().unwrap().is_none();
    foreign.kill().unwrap();
    foreign.wait().unwrap();
    assert!(alive, "a process that is not the machine's was killed");
}

/// Runs the test `name` of this program in a process of its own, where `BERTH_TEST_CHILD` tells it so.
fn in_child(name: &str, what: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]).env("BERTH_TEST_CHILD", what);
    command
}

#[tokio::test]
async fn without_qemu_the_error_names_the_package_to_install() {
    const NAME: &str = "without_qemu_the_error_names_the_package_to_install";
    if std::env::var_os("BERTH_TEST_CHILD").is_none() {
        let status = in_child(NAME, "check").env("PATH", "/nonexistent").status().unwrap();
        assert!(status.success());
        return;
    }
    let (_dir, context) = temporary_machine("no-qemu");
    let error = qemu(&FlagValues::new(), context).check(&Reported::default()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Precheck);
    assert!(error.what.contains("qemu-system-"), "{error}");
    assert!(error.hint.unwrap().contains("apt install qemu-system-"));
}

/// Says which step it is at; at `at`, says so and waits for its end.
struct HangsAt(String);

impl HangsAt {
    fn reached(&self, step: &str) {
        if step == self.0 {
            println!("\nreached {step}");
            std::io::stdout().flush().unwrap();
            loop {
                std::thread::park();
            }
        }
    }
}

impl Reporter for HangsAt {
    fn step(&self, what: &str) {
        self.reached(what);
    }
    fn progress(&self, _: &str, _: u64, _: Option<u64>) {}
    fn warn(&self, _: &str) {}
}

/// Kills a child that has said it reached its step.
fn kill_where_it_hangs(mut child: Child) {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let reached = lines.any(|line| line.unwrap_or_default().starts_with("reached "));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(reached, "the creator ended before its step");
}

#[tokio::test]
async fn a_create_killed_at_any_step_is_finished_by_the_next_or_removed_whole() {
    const NAME: &str = "a_create_killed_at_any_step_is_finished_by_the_next_or_removed_whole";
    let Some(tiny) = Tiny::get() else { return };
    if let Ok(place) = std::env::var("BERTH_TEST_CHILD") {
        return hang_in_create(tiny, &place).await;
    }
    for step in ["save", "making the disk", "booting", "created"] {
        for finish in [true, false] {
            let (_dir, context) = temporary_machine("killed");
            let place =
                format!("{}\n{}\n{}\n{step}", context.id, context.dir.display(), context.cache.display());
            let child = in_child(NAME, &place).stdout(Stdio::piped()).spawn().unwrap();
            tokio::task::spawn_blocking(move || kill_where_it_hangs(child)).await.unwrap();
            let mut driver = qemu(&tiny.flags(), context.clone());
            if finish {
                create(&mut driver).await.unwrap_or_else(|e| panic!("after `{step}`: {}", chain(&e)));
                assert_eq!(driver.state().await.unwrap(), MachineState::Running, "after `{step}`");
                assert_eq!(processes_of(context.id).len(), 1, "after `{step}`");
            }
            driver.remove().await.unwrap();
            assert_nothing_left(&context);
        }
    }
}

async fn hang_in_create(tiny: &Tiny, place: &str) {
    let words: Vec<&str> = place.split('\n').collect();
    let context = MachineContext {
        name: "killed".into(),
        id: words[0].parse().unwrap(),
        dir: Path::new(words[1]).into(),
        cache: Path::new(words[2]).into(),
    };
    let hangs = HangsAt(words[3].to_owned());
    let save = |_: &toml::Table| {
        hangs.reached("save");
        Ok(())
    };
    let mut driver = qemu(&tiny.flags(), context);
    driver.create(&tiny::keys(), &hangs, &save).await.unwrap();
    hangs.reached("created");
}
