//! Messages to systemd's journal, by its native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): a datagram each, of
//! `NAME=value` lines, or `NAME`, a length and bytes where the value has lines of its own.

use super::Sink;
use super::json::rfc3339;
use super::lines::Piece;
use crate::spec::Journald as Spec;
use crate::wire;
use rustix::fs::{MemfdFlags, SealFlags};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;

const SOCKET: &str = "/run/systemd/journal/socket";

pub(super) struct Journald {
    socket: UnixDatagram,
    /// Of every message.
    fields: Vec<u8>,
    /// Messages so far.
    ordinal: u64,
    failed: io::Result<()>,
}

impl Journald {
    /// Connects to the journal; where it `must` not be there now, a message will try again.
    pub(super) fn open(spec: &Spec, must: bool) -> Result<Self, String> {
        let socket = UnixDatagram::unbound().map_err(|error| error.to_string())?;
        let connected = socket.connect(SOCKET);
        if must && connected.is_err() {
            return Err("journald is not enabled on this host".to_owned());
        }
        let mut fields = Vec::new();
        for (name, value) in &spec.fields {
            field(&mut fields, name, value.as_bytes());
        }
        Ok(Self { socket, fields, ordinal: 0, failed: Ok(()) })
    }

    fn message(&self, piece: &Piece<'_>) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.fields.len() + piece.text.len() + 128);
        field(&mut out, "MESSAGE", piece.text);
        field(&mut out, "PRIORITY", if piece.stream == 2 { b"3" } else { b"6" });
        out.extend_from_slice(&self.fields);
        field(&mut out, "CONTAINER_LOG_ORDINAL", self.ordinal.to_string().as_bytes());
        field(&mut out, "SYSLOG_TIMESTAMP", rfc3339(piece.time).as_bytes());
        if let Some(part) = piece.part {
            field(&mut out, "CONTAINER_PARTIAL_ID", part.id.as_bytes());
            field(&mut out, "CONTAINER_PARTIAL_ORDINAL", part.ordinal.to_string().as_bytes());
            field(&mut out, "CONTAINER_PARTIAL_LAST", if piece.end { b"true" } else { b"false" });
            if !piece.end {
                field(&mut out, "CONTAINER_PARTIAL_MESSAGE", b"true");
            }
        }
        out
    }

    fn send(&self, message: &[u8]) -> io::Result<()> {
        match self.socket.send(message) {
            // Too long for a datagram: in a file, then.
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
                let mut file = File::from(rustix::fs::memfd_create("journal-entry", flags)?);
                file.write_all(message)?;
                let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
                rustix::fs::fcntl_add_seals(&file, seals)?;
                wire::send_fds(self.socket.as_fd(), &[], &[file.as_fd()])
            }
            sent => sent.map(drop),
        }
    }
}

impl Sink for Journald {
    fn piece(&mut self, piece: &Piece<'_>) {
        self.ordinal += 1;
        let message = self.message(piece);
        let sent = self.send(&message).or_else(|_| {
            // The journal may have been restarted: its socket is another one then.
            self.socket.connect(SOCKET)?;
            self.send(&message)
        });
        if sent.is_err() {
            self.failed = sent;
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        std::mem::replace(&mut self.failed, Ok(()))
    }
}

fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_with_lines_are_counted() {
        let mut out = Vec::new();
        field(&mut out, "A", b"b=c");
        field(&mut out, "D", b"x\ny");
        assert_eq!(out, b"A=b=c\nD\n\x03\0\0\0\0\0\0\0x\ny\n");
    }
}
