//! Compression of layers and archives, told by their first bytes.

use std::io::{self, BufReader, Read};

/// How a stream is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// Tells by the magic number; everything unknown counts as not compressed.
    pub(crate) fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A skippable frame, which zstd's parallel and seekable writers put first.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }

    /// The stream's content. Several gzip members or zstd frames after each other read as one.
    pub(crate) fn reader<'a>(self, raw: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
        Ok(match self {
            Self::None => Box::new(raw),
            Self::Gzip => {
                Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(64 * 1024, raw)))
            }
            Self::Zstd => Box::new(Zstd(zstd::stream::read::Decoder::new(raw)?)),
        })
    }
}

/// Says of damaged data that it is damaged: zstd's own errors have no kind.
struct Zstd<R: Read>(zstd::stream::read::Decoder<'static, BufReader<R>>);

impl<R: Read> Read for Zstd<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf).map_err(|error| match error.kind() {
            io::ErrorKind::Other => io::Error::new(io::ErrorKind::InvalidData, error),
            _ => error,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn members_and_frames_after_each_other_read_as_one() {
        let plain = b"one two".to_vec();
        let gz = [gzip(b"one "), gzip(b"two")].concat();
        let zst =
            [zstd::encode_all(&b"one "[..], 0).unwrap(), zstd::encode_all(&b"two"[..], 0).unwrap()].concat();
        for (bytes, kind) in [(plain, Compression::None), (gz, Compression::Gzip), (zst, Compression::Zstd)] {
            assert_eq!(Compression::of(&bytes), kind);
            let mut text = String::new();
            kind.reader(&bytes[..]).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "one two");
        }
    }
}
