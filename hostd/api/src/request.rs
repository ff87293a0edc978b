//! Request bodies: JSON within bounds, or a stream of bytes.

use crate::error::{ApiError, chain};
use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use futures_util::{StreamExt, stream::BoxStream};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::{Map, Value};
use std::time::Duration;

/// The largest JSON body taken. The largest seen in earnest (a service with many secrets) is a hundredth of that.
const JSON_LIMIT: usize = 4 << 20;

/// A client that dribbles its body must not hold a connection for ever.
const JSON_TIMEOUT: Duration = Duration::from_secs(60);

/// What is read of a refused body.
const DRAIN_LIMIT: usize = 64 << 20;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// A JSON object; empty where the request has no body.
#[derive(Debug)]
pub(crate) struct JsonBody(pub(crate) Map<String, Value>);

impl<S: Sync> FromRequest<S> for JsonBody {
    type Rejection = ApiError;
    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let collected = tokio::time::timeout(JSON_TIMEOUT, Limited::new(body, JSON_LIMIT).collect());
        let Ok(collected) = collected.await else {
            return Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "the request body did not come in time"));
        };
        let bytes = match collected {
            Ok(collected) => collected.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                let message = format!("request body is larger than {JSON_LIMIT} bytes");
                return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message));
            }
            Err(error) => {
                return Err(ApiError::bad_request(format!("cannot read request body: {}", chain(&*error))));
            }
        };
        if bytes.is_empty() {
            return Ok(Self(Map::new()));
        }
        check_content_type(&parts.headers)?;
        parse(&bytes).map(Self)
    }
}

fn parse(bytes: &[u8]) -> Result<Map<String, Value>, ApiError> {
    // serde_json bounds the depth (128) by itself.
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(Value::Null) => Ok(Map::new()),
        Ok(_) => Err(ApiError::bad_request("invalid JSON: an object is expected")),
        Err(error) if error.is_eof() => {
            Err(ApiError::bad_request("invalid JSON: got EOF while reading request body"))
        }
        Err(error) => Err(ApiError::bad_request(format!("invalid JSON: {error}"))),
    }
}

/// A body must say that it is JSON. Docker's words.
fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let value = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("")).unwrap_or("");
    let kind = value.split(';').next().unwrap_or("").trim();
    if kind.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(ApiError::bad_request(format!(
        "unsupported Content-Type header ({value}): must be 'application/json'"
    )))
}

/// A body of any size, as it comes.
pub(crate) fn stream(body: Body) -> BoxStream<'static, std::io::Result<bytes::Bytes>> {
    body.into_data_stream().map(|chunk| chunk.map_err(std::io::Error::other)).boxed()
}

/// Reads what a client goes on to send of a body that was refused: most read no answer before they have sent all. Bounded,
/// since some would send for ever.
pub(crate) async fn drain(content: &mut BoxStream<'static, std::io::Result<bytes::Bytes>>) {
    let read = async {
        let mut left = DRAIN_LIMIT;
        while let Some(Ok(chunk)) = content.next().await {
            left = left.saturating_sub(chunk.len());
            if left == 0 {
                return;
            }
        }
    };
    // Too slow or too much: the connection is closed with the answer.
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, read).await;
}

/// What of a URI may stand in a log: the query can hold what a user would not show.
pub(crate) fn loggable(uri: &Uri) -> &str {
    uri.path()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn body(content_type: Option<&str>, text: impl Into<Body>) -> Result<Map<String, Value>, String> {
        let mut request = Request::builder().method("POST").uri("/");
        if let Some(value) = content_type {
            request = request.header("Content-Type", value);
        }
        let request = request.body(text.into()).unwrap();
        JsonBody::from_request(request, &())
            .await
            .map(|body| body.0)
            .map_err(|error| error.message().to_owned())
    }

    #[tokio::test]
    async fn malformed_bodies_are_refused_in_dockers_words() {
        let json = Some("application/json; charset=utf-8");
        assert_eq!(body(json, "{\"a\":1}").await.unwrap().len(), 1);
        assert!(body(None, "").await.unwrap().is_empty());
        assert!(body(json, "null").await.unwrap().is_empty());
        let unsupported = body(Some("text/plain"), "{}").await.unwrap_err();
        assert_eq!(unsupported, "unsupported Content-Type header (text/plain): must be 'application/json'");
        assert!(body(None, "{}").await.is_err());
        assert_eq!(
            body(json, "{\"a\":").await.unwrap_err(),
            "invalid JSON: got EOF while reading request body"
        );
        for bad in ["{a}", "{} {}", "[]", "1", "{\"a\":1,}"] {
            assert!(body(json, bad).await.unwrap_err().starts_with("invalid JSON: "), "{bad}");
        }
    }

    #[tokio::test]
    async fn absurd_depth_and_size_are_refused() {
        let json = Some("application/json");
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(body(json, deep).await.unwrap_err().contains("recursion limit"));
        let large = format!("{{\"a\":\"{}\"}}", "x".repeat(JSON_LIMIT));
        assert!(body(json, large).await.unwrap_err().contains("larger than"));
    }
}
