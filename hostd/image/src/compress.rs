//! Compression of layers and archives, told by their first bytes.

use std::io::{self, BufReader, Read};

/// How a stream is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Bzip2,
    Gzip,
    Xz,
    Zstd,
}

/// What a decoder of xz may take, in KiB: twice what `xz -9` asks for. A header can ask for 4 GiB.
const XZ_MEMORY: u32 = 128 << 10;

impl Compression {
    /// Tells by the magic number; everything unknown counts as not compressed.
    pub(crate) fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
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
            Self::Bzip2 => Box::new(bzip2::read::MultiBzDecoder::new(raw)),
            Self::Xz => {
                let raw = BufReader::with_capacity(64 * 1024, raw);
                Box::new(lzma_rust2::XzReader::new_mem_limit(raw, true, XZ_MEMORY))
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

    const BZIP2: &str = "425a6839314159265359cb28d32d0000008180020004402000219819832c2ee48a70a1219651a65a";
    const XZ: &str = "fd377a585a000004e6d6b4460200210116000000742fe5a3010003746578740055cde833ff4a0c1700011c046f2c9cc11fb6f37d010000000004595a";

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn bzip2_and_xz_are_known_by_their_first_bytes() {
        // `printf text | bzip2` and `printf text | xz`.
        let bz = hex::decode(BZIP2).unwrap();
        let xz = hex::decode(XZ).unwrap();
        for (bytes, kind) in [(bz, Compression::Bzip2), (xz, Compression::Xz)] {
            assert_eq!(Compression::of(&bytes), kind);
            let mut text = String::new();
            kind.reader(&bytes[..]).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "text");
            let cut = &bytes[..bytes.len() - 8];
            assert!(kind.reader(cut).unwrap().read_to_string(&mut text).is_err(), "{kind:?} cut short");
        }
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
