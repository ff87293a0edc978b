//! The init of containers that another runtime builds: this program, mounted into them under Docker's name for one.
//!
//! With our own runtime process 1 is a fork of the shim. A runtime of others starts programs only, so that its containers
//! get a file: [`is_init`] tells by the name it is called by that the program is to be an init, and
//! `docker-init -- PROGRAM ARGUMENTS…` forwards signals to the program, reaps, and ends as the program does.

use crate::container::program;
use hostd_sys::fork::{SingleThreaded, fork};
use nix::sys::signal::SigSet;
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

/// Where it is in a container.
pub const INIT_PATH: &str = "/sbin/docker-init";

/// Whether a program that is called by this name is to be an init: then call [`init_main`] before anything else.
pub fn is_init(name: &OsStr) -> bool {
    Path::new(name).file_name() == Path::new(INIT_PATH).file_name()
}

/// Is the init; never returns.
pub fn init_main() -> ! {
    let failed = |what: &str| -> ! {
        eprintln!("docker-init: {what}");
        hostd_sys::fork::exit_now(1)
    };
    let Some(command) = command(std::env::args_os()) else { failed("no program to run") };
    // Nothing is lost from here on: a signal waits for the program to be there.
    if let Err(error) = SigSet::all().thread_block() {
        failed(&format!("cannot block signals: {error}"));
    }
    match SingleThreaded::verify().and_then(fork) {
        Ok(None) => become_program(&command),
        Ok(Some(pid)) => program::attend(pid),
        Err(error) => failed(&format!("cannot start {:?}: {error}", command[0])),
    }
}

/// What stands behind the name and `--`; `None` where that is nothing.
fn command(args: impl Iterator<Item = OsString>) -> Option<Vec<CString>> {
    let mut args = args.skip(1).peekable();
    args.next_if(|arg| arg == "--");
    let command: Option<Vec<CString>> = args.map(|arg| CString::new(arg.into_vec()).ok()).collect();
    command.filter(|command| !command.is_empty())
}

/// Turns the child into the program.
fn become_program(command: &[CString]) -> ! {
    // A group of its own, in front of the terminal where there is one: what is typed reaches it once, and not by way of
    // the init again. All signals are blocked, so that turning to the terminal does not stop it.
    let own = rustix::process::getpid();
    if rustix::process::setpgid(Some(own), Some(own)).is_ok() {
        // Most have no terminal.
        let _ = rustix::termios::tcsetpgrp(rustix::stdio::stdin(), own);
    }
    hostd_sys::fork::reset_signals();
    let Err(error) = nix::unistd::execvp(&command[0], command);
    // The words of the one that Docker has, which people know.
    eprintln!(
        "[FATAL tini ({})] exec {} failed: {}",
        own.as_raw_pid(),
        command[0].to_string_lossy(),
        error.desc()
    );
    hostd_sys::fork::exit_now(if error == nix::errno::Errno::ENOENT { 127 } else { 126 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_name_makes_it_an_init() {
        for (name, init) in [
            ("/sbin/docker-init", true),
            ("docker-init", true),
            ("/usr/bin/hostd", false),
            ("/proc/self/fd/14", false),
            ("", false),
        ] {
            assert_eq!(is_init(OsStr::new(name)), init, "{name}");
        }
    }

    #[test]
    fn the_program_stands_behind_two_dashes() {
        let of = |args: &[&str]| command(args.iter().map(OsString::from));
        let words = |args: &[&str]| Some(args.iter().map(|arg| CString::new(*arg).unwrap()).collect());
        assert_eq!(of(&["docker-init", "--", "sh", "-c", "--"]), words(&["sh", "-c", "--"]));
        assert_eq!(of(&["docker-init", "true"]), words(&["true"]));
        assert_eq!(of(&["docker-init", "--"]), None);
        assert_eq!(of(&[]), None);
    }
}
