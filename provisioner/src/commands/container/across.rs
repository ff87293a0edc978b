//! Commands that ask several machines at once.

use crate::connect::{self, Engine, failed};
use crate::context::Context;
use crate::error::CliError;
use crate::store::{Machine, MachineName, Selector, Stage, StoreError};
use futures_util::StreamExt as _;
use std::time::Duration;

/// How many machines are asked at a time.
const AT_ONCE: usize = 64;
/// How long a machine among others is waited for, where `--timeout` does not say.
const PATIENCE: Duration = Duration::from_secs(10);

/// Machines to ask, instead of the selected one.
#[derive(Debug, clap::Args)]
pub(crate) struct Across {
    /// Ask all machines at once (`--all` is about what is listed)
    #[arg(long)]
    all_machines: bool,
    /// Ask the machines with these labels at once: KEY=VALUE, KEY!=VALUE or KEY; all must hold
    #[arg(short = 'l', long, value_name = "LABEL,…", conflicts_with = "all_machines")]
    selector: Option<Selector>,
    /// Seconds after which a machine that does not answer is given up [default: 10 where several are asked]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
}

/// What is within the time that a machine has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bound {
    /// All of it.
    Answer,
    /// Only that it is reached: what it then does takes as long as it takes.
    Connect,
}

/// What machines answered, in their order, and why others did not.
pub(crate) struct Answers<T> {
    pub(crate) answers: Vec<(String, T)>,
    failures: Vec<CliError>,
}

impl<T> Answers<T> {
    /// The answers with their machines' names; for when they have been shown, what the others failed with.
    pub(crate) fn ended(self) -> Result<(), CliError> {
        let mut failures = self.failures;
        let Some(last) = failures.pop() else { return Ok(()) };
        failures.iter().for_each(CliError::print);
        Err(last)
    }
}

impl Across {
    /// Whether several machines are meant.
    pub(crate) fn several(&self) -> bool {
        self.all_machines || self.selector.is_some()
    }

    /// Whom a question is about.
    pub(crate) fn place(&self) -> String {
        match &self.selector {
            Some(selector) => format!("the machines with {selector}"),
            None if self.all_machines => "all machines".to_owned(),
            None => "the selected machine".to_owned(),
        }
    }

    /// Runs work on the selected machine within `--timeout`, where that is given.
    pub(crate) async fn in_time<T>(
        &self,
        asked: impl Future<Output = Result<T, CliError>>,
    ) -> Result<T, CliError> {
        let Some(seconds) = self.timeout else { return asked.await };
        let limit = Duration::from_secs(seconds);
        tokio::time::timeout(limit, asked).await.unwrap_or_else(|_| Err(late("the machine", limit)))
    }

    /// Asks the engines of all machines that are meant.
    pub(crate) async fn gather<T>(
        &self,
        context: &Context,
        bound: Bound,
        act: impl AsyncFn(&Engine) -> Result<T, CliError>,
    ) -> Result<Answers<T>, CliError> {
        let limit = self.timeout.map_or(PATIENCE, Duration::from_secs);
        let (act, mut work) = (&act, Vec::new());
        for (name, loaded) in context.store.list()? {
            let meant = match (&self.selector, &loaded) {
                (Some(selector), Ok(machine)) => selector.matches(&machine.record.labels),
                // Nothing is known of its labels, and that is to be told.
                (Some(_), Err(_)) | (None, _) => true,
            };
            if meant {
                let at = work.len();
                work.push(async move { (at, name.clone(), on_one(&name, loaded, limit, bound, act).await) });
            }
        }
        if work.is_empty() {
            return Err(match &self.selector {
                Some(selector) => CliError::new(format!("no machine has the labels {selector}")),
                None => CliError::new("there are no machines"),
            }
            .hint("`berth ls` lists machines and their labels"));
        }
        let mut done: Vec<_> = futures_util::stream::iter(work).buffer_unordered(AT_ONCE).collect().await;
        done.sort_by_key(|(at, ..)| *at);
        let mut answers = Answers { answers: Vec::new(), failures: Vec::new() };
        for (_, name, done) in done {
            match done {
                Ok(answer) => answers.answers.push((name.to_string(), answer)),
                Err(error) => answers.failures.push(error),
            }
        }
        Ok(answers)
    }
}

async fn on_one<T>(
    name: &MachineName,
    loaded: Result<Machine, StoreError>,
    limit: Duration,
    bound: Bound,
    act: impl AsyncFn(&Engine) -> Result<T, CliError>,
) -> Result<T, CliError> {
    let machine = loaded?;
    if machine.record.state == Stage::Creating {
        return Err(StoreError::Interrupted(name.to_string()).into());
    }
    let in_time = async {
        let connected = connect::engine(&machine).await;
        let engine = connected.map_err(|e| failed(format!("cannot speak to machine `{name}`"), e))?;
        let answer = if bound == Bound::Answer { Some(act(&engine).await?) } else { None };
        Ok::<_, CliError>((engine, answer))
    };
    let asked = tokio::time::timeout(limit, in_time).await;
    let (engine, answer) = asked.unwrap_or_else(|_| Err(late(&format!("machine `{name}`"), limit)))?;
    let answer = match answer {
        Some(answer) => Ok(answer),
        None => act(&engine).await,
    };
    answer.map_err(|error| CliError::new(format!("machine `{name}`")).because(error))
}

fn late(who: &str, limit: Duration) -> CliError {
    CliError::new(format!("{who} did not answer within {} seconds", limit.as_secs()))
        .hint("`--timeout` waits longer; `berth ls` tells which machines answer")
}
