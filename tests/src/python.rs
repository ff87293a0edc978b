//! The suite of `tests/python`.

use crate::built;
use std::path::Path;
use std::process::{Command, Stdio};

/// The command that runs a program of it, to be given a `DOCKER_HOST` and arguments: `run` takes the names of modules.
///
/// # Errors
/// docker-py is not installed; the text says how to get it.
pub fn program(name: &str) -> Result<Command, String> {
    let packages = built("BERTH_TEST_PYTHON", "python")?;
    let mut command = Command::new("/usr/bin/python3");
    command
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(name))
        .env("PYTHONPATH", packages)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null());
    for name in ["DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_API_VERSION", "PYTHONHOME"] {
        command.env_remove(name);
    }
    Ok(command)
}
