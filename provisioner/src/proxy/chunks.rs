//! Where a chunked body ends. Only its sizes are read; all bytes pass as they came, trailers too.

use std::io;

/// How far into a chunked body one is.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// In the line of a chunk's size: what was read of it, and whether extensions have begun.
    #[default]
    Start,
    Size(u64),
    Extension(u64),
    /// In a chunk, with so many bytes to come, its line end included.
    Data(u64),
    /// At the start of a line of trailers, and within one.
    Trailers,
    Trailer,
    /// After the carriage return that ends them.
    Last,
    End,
}

impl Chunks {
    /// Whether the body is over.
    pub(super) fn is_over(&self) -> bool {
        self.state == State::End
    }

    /// Reads on, and tells how many of these bytes belong to the body.
    pub(super) fn pass(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut at = 0;
        while at < bytes.len() && !self.is_over() {
            if let State::Data(left) = self.state {
                let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - at);
                at += taken;
                let left = left - taken as u64;
                self.state = if left == 0 { State::Start } else { State::Data(left) };
                continue;
            }
            self.state = self.state.after(bytes[at])?;
            at += 1;
        }
        Ok(at)
    }
}

impl State {
    fn after(self, byte: u8) -> io::Result<Self> {
        let invalid = || io::Error::new(io::ErrorKind::InvalidData, "a chunk's size makes no sense");
        let of_size = |size: u64| match size {
            0 => Ok(Self::Trailers),
            size => size.checked_add(2).map(Self::Data).ok_or_else(invalid),
        };
        let digit = (byte as char).to_digit(16).map(u64::from);
        match (self, byte) {
            (Self::Start, _) => digit.map(Self::Size).ok_or_else(invalid),
            (Self::Size(size) | Self::Extension(size), b'\n') => of_size(size),
            (Self::Size(size), b'\r' | b';' | b' ' | b'\t') | (Self::Extension(size), _) => {
                Ok(Self::Extension(size))
            }
            (Self::Size(size), _) => {
                let digit = digit.ok_or_else(invalid)?;
                size.checked_mul(16)
                    .and_then(|size| size.checked_add(digit))
                    .map(Self::Size)
                    .ok_or_else(invalid)
            }
            (Self::Trailers, b'\r') => Ok(Self::Last),
            (Self::Trailers | Self::Last, b'\n') => Ok(Self::End),
            (Self::Last, _) => Err(invalid()),
            (Self::Trailer, b'\n') => Ok(Self::Trailers),
            (Self::Trailers | Self::Trailer, _) => Ok(Self::Trailer),
            // Neither is asked for.
            (Self::Data(_) | Self::End, _) => Err(invalid()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_found_however_the_bytes_are_cut() {
        let body = b"4\r\nabcd\r\n1A;name=\"x\"\r\n0123456789abcdef0123456789\r\n0\r\nTrailer: x\r\n\r\n";
        let next = b"GET / HTTP/1.1\r\n\r\n";
        let all = [&body[..], next].concat();
        for step in 1..all.len() {
            let (mut chunks, mut passed) = (Chunks::default(), 0);
            for part in all.chunks(step) {
                if chunks.is_over() {
                    break;
                }
                passed += chunks.pass(part).unwrap();
            }
            assert_eq!((passed, chunks.is_over()), (body.len(), true), "{step}");
        }
        assert!(Chunks::default().pass(b"x\r\n").is_err());
        assert!(Chunks::default().pass(b"fffffffffffffffff\r\n").is_err());
        assert!(Chunks::default().pass(b"ffffffffffffffff\r\n").is_err());
    }
}
