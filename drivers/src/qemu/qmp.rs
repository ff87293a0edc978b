//! QMP, QEMU's control protocol: one JSON object per line, over a unix socket or stdio.

use serde_json::{Value, json};
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// How long QEMU may take to answer; it serves one client at a time, so this also bounds the wait for another's turn.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Longest line that is read: answers here are a few kilobytes.
const LINE_LIMIT: u64 = 1 << 20;

/// What went wrong between us and QEMU.
#[derive(Debug, thiserror::Error)]
pub(super) enum QmpError {
    #[error("cannot talk to QEMU")]
    Io(#[from] io::Error),
    #[error("no answer from QEMU to `{0}` in time")]
    Silent(String),
    #[error("QEMU refuses `{command}`: {reason}")]
    Refused { command: String, reason: String },
    #[error("QEMU answered what is not QMP: {0}")]
    Malformed(String),
}

/// A session with one QEMU, its capabilities negotiated.
pub(super) struct Qmp {
    reader: Box<dyn AsyncBufRead + Send + Unpin>,
    writer: Box<dyn AsyncWrite + Send + Unpin>,
    next_id: u64,
}

impl Qmp {
    /// Connects to the socket `name` in `dir`, however long the path of `dir` is.
    pub(super) async fn connect(dir: &Path, name: &str) -> Result<Self, QmpError> {
        let stream = tokio::time::timeout(ANSWER_LIMIT, connect_short(dir, name))
            .await
            .map_err(|_| QmpError::Silent("connect".into()))??;
        let (reader, writer) = stream.into_split();
        Self::negotiate(reader, writer).await
    }

    /// Opens a session over a pair of streams.
    pub(super) async fn negotiate(
        reader: impl tokio::io::AsyncRead + Send + Unpin + 'static,
        writer: impl AsyncWrite + Send + Unpin + 'static,
    ) -> Result<Self, QmpError> {
        let mut qmp = Self { reader: Box::new(BufReader::new(reader)), writer: Box::new(writer), next_id: 0 };
        let greeting = tokio::time::timeout(ANSWER_LIMIT, qmp.line())
            .await
            .map_err(|_| QmpError::Silent("greeting".into()))??;
        if greeting.get("QMP").is_none() {
            return Err(QmpError::Malformed(greeting.to_string()));
        }
        qmp.execute("qmp_capabilities", json!({})).await?;
        Ok(qmp)
    }

    /// Runs a command; events that come meanwhile are skipped.
    pub(super) async fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        self.next_id += 1;
        let id = self.next_id;
        let mut line = json!({ "execute": command, "arguments": arguments, "id": id }).to_string();
        line.push('\n');
        let answer = async {
            self.writer.write_all(line.as_bytes()).await?;
            self.writer.flush().await?;
            loop {
                let mut answer = self.line().await?;
                if answer.get("event").is_some() || answer.get("id").and_then(Value::as_u64) != Some(id) {
                    continue;
                }
                if let Some(error) = answer.get("error") {
                    let reason =
                        error.get("desc").and_then(Value::as_str).unwrap_or("no reason given").to_owned();
                    return Err(QmpError::Refused { command: command.to_owned(), reason });
                }
                return Ok(answer.get_mut("return").map(Value::take).unwrap_or_default());
            }
        };
        tokio::time::timeout(ANSWER_LIMIT, answer).await.map_err(|_| QmpError::Silent(command.to_owned()))?
    }

    /// Runs a command of the human monitor; returns what it prints, without the line's end.
    pub(super) async fn monitor(&mut self, command_line: &str) -> Result<String, QmpError> {
        let printed = self.execute("human-monitor-command", json!({ "command-line": command_line })).await?;
        let text = printed.as_str().ok_or_else(|| QmpError::Malformed(printed.to_string()))?;
        Ok(text.trim_end().to_owned())
    }

    /// The guest's run state in QEMU's words: `running`, `paused`, `internal-error`…
    pub(super) async fn status(&mut self) -> Result<String, QmpError> {
        let answer = self.execute("query-status", json!({})).await?;
        let status = answer.get("status").and_then(Value::as_str);
        status.map(str::to_owned).ok_or_else(|| QmpError::Malformed(answer.to_string()))
    }

    async fn line(&mut self) -> Result<Value, QmpError> {
        let mut line = String::new();
        let read = (&mut self.reader).take(LINE_LIMIT).read_line(&mut line).await?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "QEMU closed the connection").into());
        }
        serde_json::from_str(&line)
            .map_err(|_| QmpError::Malformed(line.trim_end().chars().take(200).collect()))
    }
}

/// A socket's path holds about a hundred bytes; a longer one is reached through a short symbolic link.
async fn connect_short(dir: &Path, name: &str) -> io::Result<UnixStream> {
    let path = dir.join(name);
    if path.as_os_str().len() <= 100 {
        return UnixStream::connect(path).await;
    }
    let link_dir = tempfile::Builder::new().prefix("berth-").tempdir()?;
    let link = link_dir.path().join("d");
    std::os::unix::fs::symlink(dir, &link)?;
    UnixStream::connect(link.join(name)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn events_and_foreign_answers_between_are_skipped() {
        let (ours, theirs) = tokio::io::duplex(4096);
        let (read, write) = tokio::io::split(ours);
        let server = tokio::spawn(async move {
            let (read, mut write) = tokio::io::split(theirs);
            let mut lines = BufReader::new(read).lines();
            write.write_all(b"{\"QMP\": {\"version\": {}, \"capabilities\": []}}\n").await.unwrap();
            lines.next_line().await.unwrap();
            write.write_all(b"{\"return\": {}, \"id\": 1}\n").await.unwrap();
            lines.next_line().await.unwrap();
            write.write_all(b"{\"event\": \"RESUME\"}\n{\"return\": 1, \"id\": 9}\n{\"return\": {\"status\": \"running\"}, \"id\": 2}\n").await.unwrap();
            lines.next_line().await.unwrap();
            write
                .write_all(
                    b"{\"error\": {\"class\": \"GenericError\", \"desc\": \"no such thing\"}, \"id\": 3}\n",
                )
                .await
                .unwrap();
            lines.next_line().await.unwrap();
        });
        let mut qmp = Qmp::negotiate(read, write).await.unwrap();
        assert_eq!(qmp.status().await.unwrap(), "running");
        let refused = qmp.execute("device_add", json!({})).await.unwrap_err();
        assert_eq!(refused.to_string(), "QEMU refuses `device_add`: no such thing");
        drop(qmp);
        server.await.unwrap();
    }
}
