//! Interactive sessions on a real terminal, with a real hostd.

mod engine;

use std::process::Command;

const SHELL: [&str; 6] = ["run", "-it", "--network", "none", "--name", "sh"];

fn shell(engine: &engine::Engine, more: &[&str]) -> engine::Terminal {
    engine.terminal(&[&SHELL[..], more, &["busybox", "sh"]].concat())
}

#[test]
fn an_interactive_container_has_our_terminals_size_and_its_exit_code_is_ours() {
    let Some(engine) = engine::start() else { return };
    let mut terminal = shell(&engine, &["--rm"]);
    terminal.shows("# ");
    assert!(!terminal.is_cooked());
    terminal.types_until(b"stty size\n", "\n30 100");
    terminal.resize(40, 120);
    terminal.types_until(b"stty size\n", "\n40 120");
    terminal.types(b"exit 5\n");
    assert_eq!(terminal.ends(), 5);
    assert!(terminal.is_cooked());
    assert_eq!(engine.good(&["ps", "-aq"]), "");
}

#[test]
fn the_detach_keys_leave_a_container_that_runs_on_and_attach_comes_back() {
    let Some(engine) = engine::start() else { return };
    let mut terminal = shell(&engine, &[]);
    terminal.shows("# ");
    terminal.types(b"\x10\x11");
    assert_eq!(terminal.ends(), 0);
    assert!(terminal.is_cooked());
    assert_eq!(engine.good(&["ps", "-q"]).lines().count(), 1);
    let mut terminal = engine.terminal(&["attach", "sh"]);
    terminal.types_until(b"echo back$((1+1))\n", "back2");
    terminal.types(b"exit 4\n");
    assert_eq!(terminal.ends(), 4);
    let mut terminal = engine.terminal(&["container", "start", "-ai", "--detach-keys", "ctrl-x,x", "sh"]);
    terminal.shows("# ");
    terminal.types(b"\x18x");
    assert_eq!(terminal.ends(), 0);
}

#[test]
fn exec_gives_a_terminal_too() {
    let Some(engine) = engine::start() else { return };
    engine.good(&["run", "-d", "--network", "none", "--name", "box", "busybox", "sleep", "600"]);
    let mut terminal = engine.terminal(&["exec", "-it", "box", "sh"]);
    terminal.shows("# ");
    terminal.types_until(b"stty size\n", "\n30 100");
    terminal.types(b"test -t 0 && exit 9\n");
    assert_eq!(terminal.ends(), 9);
}

#[test]
fn a_berth_that_is_killed_gives_the_terminal_back() {
    let Some(engine) = engine::start() else { return };
    let mut terminal = shell(&engine, &[]);
    terminal.shows("# ");
    assert!(!terminal.is_cooked());
    assert!(Command::new("kill").arg(terminal.pid().to_string()).status().unwrap().success());
    assert_eq!(terminal.ends(), 128 + 15);
    assert!(terminal.is_cooked());
}
