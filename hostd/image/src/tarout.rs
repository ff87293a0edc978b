//! Writing tar headers: ustar, with PAX records before an entry that ustar has no room for.

use crate::tarstream::Kind;

const BLOCK: usize = 512;
/// Largest size that twelve bytes of octal digits hold.
const MAX_SIZE: u64 = 0o77_777_777_777;
/// Largest id that eight bytes of octal digits hold.
const MAX_ID: u32 = 0o7_777_777;

/// An entry's header. A directory's name ends in a slash.
#[derive(Debug)]
pub(crate) struct Header<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) link: &'a [u8],
    pub(crate) kind: Kind,
    pub(crate) size: u64,
    /// Permissions and set-ID bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds.
    pub(crate) mtime: i64,
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

impl Header<'_> {
    /// Appends the header, and what has to stand before it.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let records = self.pax();
        if !records.is_empty() {
            let name = b"PaxHeaders.0/entry";
            block(
                out,
                &Header {
                    name,
                    link: b"",
                    kind: Kind::File,
                    size: records.len() as u64,
                    mode: 0o644,
                    uid: 0,
                    gid: 0,
                    mtime: 0,
                    device: (0, 0),
                    xattrs: &[],
                },
                b'x',
            );
            out.extend_from_slice(&records);
            pad(out, records.len() as u64);
        }
        block(out, self, flag(self.kind));
    }

    /// What ustar cannot say.
    fn pax(&self) -> Vec<u8> {
        let mut records = Vec::new();
        if split(self.name).is_none() || !self.name.is_ascii() {
            record(&mut records, b"path", self.name);
        }
        if self.link.len() > 100 || !self.link.is_ascii() {
            record(&mut records, b"linkpath", self.link);
        }
        if self.size > MAX_SIZE {
            record(&mut records, b"size", self.size.to_string().as_bytes());
        }
        for (key, id) in [(&b"uid"[..], self.uid), (b"gid", self.gid)] {
            if id > MAX_ID {
                record(&mut records, key, id.to_string().as_bytes());
            }
        }
        if u64::try_from(self.mtime).map_or(true, |mtime| mtime > MAX_SIZE) {
            record(&mut records, b"mtime", self.mtime.to_string().as_bytes());
        }
        for (key, value) in self.xattrs {
            record(&mut records, &[b"SCHILY.xattr.", key.as_slice()].concat(), value);
        }
        records
    }
}

/// Appends the zeros after `size` bytes of data.
pub(crate) fn pad(out: &mut Vec<u8>, size: u64) {
    let padding = size.next_multiple_of(BLOCK as u64) - size;
    out.resize(out.len() + padding as usize, 0);
}

/// Two empty blocks.
pub(crate) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// `<length> <key>=<value>\n`, the length counting all of it.
fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length.to_string().len() + rest != length {
        length += 1;
    }
    out.extend_from_slice(format!("{length} ").as_bytes());
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Prefix and name, where the name fits into the two.
fn split(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= 100 {
        return Some((b"", name));
    }
    // The slash between the two is not written.
    let at = name.iter().enumerate().take(156).rposition(|(at, b)| *b == b'/' && at + 1 < name.len())?;
    let (prefix, rest) = (&name[..at], &name[at + 1..]);
    (!prefix.is_empty() && rest.len() <= 100).then_some((prefix, rest))
}

fn flag(kind: Kind) -> u8 {
    match kind {
        Kind::File => b'0',
        Kind::Hardlink => b'1',
        Kind::Symlink => b'2',
        Kind::Char => b'3',
        Kind::Block => b'4',
        Kind::Dir => b'5',
        Kind::Fifo => b'6',
    }
}

fn block(out: &mut Vec<u8>, header: &Header<'_>, flag: u8) {
    let mut block = [0; BLOCK];
    let (prefix, name) = split(header.name).unwrap_or_else(|| (b"", &header.name[..100]));
    let link = &header.link[..header.link.len().min(100)];
    block[..name.len()].copy_from_slice(name);
    octal(&mut block[100..108], u64::from(header.mode));
    octal(&mut block[108..116], if header.uid > MAX_ID { 0 } else { u64::from(header.uid) });
    octal(&mut block[116..124], if header.gid > MAX_ID { 0 } else { u64::from(header.gid) });
    octal(&mut block[124..136], if header.size > MAX_SIZE { 0 } else { header.size });
    octal(&mut block[136..148], u64::try_from(header.mtime).ok().filter(|t| *t <= MAX_SIZE).unwrap_or(0));
    block[156] = flag;
    block[157..157 + link.len()].copy_from_slice(link);
    block[257..265].copy_from_slice(b"ustar\x0000");
    octal(&mut block[329..337], u64::from(header.device.0));
    octal(&mut block[337..345], u64::from(header.device.1));
    block[345..345 + prefix.len()].copy_from_slice(prefix);
    // The sum of all bytes with its own field read as spaces.
    let sum = block.iter().map(|&b| u32::from(b)).sum::<u32>() + 8 * 32;
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block[155] = b' ';
    out.extend_from_slice(&block);
}

/// Octal digits with leading zeros, and a zero byte behind.
fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    field[..digits].copy_from_slice(format!("{value:0digits$o}").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tarstream::TarStream;

    fn header<'a>(name: &'a [u8], xattrs: &'a [(Vec<u8>, Vec<u8>)]) -> Header<'a> {
        Header {
            name,
            link: b"",
            kind: Kind::File,
            size: 0,
            mode: 0o4755,
            uid: 1,
            gid: 2,
            mtime: 1_700_000_000,
            device: (0, 0),
            xattrs,
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let long_name = [b"dir/".repeat(60), b"file".to_vec()].concat();
        let endless = vec![b'x'; 300];
        let xattrs = [(b"user.a".to_vec(), vec![0, 1, 255])];
        let cases = [
            Header { ..header(b"plain", &[]) },
            Header { mtime: -5, uid: 3_000_000_000, gid: MAX_ID + 1, ..header(&long_name, &xattrs) },
            Header { kind: Kind::Symlink, link: &endless, ..header(&endless, &[]) },
            Header { kind: Kind::Char, device: (1, 3), ..header("ü".as_bytes(), &[]) },
            Header { kind: Kind::Dir, ..header(b"a/", &[]) },
        ];
        let mut out = Vec::new();
        for case in &cases {
            case.write(&mut out);
        }
        out.extend_from_slice(&END);
        let mut tar = TarStream::new(&out[..]);
        for case in &cases {
            let entry = tar.next().unwrap().unwrap();
            assert_eq!((&entry.name[..], &entry.link[..], entry.kind), (case.name, case.link, case.kind));
            assert_eq!((entry.mode, entry.uid, entry.gid), (case.mode, case.uid, case.gid));
            assert_eq!((entry.mtime, entry.device), ((case.mtime, 0), case.device));
            assert_eq!(entry.xattrs, case.xattrs);
        }
        assert!(tar.next().unwrap().is_none());
    }

    #[test]
    fn a_size_beyond_octal_goes_into_a_record() {
        let mut out = Vec::new();
        Header { size: 1 << 40, ..header(b"big", &[]) }.write(&mut out);
        let entry = TarStream::new(&out[..]).next().unwrap().unwrap();
        assert_eq!(entry.size, 1 << 40);
    }
}
