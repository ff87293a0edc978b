//! Entries as they stand in a log file, found from the front and from the back.
//!
//! What hostd's shim writes has one shape, which is looked for first; what a dockerd wrote before may have another.

use super::decode::Format;

/// An entry, taken apart.
#[derive(Debug, PartialEq)]
pub(super) struct Entry<'a> {
    pub(super) text: Text<'a>,
    /// Whether a newline follows that does not stand in the text.
    pub(super) newline: bool,
    pub(super) stderr: bool,
    pub(super) time: Time<'a>,
    /// A JSON object, or empty.
    pub(super) attrs: &'a [u8],
}

#[derive(Debug, PartialEq)]
pub(super) enum Text<'a> {
    Plain(&'a [u8]),
    /// With JSON's escapes.
    Escaped(&'a [u8]),
}

#[derive(Debug, PartialEq)]
pub(super) enum Time<'a> {
    /// RFC 3339.
    Text(&'a [u8]),
    /// Since 1970.
    Nanos(u64),
}

/// Longest entry that is believed in a format that says how long an entry is.
pub(super) const LONGEST: usize = 1 << 20;

/// The first entry of `data` and how many bytes it takes, `None` where it is not whole. The entry itself is `None`
/// where these bytes are none.
pub(super) fn first(format: Format, data: &[u8]) -> Option<(Option<Entry<'_>>, usize)> {
    match format {
        Format::Json => {
            let end = memchr::memchr(b'\n', data)?;
            let line = &data[..end];
            Some((usual(line).or_else(|| parse(line)), end + 1))
        }
        Format::Local => {
            let length = u32::from_be_bytes(*data.first_chunk()?) as usize;
            if length > LONGEST {
                // Nothing behind it can be found.
                return Some((None, data.len()));
            }
            let message = data.get(4..4 + length)?;
            data.get(4 + length..8 + length)?;
            Some((local(message), length + 8))
        }
    }
}

/// Where the last entry of `data` begins, which ends where `data` does, and whether it ends a line. `None` where it
/// begins before `data` does; `whole` tells that nothing is before it.
pub(super) fn last(format: Format, data: &[u8], whole: bool) -> Option<(usize, bool)> {
    match format {
        Format::Json => {
            let line = data.strip_suffix(b"\n").unwrap_or(data);
            let start = match memchr::memrchr(b'\n', line) {
                Some(before) => before + 1,
                None if whole => 0,
                None => return None,
            };
            let entry = usual(&line[start..]).or_else(|| parse(&line[start..]));
            Some((start, entry.is_some_and(|entry| entry.ends_line())))
        }
        Format::Local => {
            let length = u32::from_be_bytes(*data.last_chunk()?) as usize;
            let start = data.len().checked_sub(length + 8)?;
            let entry = local(&data[start + 4..data.len() - 4]);
            Some((start, entry.is_some_and(|entry| entry.ends_line())))
        }
    }
}

impl Entry<'_> {
    fn ends_line(&self) -> bool {
        match self.text {
            _ if self.newline => true,
            Text::Plain(text) => text.ends_with(b"\n"),
            Text::Escaped(text) => text.strip_suffix(b"\\n").is_some_and(|text| {
                // An escaped backslash before an `n` is none.
                text.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 0
            }),
        }
    }
}

/// `{"log":"…\n","stream":"std…","time":"…"}`, from both ends inwards: a quote in the text is escaped, so what stands
/// behind it cannot be part of it.
fn usual(line: &[u8]) -> Option<Entry<'_>> {
    let line = line.strip_prefix(b"{\"log\":\"")?.strip_suffix(b"\"}")?;
    // A time has at most 30 bytes.
    let window = line.len().saturating_sub(31);
    let quote = window + line[window..].iter().rposition(|byte| *byte == b'"')?;
    let (line, time) = (&line[..quote], &line[quote + 1..]);
    let line = line.strip_suffix(b"\",\"time\":")?;
    let (text, stderr) = match line.strip_suffix(b"\",\"stream\":\"stdout") {
        Some(text) => (text, false),
        None => (line.strip_suffix(b"\",\"stream\":\"stderr")?, true),
    };
    let (body, newline) = match text.strip_suffix(b"\\n") {
        Some(body) if body.last() != Some(&b'\\') => (body, true),
        _ => (text, false),
    };
    let text = if memchr::memchr(b'\\', body).is_none() { Text::Plain(body) } else { Text::Escaped(body) };
    Some(Entry { text, newline, stderr, time: Time::Text(time), attrs: b"" })
}

/// The fields of `{"log":"…","stream":"…","time":"…"}`, in any order, others passed over.
fn parse(line: &[u8]) -> Option<Entry<'_>> {
    let mut parsed =
        Entry { text: Text::Plain(b""), newline: false, stderr: false, time: Time::Text(b""), attrs: b"" };
    let mut rest = line.strip_prefix(b"{")?;
    loop {
        let (key, _, after) = string(rest)?;
        rest = after.strip_prefix(b":")?;
        if rest.first() == Some(&b'"') {
            let (value, escaped, after) = string(rest)?;
            match key {
                b"log" if escaped => parsed.text = Text::Escaped(value),
                b"log" => parsed.text = Text::Plain(value),
                b"stream" => parsed.stderr = value == b"stderr",
                b"time" => parsed.time = Time::Text(value),
                _ => {}
            }
            rest = after;
        } else {
            let (value, after) = object(rest)?;
            if key == b"attrs" {
                parsed.attrs = value;
            }
            rest = after;
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
        at += memchr::memchr2(b'"', b'\\', text.get(at..)?)?;
        if text[at] == b'"' {
            return Some((&text[..at], escaped, &text[at + 1..]));
        }
        escaped = true;
        at += 2;
    }
}

/// A flat object of strings at the start of `text`, and what follows.
fn object(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut rest = text.strip_prefix(b"{")?;
    loop {
        rest = match rest.first()? {
            b'"' => string(rest)?.2,
            b'}' => {
                let length = text.len() - rest.len() + 1;
                return Some(text.split_at(length));
            }
            _ => &rest[1..],
        };
    }
}

/// A `LogEntry` of the `local` driver.
fn local(mut message: &[u8]) -> Option<Entry<'_>> {
    let mut entry =
        Entry { text: Text::Plain(b""), newline: true, stderr: false, time: Time::Nanos(0), attrs: b"" };
    let (mut partial, mut last) = (false, false);
    while !message.is_empty() {
        let key = varint(&mut message)?;
        match (key >> 3, key & 7) {
            (field, 0) => {
                let value = varint(&mut message)?;
                match field {
                    2 => entry.time = Time::Nanos(value),
                    4 => partial = value != 0,
                    _ => {}
                }
            }
            (field, 2) => {
                let value = bytes(&mut message)?;
                match field {
                    1 => entry.stderr = value == b"stderr",
                    3 => entry.text = Text::Plain(value),
                    // Its first field, where it is there, is number 1 and says whether it is the last part.
                    5 => last = value.starts_with(&[1 << 3, 1]),
                    _ => {}
                }
            }
            _ => return None,
        }
    }
    entry.newline = !partial || last;
    Some(entry)
}

fn varint(from: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = from.split_first()?;
        *from = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn bytes<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(varint(from)?).ok()?;
    let (value, rest) = from.split_at_checked(length)?;
    *from = rest;
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_shape_reads_as_any_other() {
        for line in [
            r#"{"log":"one\n","stream":"stdout","time":"2026-01-02T03:04:05.1Z"}"#,
            r#"{"log":"","stream":"stderr","time":"2026-01-02T03:04:05Z"}"#,
            r#"{"log":"a\"b\\","stream":"stdout","time":"2026-01-02T03:04:05.123456789Z"}"#,
            r#"{"log":"no end \\n","stream":"stdout","time":"2026-01-02T03:04:05Z"}"#,
            r#"{"log":"a\",\"stream\":\"stderr\",\"time\":\"x\n","stream":"stdout","time":"t"}"#,
        ] {
            let (usual, any) = (usual(line.as_bytes()).unwrap(), parse(line.as_bytes()).unwrap());
            assert_eq!(
                (usual.stderr, &usual.time, usual.ends_line()),
                (any.stderr, &any.time, any.ends_line())
            );
            let raw = |text: &Text<'_>, newline| {
                let (Text::Plain(text) | Text::Escaped(text)) = text;
                if newline { [*text, &b"\\n"[..]].concat() } else { text.to_vec() }
            };
            assert_eq!(raw(&usual.text, usual.newline), raw(&any.text, any.newline), "{line}");
        }
        let attrs = r#"{"log":"x\n","stream":"stdout","attrs":{"a":"}\""},"time":"t"}"#;
        assert_eq!(usual(attrs.as_bytes()), None);
        assert_eq!(parse(attrs.as_bytes()).unwrap().attrs, br#"{"a":"}\""}"#);
    }

    #[test]
    fn local_messages_are_read_from_both_ends() {
        let message = |body: &[u8]| {
            let length = (body.len() as u32).to_be_bytes();
            [&length[..], body, &length[..]].concat()
        };
        // As dockerd wrote them: `hi`, and `foo` without its end.
        let whole = message(b"\x0a\x06stdout\x10\x05\x1a\x02hi");
        let part = message(b"\x0a\x06stderr\x10\x07\x1a\x03foo\x20\x01\x2a\x05\x12\x01i\x18\x01");
        let end = message(b"\x0a\x06stderr\x10\x07\x1a\x01d\x20\x01\x2a\x07\x08\x01\x12\x01i\x18\x02");
        let data = [&whole[..], &part, &end].concat();
        let (entry, length) = first(Format::Local, &data).unwrap();
        let entry = entry.unwrap();
        assert_eq!((entry.text, entry.newline, entry.time), (Text::Plain(b"hi"), true, Time::Nanos(5)));
        assert_eq!(length, whole.len());
        let (entry, _) = first(Format::Local, &data[length..]).unwrap();
        let entry = entry.unwrap();
        assert_eq!((entry.text, entry.newline, entry.stderr), (Text::Plain(b"foo"), false, true));
        assert_eq!(last(Format::Local, &data, true), Some((whole.len() + part.len(), true)));
        assert_eq!(last(Format::Local, &data[..whole.len() + part.len()], true), Some((whole.len(), false)));
        assert_eq!(last(Format::Local, &data[data.len() - 9..], false), None);
        for cut in 1..whole.len() {
            assert_eq!(first(Format::Local, &whole[..cut]), None);
        }
        let absurd = [0xff; 20];
        assert_eq!(first(Format::Local, &absurd), Some((None, 20)));
    }
}
