//! Changes that are made whole, whether or not their caller waits for the end.
//!
//! The future of a request is dropped when its client hangs up: it would end wherever it waits just then, with a
//! container half started, frozen and not on record, or asked to stop and never killed. So what changes something runs
//! in a task of its own.

use crate::error::{Result, joined};

/// Runs `work` to its end, also when this future is dropped.
pub(crate) async fn whole<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    tokio::spawn(work).await.map_err(joined)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn work_goes_on_when_nobody_waits_for_it_any_more() {
        let (go, going) = oneshot::channel::<()>();
        let (done, ended) = oneshot::channel();
        let mut caller = Box::pin(whole(async move {
            going.await.unwrap();
            done.send(()).unwrap();
            Ok(())
        }));
        assert!(futures_util::poll!(&mut caller).is_pending());
        drop(caller);
        go.send(()).unwrap();
        ended.await.unwrap();
    }
}
