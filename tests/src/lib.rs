//! Black-box tests of the two binaries against real parts; this is what they share.
//!
//! A [`TestHost`] is a hostd of its own on a temporary root, in a network and a mount namespace of its own, so
//! that tests run side by side and leave the machine alone. It is driven by the stock docker CLI.
//! `make test` tells where the binaries are; run by hand, `build/` is where they are looked for.

mod api;
pub mod cgroups;
mod host;
pub mod http;
mod outcome;
pub mod python;
mod raw;

pub use api::{Answer, Api};
pub use host::TestHost;
pub use outcome::{Outcome, run};
pub use raw::{Hijacked, demultiplex};

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A [`TestHost`], or a return from the test with the reason why there can be none here.
#[macro_export]
macro_rules! host {
    ($($arg:expr),* $(,)?) => {
        match $crate::TestHost::start(&[$($arg),*]) {
            Ok(host) => host,
            Err(reason) => {
                eprintln!("skipped: {reason}");
                return;
            }
        }
    };
}

/// The file that an environment variable of `tests/run` names, else the one in `build/`.
///
/// # Errors
/// It is not there; the text says how to make it.
pub fn built(variable: &str, name: &str) -> Result<PathBuf, String> {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../build").join(name);
    let path = std::env::var_os(variable).map_or_else(default, PathBuf::from);
    if path.exists() {
        Ok(path)
    } else {
        Err(format!("{} is missing: `make test` builds it", path.display()))
    }
}

/// Whether a program is on `PATH`.
pub fn has(program: &str) -> bool {
    Command::new("sh")
        .args(["-c", r#"command -v "$0""#, program])
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Waits until `ready` gives a value; tells what was waited for when it does not within a minute and a half.
///
/// # Panics
/// It takes too long.
pub fn eventually<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(started.elapsed() < Duration::from_secs(90), "gave up waiting: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
