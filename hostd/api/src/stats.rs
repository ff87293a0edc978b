//! `GET /containers/{id}/stats`: what a container takes, once or every second.

use crate::error::ApiError;
use crate::params::Params;
use crate::progress;
use crate::timestamps;
use crate::version::ApiVersion;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::Response;
use bytes::Bytes;
use futures_util::stream;
use hostd_engine::{Engine, IoCounter, Sample};
use serde_json::{Map, Value, json};
use std::convert::Infallible;
use std::time::Duration;

/// Time between two samples; CPU use is told by their difference.
const INTERVAL: Duration = Duration::from_secs(1);

/// Without `stream` one object: of two samples, or with `one-shot` of one, which tells no use of CPU.
pub(crate) async fn stats(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    version: ApiVersion,
    params: Params,
) -> Result<Response<Body>, ApiError> {
    let (stream, one_shot) = (params.flag_or("stream", true), version.since(41) && params.flag("one-shot"));
    if stream && one_shot {
        return Err(ApiError::bad_request("cannot have stream=true and one-shot=true"));
    }
    let record = engine.inspect(&id)?;
    let first = engine.sample(&record.id).await?;
    if !stream {
        let (before, now) = if one_shot || first.at.is_none() {
            (Sample::default(), first)
        } else {
            tokio::time::sleep(INTERVAL).await;
            (first, engine.sample(&record.id).await?)
        };
        let body = Body::from(format!("{}\n", encode(&record.id, &record.name, &now, &before)));
        return Ok(progress::json_stream(body));
    }
    let ids = (record.id.clone(), record.name.clone());
    let lines = stream::unfold((Some(first), Sample::default()), move |(next, before)| {
        let (engine, (id, name)) = (engine.clone(), ids.clone());
        async move {
            let now = match next {
                Some(first) => first,
                None => {
                    tokio::time::sleep(INTERVAL).await;
                    // It ends with the container.
                    engine.sample(&id).await.ok()?
                }
            };
            let line = format!("{}\n", encode(&id, &name, &now, &before));
            Some((Ok::<_, Infallible>(Bytes::from(line)), (None, now)))
        }
    });
    Ok(progress::json_stream(Body::from_stream(lines)))
}

fn encode(id: &str, name: &str, now: &Sample, before: &Sample) -> Value {
    let mut value = json!({
        "id": id,
        "name": format!("/{name}"),
        "read": timestamps::rfc3339_or_never(now.at),
        "preread": timestamps::rfc3339_or_never(before.at),
        "num_procs": 0,
        "pids_stats": {},
        "storage_stats": {},
        "blkio_stats": encode_io(now),
        "cpu_stats": encode_cpu(now),
        "precpu_stats": encode_cpu(before),
        "memory_stats": {},
    });
    if now.at.is_none() {
        return value;
    }
    // Go's largest number stands for no limit.
    value["pids_stats"] = json!({ "current": now.pids, "limit": now.pids_limit.unwrap_or(u64::MAX) });
    value["memory_stats"] =
        json!({ "usage": now.memory, "limit": now.memory_limit, "stats": now.memory_details });
    if now.memory_failures > 0 {
        value["memory_stats"]["failcnt"] = json!(now.memory_failures);
    }
    if let Some(peak) = now.memory_peak {
        value["memory_stats"]["max_usage"] = json!(peak);
    }
    if !now.networks.is_empty() {
        value["networks"] = encode_networks(now);
    }
    value
}

fn encode_cpu(sample: &Sample) -> Value {
    let cpu = &sample.cpu;
    let mut value = json!({
        "cpu_usage": {
            "total_usage": cpu.total, "usage_in_usermode": cpu.user, "usage_in_kernelmode": cpu.kernel,
        },
        "throttling_data": {
            "periods": cpu.periods, "throttled_periods": cpu.throttled_periods, "throttled_time": cpu.throttled,
        },
    });
    // Docker leaves them out where nothing was measured.
    if !cpu.each.is_empty() {
        value["cpu_usage"]["percpu_usage"] = json!(cpu.each);
    }
    if sample.at.is_some() {
        value["system_cpu_usage"] = json!(cpu.system);
        value["online_cpus"] = json!(cpu.online);
    }
    value
}

/// Where the kernel counts more than bytes, what it has not counted is an empty list, else there is none.
fn encode_io(sample: &Sample) -> Value {
    let list = |counters: &[IoCounter]| -> Value {
        let entry =
            |c: &IoCounter| json!({ "major": c.major, "minor": c.minor, "op": c.kind, "value": c.value });
        counters.iter().map(entry).collect()
    };
    let operations = sample.io_operations.as_deref();
    let none = if operations.is_some() { json!([]) } else { Value::Null };
    let bytes = if sample.io.is_empty() { none.clone() } else { list(&sample.io) };
    json!({
        "io_service_bytes_recursive": bytes,
        "io_serviced_recursive": operations.map_or(Value::Null, list),
        "io_queue_recursive": none,
        "io_service_time_recursive": none,
        "io_wait_time_recursive": none,
        "io_merged_recursive": none,
        "io_time_recursive": none,
        "sectors_recursive": none,
    })
}

fn encode_networks(sample: &Sample) -> Value {
    let mut map = Map::new();
    for (name, counters) in &sample.networks {
        let mut entry = Map::new();
        for (direction, numbers) in [("rx", counters.received), ("tx", counters.sent)] {
            for (what, number) in ["bytes", "packets", "errors", "dropped"].iter().zip(numbers) {
                entry.insert(format!("{direction}_{what}"), json!(number));
            }
        }
        map.insert(name.clone(), Value::Object(entry));
    }
    Value::Object(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_reads_as_in_docker_and_one_of_nothing_too() {
        let mut now = Sample { at: Some(time::macros::datetime!(2024-05-01 10:00 UTC)), ..Sample::default() };
        (now.memory, now.cpu.online) = (5, 2);
        let counter = |value| IoCounter { major: 8, minor: 0, kind: "Read".to_owned(), value };
        (now.io, now.io_operations) = (vec![counter(7)], Some(vec![counter(1)]));
        now.networks.insert("eth0".to_owned(), Default::default());
        let shown = encode("aa", "web", &now, &Sample::default());
        assert_eq!(shown["name"], "/web");
        assert_eq!(
            (&shown["memory_stats"]["usage"], &shown["cpu_stats"]["online_cpus"]),
            (&json!(5), &json!(2))
        );
        assert_eq!(shown["blkio_stats"]["io_service_bytes_recursive"][0]["value"], 7);
        assert_eq!(shown["blkio_stats"]["io_serviced_recursive"][0]["op"], "Read");
        assert_eq!(shown["blkio_stats"]["sectors_recursive"], json!([]));
        assert_eq!(shown["networks"]["eth0"]["tx_dropped"], 0);
        assert_eq!(shown["precpu_stats"].get("system_cpu_usage"), None);
        let stopped = encode("aa", "web", &Sample::default(), &Sample::default());
        assert_eq!((&stopped["memory_stats"], &stopped["read"]), (&json!({}), &json!(timestamps::NEVER)));
    }
}
