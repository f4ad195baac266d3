//! What nobody asked for is held while somebody inhibits it. It falls due as ever, waits as a job, and begins when all
//! inhibitors are gone: nothing is missed, and what falls due again meanwhile is one run.

use std::{collections::BTreeSet, sync::Arc};

use jiff::Timestamp;

use super::{Effect, Machine, Note, Refusal, Reply};
use crate::core::{
    inhibit::{Inhibitor, InhibitorId},
    job::JobId,
};

impl Machine {
    pub(super) fn inhibit(
        &mut self,
        who: String,
        why: String,
        (uid, since): (u32, Timestamp),
        out: &mut Vec<Effect>,
    ) -> Result<Reply, Refusal> {
        let inhibitor = Inhibitor { who, why, uid, since };
        let id = self.inhibitors.add(inhibitor.clone())?;
        out.push(Effect::Log(Note::Inhibited(inhibitor)));
        self.show_inhibitors();
        Ok(Reply::Inhibited(id))
    }

    pub(super) fn release(&mut self, id: InhibitorId, now: Timestamp, out: &mut Vec<Effect>) {
        let Some(inhibitor) = self.inhibitors.remove(id) else { return };
        self.show_inhibitors();
        let (held, last) = (now.duration_since(inhibitor.since), !self.jobs.held);
        if last {
            self.jobs.automatic_last();
        }
        out.push(Effect::Log(Note::Released { inhibitor, held, last }));
    }

    /// The jobs that wait for the inhibitors' end, which each is told.
    pub(super) fn held_jobs(&mut self) -> BTreeSet<JobId> {
        let Some(Inhibitor { who, why, uid, .. }) = self.inhibitors.first() else { return BTreeSet::new() };
        let because = if why.is_empty() { String::new() } else { format!(": {why}") };
        let phase = format!("held by {who} of user {uid}{because}");
        let held = self.jobs.automatic();
        for id in &held {
            self.jobs.waits(*id, &phase);
        }
        held
    }

    fn show_inhibitors(&mut self) {
        let all: Arc<[Inhibitor]> = self.inhibitors.all().cloned().collect();
        self.jobs.held = !all.is_empty();
        self.manager(|m| m.inhibitors = all);
    }
}
