//! Docker's `local` format: each piece a protobuf message, its length before and behind it.
//!
//! ```text
//! u32 length (big-endian), LogEntry, u32 length
//! LogEntry  1 source, 2 time in nanoseconds, 3 line, 4 partial, 5 { 1 last, 2 id, 3 ordinal }
//! ```

use super::lines::Piece;

pub(super) fn encode(piece: &Piece<'_>, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    bytes(out, 1, if piece.stream == 2 { b"stderr" } else { b"stdout" });
    number(out, 2, piece.time);
    bytes(out, 3, piece.text);
    if let Some(part) = piece.part {
        number(out, 4, 1);
        let mut inner = Vec::with_capacity(80);
        number(&mut inner, 1, u64::from(piece.end));
        bytes(&mut inner, 2, part.id.as_bytes());
        number(&mut inner, 3, u64::from(part.ordinal));
        bytes(out, 5, &inner);
    }
    let length = ((out.len() - start - 4) as u32).to_be_bytes();
    out[start..start + 4].copy_from_slice(&length);
    out.extend_from_slice(&length);
}

/// A length-delimited field; empty ones are left out.
fn bytes(out: &mut Vec<u8>, field: u8, value: &[u8]) {
    if !value.is_empty() {
        out.push(field << 3 | 2);
        varint(out, value.len() as u64);
        out.extend_from_slice(value);
    }
}

/// A number; zero is left out.
fn number(out: &mut Vec<u8>, field: u8, value: u64) {
    if value != 0 {
        out.push(field << 3);
        varint(out, value);
    }
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::super::lines::Lines;
    use super::*;

    #[test]
    fn messages_are_dockers_byte_for_byte() {
        let mut out = Vec::new();
        // As dockerd 20.10 wrote it.
        let time = 1_763_722_739_000_000_000;
        encode(&Piece { stream: 1, text: b"hi", end: true, part: None, time }, &mut out);
        let mut expected = vec![0, 0, 0, 22, 10, 6];
        expected.extend_from_slice(b"stdout\x10");
        varint(&mut expected, time);
        expected.extend_from_slice(b"\x1a\x02hi\0\0\0\x16");
        assert_eq!(out, expected);
    }

    #[test]
    fn a_part_of_a_line_says_so() {
        let (mut lines, mut out) = (Lines::default(), Vec::new());
        lines.feed(1, b"foo", 1, |_| {});
        lines.finish(|piece| encode(&piece, &mut out));
        let tail = &out[out.len() - 4 - 70..out.len() - 4];
        assert_eq!((tail[0], tail[1], tail[2], tail[3]), (5 << 3 | 2, 68, 2 << 3 | 2, 64));
        assert_eq!(tail[68..], [3 << 3, 1]);
        assert_eq!(out[out.len() - 4 - 72..out.len() - 4 - 70], [4 << 3, 1]);
    }
}
