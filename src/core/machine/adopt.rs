//! What others made, taken over by command.

use jiff::Timestamp;

use super::{Machine, Refusal, Reply};
use crate::core::{
    job::{AdoptJob, Asker, Operation},
    model::{Origin, VmId},
};

impl Machine {
    /// Queues it, if all of it is there.
    pub(super) fn adopt(
        &mut self,
        vm: VmId,
        adopt: AdoptJob,
        uid: u32,
        now: Timestamp,
    ) -> Result<Reply, Refusal> {
        for name in &adopt.snapshots {
            self.snapshot(vm, name)?;
        }
        let record = self.known(vm)?;
        let selected: Vec<_> = self.plan_of(record).policies.iter().map(|p| p.name.clone()).collect();
        if let Some(policy) = adopt.policies.iter().find(|p| !selected.contains(p)) {
            return Err(match self.settings.policies.get(policy) {
                None => Refusal::new(
                    "NoSuchPolicy",
                    format!("there is no policy {policy}; `virtsnap policies` lists them"),
                ),
                Some(found) => Refusal::new(
                    "InvalidArgument",
                    format!("policy {policy} is not for VM {} (its `vms` at {})", record.name, found.source),
                ),
            });
        }
        // By a clock of the past its time would be over at once when that is set right.
        if !adopt.strays.is_empty() && !self.believes(now) {
            let text = format!(
                "the clock says {now}, which cannot be right: how long files are in quarantine could not be told. Nothing was \
                 put in quarantine; set the clock and ask again"
            );
            return Err(Refusal::new("Unsupported", text));
        }
        self.queue(vm, Operation::Adopt(adopt), uid, now)
    }

    /// Removes what was in quarantine for long enough, with nobody asking for it, as far as the clock can be believed.
    pub(super) fn sweep(&mut self, vm: VmId, now: Timestamp) {
        let known = self.vms.contains_key(&vm) && !self.stopping() && self.believes(now);
        if known && !self.jobs.waits_for(vm, &Operation::Sweep) {
            self.jobs.add(vm, Operation::Sweep, Asker { origin: Origin::Safety, uid: self.own_uid }, now);
        }
    }
}
