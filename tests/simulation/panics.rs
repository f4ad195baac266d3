//! Panics of the daemon's threads, also those that it survives: each is a bug.

use std::{
    panic::{set_hook, take_hook},
    sync::{Mutex, Once, PoisonError},
};

use super::turns::life;

/// What one says that a test asked for.
pub const ON_REQUEST: &str = "a bug on request";

/// Those of one host.
#[derive(Debug, Default)]
pub struct Panics(Mutex<Vec<String>>);

impl Panics {
    /// Begins to count, in the whole process. A daemon that is killed ends its threads without the hook.
    pub fn watch() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            let before = take_hook();
            set_hook(Box::new(move |info| {
                let why = info.payload_as_str().unwrap_or_default();
                if let Some(turns) = life().filter(|_| why != ON_REQUEST) {
                    let place = info.location().map(ToString::to_string).unwrap_or_default();
                    turns.panics.add(format!("the daemon panicked at {place}: {why}"));
                }
                before(info);
            }));
        });
    }

    fn add(&self, text: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }

    /// Those since the last time.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
