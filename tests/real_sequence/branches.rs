//! A VM that stands on one of the snapshots for a while, and goes again.

use std::collections::HashMap;

use super::{
    act::World,
    harness::{Bare, wait_for},
    oracle::{self, DEADLINE, Listed},
};

impl World<'_> {
    /// A branch holds what the snapshot holds, also when it stands alone, and leaves nothing behind.
    pub(crate) fn branch(&mut self, number: u64, ready: &[Listed]) {
        let one = self.dice.pick(ready).unwrap();
        let promotes = self.dice.below(2) == 0;
        println!("{number}: branch off {}, promote it: {promotes}", one.name);
        let options = HashMap::from([("leave-out", zbus::Variant::from(true))]);
        let job = self.daemon.bus.call(&one.path, "org.virtsnap1.Snapshot", "Branch", &("other", options));
        let (job,): (zbus::OwnedObjectPath,) = job.unwrap();
        self.daemon.wait(job.as_str()).unwrap_or_else(|e| panic!("{e:?}\n{}", self.daemon.journal()));
        let branch = Bare::existing(self.tb, self.tb.ok("virsh -q domuuid other").trim());
        let copies = &self.copies[&one.name];
        assert!(branch.disks().iter().eq(copies.keys()), "{:?}", branch.disks());
        self.holds(&branch, copies);
        if promotes {
            println!("  {}", self.daemon.ok("promote other").trim());
            self.holds(&branch, copies);
            for target in branch.disks() {
                assert_eq!(oracle::chain(self.tb, &branch.active(target)).len(), 1, "{target} stands alone");
            }
        }
        let images: Vec<_> = branch.disks().iter().map(|target| branch.active(target)).collect();
        self.tb.ok(&format!("virsh -q undefine other && rm {}", images.join(" ")));
        wait_for(DEADLINE, "the daemon knows that it is gone", || {
            let object = branch.uuid().replace('-', "_");
            let there = self.daemon.bus.managed().iter().any(|(path, _)| path.contains(&object));
            (!there).then_some(())
        });
    }

    fn holds(&self, branch: &Bare, copies: &std::collections::BTreeMap<String, String>) {
        for (target, copy) in copies {
            let compare = format!("qemu-img compare -U -F raw {} {copy} >&2", branch.active(target));
            let compared = self.tb.sh(&compare);
            assert!(compared.success(), "{target}: {compared}\n{}", self.daemon.journal());
        }
    }
}
