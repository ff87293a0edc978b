//! One entry of a log to what the client gets, without a JSON parser: this is where the time goes when a log is long.

use super::LogOptions;
use super::entry::{self, Entry, Text};
use time::OffsetDateTime;
use time::macros::format_description;

/// `2026-01-02T03:04:05.000000000Z`: fixed width, so that times compare as text.
const TIME_LEN: usize = 30;
type Time = [u8; TIME_LEN];

/// Formats of log files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Docker's json-file.
    Json,
    /// Docker's `local`.
    Local,
}

/// What the client wants of each line.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    stdout: bool,
    stderr: bool,
    since: Option<Time>,
    until: Option<Time>,
    timestamps: bool,
    details: bool,
    framed: bool,
}

impl Wanted {
    pub(super) fn new(options: &LogOptions, framed: bool) -> Self {
        Self {
            stdout: options.stdout,
            stderr: options.stderr,
            since: options.since.and_then(fixed),
            until: options.until.and_then(fixed),
            timestamps: options.timestamps,
            details: options.details,
            framed,
        }
    }

    fn needs_time(&self) -> bool {
        self.timestamps || self.since.is_some() || self.until.is_some()
    }
}

fn fixed(at: OffsetDateTime) -> Option<Time> {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:9]Z");
    at.to_offset(time::UtcOffset::UTC).format(&format).ok()?.into_bytes().try_into().ok()
}

/// Turns entries into the client's bytes.
pub(super) struct Decoder {
    wanted: Wanted,
    /// Whether the last piece of stdout, stderr did not end its line.
    partial: [bool; 2],
}

impl Decoder {
    pub(super) fn new(wanted: Wanted) -> Self {
        Self { wanted, partial: [false; 2] }
    }

    /// Appends what the entries at the start of `data` give, until `out` holds `enough`: how many bytes these were, and
    /// whether to go on. An entry that is not whole stays.
    pub(super) fn entries(
        &mut self,
        format: Format,
        data: &[u8],
        out: &mut Vec<u8>,
        enough: usize,
    ) -> (usize, bool) {
        let mut at = 0;
        while out.len() < enough
            && let Some((entry, length)) = entry::first(format, &data[at..])
        {
            at += length;
            // What is none (torn by a crash) is passed over.
            if let Some(entry) = entry
                && !self.entry(&entry, out)
            {
                return (at, false);
            }
        }
        (at, true)
    }

    /// Appends what `entry` gives; `false` once it is beyond what is wanted.
    fn entry(&mut self, entry: &Entry<'_>, out: &mut Vec<u8>) -> bool {
        let wanted = &self.wanted;
        let time = wanted.needs_time().then(|| match entry.time {
            entry::Time::Text(text) => pad(text),
            entry::Time::Nanos(nanos) => from_nanos(nanos),
        });
        if let (Some(until), Some(time)) = (&wanted.until, &time)
            && time > until
        {
            return false;
        }
        if !(if entry.stderr { wanted.stderr } else { wanted.stdout }) {
            return true;
        }
        if let (Some(since), Some(time)) = (&wanted.since, &time)
            && time < since
        {
            return true;
        }
        let header = out.len();
        if wanted.framed {
            out.extend_from_slice(&[1 + u8::from(entry.stderr), 0, 0, 0, 0, 0, 0, 0]);
        }
        let continues = &mut self.partial[usize::from(entry.stderr)];
        if !*continues {
            if let (true, Some(time)) = (wanted.timestamps, &time) {
                out.extend_from_slice(time);
                out.push(b' ');
            }
            if wanted.details {
                details(entry.attrs, out);
                out.push(b' ');
            }
        }
        match entry.text {
            Text::Plain(text) => out.extend_from_slice(text),
            Text::Escaped(text) => unescape(text, out),
        }
        if entry.newline {
            out.push(b'\n');
        }
        *continues = out.last() != Some(&b'\n');
        if wanted.framed {
            let length = u32::try_from(out.len() - header - 8).unwrap_or(u32::MAX);
            out[header + 4..header + 8].copy_from_slice(&length.to_be_bytes());
        }
        true
    }
}

/// `a=b,c=d`, in the order of names, percent-encoded as Go does.
fn details(attrs: &[u8], out: &mut Vec<u8>) {
    let attrs: std::collections::BTreeMap<String, String> = serde_json::from_slice(attrs).unwrap_or_default();
    for (n, (key, value)) in attrs.iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        query_escape(key, out);
        out.push(b'=');
        query_escape(value, out);
    }
}

fn query_escape(text: &str, out: &mut Vec<u8>) {
    for byte in text.bytes() {
        match byte {
            b' ' => out.push(b'+'),
            b'-' | b'_' | b'.' | b'~' => out.push(byte),
            _ if byte.is_ascii_alphanumeric() => out.push(byte),
            _ => out.extend_from_slice(format!("%{byte:02X}").as_bytes()),
        }
    }
}

fn unescape(mut text: &[u8], out: &mut Vec<u8>) {
    while let Some(at) = memchr::memchr(b'\\', text) {
        out.extend_from_slice(&text[..at]);
        let Some(&code) = text.get(at + 1) else { return };
        text = &text[at + 2..];
        match code {
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'b' => out.push(8),
            b'f' => out.push(12),
            b'u' => text = unicode(text, out),
            other => out.push(other),
        }
    }
    out.extend_from_slice(text);
}

/// The digits of a `\u` escape, and of the one that completes a surrogate pair; gives what follows.
fn unicode<'a>(text: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
    let hex = |text: &[u8]| u32::from_str_radix(std::str::from_utf8(text.get(..4)?).ok()?, 16).ok();
    let Some(first) = hex(text) else { return text };
    let mut rest = &text[4..];
    let mut code = first;
    if (0xd800..0xdc00).contains(&first) {
        let low = rest.strip_prefix(b"\\u").and_then(hex).filter(|low| (0xdc00..0xe000).contains(low));
        if let Some(low) = low {
            code = 0x1_0000 + ((first - 0xd800) << 10) + (low - 0xdc00);
            rest = &rest[6..];
        }
    }
    let character = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
    out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    rest
}

/// RFC 3339 in UTC with up to nine digits of a second, filled up to nine.
fn pad(time: &[u8]) -> Time {
    let mut fixed = *b"0000-00-00T00:00:00.000000000Z";
    let time = time.strip_suffix(b"Z").unwrap_or(time);
    let length = time.len().min(TIME_LEN - 1);
    fixed[..length].copy_from_slice(&time[..length]);
    fixed
}

fn from_nanos(nanos: u64) -> Time {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(nanos)).ok();
    at.and_then(fixed).unwrap_or(*b"1970-01-01T00:00:00.000000000Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(options: &LogOptions, framed: bool, lines: &[&str]) -> String {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let mut out = Vec::new();
        Decoder::new(Wanted::new(options, framed)).entries(
            Format::Json,
            text.as_bytes(),
            &mut out,
            usize::MAX,
        );
        String::from_utf8(out).unwrap()
    }

    fn both() -> LogOptions {
        LogOptions { stdout: true, stderr: true, ..LogOptions::default() }
    }

    const LINES: [&str; 4] = [
        r#"{"log":"one\n","stream":"stdout","time":"2026-01-02T03:04:05.1Z"}"#,
        r#"{"log":"half ","stream":"stdout","time":"2026-01-02T03:04:06Z"}"#,
        r#"{"log":"err\n","stream":"stderr","time":"2026-01-02T03:04:07.123456789Z"}"#,
        r#"{"log":"whole\n","stream":"stdout","attrs":{"b":"} x&","a":"1"},"time":"2026-01-02T03:04:08Z"}"#,
    ];

    #[test]
    fn frames_have_dockers_header() {
        assert_eq!(
            decode(&both(), true, &LINES),
            "\u{1}\0\0\0\0\0\0\u{4}one\n\u{1}\0\0\0\0\0\0\u{5}half \u{2}\0\0\0\0\0\0\u{4}err\n\u{1}\0\0\0\0\0\0\u{6}whole\n"
        );
        assert_eq!(
            decode(&LogOptions { stdout: true, ..LogOptions::default() }, false, &LINES),
            "one\nhalf whole\n"
        );
    }

    #[test]
    fn the_rest_of_a_line_gets_no_time_of_its_own() {
        assert_eq!(
            decode(&LogOptions { timestamps: true, ..both() }, false, &LINES),
            "2026-01-02T03:04:05.100000000Z one\n2026-01-02T03:04:06.000000000Z half 2026-01-02T03:04:07.123456789Z \
             err\nwhole\n"
        );
    }

    #[test]
    fn details_come_as_docker_writes_them() {
        let options = LogOptions { details: true, ..both() };
        assert_eq!(decode(&options, false, &LINES[2..]), " err\na=1,b=%7D+x%26 whole\n");
        let options = LogOptions { timestamps: true, ..options };
        assert_eq!(
            decode(&options, false, &LINES[3..]),
            "2026-01-02T03:04:08.000000000Z a=1,b=%7D+x%26 whole\n"
        );
    }

    #[test]
    fn since_and_until_cut() {
        let at = |text: &str| {
            Some(OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).unwrap())
        };
        let since = LogOptions { since: at("2026-01-02T03:04:07+00:00"), ..both() };
        assert_eq!(decode(&since, false, &LINES), "err\nwhole\n");
        let until = LogOptions { until: at("2026-01-02T04:04:06+01:00"), ..both() };
        assert_eq!(decode(&until, false, &LINES), "one\nhalf ");
    }

    #[test]
    fn escapes_are_undone_and_what_is_no_line_is_passed_over() {
        let line =
            r#"{"log":"\u001b[0m\"q\" \\ \/ \t\r\u00e9 \ud83d\ude00 \ud83d\n","stream":"stdout","time":"x"}"#;
        assert_eq!(decode(&both(), false, &[line]), "\u{1b}[0m\"q\" \\ / \t\ré 😀 \u{fffd}\n");
        for torn in ["", "{", "{\"log\":\"abc", "{\"log\":\"a\\", "null", "{\"log\":\"a\"", "{\"log\":1"] {
            assert_eq!(decode(&both(), false, &[torn]), "", "{torn}");
        }
    }

    #[test]
    fn what_is_not_whole_stays() {
        let text = format!("{}\n{}", LINES[0], LINES[1]);
        let mut decoder = Decoder::new(Wanted::new(&both(), false));
        let mut out = Vec::new();
        let read = decoder.entries(Format::Json, text.as_bytes(), &mut out, usize::MAX);
        assert_eq!((read, &out[..]), ((LINES[0].len() + 1, true), &b"one\n"[..]));
        assert_eq!(decoder.entries(Format::Json, text.as_bytes(), &mut out, 1), (0, true));
    }
}
