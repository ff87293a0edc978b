//! What a client is told when something fails: one status and one message.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use hostd_engine::{EngineError, ErrorKind};
use std::error::Error;

/// A status and the words for `{"message": …}`.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    message: String,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }
    /// 400: the request cannot be meant.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }
    /// 501: Docker knows it, hostd does not do it.
    pub(crate) fn not_implemented(what: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, format!("{what} is not supported by hostd yet"))
    }
    /// 404 for a path that no version of the API has.
    pub(crate) fn page_not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "page not found")
    }
    /// 500 for what should not happen.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }
    /// What the client reads.
    #[cfg(test)]
    pub(crate) fn message(&self) -> &str {
        &self.message
    }
    #[cfg(test)]
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }
}

/// An error and its causes, from the outside in: `cannot do that: because of this`.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let status = match error.kind {
            ErrorKind::NotModified => StatusCode::NOT_MODIFIED,
            ErrorKind::Invalid => StatusCode::BAD_REQUEST,
            ErrorKind::Unauthorized => StatusCode::UNAUTHORIZED,
            ErrorKind::Forbidden => StatusCode::FORBIDDEN,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            ErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
            ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, chain(&error))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response<Body> {
        if self.status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::warn!("a request failed: {}", self.message);
        }
        // 304 must not have a body.
        let body = if self.status == StatusCode::NOT_MODIFIED {
            Body::empty()
        } else {
            Body::from(format!("{}\n", serde_json::json!({ "message": self.message })))
        };
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_carries_its_causes_and_the_status_of_its_kind() {
        let cause = std::io::Error::other("no space left");
        let error = EngineError::conflict("cannot write layer").caused_by(cause);
        let error = ApiError::from(error);
        assert_eq!(error.message(), "cannot write layer: no space left");
        assert_eq!(error.status(), StatusCode::CONFLICT);
    }
}
