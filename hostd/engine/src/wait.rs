//! Waiting for a container's end or removal.

use crate::Engine;
use crate::error::Result;
use futures_util::future::BoxFuture;

/// What is waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WaitCondition {
    /// That it does not run: at once when it does not.
    #[default]
    NotRunning,
    /// The next end of a run.
    NextExit,
    /// That it is gone.
    Removed,
}

/// How the wait ended.
#[derive(Clone, Debug)]
pub struct WaitResult {
    /// Exit code of the last run.
    pub code: i32,
    /// Why the removal failed.
    pub error: Option<String>,
}

impl Engine {
    /// Registers the wait before it returns: an exit after that is never missed.
    pub async fn wait(&self, name: &str, condition: WaitCondition) -> Result<BoxFuture<'static, WaitResult>> {
        let container = self.container(name)?;
        // In this order: an end between the two is seen as one that came after.
        let mut ends = container.ends.subscribe();
        let now = ends.borrow_and_update().clone();
        let record = container.record();
        if condition == WaitCondition::NotRunning && !record.state.status.is_up() {
            // From the record: an end is there a moment before it is told to those who wait.
            let result = WaitResult { code: record.state.exit_code, error: now.removal_error };
            return Ok(Box::pin(std::future::ready(result)));
        }
        Ok(Box::pin(async move {
            let over = |ends: &crate::container::Ends| match condition {
                WaitCondition::NotRunning | WaitCondition::NextExit => ends.count > now.count || ends.removed,
                WaitCondition::Removed => ends.removed || ends.removal_error.is_some(),
            };
            match ends.wait_for(over).await {
                Ok(ends) => WaitResult { code: ends.code, error: ends.removal_error.clone() },
                // `container` is kept alive by this future, so its sender is too.
                Err(_) => WaitResult { code: container.record().state.exit_code, error: None },
            }
        }))
    }
}
