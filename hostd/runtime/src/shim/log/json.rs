//! Docker's json-file: one `{"log":…,"stream":…,"attrs":…,"time":…}` a line.

use super::lines::Piece;

/// Makes entries.
#[derive(Debug)]
pub(super) struct Json {
    /// From the end of the text to the time, for stdout and stderr.
    middle: [Vec<u8>; 2],
    /// The last time, as text.
    time: (u64, String),
}

impl Json {
    /// `attrs` is a JSON object, or empty.
    pub(super) fn new(attrs: &str) -> Self {
        let attrs = if attrs.is_empty() { String::new() } else { format!("\"attrs\":{attrs},") };
        let middle = |stream| format!("\",\"stream\":\"{stream}\",{attrs}\"time\":\"").into_bytes();
        Self { middle: [middle("stdout"), middle("stderr")], time: (0, rfc3339(0)) }
    }

    pub(super) fn encode(&mut self, piece: &Piece<'_>, out: &mut Vec<u8>) {
        if self.time.0 != piece.time {
            self.time = (piece.time, rfc3339(piece.time));
        }
        let middle = &self.middle[usize::from(piece.stream == 2)];
        out.reserve(piece.text.len() + middle.len() + 48);
        out.extend_from_slice(b"{\"log\":\"");
        escape(out, piece.text);
        if piece.end {
            out.extend_from_slice(b"\\n");
        }
        out.extend_from_slice(middle);
        out.extend_from_slice(self.time.1.as_bytes());
        out.extend_from_slice(b"\"}\n");
    }
}

/// Whether a byte stands for itself, whatever is around it.
const fn is_plain(byte: u8) -> bool {
    byte >= 0x20 && byte < 0x80 && !matches!(byte, b'"' | b'\\' | b'<' | b'>' | b'&')
}

/// How many bytes at the start of `text` stand for themselves. Without branches in a block, so that a vector
/// unit can take it at once: most of a log is such bytes.
fn plain(text: &[u8]) -> usize {
    let (blocks, _) = text.as_chunks::<32>();
    let whole = blocks.iter().take_while(|block| block.iter().fold(true, |all, &b| all & is_plain(b)));
    let at = whole.count() * 32;
    at + text[at..].iter().take_while(|byte| is_plain(**byte)).count()
}

/// Escapes as Docker does: HTML's characters too, and U+FFFD for what is no UTF-8.
fn escape(out: &mut Vec<u8>, mut text: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    loop {
        let (same, rest) = text.split_at(plain(text));
        out.extend_from_slice(same);
        let Some(&byte) = rest.first() else { return };
        if byte >= 0x80 {
            let run = rest.iter().take_while(|byte| **byte >= 0x80).count();
            foreign(out, &rest[..run]);
            text = &rest[run..];
            continue;
        }
        text = &rest[1..];
        match byte {
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            _ => {
                let (high, low) = (HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]);
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
            }
        }
    }
}

/// Escapes what is not ASCII.
fn foreign(out: &mut Vec<u8>, text: &[u8]) {
    for chunk in text.utf8_chunks() {
        let mut valid = chunk.valid();
        // U+2028 and U+2029 end lines in JavaScript.
        while let Some(at) = valid.find(['\u{2028}', '\u{2029}']) {
            let (before, rest) = valid.split_at(at);
            out.extend_from_slice(before.as_bytes());
            out.extend_from_slice(if rest.starts_with('\u{2028}') { b"\\u2028" } else { b"\\u2029" });
            valid = &rest[3..];
        }
        out.extend_from_slice(valid.as_bytes());
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

/// Nanoseconds since 1970 as RFC 3339 in UTC, without trailing zeros.
pub(super) fn rfc3339(nanos: u64) -> String {
    let ((year, month, day), (hour, minute, second)) = civil(nanos / 1_000_000_000);
    let mut text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    let fraction = nanos % 1_000_000_000;
    if fraction != 0 {
        let fraction = format!(".{fraction:09}");
        text.push_str(fraction.trim_end_matches('0'));
    }
    text.push('Z');
    text
}

/// Seconds since 1970 as date and time in UTC.
pub(super) fn civil(seconds: u64) -> ((i64, i64, i64), (u64, u64, u64)) {
    let (days, second) = ((seconds / 86400) as i64, seconds % 86400);
    // Days to civil date (Howard Hinnant's algorithm), from March 1st of year 0.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    ((year, month, day), (second / 3600, second / 60 % 60, second % 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(text: &[u8]) -> String {
        let mut out = Vec::new();
        escape(&mut out, text);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn text_is_escaped_as_docker_does() {
        let cases: [(&[u8], &str); 8] = [
            (b"plain \xc3\xa9\n", "plain \u{e9}\\n"),
            (b"a\"b\\c\r\t\x1b\x7f", "a\\\"b\\\\c\\r\\u0009\\u001b\x7f"),
            (b"<&>", "\\u003c\\u0026\\u003e"),
            (b"x\xff\xfey", "x\\ufffd\\ufffdy"),
            ("\u{2028}\u{20ac}\u{2029}".as_bytes(), "\\u2028\u{20ac}\\u2029"),
            (b"", ""),
            (&[b'x'; 100], &"x".repeat(100)),
            (b"0123456789012345678901234567890123456789\"", "0123456789012345678901234567890123456789\\\""),
        ];
        for (text, expected) in cases {
            assert_eq!(escaped(text), expected);
        }
        // Each special byte at each place of a block.
        for at in 0..70 {
            for special in [b'"', 0, 31, 0x80] {
                let mut text = vec![b'a'; 70];
                text[at] = special;
                let value: String = serde_json::from_str(&format!("\"{}\"", escaped(&text))).unwrap();
                assert_eq!(value, String::from_utf8_lossy(&text), "{special} at {at}");
            }
        }
    }

    #[test]
    fn times_are_rfc3339_without_trailing_zeros() {
        let at = |secs: u64, nanos: u64| rfc3339(secs * 1_000_000_000 + nanos);
        assert_eq!(at(0, 0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_400, 120_000_000), "2000-02-29T00:00:00.12Z");
        assert_eq!(at(1_767_225_599, 1), "2025-12-31T23:59:59.000000001Z");
    }

    #[test]
    fn an_entry_is_dockers() {
        let mut json = Json::new(r#"{"tag":"web"}"#);
        let mut out = Vec::new();
        json.encode(&Piece { stream: 2, text: b"hi", end: true, part: None, time: 0 }, &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"log\":\"hi\\n\",\"stream\":\"stderr\",\"attrs\":{\"tag\":\"web\"},\"time\":\"1970-01-01T00:00:00Z\"}\n"
        );
    }
}
