//! Listing containers, with Docker's filters.

use crate::Engine;
use crate::error::{EngineError, Result, joined};
use crate::filters::{self, Filters};
use crate::model::{ContainerRecord, Port, Status};
use regex_lite::Regex;
use std::collections::{BTreeSet, HashSet};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Which containers to list.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// Also those that do not run.
    pub all: bool,
    /// At most that many, the newest.
    pub limit: Option<usize>,
    /// The caller will ask for sizes too.
    pub size: bool,
    /// Docker's filters.
    pub filters: Filters,
}

const KNOWN: [&str; 15] = [
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    // Known everywhere, and asked of Windows alone.
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];

impl Engine {
    /// The containers that match, newest first.
    pub fn list(&self, options: &ListOptions) -> Result<Vec<Arc<ContainerRecord>>> {
        let query = Query::new(self, options)?;
        let mut records: Vec<Arc<ContainerRecord>> = self.0.index.all().iter().map(|c| c.record()).collect();
        records.sort_by_key(|record| std::cmp::Reverse(record.created));
        let matching = records.into_iter().filter(|record| query.matches(record));
        Ok(matching.take(query.limit).collect())
    }

    /// Bytes of the writable layer, and of everything. Reads all directories of the layer.
    pub async fn size(&self, name: &str) -> Result<(u64, u64)> {
        let record = self.container(name)?.record();
        // One that never ran has no layer, and looking must not make one.
        let (upper, below) = self.0.images.snapshot_size(&record.id, &record.image_id);
        let Some(upper) = upper else { return Ok((0, below)) };
        let count = move || disk_usage(&upper).saturating_sub(made_for_it(&upper));
        let own = tokio::task::spawn_blocking(count).await.map_err(joined)?;
        Ok((own, own + below))
    }
}

/// Bytes of what is in every container's layer without being its own: `/etc/mtab`.
fn made_for_it(upper: &std::path::Path) -> u64 {
    let target = std::fs::read_link(upper.join("etc/mtab"));
    target
        .ok()
        .filter(|target| target.as_os_str() == "/proc/mounts")
        .map_or(0, |target| target.as_os_str().len() as u64)
}

/// Bytes of the files below `dir`, of one with several names once; what goes away meanwhile counts nothing.
pub(crate) fn disk_usage(dir: &std::path::Path) -> u64 {
    let (mut total, mut todo, mut seen) = (0, vec![dir.to_owned()], HashSet::new());
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                todo.push(entry.path());
            } else if meta.nlink() < 2 || seen.insert((meta.dev(), meta.ino())) {
                total += meta.len();
            }
        }
    }
    total
}

/// A list request, understood.
struct Query<'a> {
    filters: &'a Filters,
    running_only: bool,
    limit: usize,
    names: Vec<Regex>,
    statuses: BTreeSet<&'static str>,
    exited: Vec<i32>,
    ancestors: Vec<String>,
    before: Option<OffsetDateTime>,
    since: Option<OffsetDateTime>,
    publish: Vec<(Port, Port)>,
    expose: Vec<(Port, Port)>,
    nothing: bool,
}

impl<'a> Query<'a> {
    fn new(engine: &Engine, options: &'a ListOptions) -> Result<Self> {
        let filters = &options.filters;
        filters::check(filters, &KNOWN)?;
        let values = |key: &str| filters.get(key).map_or(&[][..], Vec::as_slice);
        let created = |key: &str| -> Result<Option<OffsetDateTime>> {
            values(key).first().map(|name| Ok(engine.container(name)?.record().created)).transpose()
        };
        let regex = |text: &String| {
            Regex::new(text)
                .map_err(|e| EngineError::invalid(format!("invalid filter 'name={text}'")).caused_by(e))
        };
        let code = |text: &String| {
            text.parse::<i32>().map_err(|_| EngineError::invalid(format!("invalid filter 'exited={text}'")))
        };
        let ancestors = values("ancestor").iter();
        let ancestors =
            ancestors.filter_map(|name| Some(engine.0.images.get(name).ok()?.id)).collect::<Vec<_>>();
        let health = values("health");
        if let Some(bad) =
            health.iter().find(|h| !["starting", "healthy", "unhealthy", "none"].contains(&h.as_str()))
        {
            return Err(EngineError::invalid(format!("invalid filter 'health={bad}'")));
        }
        Ok(Self {
            filters,
            // Docker: a filter by state or a limit looks at all of them, one by exit code or age does not.
            running_only: !options.all && options.limit.is_none() && values("status").is_empty(),
            limit: options.limit.filter(|limit| *limit > 0).unwrap_or(usize::MAX),
            names: values("name").iter().map(regex).collect::<Result<_>>()?,
            statuses: values("status").iter().map(|text| status(text)).collect::<Result<_>>()?,
            exited: values("exited").iter().map(code).collect::<Result<_>>()?,
            before: created("before")?,
            since: created("since")?,
            publish: port_ranges("publish", values("publish"))?,
            expose: port_ranges("expose", values("expose"))?,
            nothing: (ancestors.is_empty() && !values("ancestor").is_empty())
                // No container here is a task of a cluster.
                || filters::boolean(filters, "is-task")? == Some(true),
            ancestors,
        })
    }

    fn matches(&self, record: &ContainerRecord) -> bool {
        let state = &record.state;
        let any = |key: &str, test: &dyn Fn(&str) -> bool| {
            self.filters
                .get(key)
                .is_none_or(|values| values.is_empty() || values.iter().any(|value| test(value)))
        };
        let slashed = format!("/{}", record.name);
        !self.nothing
            && (!self.running_only || state.status.is_up())
            && (self.names.is_empty()
                || self.names.iter().any(|re| re.is_match(&record.name) || re.is_match(&slashed)))
            && any("id", &|id| !id.is_empty() && record.id.starts_with(id))
            && (self.statuses.is_empty() || self.statuses.contains(state.status.as_str()))
            && (self.exited.is_empty()
                || state.status == Status::Exited && self.exited.contains(&state.exit_code))
            && (self.ancestors.is_empty() || self.ancestors.contains(&record.image_id))
            && self.before.is_none_or(|before| record.created < before)
            && self.since.is_none_or(|since| record.created > since)
            && filters::labels_fit(&record.config.labels, self.filters)
            && any("volume", &|volume| {
                record.mounts.iter().any(|m| {
                    m.name.as_deref() == Some(volume) || m.destination == volume || m.source == volume
                })
            })
            && any("network", &|network| {
                let by_id = record.endpoint.as_ref().is_some_and(|e| e.network_id.starts_with(network));
                record.host.network_mode == network || by_id
            })
            && any("health", &|health| {
                health == record.state.health.as_ref().map_or("none", |health| health.status.as_str())
            })
            && in_ranges(&self.publish, published(record).into_iter())
            && in_ranges(&self.expose, record.config.exposed_ports.iter().copied())
    }
}

fn status(text: &str) -> Result<&'static str> {
    let all = [
        Status::Created,
        Status::Running,
        Status::Paused,
        Status::Restarting,
        Status::Removing,
        Status::Exited,
        Status::Dead,
    ];
    let known = all.into_iter().map(Status::as_str).find(|known| *known == text);
    known.ok_or_else(|| EngineError::invalid(format!("invalid filter 'status={text}'")))
}

/// Reads `80`, `80/udp`, `8000-8080/tcp`.
fn port_ranges(key: &str, values: &[String]) -> Result<Vec<(Port, Port)>> {
    let read = |text: &String| -> Result<(Port, Port)> {
        let bad =
            |cause: String| EngineError::invalid(format!("invalid filter '{key}={text}'")).caused_by(cause);
        let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let port = |number: &str| format!("{number}/{protocol}").parse::<Port>().map_err(bad);
        Ok((port(first)?, port(last)?))
    };
    values.iter().map(read).collect()
}

fn in_ranges(ranges: &[(Port, Port)], mut ports: impl Iterator<Item = Port>) -> bool {
    ranges.is_empty()
        || ports.any(|port| {
            ranges.iter().any(|(first, last)| {
                first.protocol == port.protocol && (first.number..=last.number).contains(&port.number)
            })
        })
}

fn published(record: &ContainerRecord) -> Vec<Port> {
    let mut ports: Vec<Port> = record.host.port_bindings.keys().copied().collect();
    let live = record.endpoint.iter().flat_map(|endpoint| &endpoint.ports);
    ports.extend(live.flat_map(|p| {
        [
            Port { number: p.host_port, protocol: p.protocol },
            Port { number: p.container_port, protocol: p.protocol },
        ]
    }));
    ports
}

/// A moment as filters have it: seconds since 1970, RFC 3339 or its first parts, or a duration such as `24h` before now.
pub(crate) fn moment(text: &str) -> Result<OffsetDateTime> {
    let bad = || EngineError::invalid(format!("invalid time {text:?}"));
    if let Ok(seconds) = text.parse::<f64>() {
        let nanoseconds = (seconds * 1e9) as i128;
        return OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).map_err(|_| bad());
    }
    if let Ok(at) = OffsetDateTime::parse(text, &Rfc3339) {
        return Ok(at);
    }
    // A date, with or without an hour, minutes, seconds: the rest is zero, and the time is UTC.
    if [10, 13, 16, 19].contains(&text.len())
        && text.is_ascii()
        && let Ok(at) =
            OffsetDateTime::parse(&[text, &"0000-00-00T00:00:00Z"[text.len()..]].concat(), &Rfc3339)
    {
        return Ok(at);
    }
    let (mut seconds, mut number) = (0.0, String::new());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '0'..='9' | '.' => number.push(c),
            'h' | 'm' | 's' => {
                let unit = match (c, rest.peek()) {
                    ('m', Some('s')) => {
                        rest.next();
                        0.001
                    }
                    ('h', _) => 3600.0,
                    ('m', _) => 60.0,
                    _ => 1.0,
                };
                seconds += std::mem::take(&mut number).parse::<f64>().map_err(|_| bad())? * unit;
            }
            _ => return Err(bad()),
        }
    }
    if text.is_empty() || !number.is_empty() || seconds > 1e10 {
        return Err(bad());
    }
    Ok(OffsetDateTime::now_utc() - time::Duration::seconds_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_filters_are_ports_and_ranges() {
        let one = |text: &str| port_ranges("publish", &[text.to_owned()]);
        let ports = || [Port { number: 8005, protocol: hostd_network::Protocol::Tcp }].into_iter();
        assert!(in_ranges(&one("8000-8010").unwrap(), ports()));
        assert!(in_ranges(&one("8005/tcp").unwrap(), ports()));
        assert!(!in_ranges(&one("8005/udp").unwrap(), ports()));
        assert_eq!(one("x").unwrap_err().message, "invalid filter 'publish=x'");
    }

    #[test]
    fn moments_are_read() {
        assert_eq!(moment("1").unwrap().unix_timestamp(), 1);
        assert_eq!(moment("1970-01-01T00:00:02Z").unwrap().unix_timestamp(), 2);
        assert_eq!(moment("1970-01-02").unwrap().unix_timestamp(), 86400);
        assert_eq!(moment("1970-01-02T01:02").unwrap().unix_timestamp(), 86400 + 3720);
        let before = OffsetDateTime::now_utc();
        let hour_ago = before - moment("1h0m0s").unwrap();
        assert!((3595..=3600).contains(&hour_ago.whole_seconds()));
        for bad in ["", "x", "1d", "h", "1970-13-41", "1970-01-02T"] {
            assert!(moment(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_unknown_status_is_refused() {
        assert_eq!(status("asleep").unwrap_err().message, "invalid filter 'status=asleep'");
    }
}
