//! What happened: told to whoever listens, and remembered for a while for those who ask later.
//!
//! One bus serves all, and gives every event a later time than the one before. Publishing never waits: a subscriber
//! that is [`BACKLOG`] events behind is cut off with an error, so that none is lost unnoticed, and may come back with
//! `since`. The last [`HISTORY`] events answer that.

use crate::container::Container;
use crate::error::{EngineError, Result};
use crate::filters::{self, Filters};
use crate::model::{ContainerRecord, MountPoint, MountType};
use crate::{Engine, ErrorKind};
use futures_util::stream::{self, BoxStream, Stream, StreamExt};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use time::OffsetDateTime;
use tokio::sync::broadcast;

/// As many as Docker remembers.
const HISTORY: usize = 256;
/// How far a subscriber may be behind.
const BACKLOG: usize = 1024;

/// Something that happened.
#[derive(Clone, Debug)]
pub struct Event {
    /// `container`, `image`, `volume`, `network`, `daemon`.
    pub kind: &'static str,
    /// `start`, `die`, `pull` …
    pub action: String,
    /// Id of the object (an image's name for `pull`).
    pub actor_id: String,
    /// Facts about the object, its labels among them.
    pub attributes: BTreeMap<String, String>,
    /// When.
    pub at: OffsetDateTime,
}

/// Which events to give.
#[derive(Clone, Debug, Default)]
pub struct EventOptions {
    /// Also those of the past from then on.
    pub since: Option<OffsetDateTime>,
    /// End there; a moment in the past makes it a query of history.
    pub until: Option<OffsetDateTime>,
    /// `type`, `event`, `container`, `image`, `label`, `volume`, `network`, `daemon`, `plugin`, `scope`.
    pub filters: Filters,
}

pub(crate) struct Bus {
    sender: broadcast::Sender<Arc<Event>>,
    /// Locked while sending too, so that a subscriber gets each event once: from here or from the channel.
    history: Mutex<VecDeque<Arc<Event>>>,
}

impl Bus {
    pub(crate) fn new() -> Self {
        Self { sender: broadcast::channel(BACKLOG).0, history: Mutex::new(VecDeque::new()) }
    }

    pub(crate) fn publish(
        &self,
        kind: &'static str,
        action: impl Into<String>,
        actor_id: &str,
        attributes: BTreeMap<String, String>,
    ) {
        let (action, actor_id) = (action.into(), actor_id.to_owned());
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let now = OffsetDateTime::now_utc();
        // Clients go on from the last event that they have seen, by its time.
        let at = match history.back() {
            Some(last) if last.at >= now => last.at + time::Duration::NANOSECOND,
            _ => now,
        };
        let event = Arc::new(Event { kind, action, actor_id, attributes, at });
        if history.len() == HISTORY {
            history.pop_front();
        }
        history.push_back(Arc::clone(&event));
        // No receivers is no error.
        let _ = self.sender.send(event);
    }

    /// How many listen.
    pub(crate) fn subscribers(&self) -> usize {
        self.sender.receiver_count()
    }

    /// The events of `options`; endless unless `until` is given. An error ends it.
    pub(crate) fn subscribe(&self, options: EventOptions) -> Result<BoxStream<'static, Result<Event>>> {
        let EventOptions { since, until, filters } = options;
        check(&filters)?;
        if let (Some(since), Some(until)) = (since, until)
            && until < since
        {
            return Err(EngineError::invalid(format!(
                "`since` time ({}) cannot be after `until` time ({})",
                since.unix_timestamp(),
                until.unix_timestamp()
            )));
        }
        let (past, receiver) = {
            let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
            // An end without a beginning asks for all that is remembered, as with Docker.
            let asked = since.is_some() || until.is_some();
            let past = history.iter().filter(|event| asked && since.is_none_or(|since| event.at >= since));
            (past.cloned().collect::<Vec<_>>(), self.sender.subscribe())
        };
        // The end cuts off what is still to come, never what is remembered.
        let live = live(receiver);
        let live = match until {
            None => live.boxed(),
            Some(until) => {
                let left = (until - OffsetDateTime::now_utc()).try_into().unwrap_or_default();
                live.take_until(tokio::time::sleep(left)).boxed()
            }
        };
        let wanted = stream::iter(past.into_iter().map(Ok)).chain(live).filter(move |event| {
            let keep = event.as_ref().map_or(true, |event| {
                matches(event, &filters) && until.is_none_or(|until| event.at <= until)
            });
            async move { keep }
        });
        Ok(wanted.map(|event| event.map(|event| (*event).clone())).boxed())
    }
}

/// What comes from now on; the error that a subscriber gets who has fallen behind is the last item.
fn live(receiver: broadcast::Receiver<Arc<Event>>) -> impl Stream<Item = Result<Arc<Event>>> {
    stream::unfold(Some(receiver), |receiver| async move {
        let mut receiver = receiver?;
        match receiver.recv().await {
            Ok(event) => Some((Ok(event), Some(receiver))),
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                let message = format!("the client reads too slowly: {missed} events would be lost");
                Some((Err(EngineError::new(ErrorKind::Unavailable, message)), None))
            }
            Err(broadcast::error::RecvError::Closed) => None,
        }
    })
}

fn check(filters: &Filters) -> Result<()> {
    const KNOWN: [&str; 10] =
        ["type", "event", "container", "image", "label", "volume", "network", "daemon", "plugin", "scope"];
    // Of clusters, which are not: they match nothing.
    const OF_CLUSTERS: [&str; 4] = ["config", "node", "secret", "service"];
    filters::check(filters, &[&KNOWN[..], &OF_CLUSTERS[..]].concat())
}

impl Engine {
    /// Tells that a run is connected to its network and has its volumes.
    pub(crate) fn tell_taken(&self, container: &Container, record: &ContainerRecord) {
        self.tell_network("connect", record);
        for mount in record.mounts.iter().filter(|mount| mount.kind == MountType::Volume) {
            self.tell_mount(
                "mount",
                &container.id,
                mount,
                &[
                    ("destination", mount.destination.clone()),
                    ("propagation", mount.propagation.clone()),
                    ("read/write", mount.rw.to_string()),
                ],
            );
        }
    }

    /// Tells that the ended run of `record` has left its network and its volumes.
    pub(crate) fn tell_released(&self, record: &ContainerRecord) {
        self.tell_network("disconnect", record);
        for mount in record.mounts.iter().filter(|mount| mount.kind == MountType::Volume) {
            self.tell_mount("unmount", &record.id, mount, &[]);
        }
    }

    fn tell_network(&self, action: &str, record: &ContainerRecord) {
        let Some((id, name, driver)) = self.network_of(record) else { return };
        let attributes = [("container", record.id.clone()), ("name", name), ("type", driver)];
        let attributes = attributes.map(|(key, value)| (key.to_owned(), value)).into();
        self.0.bus.publish("network", action, &id, attributes);
    }

    fn tell_mount(&self, action: &str, container: &str, mount: &MountPoint, more: &[(&str, String)]) {
        let Some(name) = &mount.name else { return };
        let driver = mount.driver.clone().unwrap_or_default();
        let own = [("container", container.to_owned()), ("driver", driver)];
        let attributes = own.iter().chain(more).map(|(key, value)| ((*key).to_owned(), value.clone()));
        self.0.bus.publish("volume", action, name, attributes.collect());
    }

    /// Tells that the daemon has read its settings anew.
    pub fn tell_reloaded(&self) {
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        self.0.bus.publish("daemon", "reload", &self.0.id, [("name".to_owned(), name)].into());
    }
}

fn matches(event: &Event, wanted: &Filters) -> bool {
    let attribute = |name: &str| event.attributes.get(name).map_or("", String::as_str);
    wanted.iter().all(|(key, values)| {
        values.is_empty()
            || match key.as_str() {
                "type" => values.iter().any(|v| v == event.kind),
                // `exec_create: sh` matches `exec_create`.
                "event" => values.iter().any(|v| {
                    *v == event.action || event.action.split_once(": ").is_some_and(|(action, _)| action == v)
                }),
                // As Docker: the beginning of an id or name will do.
                "container" | "volume" | "network" | "daemon" | "plugin" => {
                    event.kind == key.as_str()
                        && values.iter().any(|v| {
                            let name = v.strip_prefix('/').unwrap_or(v);
                            attribute("name").starts_with(name) || event.actor_id.starts_with(v.as_str())
                        })
                }
                "image" => {
                    let name = if event.kind == "image" { attribute("name") } else { attribute("image") };
                    let bare = without_tag(name);
                    values
                        .iter()
                        .any(|v| v == name || v == bare || (event.kind == "image" && *v == event.actor_id))
                }
                "label" => filters::labels_match(&event.attributes, values),
                "scope" => values.iter().any(|v| v == "local"),
                _ => false,
            }
    })
}

/// `registry:5000/app` of `registry:5000/app:1`.
fn without_tag(name: &str) -> &str {
    match name.rfind(':') {
        Some(at) if !name[at..].contains('/') => &name[..at],
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(bus: &Bus, action: &str, name: &str) {
        let attributes = BTreeMap::from([
            ("name".to_owned(), name.to_owned()),
            ("image".to_owned(), "busybox:latest".to_owned()),
            ("tier".to_owned(), "web".to_owned()),
        ]);
        bus.publish("container", action, "c0ffee", attributes);
    }

    fn filter(key: &str, value: &str) -> Filters {
        Filters::from([(key.to_owned(), vec![value.to_owned()])])
    }

    #[tokio::test]
    async fn history_answers_a_window_that_ends_now() {
        let bus = Bus::new();
        publish(&bus, "create", "web");
        publish(&bus, "exec_create: sh", "web");
        publish(&bus, "start", "db");
        let ask = |filters| {
            let options = EventOptions { since: None, until: Some(OffsetDateTime::now_utc()), filters };
            bus.subscribe(options).unwrap().map(|e| e.unwrap().action).collect::<Vec<_>>()
        };
        assert_eq!(ask(filter("event", "exec_create")).await, ["exec_create: sh"]);
        assert_eq!(ask(filter("container", "db")).await, ["start"]);
        assert_eq!(ask(filter("container", "c0f")).await.len(), 3);
        assert_eq!(ask(filter("image", "busybox")).await.len(), 3);
        assert_eq!(ask(filter("label", "tier=web")).await.len(), 3);
        assert_eq!(ask(filter("label", "tier=db")).await.len(), 0);
        assert_eq!(ask(filter("type", "image")).await.len(), 0);
    }

    #[tokio::test]
    async fn a_subscriber_gets_what_comes_later_once() {
        let bus = Bus::new();
        publish(&bus, "create", "web");
        let since = Some(OffsetDateTime::UNIX_EPOCH);
        let mut events = bus.subscribe(EventOptions { since, ..EventOptions::default() }).unwrap();
        publish(&bus, "start", "web");
        let (first, second) = (events.next().await.unwrap().unwrap(), events.next().await.unwrap().unwrap());
        assert_eq!((first.action.as_str(), second.action.as_str()), ("create", "start"));
        assert!(first.at < second.at);
    }

    #[tokio::test]
    async fn a_subscriber_too_far_behind_is_told_and_cut_off() {
        let bus = Bus::new();
        let mut events = bus.subscribe(EventOptions::default()).unwrap();
        (0..=BACKLOG).for_each(|_| publish(&bus, "top", "web"));
        let error = events.next().await.unwrap().unwrap_err();
        assert!(error.message.contains("too slowly"), "{error}");
        assert!(events.next().await.is_none());
    }

    #[tokio::test]
    async fn history_is_bounded_and_health_is_found_by_its_first_word() {
        let bus = Bus::new();
        (0..HISTORY).for_each(|_| publish(&bus, "top", "web"));
        publish(&bus, "health_status: healthy", "web");
        let until = Some(OffsetDateTime::now_utc());
        let ask = |filters| {
            bus.subscribe(EventOptions { since: None, until, filters }).unwrap().collect::<Vec<_>>()
        };
        assert_eq!(ask(Filters::new()).await.len(), HISTORY);
        assert_eq!(ask(filter("event", "health_status")).await.len(), 1);
        assert_eq!(ask(filter("event", "health_status: unhealthy")).await.len(), 0);
    }

    #[test]
    fn a_window_that_ends_before_it_begins_is_refused() {
        let (since, until) = (Some(OffsetDateTime::now_utc()), Some(OffsetDateTime::UNIX_EPOCH));
        let options = EventOptions { since, until, ..EventOptions::default() };
        assert!(Bus::new().subscribe(options).err().unwrap().message.contains("cannot be after `until`"));
    }

    #[test]
    fn an_unknown_filter_is_refused() {
        let options = EventOptions { filters: filter("colour", "red"), ..EventOptions::default() };
        assert_eq!(Bus::new().subscribe(options).err().unwrap().message, "invalid filter 'colour'");
    }
}
