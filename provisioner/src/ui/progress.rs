//! Progress on stderr: one line that changes on a terminal, plain lines elsewhere.

use drivers::driver::Reporter;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal as _;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

/// Tells the user what is being done.
pub(crate) struct Progress {
    terminal: bool,
    prefix: Option<String>,
    current: Mutex<Current>,
    listener: OnceLock<Listener>,
}

/// Hears of each step.
type Listener = Box<dyn Fn(&str) + Send + Sync>;

#[derive(Default)]
struct Current {
    bar: Option<ProgressBar>,
    what: String,
    counting: bool,
    tenth: u64,
}

impl Progress {
    /// Progress of one piece of work; `prefix` tells machines apart where several are worked on.
    pub(crate) fn new(prefix: Option<String>) -> Self {
        Self {
            terminal: std::io::stderr().is_terminal(),
            prefix,
            current: Mutex::default(),
            listener: OnceLock::new(),
        }
    }

    /// From now on, tells `listener` of each step before it begins; the first listener stays.
    pub(crate) fn on_step(&self, listener: impl Fn(&str) + Send + Sync + 'static) {
        let _ = self.listener.set(Box::new(listener));
    }

    /// A line that stays.
    pub(crate) fn say(&self, what: &str) {
        let line = match &self.prefix {
            Some(prefix) => format!("{prefix}: {what}"),
            None => what.to_owned(),
        };
        match &self.lock().bar {
            Some(bar) => bar.suspend(|| super::stderr(&line)),
            None => super::stderr(&line),
        }
    }

    /// Ends the line that changes.
    pub(crate) fn finish(&self) {
        let mut current = self.lock();
        if let Some(bar) = current.bar.take() {
            bar.finish_and_clear();
            super::stderr(&format!("  ✓ {}", current.what));
        }
        *current = Current::default();
    }

    /// Ends the line that changes; only a success is marked as one.
    pub(crate) fn finish_if(&self, done: bool) {
        if done {
            return self.finish();
        }
        if let Some(bar) = self.lock().bar.take() {
            bar.finish_and_clear();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn begin(&self, what: &str, total: Option<u64>) {
        if let Some(listener) = self.listener.get() {
            listener(what);
        }
        self.finish();
        let mut current = self.lock();
        current.what = what.to_owned();
        current.counting = total.is_some();
        if !self.terminal {
            drop(current);
            self.say(&format!("{what}…"));
            return;
        }
        let bar = match total {
            Some(total) => {
                ProgressBar::new(total).with_style(style("  {spinner} {msg} {bar:24} {bytes}/{total_bytes}"))
            }
            None => ProgressBar::new_spinner().with_style(style("  {spinner} {msg} ({elapsed})")),
        };
        bar.set_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        current.bar = Some(bar);
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Reporter for Progress {
    fn step(&self, what: &str) {
        self.begin(what, None);
    }

    fn progress(&self, what: &str, done: u64, total: Option<u64>) {
        let begun = {
            let current = self.lock();
            current.what == what && (current.counting || total.is_none())
        };
        if !begun {
            self.begin(what, total);
        }
        let mut current = self.lock();
        if let Some(bar) = &current.bar {
            bar.set_position(done);
            return;
        }
        // Without a terminal, a line for each fifth is enough.
        let tenth = total.filter(|total| *total > 0).map_or(0, |total| done.saturating_mul(5) / total);
        if tenth > current.tenth {
            current.tenth = tenth;
            drop(current);
            self.say(&format!("{what}: {} %", tenth * 20));
        }
    }

    fn warn(&self, what: &str) {
        self.say(&format!("warning: {what}"));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = self.lock().bar.take() {
            bar.finish_and_clear();
        }
    }
}
