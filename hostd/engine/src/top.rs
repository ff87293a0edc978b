//! The processes of a container, as `ps` on the host shows them.

use crate::Engine;
use crate::error::{EngineError, Result, io, joined};
use std::collections::HashSet;
use std::process::{Command, Stdio};

/// A table as `ps` prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Processes {
    /// `UID`, `PID` …
    pub titles: Vec<String>,
    /// One row per process.
    pub rows: Vec<Vec<String>>,
}

impl Engine {
    /// Runs `ps` with these arguments (`-ef` where there are none) and keeps the lines of the container.
    pub async fn top(&self, name: &str, arguments: &str) -> Result<Processes> {
        let container = self.container(name)?;
        let live = container
            .live_now()
            .ok_or_else(|| EngineError::conflict(format!("container {} is not running", container.id)))?;
        let arguments: Vec<String> = match arguments.trim() {
            "" => vec!["-ef".to_owned()],
            text => text.split_whitespace().map(str::to_owned).collect(),
        };
        let processes = tokio::task::spawn_blocking(move || {
            let pids = live.cgroup().pids().into_iter().map(i32::unsigned_abs).collect();
            let output = Command::new("ps").args(&arguments).stdin(Stdio::null()).output();
            let output = output.map_err(io("cannot run ps on this machine"))?;
            if !output.status.success() {
                let why = String::from_utf8_lossy(&output.stderr);
                return Err(EngineError::invalid(format!("ps: {}", why.trim())));
            }
            table(&String::from_utf8_lossy(&output.stdout), &pids)
        });
        let processes = processes.await.map_err(joined)??;
        self.tell(&container, "top", &[]);
        Ok(processes)
    }
}

/// The lines of `ps` whose PID is one of `pids`; the last column may hold spaces.
fn table(text: &str, pids: &HashSet<u32>) -> Result<Processes> {
    let mut lines = text.lines();
    let titles: Vec<String> = lines.next().unwrap_or("").split_whitespace().map(str::to_owned).collect();
    let pid_column = titles
        .iter()
        .position(|title| title == "PID")
        .ok_or_else(|| EngineError::invalid("Couldn't find PID field in ps output"))?;
    let mut rows = Vec::new();
    for line in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        let pid = words.get(pid_column).and_then(|word| word.parse().ok());
        if !pid.is_some_and(|pid| pids.contains(&pid)) {
            continue;
        }
        let last = titles.len() - 1;
        let mut row: Vec<String> = words.iter().take(last).map(|word| (*word).to_owned()).collect();
        row.push(words.get(last..).unwrap_or_default().join(" "));
        rows.push(row);
    }
    Ok(Processes { titles, rows })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_containers_lines_are_kept_and_the_last_column_is_whole() {
        let text = "UID   PID CMD\nroot    1 init\nroot   42 sh -c  sleep 1\n";
        let got = table(text, &HashSet::from([42])).unwrap();
        assert_eq!(got.titles, ["UID", "PID", "CMD"]);
        assert_eq!(got.rows, [["root", "42", "sh -c sleep 1"]]);
        let error = table("UID CMD\n", &HashSet::new()).unwrap_err();
        assert_eq!(error.message, "Couldn't find PID field in ps output");
    }
}
