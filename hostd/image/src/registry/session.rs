//! One pull's conversation with one registry.

use super::auth::{Challenge, answer};
use super::endpoint::{Endpoint, endpoints};
use super::{Registries, failed};
use crate::digest::Digest;
use crate::error::ImageError;
use crate::manifest::{DOCKER_LIST, DOCKER_MANIFEST, Descriptor, OCI_INDEX, OCI_MANIFEST};
use crate::model::Auth;
use crate::reference::Reference;
use crate::stream::Feed;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RANGE, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Client, Response, StatusCode};
use serde::Deserialize;
use std::time::Duration;
use tokio::sync::RwLock;
use url::Url;

const MAX_MANIFEST: usize = 4 * 1024 * 1024;
const MAX_CONFIG: u64 = 16 * 1024 * 1024;
const MAX_ERROR: usize = 64 * 1024;
/// Tries of one request, with pauses that double, before its failure is final.
const TRIES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

pub(crate) struct Session<'a> {
    registries: &'a Registries,
    client: Client,
    endpoint: Endpoint,
    reference: &'a Reference,
    auth: Option<&'a Auth>,
    challenge: Option<Challenge>,
    /// `Authorization`, as it was granted last.
    authorization: RwLock<Option<String>>,
}

/// A manifest as the registry sent it, verified as far as its digest was known.
pub(crate) struct Fetched {
    pub(crate) bytes: Vec<u8>,
    pub(crate) content_type: String,
    pub(crate) digest: Digest,
}

impl<'a> Session<'a> {
    /// Every endpoint at which the reference's registry may answer, as a session each, in the order in which they are tried.
    pub(crate) fn candidates(
        registries: &'a Registries,
        reference: &'a Reference,
        auth: Option<&'a Auth>,
    ) -> Result<Vec<Self>, ImageError> {
        let endpoints = endpoints(&registries.config, reference);
        if endpoints.is_empty() {
            return Err(ImageError::InvalidName(format!(
                "{:?} is no registry's address",
                reference.domain()
            )));
        }
        endpoints
            .into_iter()
            .map(|endpoint| {
                Ok(Self {
                    registries,
                    client: registries.client(&endpoint.host(), endpoint.verify)?,
                    auth: auth.filter(|_| !endpoint.mirror),
                    endpoint,
                    reference,
                    challenge: None,
                    authorization: RwLock::new(None),
                })
            })
            .collect()
    }

    pub(crate) fn is_mirror(&self) -> bool {
        self.endpoint.mirror
    }

    /// Asks whether a registry answers here, and by which authentication.
    pub(crate) async fn ping(&mut self) -> Result<(), ImageError> {
        let url = self.url("v2/")?;
        let what = format!("Get {:?}", url.as_str());
        let response = self.client.get(url).send().await.map_err(|error| failed(&what, &error))?;
        match response.status() {
            StatusCode::OK => Ok(()),
            StatusCode::UNAUTHORIZED => {
                let challenges = response.headers().get_all(WWW_AUTHENTICATE).iter();
                self.challenge = challenges.filter_map(|c| c.to_str().ok()).find_map(Challenge::parse);
                self.authorize().await
            }
            status => Err(ImageError::RegistryAnswer(format!("{what}: the registry answers {status}"))),
        }
    }

    /// Asks for what a registry that wants credentials gives only to those whom it knows.
    pub(crate) async fn check(&self) -> Result<(), ImageError> {
        if self.challenge.is_none() {
            return Ok(());
        }
        let url = self.url("v2/")?;
        let status = self.get(url.clone(), 0).await?.status();
        match status {
            StatusCode::OK => Ok(()),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(ImageError::Denied(format!("login attempt to {url} failed with status: {status}")))
            }
            _ => Err(ImageError::RegistryAnswer(format!(
                "Get {:?}: the registry answers {status}",
                url.as_str()
            ))),
        }
    }

    /// Fetches a manifest by the reference's tag or digest.
    pub(crate) async fn manifest(&self) -> Result<Fetched, ImageError> {
        match self.reference.wanted_digest() {
            Some(digest) => self.manifest_by_digest(digest).await,
            None => self.fetch_manifest(self.reference.tag().unwrap_or("latest"), None).await,
        }
    }

    /// Fetches a manifest by its digest, and verifies it.
    pub(crate) async fn manifest_by_digest(&self, digest: &Digest) -> Result<Fetched, ImageError> {
        self.fetch_manifest(&digest.to_string(), Some(digest)).await
    }

    async fn fetch_manifest(&self, name: &str, expected: Option<&Digest>) -> Result<Fetched, ImageError> {
        let url = self.url(&format!("v2/{}/manifests/{name}", self.reference.path()))?;
        let response = self.get(url.clone(), 0).await?;
        if !response.status().is_success() {
            return Err(self.refused(response).await);
        }
        let text = |name: &str| {
            response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
        };
        let content_type = text(CONTENT_TYPE.as_str()).unwrap_or_default();
        let content_type = content_type.split(';').next().unwrap_or_default().trim().to_owned();
        // What a registry says of its own answer has to be true too.
        let declared = text("docker-content-digest").and_then(|digest| digest.parse().ok());
        let bytes = body(response, MAX_MANIFEST, &format!("Get {:?}", url.as_str())).await?;
        let digest = Digest::of(&bytes);
        match expected.or(declared.as_ref()) {
            Some(expected) if *expected != digest => Err(ImageError::WrongDigest {
                what: format!("manifest of {}", self.reference.familiar()),
                expected: expected.to_string(),
                got: digest.to_string(),
            }),
            _ => Ok(Fetched { bytes, content_type, digest }),
        }
    }

    /// Fetches an image's configuration, and verifies it.
    pub(crate) async fn config(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        if descriptor.size > MAX_CONFIG {
            return Err(ImageError::InvalidManifest(format!(
                "a configuration of {} bytes is too large",
                descriptor.size
            )));
        }
        let url = self.blob_url(&descriptor.digest)?;
        let response = self.get(url.clone(), 0).await?;
        if !response.status().is_success() {
            return Err(self.refused(response).await);
        }
        let bytes = body(response, MAX_CONFIG as usize, &format!("Get {:?}", url.as_str())).await?;
        let got = Digest::of(&bytes);
        if got != descriptor.digest {
            return Err(ImageError::WrongDigest {
                what: format!("configuration of {}", self.reference.familiar()),
                expected: descriptor.digest.to_string(),
                got: got.to_string(),
            });
        }
        Ok(bytes)
    }

    /// Streams a layer into `feed`; goes on where it was after a connection breaks. `told` hears how many bytes came.
    /// Ends early, without an error, once nobody reads any more.
    pub(crate) async fn blob(
        &self,
        descriptor: &Descriptor,
        feed: Feed,
        mut told: impl FnMut(u64),
    ) -> Result<(), ImageError> {
        let url = self.blob_url(&descriptor.digest)?;
        let what = format!("Get {:?}", url.as_str());
        let (mut offset, mut tries) = (0, 0);
        while offset < descriptor.size {
            let before = offset;
            let mut response = self.get(url.clone(), offset).await?;
            let mut skip = match response.status() {
                StatusCode::PARTIAL_CONTENT => 0,
                // A server that knows no ranges sends it all again.
                StatusCode::OK => offset,
                _ => return Err(self.refused(response).await),
            };
            let broken = loop {
                let mut chunk = match response.chunk().await {
                    Ok(Some(chunk)) => chunk,
                    Ok(None) => break None,
                    Err(error) => break Some(error),
                };
                let skipped = skip.min(chunk.len() as u64);
                skip -= skipped;
                chunk = chunk.split_off(skipped as usize);
                offset += chunk.len() as u64;
                if offset > descriptor.size {
                    return Err(ImageError::RegistryAnswer(format!(
                        "{what}: the registry sends more than the {} bytes that the manifest names",
                        descriptor.size
                    )));
                }
                if !chunk.is_empty() && !feed.send(chunk).await {
                    return Ok(());
                }
                told(offset);
            };
            if offset == descriptor.size {
                break;
            }
            tries = if offset > before { 1 } else { tries + 1 };
            if tries >= TRIES || (broken.is_none() && offset == before) {
                let size = descriptor.size;
                return Err(match broken {
                    Some(error) => failed(what, &error),
                    None => {
                        ImageError::RegistryAnswer(format!("{what}: it ends after {offset} of {size} bytes"))
                    }
                });
            }
            pause(tries, None).await;
        }
        feed.end().await;
        Ok(())
    }

    /// Sends a request, again where that may help: after failed connections, 429 and 5xx, and once with a new token.
    async fn get(&self, url: Url, offset: u64) -> Result<Response, ImageError> {
        let what = format!("Get {:?}", url.as_str());
        let mut renewed = false;
        let mut tries = 0;
        loop {
            tries += 1;
            let mut request = self.client.get(url.clone());
            for media_type in [DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX, "*/*"] {
                request = request.header(ACCEPT, media_type);
            }
            if let Some(authorization) = self.authorization.read().await.as_ref() {
                request = request.header(AUTHORIZATION, authorization);
            }
            if offset > 0 {
                request = request.header(RANGE, format!("bytes={offset}-"));
            }
            match request.send().await {
                Ok(response) if response.status() == StatusCode::UNAUTHORIZED && !renewed => {
                    renewed = true;
                    self.authorize().await?;
                }
                Ok(response) if is_passing(response.status()) && tries < TRIES => {
                    let asked = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
                    pause(tries, asked.and_then(|seconds| seconds.parse().ok())).await;
                }
                Ok(response) => return Ok(response),
                Err(error) if tries < TRIES && !error.is_redirect() => {
                    let error = failed(&what, &error);
                    tracing::debug!(error = &error as &dyn std::error::Error, tries, "trying again");
                    pause(tries, None).await;
                }
                Err(error) => return Err(failed(what, &error)),
            }
        }
    }

    async fn authorize(&self) -> Result<(), ImageError> {
        let Some(challenge) = &self.challenge else { return Ok(()) };
        let (base, path) = (&self.endpoint.base, self.reference.path());
        let granted = answer(self.registries, base, challenge, path, self.auth).await?;
        *self.authorization.write().await = granted;
        Ok(())
    }

    fn url(&self, path: &str) -> Result<Url, ImageError> {
        let base = self.endpoint.base.as_str().trim_end_matches('/');
        Url::parse(&format!("{base}/{path}"))
            .map_err(|error| ImageError::Other(format!("{base}/{path}: {error}")))
    }

    fn blob_url(&self, digest: &Digest) -> Result<Url, ImageError> {
        self.url(&format!("v2/{}/blobs/{digest}", self.reference.path()))
    }

    /// Says in Docker's words why the registry refused.
    async fn refused(&self, response: Response) -> ImageError {
        let (status, mut url) = (response.status(), response.url().clone());
        // Where a blob lies may be told by an address whose query is a key.
        url.set_query(None);
        let bytes = body(response, MAX_ERROR, "").await.unwrap_or_default();
        let first =
            serde_json::from_slice::<Errors>(&bytes).ok().and_then(|errors| errors.errors.into_iter().next());
        let code = first.as_ref().map_or("", |error| &error.code).to_owned();
        let cause = first.map(|error| error.to_string());
        let (name, full) = (self.reference.familiar_name(), self.reference.familiar());
        match (status, code.as_str()) {
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) | (_, "DENIED" | "UNAUTHORIZED") => {
                let cause =
                    cause.unwrap_or_else(|| "denied: requested access to the resource is denied".into());
                ImageError::RegistryNotFound(format!(
                    "pull access denied for {name}, repository does not exist or may require 'docker login': {cause}"
                ))
            }
            (_, "NAME_UNKNOWN") => ImageError::RegistryNotFound(format!(
                "repository {name} not found: {}",
                cause.unwrap_or_default()
            )),
            (_, "MANIFEST_UNKNOWN") | (StatusCode::NOT_FOUND, "") if url.path().contains("/manifests/") => {
                ImageError::RegistryNotFound(format!(
                    "manifest for {full} not found: manifest unknown: manifest unknown"
                ))
            }
            (StatusCode::TOO_MANY_REQUESTS, _) => ImageError::RegistryAnswer(format!(
                "toomanyrequests: {}",
                cause.unwrap_or_else(|| format!("{url} answers {status}"))
            )),
            _ => {
                let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
                ImageError::RegistryAnswer(format!(
                    "Get {:?}: the registry answers {status}{cause}",
                    url.as_str()
                ))
            }
        }
    }
}

fn is_passing(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error()
}

async fn pause(tries: u32, asked: Option<u64>) {
    let pause = asked.map_or(FIRST_PAUSE * 2u32.pow(tries.min(8) - 1), Duration::from_secs);
    tokio::time::sleep(pause.min(LONGEST_PAUSE)).await;
}

/// All of an answer, up to `limit` bytes.
pub(super) async fn body(mut response: Response, limit: usize, what: &str) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| failed(what, &error))? {
        if bytes.len() + chunk.len() > limit {
            return Err(ImageError::RegistryAnswer(format!(
                "{what}: the answer is longer than {limit} bytes"
            )));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

#[derive(Deserialize)]
struct Errors {
    errors: Vec<RegistryError>,
}

#[derive(Deserialize)]
struct RegistryError {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// `manifest unknown: manifest unknown`: the code in words, and the message.
impl std::fmt::Display for RegistryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code.to_lowercase().replace('_', " "), self.message)
    }
}
