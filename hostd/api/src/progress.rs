//! What pull and load tell while they work, as Docker's stream of JSON lines.

use crate::error::{ApiError, chain};
use axum::body::Body;
use axum::http::{HeaderValue, Response, header};
use bytes::Bytes;
use hostd_engine::EngineError;
use serde_json::{Map, Value, json};

/// A response of JSON objects, each flushed as it comes.
pub(crate) fn json_stream(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// One line of progress.
pub(crate) fn line(progress: &hostd_engine::Progress) -> Bytes {
    let mut map = Map::new();
    map.insert("status".to_owned(), json!(progress.status));
    let mut detail = Map::new();
    if let Some(current) = progress.current {
        detail.insert("current".to_owned(), json!(current));
        if let Some(total) = progress.total {
            detail.insert("total".to_owned(), json!(total));
            map.insert("progress".to_owned(), json!(bar(current, total)));
        }
    }
    if progress.id.is_some() {
        map.insert("progressDetail".to_owned(), Value::Object(detail));
    }
    if let Some(id) = &progress.id {
        map.insert("id".to_owned(), json!(id));
    }
    Bytes::from(format!("{}\r\n", Value::Object(map)))
}

/// `[====>     ]  1.2MB/3.4MB`, for clients that print what they get.
fn bar(current: u64, total: u64) -> String {
    let done = usize::try_from(current.min(total) * 50 / total.max(1)).unwrap_or(50);
    let arrow = if done < 50 { ">" } else { "" };
    format!(
        "[{}{arrow}{}] {:>8}/{}",
        "=".repeat(done),
        " ".repeat(50 - done - arrow.len()),
        size(current),
        size(total)
    )
}

/// Four digits and a decimal unit, as Docker prints sizes.
fn size(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = if value >= 1000.0 {
        0
    } else if value >= 100.0 {
        1
    } else if value >= 10.0 {
        2
    } else {
        3
    };
    let text = format!("{value:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{}", units[unit])
}

/// The last line of a stream that failed after its headers were sent.
pub(crate) fn error_line(error: &EngineError) -> Bytes {
    let message = chain(error);
    Bytes::from(format!("{}\r\n", json!({ "errorDetail": { "message": message }, "error": message })))
}

/// A line of plain output (`Loaded image: …`).
pub(crate) fn output_line(text: &str) -> Bytes {
    Bytes::from(format!("{}\r\n", json!({ "stream": format!("{text}\n") })))
}

/// The error, where a stream's first item is one: then the response can still say so in its status.
pub(crate) async fn first<T>(
    stream: &mut (impl futures_util::Stream<Item = Result<T, EngineError>> + Unpin),
) -> Result<Option<T>, ApiError> {
    Ok(futures_util::StreamExt::next(stream).await.transpose()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(id: Option<&str>, status: &str, current: Option<u64>, total: Option<u64>) -> Value {
        let progress =
            hostd_engine::Progress { id: id.map(str::to_owned), status: status.to_owned(), current, total };
        let line = line(&progress);
        assert!(line.ends_with(b"\r\n"));
        serde_json::from_slice(&line).unwrap()
    }

    #[test]
    fn progress_lines_have_dockers_shape() {
        assert_eq!(
            text(Some("a1"), "Downloading", Some(500_000), Some(2_000_000)),
            json!({
                "status": "Downloading", "id": "a1", "progressDetail": { "current": 500_000, "total": 2_000_000 },
                "progress": format!("[{}>{}]    500kB/2MB", "=".repeat(12), " ".repeat(37)),
            })
        );
        assert_eq!(
            text(Some("a1"), "Pull complete", None, None),
            json!({ "status": "Pull complete", "id": "a1", "progressDetail": {} })
        );
        assert_eq!(text(None, "Digest: sha256:1", None, None), json!({ "status": "Digest: sha256:1" }));
        assert_eq!(bar(5, 5), format!("[{}]       5B/5B", "=".repeat(50)));
        assert_eq!(size(1_234_567), "1.235MB");
    }
}
