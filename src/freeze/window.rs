//! What else is done while a guest is frozen: nothing, unless the administrator asks for it, and then not for long.

use std::{fmt, io, time::Duration};

use super::{Freezer, STATUS_TIMEOUT, helper::Watch};
use crate::{
    core::model::VmId,
    hypervisor::{GuestSystem, Result},
};

/// It may take so long in all.
const SHORT: Duration = Duration::from_secs(5);
/// So long where the guest is Windows, or may be: its freeze ends by itself after ten seconds, and the snapshot itself and
/// the thaw come out of these, too.
const SHORTER: Duration = Duration::from_secs(2);

type Work<'a> = Box<dyn FnOnce(Duration) -> Result<()> + 'a>;

/// Who watches a guest that is about to be frozen was called, and may still be on the way.
#[must_use = "whoever comes comes for nothing"]
pub struct Called<'a> {
    pub(super) watch: io::Result<Option<Watch>>,
    within: Option<Work<'a>>,
}

impl fmt::Debug for Called<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Called").field("watch", &self.watch).finish_non_exhaustive()
    }
}

impl<'a> Called<'a> {
    pub(super) fn new(watch: io::Result<Option<Watch>>) -> Self {
        Self { watch, within: None }
    }

    /// This comes between the freeze and the transaction, and is told for how long it may take. Where it fails there is no
    /// transaction; where nothing is frozen it is left out.
    pub fn with(self, work: impl FnOnce(Duration) -> Result<()> + 'a) -> Self {
        Self { within: Some(Box::new(work)), ..self }
    }

    /// What is done in the window of this guest, which is not frozen yet.
    pub(super) fn window(&mut self, freezer: &Freezer, vm: VmId) -> Window<'a> {
        // An agent answers no such question while its guest is frozen.
        Window(self.within.take().map(|work| {
            let is_other = freezer.hypervisor.guest_system(vm, STATUS_TIMEOUT) == Ok(GuestSystem::Other);
            (work, if is_other { SHORT } else { SHORTER })
        }))
    }
}

/// What is done there, and for how long at most.
pub(super) struct Window<'a>(Option<(Work<'a>, Duration)>);

impl Window<'_> {
    /// Now that the guest is frozen.
    pub(super) fn pass(self) -> Result<()> {
        self.0.map_or(Ok(()), |(work, limit)| work(limit))
    }
}
