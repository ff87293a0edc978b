//! HTTP as a client may send it that no library would: bytes to the socket, and the answer that comes back.

use crate::TestHost;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// What hostd answered.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Header lines, as they came.
    pub headers: Vec<String>,
    /// The body, without its framing.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Panics
    /// It is none.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// The words of a refusal.
    #[track_caller]
    pub fn message(&self) -> String {
        self.json()["message"].as_str().unwrap_or_default().to_owned()
    }

    /// It must have this status.
    #[track_caller]
    pub fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "status of {self:?}");
        self
    }
}

impl TestHost {
    /// A connection to hostd on which nothing was sent.
    ///
    /// # Panics
    /// hostd does not take it.
    pub fn connection(&self) -> UnixStream {
        let stream = UnixStream::connect(self.path("hostd.sock")).expect("connect to hostd");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("set a timeout");
        stream.set_write_timeout(Some(Duration::from_secs(60))).expect("set a timeout");
        stream
    }

    /// Sends bytes, and reads one answer.
    ///
    /// # Panics
    /// There is none within a minute.
    #[track_caller]
    pub fn send(&self, bytes: impl AsRef<[u8]>) -> Answer {
        let mut stream = self.connection();
        // hostd may have answered and closed before it has read all that is sent.
        let _ = stream.write_all(bytes.as_ref());
        answer(&mut BufReader::new(stream))
    }

    /// One request; a body is sent as JSON.
    #[track_caller]
    pub fn ask(&self, method: &str, path: &str, body: Option<&str>) -> Answer {
        let content = body.map_or_else(String::new, |body| {
            format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len())
        });
        let body = body.unwrap_or("");
        self.send(format!(
            "{method} {path} HTTP/1.1\r\nHost: hostd\r\n{content}Connection: close\r\n\r\n{body}"
        ))
    }
}

/// Reads one answer.
///
/// # Panics
/// None comes, or it is no HTTP.
#[track_caller]
pub fn answer(stream: &mut impl BufRead) -> Answer {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).expect("read an answer");
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let first = lines.first().cloned().unwrap_or_default();
    let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no answer, but {first:?}"));
    let header = |name: &str| {
        let found = lines.iter().filter_map(|line| line.split_once(": "));
        found.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned()).next()
    };
    let mut body = Vec::new();
    if header("Transfer-Encoding").is_some_and(|value| value == "chunked") {
        while let Some(chunk) = chunk(stream) {
            body.extend(chunk);
        }
    } else if let Some(length) = header("Content-Length") {
        body.resize(length.parse().expect("a length"), 0);
        stream.read_exact(&mut body).expect("read a body");
    } else if status >= 200 && status != 204 && status != 304 {
        stream.read_to_end(&mut body).expect("read a body");
    }
    Answer { status, headers: lines, body: String::from_utf8_lossy(&body).into_owned() }
}

/// One chunk, `None` for the last.
fn chunk(stream: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut line = String::new();
    stream.read_line(&mut line).expect("read a chunk's size");
    let mut data = vec![0; usize::from_str_radix(line.trim(), 16).expect("a chunk's size") + 2];
    stream.read_exact(&mut data).expect("read a chunk");
    data.truncate(data.len() - 2);
    (!data.is_empty()).then_some(data)
}
