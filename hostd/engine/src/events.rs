//! What happened: told to whoever listens, and remembered for a while for those who ask later.
//!
//! One bus serves all. Publishing never waits: a subscriber that reads slower than events come loses the
//! oldest ones it has not read. The last [`HISTORY`] events answer `since`.

use crate::error::Result;
use crate::filters::{self, Filters};
use futures_util::stream::{self, BoxStream, StreamExt};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use time::OffsetDateTime;
use tokio::sync::broadcast;

const HISTORY: usize = 512;

/// Something that happened.
#[derive(Clone, Debug)]
pub struct Event {
    /// `container`, `image`, `volume`, `network`.
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
    /// `type`, `event`, `container`, `image`, `label`, `volume`, `network`.
    pub filters: Filters,
}

pub(crate) struct Bus {
    sender: broadcast::Sender<Arc<Event>>,
    /// Locked while sending too, so that a subscriber gets each event once: from here or from the channel.
    history: Mutex<VecDeque<Arc<Event>>>,
}

impl Bus {
    pub(crate) fn new() -> Self {
        Self { sender: broadcast::channel(HISTORY).0, history: Mutex::new(VecDeque::new()) }
    }

    pub(crate) fn publish(
        &self,
        kind: &'static str,
        action: impl Into<String>,
        actor_id: &str,
        attributes: BTreeMap<String, String>,
    ) {
        let event = Arc::new(Event {
            kind,
            action: action.into(),
            actor_id: actor_id.to_owned(),
            attributes,
            at: OffsetDateTime::now_utc(),
        });
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        if history.len() == HISTORY {
            history.pop_front();
        }
        history.push_back(Arc::clone(&event));
        // No receivers is no error.
        let _ = self.sender.send(event);
    }

    /// The events of `options`; endless unless `until` is given.
    pub(crate) fn subscribe(&self, options: EventOptions) -> Result<BoxStream<'static, Event>> {
        filters::check(
            &options.filters,
            &["type", "event", "container", "image", "label", "volume", "network", "daemon", "scope"],
        )?;
        let (past, receiver) = {
            let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
            let past: Vec<_> = match options.since {
                Some(since) => history.iter().filter(|e| e.at >= since).cloned().collect(),
                // An end in the past with no beginning asks for all that is remembered.
                None if options.until.is_some_and(|until| until <= OffsetDateTime::now_utc()) => {
                    history.iter().cloned().collect()
                }
                None => Vec::new(),
            };
            (past, self.sender.subscribe())
        };
        let live = stream::unfold(receiver, |mut receiver| async move {
            loop {
                match receiver.recv().await {
                    Ok(event) => return Some((event, receiver)),
                    Err(broadcast::error::RecvError::Lagged(missed)) => {
                        tracing::warn!(missed, "an events client reads too slowly");
                    }
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        });
        let (until, filters) = (options.until, options.filters);
        // The end cuts off what is still to come, never what is remembered.
        let live = match until {
            None => live.boxed(),
            Some(until) => {
                let left = (until - OffsetDateTime::now_utc()).try_into().unwrap_or_default();
                live.take_until(tokio::time::sleep(left)).boxed()
            }
        };
        let wanted = stream::iter(past).chain(live).filter(move |event| {
            let keep = matches(event, &filters) && until.is_none_or(|until| event.at <= until);
            async move { keep }
        });
        Ok(wanted.map(|event| (*event).clone()).boxed())
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
                "container" => {
                    event.kind == "container"
                        && values.iter().any(|v| {
                            let name = v.strip_prefix('/').unwrap_or(v);
                            name == attribute("name") || event.actor_id.starts_with(v.as_str())
                        })
                }
                "image" => {
                    let name = if event.kind == "image" { attribute("name") } else { attribute("image") };
                    let bare = without_tag(name);
                    values
                        .iter()
                        .any(|v| v == name || v == bare || (event.kind == "image" && *v == event.actor_id))
                }
                "volume" | "network" => {
                    event.kind == key.as_str()
                        && values.iter().any(|v| *v == event.actor_id || v == attribute("name"))
                }
                "label" => filters::labels_match(&event.attributes, values),
                "daemon" | "scope" => values.iter().any(|v| v == "local"),
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
            bus.subscribe(options).unwrap().map(|e| e.action).collect::<Vec<_>>()
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
        assert_eq!(events.next().await.unwrap().action, "create");
        assert_eq!(events.next().await.unwrap().action, "start");
    }

    #[test]
    fn an_unknown_filter_is_refused() {
        let options = EventOptions { filters: filter("colour", "red"), ..EventOptions::default() };
        assert_eq!(Bus::new().subscribe(options).err().unwrap().message, "invalid filter 'colour'");
    }
}
