//! Detach keys: what a client types to leave a terminal without ending what runs in it.

use crate::error::{EngineError, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

const BUFFER: usize = 64 << 10;

/// Reads Docker's notation: letters and `ctrl-` with a letter or one of `@[\]^_`, by commas. Empty is `ctrl-p,ctrl-q`.
pub(crate) fn parse(keys: Option<&str>) -> Result<Vec<u8>> {
    let keys = keys.filter(|keys| !keys.is_empty()).unwrap_or("ctrl-p,ctrl-q");
    keys.split(',')
        .map(|key| {
            let bytes = key.as_bytes();
            match bytes {
                [one] => Ok(*one),
                [b'c', b't', b'r', b'l', b'-', letter] if letter.is_ascii_lowercase() => {
                    Ok(letter - b'a' + 1)
                }
                [b'c', b't', b'r', b'l', b'-', other] => match other {
                    b'@' => Ok(0),
                    b'[' => Ok(27),
                    b'\\' => Ok(28),
                    b']' => Ok(29),
                    b'^' => Ok(30),
                    b'_' => Ok(31),
                    _ => Err(()),
                },
                _ => Err(()),
            }
            .map_err(|()| {
                EngineError::invalid(format!(
                    "Invalid detach keys ({keys}) provided: Unknown character: '{key}'"
                ))
            })
        })
        .collect()
}

/// Looks for a key sequence in what passes through.
pub(crate) struct Filter {
    keys: Vec<u8>,
    matched: usize,
}

impl Filter {
    pub(crate) fn new(keys: Vec<u8>) -> Self {
        Self { keys, matched: 0 }
    }

    /// Appends to `out` what may go on; `true` once the sequence is complete. The start of a sequence is held back
    /// until it turns out to be none.
    pub(crate) fn pass(&mut self, input: &[u8], out: &mut Vec<u8>) -> bool {
        for &byte in input {
            if byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return true;
                }
                continue;
            }
            out.extend_from_slice(&self.keys[..self.matched]);
            self.matched = usize::from(byte == self.keys[0]);
            if self.matched == 0 {
                out.push(byte);
            }
        }
        false
    }
}

/// Passes bytes between a client and a process until both directions have ended, or until the client types `keys`.
pub(crate) fn bridge(
    client: UnixStream,
    process: UnixStream,
    keys: Option<Vec<u8>>,
    on_detach: impl FnOnce() + Send + 'static,
) {
    tokio::spawn(async move {
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_process, mut to_process) = process.into_split();
        let input = async {
            let detached = forward(&mut from_client, &mut to_process, keys).await;
            if !detached {
                // The client's end of file is the process's.
                let _ = to_process.shutdown().await;
            }
            detached
        };
        let output = async {
            let mut buffer = vec![0; BUFFER];
            loop {
                match from_process.read(&mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(n) => {
                        if to_client.write_all(&buffer[..n]).await.is_err() {
                            break;
                        }
                    }
                }
            }
        };
        tokio::pin!(input, output);
        tokio::select! {
            detached = &mut input => if detached { on_detach() } else { output.await },
            // With the process gone there is nobody to read more.
            () = &mut output => {}
        }
    });
}

/// Copies until end of file (`false`) or until the keys were typed (`true`).
async fn forward(
    from: &mut tokio::net::unix::OwnedReadHalf,
    to: &mut tokio::net::unix::OwnedWriteHalf,
    keys: Option<Vec<u8>>,
) -> bool {
    let mut filter = keys.filter(|keys| !keys.is_empty()).map(Filter::new);
    let (mut buffer, mut passed) = (vec![0; 4 << 10], Vec::new());
    loop {
        let n = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return false,
            Ok(n) => n,
        };
        let (bytes, detached) = match &mut filter {
            None => (&buffer[..n], false),
            Some(filter) => {
                passed.clear();
                let detached = filter.pass(&buffer[..n], &mut passed);
                (&passed[..], detached)
            }
        };
        if to.write_all(bytes).await.is_err() {
            return false;
        }
        if detached {
            return true;
        }
        if n == buffer.len() && buffer.len() < BUFFER {
            buffer.resize(BUFFER, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_in_dockers_notation() {
        assert_eq!(parse(None).unwrap(), [16, 17]);
        assert_eq!(parse(Some("")).unwrap(), [16, 17]);
        assert_eq!(
            parse(Some("a,ctrl-a,ctrl-@,ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_")).unwrap(),
            [97, 1, 0, 27, 28, 29, 30, 31]
        );
        for bad in ["ctrl-", "ctrl-A", "ab", "ctrl-p,", "shift-a"] {
            assert!(parse(Some(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_sequence_is_found_wherever_the_chunks_break() {
        for (chunks, out, found) in [
            (&["ab"][..], "ab", false),
            (&["axyb"], "a", true),
            (&["ax", "yb"], "a", true),
            (&["ax", "b"], "axb", false),
            (&["axxy"], "ax", true),
            (&["x"], "", false),
        ] {
            let (mut filter, mut got) = (Filter::new(b"xy".to_vec()), Vec::new());
            let hit = chunks.iter().any(|chunk| filter.pass(chunk.as_bytes(), &mut got));
            assert_eq!((String::from_utf8(got).unwrap().as_str(), hit), (out, found), "{chunks:?}");
        }
    }

    #[tokio::test]
    async fn typing_the_keys_ends_the_clients_stream_only() {
        let (mut client, ours) = UnixStream::pair().unwrap();
        let (theirs, mut process) = UnixStream::pair().unwrap();
        let (told, heard) = tokio::sync::oneshot::channel();
        bridge(ours, theirs, Some(vec![16, 17]), move || told.send(()).unwrap());
        client.write_all(b"ls\x10\x11").await.unwrap();
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
        process.read_to_end(&mut rest).await.unwrap();
        heard.await.unwrap();
        assert_eq!(rest, b"ls");
    }
}
