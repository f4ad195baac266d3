//! What is told, for tests that look at it field by field as the journal would.

use std::{
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
};

use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt as _},
};

/// One entry: its fields, the text as `message`. As in the journal, there may be several of one name.
#[derive(Debug, Default)]
pub(crate) struct Entry(Vec<(&'static str, String)>);

impl Entry {
    /// The values of this field.
    pub(crate) fn all(&self, field: &str) -> Vec<&str> {
        self.0.iter().filter(|(name, _)| *name == field).map(|(_, value)| value.as_str()).collect()
    }

    /// The value of this field, or nothing if it is not there.
    pub(crate) fn one(&self, field: &str) -> &str {
        self.all(field).first().copied().unwrap_or_default()
    }
}

#[derive(Default, Clone)]
struct Ear(Arc<Mutex<Vec<Entry>>>);

/// What this tells on the thread that it is called on.
pub(crate) fn heard(work: impl FnOnce()) -> Vec<Entry> {
    let ear = Ear::default();
    tracing::subscriber::with_default(tracing_subscriber::registry().with(ear.clone()), work);
    std::mem::take(&mut *ear.0.lock().unwrap_or_else(PoisonError::into_inner))
}

impl<S: Subscriber> Layer<S> for Ear {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut entry = Entry::default();
        event.record(&mut entry);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
    }
}

impl Visit for Entry {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.push((field.name(), format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.push((field.name(), value.to_owned()));
    }
}
