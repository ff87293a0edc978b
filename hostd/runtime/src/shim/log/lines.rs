//! Output, as it comes from a pipe, cut into lines; a line longer than [`PIECE`] into pieces, as Docker does.

use std::fmt::Write as _;

/// Longest piece of a line, its end included.
pub(super) const PIECE: usize = 16 << 10;

/// A line, or a part of one.
#[derive(Debug)]
pub(super) struct Piece<'a> {
    /// 1 for stdout, 2 for stderr.
    pub(super) stream: u8,
    /// Without the newline.
    pub(super) text: &'a [u8],
    /// Whether a newline follows.
    pub(super) end: bool,
    /// What part of which line, where it is not a whole one.
    pub(super) part: Option<&'a Part>,
    /// Nanoseconds since 1970 at which it was printed; all parts of a line have the first one's.
    pub(super) time: u64,
}

/// What ties the parts of a line together.
#[derive(Debug)]
pub(super) struct Part {
    /// 64 hex digits.
    pub(super) id: String,
    /// From 1.
    pub(super) ordinal: u32,
    time: u64,
}

/// Cuts two streams into lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    streams: [Stream; 2],
}

#[derive(Debug, Default)]
struct Stream {
    /// What was printed since the last piece.
    rest: Vec<u8>,
    /// Of the line whose beginning was given away.
    part: Option<Part>,
}

impl Lines {
    /// Gives all pieces that `data`, printed at `time`, completes.
    pub(super) fn feed(&mut self, stream: u8, mut data: &[u8], time: u64, mut give: impl FnMut(Piece<'_>)) {
        let state = &mut self.streams[usize::from(stream == 2)];
        while !data.is_empty() {
            let room = PIECE - state.rest.len();
            let window = &data[..room.min(data.len())];
            let newline = memchr::memchr(b'\n', window);
            if newline.is_none() && window.len() < room {
                state.rest.extend_from_slice(data);
                return;
            }
            let end = newline.is_some();
            let (head, tail) = data.split_at(newline.unwrap_or(window.len()));
            data = if end { &tail[1..] } else { tail };
            if state.rest.is_empty() && state.part.is_none() && end {
                give(Piece { stream, text: head, end, part: None, time });
                continue;
            }
            state.rest.extend_from_slice(head);
            state.give(stream, end, time, &mut give);
        }
    }

    /// Gives what is left of lines without end.
    pub(super) fn finish(&mut self, mut give: impl FnMut(Piece<'_>)) {
        for stream in [1, 2] {
            let state = &mut self.streams[stream - 1];
            if !state.rest.is_empty() {
                state.give(stream as u8, false, super::now(), &mut give);
            }
        }
    }

    /// Gives what is left of a line whose end is lost.
    pub(super) fn break_off(&mut self, stream: u8, time: u64, mut give: impl FnMut(Piece<'_>)) {
        let state = &mut self.streams[usize::from(stream == 2)];
        if !state.rest.is_empty() || state.part.is_some() {
            state.give(stream, true, time, &mut give);
        }
    }
}

impl Stream {
    fn give(&mut self, stream: u8, end: bool, time: u64, give: &mut impl FnMut(Piece<'_>)) {
        match &mut self.part {
            Some(part) => part.ordinal += 1,
            None if end => {}
            None => self.part = Some(Part { id: random_id(), ordinal: 1, time }),
        }
        let time = self.part.as_ref().map_or(time, |part| part.time);
        give(Piece { stream, text: &self.rest, end, part: self.part.as_ref(), time });
        // An idle stream holds no memory.
        self.rest = Vec::new();
        if end {
            self.part = None;
        }
    }
}

fn random_id() -> String {
    let mut bytes = [0_u8; 32];
    // The id only has to differ from those nearby; without entropy the time will do.
    if rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).is_err() {
        bytes[..8].copy_from_slice(&super::now().to_be_bytes());
    }
    bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    type Got = (u8, String, bool, Option<u32>);

    fn feed(lines: &mut Lines, stream: u8, data: &[u8]) -> Vec<Got> {
        let mut got = Vec::new();
        lines.feed(stream, data, 7, |piece| got.push(own(&piece)));
        got
    }

    fn own(piece: &Piece<'_>) -> Got {
        let text = String::from_utf8(piece.text.to_vec()).unwrap();
        (piece.stream, text, piece.end, piece.part.map(|part| part.ordinal))
    }

    #[test]
    fn a_line_is_one_piece_however_it_arrives() {
        let mut lines = Lines::default();
        assert_eq!(feed(&mut lines, 1, b"he"), []);
        assert_eq!(feed(&mut lines, 2, b"err\n"), [(2, "err".to_owned(), true, None)]);
        assert_eq!(
            feed(&mut lines, 1, b"llo\n\nwor"),
            [(1, "hello".to_owned(), true, None), (1, String::new(), true, None)]
        );
        let mut got = Vec::new();
        lines.finish(|piece| got.push(own(&piece)));
        assert_eq!(got, [(1, "wor".to_owned(), false, Some(1))]);
    }

    #[test]
    fn a_long_line_is_cut_and_its_parts_are_numbered() {
        let mut lines = Lines::default();
        let mut got = feed(&mut lines, 1, &[b'x'; PIECE + 5]);
        got.extend(feed(&mut lines, 1, b"yz\nnext\n"));
        let (texts, rest): (Vec<_>, Vec<_>) =
            got.into_iter().map(|(_, text, end, part)| (text.len(), (end, part))).unzip();
        assert_eq!(texts, [PIECE, 7, 4]);
        assert_eq!(rest, [(false, Some(1)), (true, Some(2)), (true, None)]);
        // A newline right behind a full piece ends the line with an empty one.
        let mut got = feed(&mut lines, 2, &[b'x'; PIECE]);
        got.extend(feed(&mut lines, 2, b"\n"));
        assert_eq!(got[1], (2, String::new(), true, Some(2)));
    }
}
