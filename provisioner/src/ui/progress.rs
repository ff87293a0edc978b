//! Progress on stderr: one line that changes on a terminal, plain lines elsewhere.

use drivers::driver::Reporter;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::io::IsTerminal as _;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

/// Tells the user what is being done.
pub(crate) struct Progress {
    terminal: bool,
    prefix: Option<String>,
    beside: Option<MultiProgress>,
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
            beside: None,
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
        let line = self.labelled(what);
        self.aside(|| super::stderr(&line));
    }

    /// The name of a machine with which something was done, on stdout.
    pub(crate) fn done(&self, name: &str) {
        self.finish();
        self.aside(|| super::stdout(name));
    }

    /// Writes lines that no bar may be drawn over.
    fn aside(&self, write: impl FnOnce()) {
        let current = self.lock();
        match (&self.beside, &current.bar) {
            (Some(all), _) => all.suspend(write),
            (None, Some(bar)) => bar.suspend(write),
            (None, None) => write(),
        }
    }

    /// What is said of this machine, where there are several.
    fn labelled(&self, what: &str) -> String {
        self.prefix.as_ref().map_or_else(|| what.to_owned(), |prefix| format!("{prefix}: {what}"))
    }

    /// Ends the line that changes.
    pub(crate) fn finish(&self) {
        let ended = std::mem::take(&mut *self.lock());
        if let Some(bar) = ended.bar {
            bar.finish_and_clear();
            let line = format!("  ✓ {}", self.labelled(&ended.what));
            self.aside(|| super::stderr(&line));
        }
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
        let bar = match &self.beside {
            Some(all) => all.add(bar),
            None => bar,
        };
        bar.set_message(self.labelled(what));
        bar.enable_steady_tick(Duration::from_millis(120));
        current.bar = Some(bar);
    }
}

/// Progress of several machines side by side: a line for each on a terminal.
#[derive(Default)]
pub(crate) struct Side(MultiProgress);

impl Side {
    /// No lines yet.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The progress of one machine.
    pub(crate) fn progress(&self, machine: &str) -> Progress {
        let mut progress = Progress::new(Some(machine.to_owned()));
        progress.beside = Some(self.0.clone());
        progress
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
