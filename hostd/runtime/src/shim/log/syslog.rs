//! Messages to a syslog server, in the shapes that Docker's driver gives them (RFC 3164, RFC 5424, RFC 5425).

use super::Sink;
use super::dial::Connection;
use super::json::civil;
use super::lines::Piece;
use crate::spec::{Syslog as Spec, SyslogFormat};
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// After a connection could not be made again: how long messages are dropped until the next attempt.
const PAUSE: Duration = Duration::from_secs(1);

const ERROR: u8 = 3;
const INFO: u8 = 6;

pub(super) struct Syslog {
    spec: Spec,
    hostname: String,
    pid: u32,
    connection: Option<Connection>,
    /// Messages of a stream, which travel together.
    batch: Vec<u8>,
    failed: io::Result<()>,
    lost_at: Option<Instant>,
}

impl Syslog {
    /// Connects to the server; where it `must` not be there now, messages will try again.
    pub(super) fn open(spec: &Spec, must: bool) -> Result<Self, String> {
        let connection = if must { Some(Connection::open(&spec.address, spec.tls.as_ref())?) } else { None };
        Ok(Self {
            spec: spec.clone(),
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            pid: std::process::id(),
            connection,
            batch: Vec::new(),
            failed: Ok(()),
            lost_at: None,
        })
    }

    /// Sends, over a new connection where the old one does not work any more.
    fn send(&mut self, bytes: &[u8]) {
        if let Some(connection) = &mut self.connection
            && connection.send(bytes).is_ok()
        {
            return;
        }
        self.connection = None;
        if self.lost_at.is_some_and(|at| at.elapsed() < PAUSE) {
            return;
        }
        let again = Connection::open(&self.spec.address, self.spec.tls.as_ref())
            .map_err(io::Error::other)
            .and_then(|mut connection| connection.send(bytes).map(|()| connection));
        match again {
            Ok(connection) => (self.connection, self.lost_at) = (Some(connection), None),
            Err(error) => {
                self.lost_at = Some(Instant::now());
                self.failed = Err(error);
            }
        }
    }

    fn message(&self, piece: &Piece<'_>, out: &mut Vec<u8>) {
        let severity = if piece.stream == 2 { ERROR } else { INFO };
        let head = Head {
            priority: self.spec.facility << 3 | severity,
            hostname: &self.hostname,
            tag: &self.spec.tag,
            pid: self.pid,
            time: piece.time,
        };
        let start = out.len();
        head.write(self.spec.format, out);
        out.extend_from_slice(piece.text);
        out.push(b'\n');
        let framed = self.spec.tls.is_some()
            && matches!(self.spec.format, SyslogFormat::Rfc5424 | SyslogFormat::Rfc5424Micro);
        if framed {
            let length = format!("{} ", out.len() - start);
            out.splice(start..start, length.into_bytes());
        }
    }
}

impl Sink for Syslog {
    fn piece(&mut self, piece: &Piece<'_>) {
        // As with Docker, an empty line is no message.
        if piece.text.is_empty() {
            return;
        }
        let mut batch = std::mem::take(&mut self.batch);
        self.message(piece, &mut batch);
        // Also while there is no connection: the next may carry datagrams.
        if self.connection.as_ref().is_none_or(Connection::is_datagram) {
            self.send(&batch);
            batch.clear();
        }
        self.batch = batch;
    }

    fn flush(&mut self) -> io::Result<()> {
        let batch = std::mem::take(&mut self.batch);
        if !batch.is_empty() {
            self.send(&batch);
        }
        std::mem::replace(&mut self.failed, Ok(()))
    }
}

impl Drop for Syslog {
    fn drop(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.close();
        }
    }
}

/// What stands before a message.
struct Head<'a> {
    priority: u8,
    hostname: &'a str,
    tag: &'a str,
    pid: u32,
    /// Nanoseconds since 1970.
    time: u64,
}

impl Head<'_> {
    fn write(&self, format: SyslogFormat, out: &mut Vec<u8>) {
        let Self { priority, hostname, tag, pid, time } = self;
        // Writing to memory does not fail.
        let _ = match format {
            SyslogFormat::Unix => write!(out, "<{priority}>{} {tag}[{pid}]: ", stamp(*time)),
            SyslogFormat::Rfc3164 => write!(out, "<{priority}>{} {hostname} {tag}[{pid}]: ", stamp(*time)),
            SyslogFormat::Rfc5424 => {
                write!(out, "<{priority}>1 {} {hostname} {tag} {pid} {tag} - ", rfc3339(*time, false))
            }
            SyslogFormat::Rfc5424Micro => {
                write!(out, "<{priority}>1 {} {hostname} {tag} {pid} {tag} - ", rfc3339(*time, true))
            }
        };
    }
}

/// `Jan  2 15:04:05`, as the machine's clock shows it: receivers know no other time.
fn stamp(time: u64) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let ((_, month, day), (hour, minute, second)) = civil(local(time).0);
    let month = MONTHS[usize::try_from(month - 1).unwrap_or(0) % 12];
    format!("{month} {day:>2} {hour:02}:{minute:02}:{second:02}")
}

fn rfc3339(time: u64, micro: bool) -> String {
    let (local, offset) = local(time);
    let ((year, month, day), (hour, minute, second)) = civil(local);
    let fraction = if micro { format!(".{:06}", time % 1_000_000_000 / 1000) } else { String::new() };
    let zone = match offset / 60 {
        0 => "Z".to_owned(),
        minutes => format!(
            "{}{:02}:{:02}",
            if minutes < 0 { '-' } else { '+' },
            minutes.abs() / 60,
            minutes.abs() % 60
        ),
    };
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}{zone}")
}

/// Seconds since 1970 by the machine's clock, and how many of them it is ahead of UTC.
fn local(time: u64) -> (u64, i64) {
    let seconds = time / 1_000_000_000;
    let offset = hostd_sys::process::utc_offset(seconds as i64);
    (seconds.saturating_add_signed(offset), offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_dockers() {
        if hostd_sys::process::utc_offset(951_782_403) != 0 {
            eprintln!("skipped: this machine's clock does not show UTC");
            return;
        }
        let head = Head { priority: 30, hostname: "box", tag: "web", pid: 7, time: 951_782_403_012_345_678 };
        for (format, expected) in [
            (SyslogFormat::Unix, "<30>Feb 29 00:00:03 web[7]: "),
            (SyslogFormat::Rfc3164, "<30>Feb 29 00:00:03 box web[7]: "),
            (SyslogFormat::Rfc5424, "<30>1 2000-02-29T00:00:03Z box web 7 web - "),
            (SyslogFormat::Rfc5424Micro, "<30>1 2000-02-29T00:00:03.012345Z box web 7 web - "),
        ] {
            let mut out = Vec::new();
            head.write(format, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
        assert_eq!(stamp(0), "Jan  1 00:00:00");
    }
}
