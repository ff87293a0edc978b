//! When clients ask, and when they do not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// Counts requests. Cheap to clone; all clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Activity(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    requests: AtomicU64,
    /// Whether [`Activity::lull`] waits for the first request.
    asleep: AtomicBool,
    wake: Notify,
}

impl Activity {
    /// There is a request.
    pub(crate) fn note(&self) {
        self.0.requests.fetch_add(1, Ordering::Relaxed);
        // Looked at first: no request of many at once is to wait for this.
        if self.0.asleep.load(Ordering::Relaxed) && self.0.asleep.swap(false, Ordering::Relaxed) {
            self.0.wake.notify_one();
        }
    }

    /// Completes when there were requests, and then none for a `pause`. For one task.
    pub async fn lull(&self, pause: Duration) {
        self.0.asleep.store(true, Ordering::Relaxed);
        self.0.wake.notified().await;
        loop {
            let seen = self.0.requests.load(Ordering::Relaxed);
            tokio::time::sleep(pause).await;
            if seen == self.0.requests.load(Ordering::Relaxed) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::timeout;

    #[tokio::test(start_paused = true)]
    async fn a_lull_comes_after_the_last_request_and_not_without_one() {
        let activity = Activity::default();
        let pause = Duration::from_secs(1);
        assert!(timeout(pause * 100, activity.lull(pause)).await.is_err());
        let noted = activity.clone();
        let clients = tokio::spawn(async move {
            for _ in 0..50 {
                noted.note();
                tokio::time::sleep(pause / 10).await;
            }
        });
        activity.lull(pause).await;
        assert!(clients.is_finished());
        assert!(timeout(pause * 100, activity.lull(pause)).await.is_err());
    }
}
