//! Heads of HTTP/1 messages: what has to be known of them to tell where a message ends. Everything else, the order and
//! the spelling of headers included, passes as it came.

use std::io;

/// A head longer than this is none.
pub(super) const MOST: usize = 64 << 10;
const MOST_HEADERS: usize = 128;

/// How a message's body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// There is none.
    None,
    /// After so many bytes.
    Length(u64),
    /// With the last chunk, and its trailers.
    Chunked,
    /// With the connection.
    ToEnd,
}

/// What a request's head says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) method: String,
    /// Without the query, which may hold secrets.
    pub(super) path: String,
    /// Length of the head in bytes.
    pub(super) length: usize,
    pub(super) body: Body,
    /// The client speaks HTTP/1.1, or asked to keep the connection.
    pub(super) keeps: bool,
    /// What no Docker client sends, and every browser.
    pub(super) from_browser: bool,
    /// It is docker-py, which loses what it reads together with the head of an answer that takes its connection over.
    pub(super) loses: bool,
}

/// What an answer's head says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) length: usize,
    pub(super) body: Body,
    pub(super) keeps: bool,
}

/// A message that HTTP does not allow, or whose end is ambiguous.
fn invalid(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The head at the start of `bytes`; `None` where more of it is to come.
pub(super) fn request(bytes: &[u8]) -> io::Result<Option<Request>> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(length) = parsed.parse(bytes).map_err(invalid)? else {
        return too_long(bytes);
    };
    let framing = Framing::of(parsed.headers)?;
    let target = parsed.path.unwrap_or_default();
    let body = match framing.body {
        Some(body) => body,
        None => Body::None,
    };
    Ok(Some(Request {
        method: parsed.method.unwrap_or_default().to_owned(),
        path: target.split('?').next().unwrap_or_default().to_owned(),
        length,
        body,
        keeps: framing.keeps(parsed.version),
        from_browser: framing.origin || framing.foreign_host,
        loses: framing.python,
    }))
}

/// The same for an answer to a request of this method.
pub(super) fn answer(bytes: &[u8], method: &str) -> io::Result<Option<Answer>> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut parsed = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = parsed.parse(bytes).map_err(invalid)? else {
        return too_long(bytes);
    };
    let status = parsed.code.unwrap_or_default();
    let framing = Framing::of(parsed.headers)?;
    let body = match framing.body {
        _ if method == "HEAD" || status < 200 || matches!(status, 204 | 304) => Body::None,
        Some(body) => body,
        None => Body::ToEnd,
    };
    Ok(Some(Answer { status, length, body, keeps: framing.keeps(parsed.version) && body != Body::ToEnd }))
}

fn too_long<T>(bytes: &[u8]) -> io::Result<Option<T>> {
    if bytes.len() >= MOST { Err(invalid("a head is too long")) } else { Ok(None) }
}

#[derive(Default)]
struct Framing {
    body: Option<Body>,
    close: bool,
    keep_alive: bool,
    origin: bool,
    foreign_host: bool,
    python: bool,
}

impl Framing {
    fn of(headers: &[httparse::Header<'_>]) -> io::Result<Self> {
        let mut framing = Self::default();
        let mut length = None;
        for header in headers {
            let value = || std::str::from_utf8(header.value).map(str::trim).map_err(invalid);
            let has = |word: &str| {
                value().map(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(word)))
            };
            match header.name.to_ascii_lowercase().as_str() {
                "content-length" => {
                    let bytes = value()?.parse::<u64>().map_err(invalid)?;
                    // Two readers of two lengths would see two messages.
                    if length.replace(bytes).is_some_and(|before| before != bytes) {
                        return Err(invalid("two lengths of one body"));
                    }
                }
                "transfer-encoding" if has("chunked")? => framing.body = Some(Body::Chunked),
                "transfer-encoding" => return Err(invalid("a transfer encoding other than chunked")),
                "connection" => {
                    framing.close |= has("close")?;
                    framing.keep_alive |= has("keep-alive")?;
                }
                "origin" => framing.origin = true,
                "user-agent" => framing.python = value()?.starts_with("docker-sdk-python/"),
                "host" => framing.foreign_host = !is_local(value()?),
                _ => {}
            }
        }
        match (framing.body, length) {
            (Some(_), Some(_)) => return Err(invalid("both chunks and a length of one body")),
            (None, Some(length)) => framing.body = Some(Body::Length(length)),
            _ => {}
        }
        Ok(framing)
    }

    fn keeps(&self, version: Option<u8>) -> bool {
        !self.close && (version == Some(1) || self.keep_alive)
    }
}

/// Whether a `Host` is what clients of a local address send: an address, or a name without a domain.
fn is_local(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.trim_matches(['[', ']']);
    !name.contains('.')
        || bare.parse::<std::net::IpAddr>().is_ok()
        || name.starts_with('/')
        || name.starts_with('%')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_requests_end_is_known_from_its_head() {
        for (text, body, keeps) in [
            ("GET /x?secret=1 HTTP/1.1\r\nHost: docker\r\n\r\n", Body::None, true),
            ("GET / HTTP/1.0\r\n\r\n", Body::None, false),
            ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", Body::None, true),
            ("POST / HTTP/1.1\r\ncontent-length: 12\r\n\r\n", Body::Length(12), true),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Body::Chunked, true),
            ("POST / HTTP/1.1\r\nConnection: Upgrade, close\r\n\r\n", Body::None, false),
        ] {
            let head = request(text.as_bytes()).unwrap().unwrap();
            assert_eq!((head.body, head.keeps, head.length), (body, keeps, text.len()), "{text}");
            assert!(!head.path.contains("secret"));
            assert_eq!(request(&text.as_bytes()[..text.len() - 1]).unwrap(), None);
        }
        for bad in [
            "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
            "nonsense \x01\r\n\r\n",
        ] {
            assert!(request(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(request(&vec![b'A'; MOST]).is_err());
    }

    #[test]
    fn an_answers_end_depends_on_method_and_status() {
        let ok = |rest: &str| format!("HTTP/1.1 200 OK\r\n{rest}\r\n");
        for (text, method, body, keeps) in [
            (ok("Content-Length: 5\r\n"), "GET", Body::Length(5), true),
            (ok("Content-Length: 5\r\n"), "HEAD", Body::None, true),
            (ok(""), "POST", Body::ToEnd, false),
            ("HTTP/1.1 204 No Content\r\n\r\n".to_owned(), "DELETE", Body::None, true),
            ("HTTP/1.1 101 UPGRADED\r\nUpgrade: tcp\r\n\r\n".to_owned(), "POST", Body::None, true),
            (ok("Transfer-Encoding: chunked\r\nConnection: close\r\n"), "GET", Body::Chunked, false),
        ] {
            let head = answer(text.as_bytes(), method).unwrap().unwrap();
            assert_eq!((head.body, head.keeps), (body, keeps), "{text}");
        }
    }

    #[test]
    fn browsers_are_told_from_docker_clients() {
        for (header, from_browser) in [
            ("Host: docker", false),
            ("Host: 127.0.0.1:2375", false),
            ("Host: [::1]:2375", false),
            ("Host: localhost:2375", false),
            ("Host: %2Frun%2Fuser%2Fproxy.sock", false),
            ("Host: attacker.example:2375", true),
            ("Origin: null", true),
        ] {
            let head = request(format!("POST / HTTP/1.1\r\n{header}\r\n\r\n").as_bytes()).unwrap().unwrap();
            assert_eq!(head.from_browser, from_browser, "{header}");
        }
    }
}
