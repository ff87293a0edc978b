//! A small client of the Engine API that shows what the wires carry.

use crate::TestHost;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// A connection that has left HTTP, and the head that it left with.
pub struct Hijacked {
    /// Status line and headers.
    pub head: String,
    /// What follows.
    pub stream: UnixStream,
}

impl TestHost {
    /// Sends a request with a JSON body (none where it is empty) and gives status and body of the answer.
    ///
    /// # Panics
    /// The answer breaks off.
    pub fn call(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let Hijacked { head, mut stream } = self.hijack(method, path, "Connection: close\r\n", body);
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("read the answer");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, text)
    }

    /// Sends a request with further header lines, and reads the head of the answer.
    ///
    /// # Panics
    /// There is none.
    pub fn hijack(&self, method: &str, path: &str, headers: &str, body: &str) -> Hijacked {
        let mut stream = UnixStream::connect(self.path("hostd.sock")).expect("connect to hostd");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("set a timeout");
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: hostd\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
             {headers}\r\n{body}"
        );
        stream.write_all(request.as_bytes()).expect("send a request");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("read the head of the answer");
            head.push(byte[0]);
        }
        Hijacked { head: String::from_utf8_lossy(&head).into_owned(), stream }
    }
}

/// What a multiplexed stream (Docker's frames) carries: stdout and stderr.
///
/// # Panics
/// A frame is cut off.
pub fn demultiplex(mut stream: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some((head, rest)) = stream.split_first_chunk::<8>() {
        let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let (text, rest) = rest.split_at(length);
        if head[0] == 2 { &mut err } else { &mut out }.extend_from_slice(text);
        stream = rest;
    }
    assert!(stream.is_empty(), "a frame is cut off");
    (out, err)
}
