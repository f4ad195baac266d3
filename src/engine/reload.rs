//! Reading the configuration again: one reading after the other, so that what was read last is what holds.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use tokio::sync::oneshot;

use super::{Answer, Engine, Input};
use crate::{
    config,
    core::machine::{Event, Refusal, Reply},
    logging::message,
};

/// Those who wait for a reading.
pub(super) type Waiting = Vec<oneshot::Sender<Answer>>;

/// What is wrong with files that cannot be taken.
pub(super) struct Broken {
    /// The first of it, with its place.
    line: String,
    /// All of it, as compilers show it.
    text: String,
}

impl Broken {
    fn new(all: &config::Diagnostics) -> Self {
        let errors = || all.iter().filter(|d| d.severity == config::Severity::Error);
        let mut line = errors().next().map(config::Diagnostic::line).unwrap_or_default();
        match errors().count() {
            0 | 1 => {}
            count => line = format!("{line}, and {} more", count - 1),
        }
        Self { line, text: all.render(config::Style::Plain) }
    }

    fn by_a_bug() -> Self {
        let text = "a bug in virtsnapd (a panic; the journal has it)".to_owned();
        Self { line: text.clone(), text }
    }
}

/// Whether a reading is under way, and who asked for the next one.
#[derive(Debug, Default)]
pub(super) struct Reloads {
    busy: bool,
    asked: Option<Waiting>,
}

impl Reloads {
    /// Somebody asks. Gives those to read for now: nobody while a reading is under way, which may have passed by what
    /// was changed meanwhile.
    fn ask(&mut self, reply: Option<oneshot::Sender<Answer>>) -> Option<Waiting> {
        self.asked.get_or_insert_default().extend(reply);
        self.next()
    }

    /// The reading ended. Gives those who asked since.
    fn done(&mut self) -> Option<Waiting> {
        self.busy = false;
        self.next()
    }

    fn next(&mut self) -> Option<Waiting> {
        if self.busy {
            return None;
        }
        let next = self.asked.take();
        self.busy = next.is_some();
        next
    }
}

impl Engine {
    /// Reads the configuration again, or does so after the reading that is under way.
    pub(super) fn reload(&mut self, reply: Option<oneshot::Sender<Answer>>) {
        if let Some(waiting) = self.reloads.ask(reply) {
            self.read_settings(waiting);
        }
    }

    fn read_settings(&mut self, waiting: Waiting) {
        let roots = self.roots.clone();
        let send = self.send.clone();
        let started = self.thread("configuration", move || {
            let loaded = catch_unwind(AssertUnwindSafe(|| config::load(&roots)));
            let loaded = match loaded {
                Ok(loaded) => loaded.map(Box::new).map_err(|e| Broken::new(&e)),
                Err(_) => Err(Broken::by_a_bug()),
            };
            let _ = send.send(Input::Loaded(loaded, waiting));
        });
        if !started {
            self.reloads.busy = false;
        }
    }

    /// Takes what was read, answers those who waited for it, and goes on for those who asked since.
    pub(super) fn take_settings(&mut self, loaded: Result<Box<config::Loaded>, Broken>, waiting: Waiting) {
        let answer = match loaded {
            Ok(loaded) => {
                for line in loaded.warnings.lines() {
                    tracing::warn!(MESSAGE_ID = message::CONFIGURATION_WARNING, "{line}");
                }
                let settings = Arc::new(loaded.settings);
                if settings.daemon.uri != self.machine.settings().daemon.uri {
                    tracing::warn!(
                        MESSAGE_ID = message::CONFIGURATION_WARNING,
                        "`uri` changed; it takes effect when virtsnapd is restarted"
                    );
                }
                tracing::info!("configuration read: {} policies", settings.policies.len());
                self.metrics.follow(settings.daemon.metrics_textfile.as_deref());
                self.handle(Event::Settings(settings));
                Ok(Reply::Done)
            }
            Err(Broken { line, text }) => {
                tracing::error!(
                    MESSAGE_ID = message::CONFIGURATION_BROKEN,
                    "the configuration is broken, so the old settings stay in force:\n{text}"
                );
                // Until a reading that is good: nothing else says before the next restart that this will fail.
                self.handle(Event::Refused(line));
                Err(Refusal::new("InvalidConfiguration", format!("the old settings stay in force:\n{text}")))
            }
        };
        let generation = self.publish.borrow().generation;
        for reply in waiting {
            let _ = reply.send((answer.clone(), generation));
        }
        if let Some(next) = self.reloads.done() {
            self.read_settings(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_during_a_reading_gets_one_that_begins_after_it_and_others_do_too() {
        let mut reloads = Reloads::default();
        let ask = |reloads: &mut Reloads| reloads.ask(Some(oneshot::channel().0)).map(|w| w.len());
        assert_eq!(ask(&mut reloads), Some(1), "it begins at once");
        assert_eq!(
            (ask(&mut reloads), ask(&mut reloads)),
            (None, None),
            "two at once could end in any order"
        );
        assert!(reloads.ask(None).is_none(), "nor does a signal begin a second one");
        assert_eq!(reloads.done().map(|w| w.len()), Some(2), "one reading for all that asked");
        assert!(reloads.done().is_none());
        assert_eq!(reloads.ask(None).map(|w| w.len()), Some(0), "a signal waits for no answer");
        assert!(reloads.done().is_none());
    }
}
