//! Names of containers and images, as they go into request paths.

use crate::error::CliError;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const REFERENCE: &AsciiSet = &SEGMENT.remove(b'/').remove(b':').remove(b'@');

/// A container's name or ID as one path segment: no name can lead to another endpoint.
pub(crate) fn container(name: &str) -> Result<String, CliError> {
    let name = name.strip_prefix('/').unwrap_or(name);
    if name.is_empty() {
        return Err(CliError::usage("invalid container name or ID: value is empty"));
    }
    if name == "." || name == ".." {
        return Err(CliError::new(format!("No such container: {name}")));
    }
    Ok(utf8_percent_encode(name, SEGMENT).to_string())
}

/// An image's reference or ID as a part of a path.
pub(crate) fn image(reference: &str) -> Result<String, CliError> {
    if reference.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return Err(CliError::new("invalid reference format").hint(format!("`{reference}` names no image")));
    }
    Ok(utf8_percent_encode(reference, REFERENCE).to_string())
}

/// A value for a query string.
pub(crate) fn query(value: &str) -> String {
    utf8_percent_encode(value, SEGMENT).to_string()
}

/// A reference taken apart: the repository, and the tag or digest where one is given.
pub(crate) fn split_reference(reference: &str) -> (&str, Option<&str>) {
    if let Some((repository, digest)) = reference.split_once('@') {
        return (repository, Some(digest));
    }
    match reference.rsplit_once(':') {
        // A colon before a slash belongs to a registry's port.
        Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
        _ => (reference, None),
    }
}

/// The reference in full, as the registry knows it: `docker.io/library/alpine:latest`.
pub(crate) fn canonical(reference: &str) -> String {
    let (repository, tag) = split_reference(reference);
    let repository = match repository.split_once('/') {
        None => format!("docker.io/library/{repository}"),
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => repository.to_owned(),
        Some(_) => format!("docker.io/{repository}"),
    };
    match tag {
        Some(digest) if digest.contains(':') => format!("{repository}@{digest}"),
        tag => format!("{repository}:{}", tag.unwrap_or("latest")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_lead_to_another_endpoint() {
        assert_eq!(container("../images/x").unwrap(), "..%2Fimages%2Fx");
        assert_eq!(container("web?force=1").unwrap(), "web%3Fforce%3D1");
        assert!(container("..").is_err());
        assert!(container("").is_err());
        assert!(image("../containers/x").is_err());
        assert_eq!(image("localhost:5000/a/b:1").unwrap(), "localhost:5000/a/b:1");
    }

    #[test]
    fn references_are_taken_apart_as_docker_does() {
        for (reference, repository, tag, full) in [
            ("alpine", "alpine", None, "docker.io/library/alpine:latest"),
            ("alpine:3", "alpine", Some("3"), "docker.io/library/alpine:3"),
            ("me/app", "me/app", None, "docker.io/me/app:latest"),
            ("localhost:5000/app", "localhost:5000/app", None, "localhost:5000/app:latest"),
            ("r.io/app@sha256:ab", "r.io/app", Some("sha256:ab"), "r.io/app@sha256:ab"),
        ] {
            assert_eq!(split_reference(reference), (repository, tag));
            assert_eq!(canonical(reference), full);
        }
    }
}
