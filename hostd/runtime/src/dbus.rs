//! As much of D-Bus as it takes to speak to systemd: calls with arguments, their answers, and signals, on a
//! blocking socket (D-Bus Specification, "Message Protocol", "Authentication Protocol").
//!
//! A crate would bring an asynchronous runtime, macros and introspection into every shim, for three calls.

use rustix::process::getuid;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long an answer may take; systemd is slow only when it reloads.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest message that is read.
const LONGEST: usize = 1 << 20;

const CALL: u8 = 1;
const RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

const FIELD_PATH: u8 = 1;
const FIELD_INTERFACE: u8 = 2;
const FIELD_MEMBER: u8 = 3;
const FIELD_ERROR_NAME: u8 = 4;
const FIELD_REPLY_SERIAL: u8 = 5;
const FIELD_DESTINATION: u8 = 6;
const FIELD_SIGNATURE: u8 = 8;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The other side says so.
    #[error("{name}: {message}")]
    Refused { name: String, message: String },
    /// It could not be asked.
    #[error("D-Bus: {0}")]
    Io(#[from] io::Error),
}

/// Arguments in their wire format, little-endian.
#[derive(Debug, Default)]
pub(crate) struct Body(Vec<u8>);

impl Body {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    pub(crate) fn byte(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.align(4);
        self.0.extend(value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.align(8);
        self.0.extend(value.to_le_bytes());
    }

    pub(crate) fn bool(&mut self, value: bool) {
        self.u32(value.into());
    }

    /// A string or an object path.
    pub(crate) fn text(&mut self, value: &str) {
        self.u32(value.len() as u32);
        self.0.extend(value.as_bytes());
        self.0.push(0);
    }

    pub(crate) fn signature(&mut self, value: &str) {
        self.0.push(value.len() as u8);
        self.0.extend(value.as_bytes());
        self.0.push(0);
    }

    /// An array of elements that are aligned to `align`.
    pub(crate) fn array(&mut self, align: usize, elements: impl FnOnce(&mut Self)) {
        self.u32(0);
        let at = self.0.len() - 4;
        self.align(align);
        let start = self.0.len();
        elements(self);
        let len = (self.0.len() - start) as u32;
        self.0[at..at + 4].copy_from_slice(&len.to_le_bytes());
    }

    /// A struct: what follows begins at a multiple of eight.
    pub(crate) fn structure(&mut self) {
        self.align(8);
    }
}

/// A message that came in.
#[derive(Debug)]
pub(crate) struct Message {
    kind: u8,
    reply_to: Option<u32>,
    member: String,
    error: String,
    body: Vec<u8>,
}

impl Message {
    /// Reads the arguments from the front: only strings, object paths and numbers.
    pub(crate) fn arguments(&self) -> Arguments<'_> {
        Arguments { bytes: &self.body, at: 0 }
    }

    pub(crate) fn is_signal(&self, member: &str) -> bool {
        self.kind == SIGNAL && self.member == member
    }
}

/// What is left to read of some bytes.
#[derive(Debug)]
pub(crate) struct Arguments<'a> {
    bytes: &'a [u8],
    at: usize,
}

fn garbled() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a garbled message")
}

impl<'a> Arguments<'a> {
    fn take(&mut self, len: usize) -> io::Result<&'a [u8]> {
        let end = self.at.checked_add(len).ok_or_else(garbled)?;
        let taken = self.bytes.get(self.at..end).ok_or_else(garbled)?;
        self.at = end;
        Ok(taken)
    }

    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    pub(crate) fn u32(&mut self) -> io::Result<u32> {
        self.align(4);
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    pub(crate) fn text(&mut self) -> io::Result<&'a str> {
        let len = self.u32()? as usize;
        let text = self.take(len)?;
        self.take(1)?;
        std::str::from_utf8(text).map_err(|_| garbled())
    }

    fn signature(&mut self) -> io::Result<&'a str> {
        let len = self.take(1)?[0] as usize;
        let text = self.take(len)?;
        self.take(1)?;
        std::str::from_utf8(text).map_err(|_| garbled())
    }
}

/// An authenticated connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    serial: u32,
}

/// Whom a call is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) destination: &'static str,
    pub(crate) path: &'static str,
    pub(crate) interface: &'static str,
}

impl Connection {
    /// Connects, and authenticates by our user id.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let uid: String = getuid().as_raw().to_string().bytes().map(|digit| format!("{digit:02x}")).collect();
        stream.write_all(format!("\0AUTH EXTERNAL {uid}\r\n").as_bytes())?;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            line.push(byte[0]);
            if line.len() > 512 {
                return Err(garbled());
            }
        }
        if !line.starts_with(b"OK ") {
            let text = String::from_utf8_lossy(&line).trim().to_owned();
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        stream.write_all(b"BEGIN\r\n")?;
        Ok(Self { stream, serial: 0 })
    }

    /// Calls a method and waits for its answer; signals on the way go to `heard`.
    pub(crate) fn call(
        &mut self,
        target: Target,
        member: &str,
        signature: &str,
        body: &Body,
        mut heard: impl FnMut(Message),
    ) -> Result<Message, CallError> {
        self.serial += 1;
        self.stream.write_all(&encode(self.serial, target, member, signature, body))?;
        loop {
            let message = self.receive()?;
            match message.kind {
                RETURN if message.reply_to == Some(self.serial) => return Ok(message),
                ERROR if message.reply_to == Some(self.serial) => {
                    let text = message.arguments().text().unwrap_or_default().to_owned();
                    return Err(CallError::Refused { name: message.error, message: text });
                }
                SIGNAL => heard(message),
                _ => {}
            }
        }
    }

    /// Waits for the next message.
    pub(crate) fn receive(&mut self) -> io::Result<Message> {
        let mut head = [0; 16];
        self.stream.read_exact(&mut head)?;
        if head[0] != b'l' {
            return Err(garbled());
        }
        let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (body_len, fields_len) = (number(4) as usize, number(12) as usize);
        let padded = fields_len.checked_next_multiple_of(8).ok_or_else(garbled)?;
        if padded > LONGEST || body_len > LONGEST {
            return Err(garbled());
        }
        let mut fields = vec![0; padded];
        self.stream.read_exact(&mut fields)?;
        let mut body = vec![0; body_len];
        self.stream.read_exact(&mut body)?;
        let mut message =
            Message { kind: head[1], reply_to: None, member: String::new(), error: String::new(), body };
        read_fields(&fields[..fields_len], &mut message)?;
        Ok(message)
    }
}

/// Reads the header fields that are of interest.
fn read_fields(bytes: &[u8], message: &mut Message) -> io::Result<()> {
    let mut fields = Arguments { bytes, at: 0 };
    while fields.at < bytes.len() {
        fields.align(8);
        let field = fields.take(1)?[0];
        match (field, fields.signature()?) {
            (FIELD_REPLY_SERIAL, "u") => message.reply_to = Some(fields.u32()?),
            (FIELD_MEMBER, "s") => message.member = fields.text()?.to_owned(),
            (FIELD_ERROR_NAME, "s") => message.error = fields.text()?.to_owned(),
            (_, "s" | "o") => drop(fields.text()?),
            (_, "g") => drop(fields.signature()?),
            (_, "u") => drop(fields.u32()?),
            _ => return Err(garbled()),
        }
    }
    Ok(())
}

/// A method call as it goes over the wire.
fn encode(serial: u32, target: Target, member: &str, signature: &str, body: &Body) -> Vec<u8> {
    let mut out = Body(vec![b'l', CALL, 0, 1]);
    out.u32(body.0.len() as u32);
    out.u32(serial);
    out.array(8, |fields| {
        for (field, kind, value) in [
            (FIELD_PATH, "o", target.path),
            (FIELD_INTERFACE, "s", target.interface),
            (FIELD_MEMBER, "s", member),
            (FIELD_DESTINATION, "s", target.destination),
        ] {
            fields.structure();
            fields.byte(field);
            fields.signature(kind);
            fields.text(value);
        }
        if !signature.is_empty() {
            fields.structure();
            fields.byte(FIELD_SIGNATURE);
            fields.signature("g");
            fields.signature(signature);
        }
    });
    out.align(8);
    out.0.extend_from_slice(&body.0);
    out.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUS: Target =
        Target { destination: "org.freedesktop.DBus", path: "/org/freedesktop/DBus", interface: "org.x" };

    #[test]
    fn arguments_are_aligned_as_the_specification_wants_it() {
        let mut body = Body::default();
        body.byte(7);
        body.text("ab");
        body.array(8, |items| {
            items.structure();
            items.u64(1);
        });
        let expected =
            [[7, 0, 0, 0, 2, 0, 0, 0, b'a', b'b', 0, 0, 8, 0, 0, 0].as_slice(), &[1, 0, 0, 0, 0, 0, 0, 0]]
                .concat();
        assert_eq!(body.0, expected);
        let mut empty = Body::default();
        empty.array(8, |_| {});
        assert_eq!(empty.0, [0; 8], "padded to where the first element would be");
    }

    /// Answers one connection as a bus would, with `answers` after the first call.
    fn bus(answers: Vec<Vec<u8>>) -> std::path::PathBuf {
        let dir = tempfile::tempdir().unwrap().keep();
        let path = dir.join("bus");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = Vec::new();
            let mut read_line = |stream: &mut UnixStream| {
                line.clear();
                while !line.ends_with(b"\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    line.push(byte[0]);
                }
            };
            read_line(&mut stream);
            stream.write_all(b"OK 1234\r\n").unwrap();
            read_line(&mut stream);
            let mut call = [0; 4096];
            let _ = stream.read(&mut call).unwrap();
            for answer in answers {
                stream.write_all(&answer).unwrap();
            }
            std::fs::remove_dir_all(dir).unwrap();
        });
        path
    }

    fn message(kind: u8, fields: impl FnOnce(&mut Body), body: &Body) -> Vec<u8> {
        let mut out = Body(vec![b'l', kind, 0, 1]);
        out.u32(body.0.len() as u32);
        out.u32(9);
        out.array(8, fields);
        out.align(8);
        out.0.extend_from_slice(&body.0);
        out.0
    }

    fn field(out: &mut Body, field: u8, kind: &str, write: impl FnOnce(&mut Body)) {
        out.structure();
        out.byte(field);
        out.signature(kind);
        write(out);
    }

    #[test]
    fn signals_on_the_way_to_an_answer_are_heard() {
        let mut job = Body::default();
        job.u32(5);
        job.text("/job/5");
        let signal = message(SIGNAL, |out| field(out, FIELD_MEMBER, "s", |out| out.text("JobRemoved")), &job);
        let mut reply = Body::default();
        reply.text("/job/5");
        let answer = message(RETURN, |out| field(out, FIELD_REPLY_SERIAL, "u", |out| out.u32(1)), &reply);
        let mut connection = Connection::open(&bus(vec![signal, answer])).unwrap();
        let mut jobs = Vec::new();
        let got = connection
            .call(BUS, "Start", "", &Body::default(), |message| {
                assert!(message.is_signal("JobRemoved"));
                let mut arguments = message.arguments();
                jobs.push((arguments.u32().unwrap(), arguments.text().unwrap().to_owned()));
            })
            .unwrap();
        assert_eq!(got.arguments().text().unwrap(), "/job/5");
        assert_eq!(jobs, [(5, "/job/5".to_owned())]);
    }

    #[test]
    fn a_refusal_has_its_name_and_its_words() {
        let mut words = Body::default();
        words.text("no such unit");
        let fields = |out: &mut Body| {
            field(out, FIELD_ERROR_NAME, "s", |out| out.text("org.x.NoSuchUnit"));
            field(out, FIELD_REPLY_SERIAL, "u", |out| out.u32(1));
        };
        let mut connection = Connection::open(&bus(vec![message(ERROR, fields, &words)])).unwrap();
        let error = connection.call(BUS, "Stop", "", &Body::default(), drop).unwrap_err();
        assert_eq!(error.to_string(), "org.x.NoSuchUnit: no such unit");
    }

    #[test]
    fn garbled_messages_are_errors() {
        for bytes in [vec![b'B'; 16], [vec![b'l', 2, 0, 1], vec![0xff; 12]].concat()] {
            let mut connection = Connection::open(&bus(vec![bytes])).unwrap();
            assert!(connection.call(BUS, "X", "", &Body::default(), drop).is_err());
        }
    }
}
