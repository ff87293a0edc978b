//! One line of a json-file log to what the client gets, without a JSON parser: this is where the time goes when a
//! log is long.

use super::LogOptions;
use time::OffsetDateTime;
use time::macros::format_description;

/// `2026-01-02T03:04:05.000000000Z`: fixed width, so that times compare as text.
const TIME_LEN: usize = 30;
type Time = [u8; TIME_LEN];

/// What the client wants of each line.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    stdout: bool,
    stderr: bool,
    since: Option<Time>,
    until: Option<Time>,
    timestamps: bool,
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
            framed,
        }
    }
}

fn fixed(at: OffsetDateTime) -> Option<Time> {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:9]Z");
    at.to_offset(time::UtcOffset::UTC).format(&format).ok()?.into_bytes().try_into().ok()
}

/// Turns lines into the client's bytes.
pub(super) struct Decoder {
    wanted: Wanted,
    /// Whether the last piece of stdout, stderr did not end its line.
    partial: [bool; 2],
}

/// A line, taken apart; `log` is still escaped.
struct Line<'a> {
    log: &'a [u8],
    escaped: bool,
    stderr: bool,
    time: &'a [u8],
}

impl Decoder {
    pub(super) fn new(wanted: Wanted) -> Self {
        Self { wanted, partial: [false; 2] }
    }

    /// Appends what `line` gives; `false` once it is beyond what is wanted.
    pub(super) fn line(&mut self, line: &[u8], out: &mut Vec<u8>) -> bool {
        // A line that is none (torn by a crash) is passed over.
        let Some(line) = parse(line) else { return true };
        let wanted = &self.wanted;
        let time =
            (wanted.timestamps || wanted.since.is_some() || wanted.until.is_some()).then(|| pad(line.time));
        if let (Some(until), Some(time)) = (&wanted.until, &time)
            && time > until
        {
            return false;
        }
        if !(if line.stderr { wanted.stderr } else { wanted.stdout }) {
            return true;
        }
        if let (Some(since), Some(time)) = (&wanted.since, &time)
            && time < since
        {
            return true;
        }
        let header = out.len();
        if wanted.framed {
            out.extend_from_slice(&[1 + u8::from(line.stderr), 0, 0, 0, 0, 0, 0, 0]);
        }
        let continues = &mut self.partial[usize::from(line.stderr)];
        if let (true, false, Some(time)) = (wanted.timestamps, *continues, &time) {
            out.extend_from_slice(time);
            out.push(b' ');
        }
        if line.escaped {
            unescape(line.log, out);
        } else {
            out.extend_from_slice(line.log);
        }
        *continues = out.last() != Some(&b'\n');
        if wanted.framed {
            let length = u32::try_from(out.len() - header - 8).unwrap_or(u32::MAX);
            out[header + 4..header + 8].copy_from_slice(&length.to_be_bytes());
        }
        true
    }
}

/// The fields of `{"log":"…","stream":"…","time":"…"}`, in any order, others passed over.
fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut parsed = Line { log: b"", escaped: false, stderr: false, time: b"" };
    let mut rest = line.strip_prefix(b"{")?;
    loop {
        let (key, _, after) = string(rest)?;
        rest = after.strip_prefix(b":")?;
        if rest.first() == Some(&b'"') {
            let (value, escaped, after) = string(rest)?;
            match key {
                b"log" => (parsed.log, parsed.escaped) = (value, escaped),
                b"stream" => parsed.stderr = value == b"stderr",
                b"time" => parsed.time = value,
                _ => {}
            }
            rest = after;
        } else {
            // `attrs` is the one field that is no string, and comes last but for `time`.
            let end = rest.iter().position(|byte| *byte == b'}')?;
            rest = &rest[end + 1..];
        }
        match rest.split_first()? {
            (b',', after) => rest = after,
            (b'}', _) => return Some(parsed),
            _ => return None,
        }
    }
}

/// A string at the start of `text`: its inside, whether it holds escapes, and what follows.
fn string(text: &[u8]) -> Option<(&[u8], bool, &[u8])> {
    let text = text.strip_prefix(b"\"")?;
    let (mut at, mut escaped) = (0, false);
    loop {
        at += text[at..].iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
        if text[at] == b'"' {
            return Some((&text[..at], escaped, &text[at + 1..]));
        }
        escaped = true;
        at += 2;
        if at > text.len() {
            return None;
        }
    }
}

fn unescape(mut text: &[u8], out: &mut Vec<u8>) {
    while let Some(at) = text.iter().position(|byte| *byte == b'\\') {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(options: &LogOptions, framed: bool, lines: &[&str]) -> String {
        let mut decoder = Decoder::new(Wanted::new(options, framed));
        let mut out = Vec::new();
        for line in lines {
            if !decoder.line(line.as_bytes(), &mut out) {
                break;
            }
        }
        String::from_utf8(out).unwrap()
    }

    fn both() -> LogOptions {
        LogOptions { stdout: true, stderr: true, ..LogOptions::default() }
    }

    const LINES: [&str; 4] = [
        r#"{"log":"one\n","stream":"stdout","time":"2026-01-02T03:04:05.1Z"}"#,
        r#"{"log":"half ","stream":"stdout","time":"2026-01-02T03:04:06Z"}"#,
        r#"{"log":"err\n","stream":"stderr","time":"2026-01-02T03:04:07.123456789Z"}"#,
        r#"{"log":"whole\n","stream":"stdout","attrs":{"a":"b"},"time":"2026-01-02T03:04:08Z"}"#,
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
}
