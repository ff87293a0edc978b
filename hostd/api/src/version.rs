//! API versions: the path prefix, the range served, and the headers that tell clients about both.

use crate::{SERVER_VERSION, error::ApiError, request};
use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderName, HeaderValue, Method, Request, Response, Uri, header};
use axum::response::IntoResponse;
use std::convert::Infallible;
use tower::Service;

/// Newest version served, and the one meant by a path without prefix.
pub const MAX_API_VERSION: &str = "1.50";
/// Oldest version served.
pub const MIN_API_VERSION: &str = "1.24";
const NEWEST: u16 = 50;
const OLDEST: u16 = 24;

/// The minor number of the version that a request speaks; the major one is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ApiVersion(pub(crate) u16);

impl ApiVersion {
    /// Whether the client speaks `1.minor` or newer.
    pub(crate) fn since(self, minor: u16) -> bool {
        self.0 >= minor
    }
}

impl<S: Sync> FromRequestParts<S> for ApiVersion {
    type Rejection = Infallible;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().copied().unwrap_or(Self(NEWEST)))
    }
}

/// Splits `/v1.43/containers/json` into the version and where the rest begins. A path that does not start like a
/// version (`/volumes`) has the newest.
fn split(path: &str) -> Result<(ApiVersion, usize), ApiError> {
    let newest = Ok((ApiVersion(NEWEST), 0));
    let Some(rest) = path.strip_prefix("/v") else { return newest };
    let end = rest.find('/').unwrap_or(rest.len());
    let text = &rest[..end];
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return newest;
    }
    let mut numbers = text.split('.').map(|part| part.parse::<u16>().ok());
    let (Some(Some(major)), Some(minor)) = (numbers.next(), numbers.next().unwrap_or(Some(0))) else {
        return Err(ApiError::bad_request(format!("invalid API version {text}")));
    };
    match (major, minor) {
        (1, OLDEST..=NEWEST) => Ok((ApiVersion(minor), 2 + end)),
        (major, minor) if (major, minor) < (1, OLDEST) => Err(ApiError::bad_request(format!(
            "client version {text} is too old. Minimum supported API version is {MIN_API_VERSION}, please upgrade your \
             client to a newer version"
        ))),
        _ => Err(ApiError::bad_request(format!(
            "client version {text} is too new. Maximum supported API version is {MAX_API_VERSION}"
        ))),
    }
}

/// The path without its version prefix.
fn strip(uri: &Uri, prefix: usize) -> Option<Uri> {
    let whole = uri.path_and_query()?.as_str();
    let rest = &whole[prefix..];
    let rest = if rest.starts_with('/') {
        PathAndQuery::try_from(rest)
    } else {
        PathAndQuery::try_from(format!("/{rest}"))
    };
    Some(Uri::from(rest.ok()?))
}

/// Answers one request: `_ping` here, all else through the routes.
pub(crate) async fn answer(mut router: axum::Router, mut request: Request<Body>) -> Response<Body> {
    let mut response = match split(request.uri().path()) {
        Err(error) => error.into_response(),
        Ok((version, prefix)) => {
            if request.uri().path().get(prefix..) == Some("/_ping") {
                ping(request.method())
            } else {
                if prefix > 0
                    && let Some(uri) = strip(request.uri(), prefix)
                {
                    *request.uri_mut() = uri;
                }
                tracing::debug!(method = %request.method(), uri = %request::loggable(request.uri()), "request");
                request.extensions_mut().insert(version);
                router.call(request).await.into_response()
            }
        }
    };
    add_headers(response.headers_mut());
    response
}

const API_VERSION: HeaderName = HeaderName::from_static("api-version");
const EXPERIMENTAL: HeaderName = HeaderName::from_static("docker-experimental");
const OS_TYPE: HeaderName = HeaderName::from_static("ostype");

/// What stands in the `Server` header.
pub(crate) const SERVER: &str = concat!("hostd/", env!("CARGO_PKG_VERSION"), " (linux)");

fn add_headers(headers: &mut axum::http::HeaderMap) {
    headers.insert(API_VERSION, HeaderValue::from_static(MAX_API_VERSION));
    headers.insert(EXPERIMENTAL, HeaderValue::from_static("false"));
    headers.insert(OS_TYPE, HeaderValue::from_static("linux"));
    headers.insert(header::SERVER, HeaderValue::from_static(SERVER));
}

/// `GET` and `HEAD /_ping`. Clients send it before everything else, so it goes past the routes.
fn ping(method: &Method) -> Response<Body> {
    let body = match *method {
        Method::GET => Body::from("OK"),
        Method::HEAD => Body::empty(),
        _ => return ApiError::page_not_found().into_response(),
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.reserve(12);
    // Version 1 is the classic builder; 2 would promise a BuildKit session endpoint.
    headers.insert(HeaderName::from_static("builder-version"), HeaderValue::from_static("1"));
    headers.insert(HeaderName::from_static("swarm"), HeaderValue::from_static("inactive"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store, must-revalidate"));
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// The standard headers as text, for responses that are written by hand.
pub(crate) fn header_lines() -> String {
    format!(
        "Api-Version: {MAX_API_VERSION}\r\nDocker-Experimental: false\r\nOstype: linux\r\nServer: hostd/{SERVER_VERSION} (linux)\r\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_in_the_path_are_taken_or_refused_in_dockers_words() {
        for (path, expected) in [
            ("/v1.24/info", Ok((24, 6))),
            ("/v1.50/info", Ok((50, 6))),
            ("/v1.50", Ok((50, 6))),
            ("/info", Ok((50, 0))),
            ("/volumes", Ok((50, 0))),
            ("/version", Ok((50, 0))),
            (
                "/v1.20/info",
                Err(
                    "client version 1.20 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version",
                ),
            ),
            (
                "/v1/info",
                Err(
                    "client version 1 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version",
                ),
            ),
            ("/v1.60/info", Err("client version 1.60 is too new. Maximum supported API version is 1.50")),
            ("/v2.0/info", Err("client version 2.0 is too new. Maximum supported API version is 1.50")),
            ("/v1.99999999/info", Err("invalid API version 1.99999999")),
            ("/v./info", Err("invalid API version .")),
        ] {
            let got =
                split(path).map(|(version, at)| (version.0, at)).map_err(|error| error.message().to_owned());
            assert_eq!(got, expected.map_err(str::to_owned), "{path}");
        }
    }

    #[test]
    fn the_prefix_leaves_the_path_and_the_query_stays() {
        let uri: Uri = "/v1.43/images/a%2Fb/json?x=/v1.43".parse().unwrap();
        assert_eq!(strip(&uri, 6).unwrap().to_string(), "/images/a%2Fb/json?x=/v1.43");
        assert_eq!(strip(&"/v1.43?x=1".parse().unwrap(), 6).unwrap().to_string(), "/?x=1");
    }
}
