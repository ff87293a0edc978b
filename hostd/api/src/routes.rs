//! Method and path to handler, and what answers where there is none.

use crate::error::ApiError;
use crate::{
    archive, commit, containers, disk_usage, exec, images, limits, networks, stats, system, volumes,
};
use axum::Router;
use axum::http::{Method, Uri};
use axum::routing::{delete, get, post};
use hostd_engine::Engine;

/// Everything that is served, below the version prefix.
pub(crate) fn router(engine: Engine) -> Router {
    Router::new()
        .route("/version", get(system::version))
        .route("/info", get(system::info))
        .route("/events", get(system::events))
        .route("/auth", post(system::auth))
        .route("/system/df", get(disk_usage::df))
        .route("/build/prune", post(system::prune_builds))
        .route("/volumes", get(volumes::list))
        .route("/volumes/create", post(volumes::create))
        .route("/volumes/prune", post(volumes::prune))
        .route("/volumes/{name}", get(volumes::inspect).delete(volumes::remove))
        .route("/networks", get(networks::list))
        .route("/networks/prune", post(networks::prune))
        .route("/networks/{id}", get(networks::inspect).delete(networks::remove))
        .route("/containers/json", get(containers::list))
        .route("/containers/create", post(containers::create))
        .route("/containers/prune", post(containers::prune))
        .route("/containers/{id}/stats", get(stats::stats))
        .route("/containers/{id}/top", get(containers::top))
        .route("/containers/{id}", delete(containers::remove))
        .route("/containers/{id}/{alias}", delete(containers::remove_linked))
        .route("/containers/{id}/{alias}/json", get(containers::inspect_linked))
        .route("/containers/{id}/json", get(containers::inspect))
        .route("/containers/{id}/start", post(containers::start))
        .route("/containers/{id}/stop", post(containers::stop))
        .route("/containers/{id}/restart", post(containers::restart))
        .route("/containers/{id}/kill", post(containers::kill))
        .route("/containers/{id}/pause", post(containers::pause))
        .route("/containers/{id}/unpause", post(containers::unpause))
        .route("/containers/{id}/rename", post(containers::rename))
        .route("/containers/{id}/update", post(limits::update))
        .route("/containers/{id}/resize", post(containers::resize))
        .route("/containers/{id}/wait", post(containers::wait))
        .route("/containers/{id}/attach", post(containers::attach))
        .route("/containers/{id}/attach/ws", get(containers::attach_by_websocket))
        .route("/containers/{id}/logs", get(containers::logs))
        .route("/containers/{id}/exec", post(exec::create))
        .route("/containers/{id}/archive", get(archive::get).head(archive::stat).put(archive::put))
        .route("/containers/{id}/changes", get(archive::changes))
        .route("/containers/{id}/export", get(archive::export))
        .route("/commit", post(commit::commit))
        .route("/exec/{id}/start", post(exec::start))
        .route("/exec/{id}/resize", post(exec::resize))
        .route("/exec/{id}/json", get(exec::inspect))
        .route("/images/json", get(images::list))
        .route("/images/prune", post(images::prune))
        .route("/images/create", post(images::create))
        .route("/images/load", post(images::load))
        // An image's name may hold slashes, which a pattern cannot have before its end.
        .route("/images/{*path}", get(images::get).post(images::post).delete(images::remove))
        .method_not_allowed_fallback(missing)
        .fallback(missing)
        .with_state(engine)
}

/// Endpoints of v1.50 that hostd does not serve. `*` stands for any number of segments.
const NOT_IMPLEMENTED: &[(&str, &str)] = &[
    ("POST", "/build"),
    ("POST", "/build/cancel"),
    ("POST", "/images/*/push"),
    ("GET", "/images/search"),
    ("GET", "/images/*/get"),
    ("GET", "/images/get"),
    ("PUT", "/volumes/*"),
    ("POST", "/networks/create"),
    ("POST", "/networks/*/connect"),
    ("POST", "/networks/*/disconnect"),
    ("GET", "/plugins"),
    ("GET", "/plugins/privileges"),
    ("POST", "/plugins/pull"),
    ("POST", "/plugins/create"),
    ("GET", "/plugins/*/json"),
    ("DELETE", "/plugins/*"),
    ("POST", "/plugins/*/enable"),
    ("POST", "/plugins/*/disable"),
    ("POST", "/plugins/*/upgrade"),
    ("POST", "/plugins/*/push"),
    ("POST", "/plugins/*/set"),
    ("GET", "/nodes"),
    ("GET", "/nodes/*"),
    ("DELETE", "/nodes/*"),
    ("POST", "/nodes/*/update"),
    ("GET", "/swarm"),
    ("POST", "/swarm/init"),
    ("POST", "/swarm/join"),
    ("POST", "/swarm/leave"),
    ("POST", "/swarm/update"),
    ("GET", "/swarm/unlockkey"),
    ("POST", "/swarm/unlock"),
    ("GET", "/services"),
    ("POST", "/services/create"),
    ("GET", "/services/*/logs"),
    ("POST", "/services/*/update"),
    ("GET", "/services/*"),
    ("DELETE", "/services/*"),
    ("GET", "/tasks"),
    ("GET", "/tasks/*/logs"),
    ("GET", "/tasks/*"),
    ("GET", "/secrets"),
    ("POST", "/secrets/create"),
    ("POST", "/secrets/*/update"),
    ("GET", "/secrets/*"),
    ("DELETE", "/secrets/*"),
    ("GET", "/configs"),
    ("POST", "/configs/create"),
    ("POST", "/configs/*/update"),
    ("GET", "/configs/*"),
    ("DELETE", "/configs/*"),
    ("GET", "/distribution/*/json"),
    ("POST", "/session"),
    ("POST", "/grpc"),
];

/// Answers what no route takes: 501 where Docker has it, else 404.
pub(crate) async fn missing(method: Method, uri: Uri) -> ApiError {
    let path = uri.path();
    let known =
        NOT_IMPLEMENTED.iter().any(|(verb, pattern)| *verb == method.as_str() && matches(pattern, path));
    if known {
        ApiError::not_implemented(format_args!("{method} {path}"))
    } else {
        ApiError::page_not_found()
    }
}

/// Whether `path` fits `pattern`, whose one `*` stands for anything but nothing.
fn matches(pattern: &str, path: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else { return pattern == path };
    path.strip_prefix(before).and_then(|rest| rest.strip_suffix(after)).is_some_and(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::StatusCode;

    #[tokio::test]
    async fn what_docker_has_and_hostd_has_not_answers_501_with_its_name() {
        let ask = |method: Method, path: &'static str| missing(method, Uri::from_static(path));
        let error = ask(Method::GET, "/tasks?x=1").await;
        assert_eq!(error.status(), StatusCode::NOT_IMPLEMENTED);
        assert_eq!(error.message(), "GET /tasks is not supported by hostd yet");
        let error = ask(Method::GET, "/images/a/b/get").await;
        assert_eq!(error.message(), "GET /images/a/b/get is not supported by hostd yet");
        assert_eq!(ask(Method::POST, "/images/a/b/push").await.status(), StatusCode::NOT_IMPLEMENTED);
        for (method, path) in
            [(Method::GET, "/nonsense"), (Method::PUT, "/networks"), (Method::POST, "/images//push")]
        {
            let error = ask(method, path).await;
            assert_eq!(
                (error.status(), error.message()),
                (StatusCode::NOT_FOUND, "page not found"),
                "{path}"
            );
        }
    }

    /// Holds the tables here against the published description, where that lies beside the checkout.
    #[tokio::test]
    async fn every_endpoint_of_the_description_is_served_or_known_to_be_missing() {
        let Some(description) = crate::inspect::tests::description() else { return };
        let served = include_str!("routes.rs");
        let mut path = "";
        let mut count = 0;
        let paths = description.split_once("\npaths:\n").map(|(_, paths)| paths).unwrap();
        for line in paths.lines() {
            if let Some(found) = line.strip_prefix("  /").and_then(|line| line.strip_suffix(':')) {
                path = found;
            }
            let Some(method) = line.strip_prefix("    ").and_then(|line| line.strip_suffix(':')) else {
                continue;
            };
            if !["get", "post", "put", "delete", "head"].contains(&method) {
                continue;
            }
            count += 1;
            let concrete = format!("/{}", path.replace("{id}", "x").replace("{name}", "x"));
            let error = missing(method.to_uppercase().parse().unwrap(), concrete.parse().unwrap()).await;
            if error.status() != StatusCode::NOT_IMPLEMENTED {
                let pattern = format!("\"/{}\"", path);
                let known = path.starts_with("images/") || path == "_ping" || served.contains(&pattern);
                assert!(known, "{method} {path} is neither served nor known to be missing");
            }
        }
        assert!(count > 90, "only {count} endpoints found");
    }
}
