//! Who is told of what was begun and found cut short: each once in the daemon's life, however often it is tried to settle it.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use uuid::Uuid;

use crate::store::{Begun, Intent};

/// Tells the operation.
type Tell = dyn Fn(&'static str) + Send + Sync;

/// The way to whoever counts it: nobody, unless said otherwise.
#[derive(Clone, Default)]
pub struct CutShort {
    tell: Option<Arc<Tell>>,
    told: Arc<Mutex<BTreeSet<Uuid>>>,
}

impl CutShort {
    /// This is told.
    pub fn told_to(tell: impl Fn(&'static str) + Send + Sync + 'static) -> Self {
        Self { tell: Some(Arc::new(tell)), told: Arc::default() }
    }

    /// This did not come to its end. Images that wait for their removal are what an operation leaves that did.
    pub(crate) fn found(&self, intent: &Intent) {
        let Some(tell) = self.tell.as_ref().filter(|_| intent.what != Begun::Drop) else { return };
        if self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(intent.id) {
            tell(intent.what.word());
        }
    }
}

impl fmt::Debug for CutShort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CutShort").field("told", &self.told).finish_non_exhaustive()
    }
}
