//! References: the names that people type for images, by Docker's grammar.
//!
//! ```text
//! reference := name [ ":" tag ] [ "@" digest ]
//! name      := [ domain "/" ] path          at most 255 characters, with the domain
//! domain    := host [ ":" port ]            has a dot or a colon, an upper-case letter, or is `localhost`
//! ```
//! The *normalised* form always has a domain (`docker.io/library/busybox:latest`); the *familiar* form leaves out what
//! Docker Hub implies (`busybox:latest`).

use crate::digest::Digest;
use crate::error::ImageError;
use std::fmt;
use std::str::FromStr;

const DEFAULT_DOMAIN: &str = "docker.io";
const OFFICIAL: &str = "library/";
const NAME_LIMIT: usize = 255;

/// A normalised reference: `docker.io/library/busybox:latest` for `busybox`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl FromStr for Reference {
    type Err = ImageError;

    /// Parses what a person types. A name with neither tag nor digest gets `latest`.
    fn from_str(s: &str) -> Result<Self, ImageError> {
        let mut reference = Self::parse_name_only(s)?;
        if reference.tag.is_none() && reference.digest.is_none() {
            reference.tag = Some("latest".to_owned());
        }
        Ok(reference)
    }
}

impl Reference {
    /// Parses what a person types, and leaves the tag out where they did.
    pub fn parse_name_only(s: &str) -> Result<Self, ImageError> {
        if is_hex_id(s) {
            return Err(ImageError::InvalidName(format!(
                "invalid repository name ({s}), cannot specify 64-byte hexadecimal strings"
            )));
        }
        let (domain, remainder) = split_domain(s);
        let name_end = remainder.find([':', '@']).unwrap_or(remainder.len());
        if remainder[..name_end].chars().any(char::is_uppercase) {
            return Err(ImageError::NotLowercase(remainder[..name_end].to_owned()));
        }
        let (rest, digest) = match remainder.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse().map_err(|_| ImageError::InvalidReference)?)),
            None => (remainder.as_str(), None),
        };
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        if !is_domain(&domain) || !path.split('/').all(is_path_component) || !tag.is_none_or(is_tag) {
            return Err(ImageError::InvalidReference);
        }
        if domain.len() + 1 + path.len() > NAME_LIMIT {
            return Err(ImageError::InvalidName(format!(
                "repository name must not be more than {NAME_LIMIT} characters"
            )));
        }
        Ok(Self { domain, path: path.to_owned(), tag: tag.map(str::to_owned), digest })
    }

    /// The registry: `docker.io`, `localhost:5000`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository on its registry: `library/busybox`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, if there is one.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The manifest's digest, if there is one.
    pub fn digest(&self) -> Option<String> {
        self.digest.as_ref().map(Digest::to_string)
    }

    /// The repository's name as the user would type it: `busybox`.
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return format!("{}/{}", self.domain, self.path);
        }
        match self.path.strip_prefix(OFFICIAL) {
            // `library/a/b` would read as another repository without its prefix.
            Some(short) if !short.contains('/') => short.to_owned(),
            _ => self.path.clone(),
        }
    }

    /// The whole reference as the user would type it: `busybox:latest`.
    pub fn familiar(&self) -> String {
        let mut text = self.familiar_name();
        self.push_suffix(&mut text);
        text
    }

    /// Whether this points at a tag, rather than at a digest.
    pub(crate) fn is_tagged(&self) -> bool {
        self.digest.is_none()
    }

    /// `docker.io/library/busybox`.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The same repository by the digest of a manifest.
    pub(crate) fn with_digest(&self, digest: &Digest) -> Self {
        Self { tag: None, digest: Some(digest.clone()), ..self.clone() }
    }

    /// What a store files an image under: with both a tag and a digest, the digest decides.
    pub(crate) fn canonical(&self) -> Self {
        match &self.digest {
            Some(digest) => self.with_digest(digest),
            None => self.clone(),
        }
    }

    pub(crate) fn wanted_digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    fn push_suffix(&self, text: &mut String) {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
    }
}

/// The normalised form.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.name();
        self.push_suffix(&mut text);
        f.write_str(&text)
    }
}

/// Docker's rule for telling `host/path` from `user/path`.
fn split_domain(s: &str) -> (String, String) {
    let (domain, remainder) = match s.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':']) || first == "localhost" || first.to_lowercase() != first =>
        {
            (first, rest.to_owned())
        }
        _ => (DEFAULT_DOMAIN, s.to_owned()),
    };
    let domain = if domain == "index.docker.io" { DEFAULT_DOMAIN } else { domain };
    if domain == DEFAULT_DOMAIN && !remainder.contains('/') {
        return (domain.to_owned(), format!("{OFFICIAL}{remainder}"));
    }
    (domain.to_owned(), remainder)
}

fn is_hex_id(s: &str) -> bool {
    s.len() == 64 && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[') {
        Some(rest) => {
            let Some((address, after)) = rest.split_once(']') else { return false };
            if address.is_empty() || !address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':') {
                return false;
            }
            return after.is_empty() || after.strip_prefix(':').is_some_and(is_port);
        }
        None => match domain.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (domain, None),
        },
    };
    host.split('.').all(is_domain_component) && port.is_none_or(is_port)
}

fn is_port(port: &str) -> bool {
    !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())
}

fn is_domain_component(part: &str) -> bool {
    !part.is_empty()
        && !part.starts_with('-')
        && !part.ends_with('-')
        && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// Lower-case letters and digits, with single separators (`.`, `_`, `__`, any number of `-`) between them.
fn is_path_component(part: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else { return false };
    alphanumeric(first)
        && alphanumeric(last)
        && part
            .split(|c: char| c.is_ascii() && alphanumeric(c as u8))
            .all(|run| matches!(run, "" | "." | "_" | "__") || run.bytes().all(|b| b == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = tag.as_bytes();
    bytes.len() <= 128
        && bytes.first().is_some_and(|&b| word(b))
        && bytes.iter().all(|&b| word(b) || b == b'.' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    #[test]
    fn names_normalise_and_shorten_as_docker_does() {
        for (typed, normalised, familiar) in [
            ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
            ("user/app", "docker.io/user/app:latest", "user/app:latest"),
            ("docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("index.docker.io/library/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("docker.io/library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
            ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
            ("localhost:5000/app:v1", "localhost:5000/app:v1", "localhost:5000/app:v1"),
            ("[::1]:5000/app", "[::1]:5000/app:latest", "[::1]:5000/app:latest"),
            ("ghcr.io/a/b/c:x_y.z-1", "ghcr.io/a/b/c:x_y.z-1", "ghcr.io/a/b/c:x_y.z-1"),
            ("Registry/app", "Registry/app:latest", "Registry/app:latest"),
            ("a__b/c--d", "docker.io/a__b/c--d:latest", "a__b/c--d:latest"),
        ] {
            let reference: Reference = typed.parse().unwrap();
            assert_eq!(
                (reference.to_string().as_str(), reference.familiar().as_str()),
                (normalised, familiar)
            );
        }
    }

    #[test]
    fn digests_stand_beside_tags() {
        let typed = format!("busybox:1@sha256:{HEX}");
        let reference: Reference = typed.parse().unwrap();
        assert_eq!(reference.familiar(), typed);
        assert_eq!(reference.canonical().familiar(), format!("busybox@sha256:{HEX}"));
        let bare: Reference = format!("busybox@sha256:{HEX}").parse().unwrap();
        assert_eq!(bare.tag(), None);
    }

    #[test]
    fn malformed_names_fail_in_dockers_words() {
        let long = format!("a/{}", "b".repeat(254));
        for (typed, words) in [
            ("", "invalid reference format"),
            ("library/Foo", "invalid reference format: repository name (library/Foo) must be lowercase"),
            ("Foo", "invalid reference format: repository name (library/Foo) must be lowercase"),
            ("a..b", "invalid reference format"),
            ("a___b", "invalid reference format"),
            ("-a", "invalid reference format"),
            ("a/", "invalid reference format"),
            ("a//b", "invalid reference format"),
            ("a:", "invalid reference format"),
            ("a:b:c", "invalid reference format"),
            ("a:-x", "invalid reference format"),
            ("a b", "invalid reference format"),
            ("http://x/y", "invalid reference format"),
            ("host:port/app", "invalid reference format"),
            ("-host.io/app", "invalid reference format"),
            ("a@sha256:abc", "invalid reference format"),
            ("a@md5:abc", "invalid reference format"),
            ("../../etc", "invalid reference format"),
            ("é", "invalid reference format"),
            (&long, "repository name must not be more than 255 characters"),
        ] {
            assert_eq!(typed.parse::<Reference>().unwrap_err().to_string(), words, "{typed}");
        }
        let id = HEX.parse::<Reference>().unwrap_err().to_string();
        assert_eq!(
            id,
            format!("invalid repository name ({HEX}), cannot specify 64-byte hexadecimal strings")
        );
    }
}
