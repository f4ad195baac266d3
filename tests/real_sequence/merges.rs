//! How snapshots go: one, or several in one run; to the end, stopped by who asked, or cut short.

use std::{collections::HashMap, num::NonZeroU64};

use super::{
    act::{Victim, World},
    harness::wait_for,
    oracle::{self, DEADLINE, Listed},
};

const JOB: &str = "org.virtsnap1.Job";
/// Of these a prune leaves the newest ones.
pub(crate) const POLICY: &str =
    "[policy.p]\nvms = [\"seq\"]\nname = \"p-{timestamp}\"\nquiesce = \"never\"\n";

/// What keeps a merge from its end.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cut {
    Dies(Victim),
    /// Whoever asked for it stops it, while it copies slowly.
    Stops,
}

type Options = HashMap<&'static str, zbus::Variant<'static>>;

impl World<'_> {
    /// One of these.
    pub(crate) fn delete(&mut self, number: u64, all: &[Listed], cut: Option<Cut>) {
        let one = self.dice.pick(all).unwrap();
        println!("{number}: delete {} ({}), {cut:?}", one.name, one.state);
        let Some(cut) = cut else {
            self.delete_one(&one.name);
            return;
        };
        self.doomed.insert(one.name.clone());
        let (path, interface) = (one.path.clone(), "org.virtsnap1.Snapshot");
        self.cut_short(cut, |options| {
            let (job,): (zbus::OwnedObjectPath,) =
                self.daemon.bus.call(&path, interface, "Delete", &(options,)).unwrap();
            job.to_string()
        });
    }

    /// False if the tree does not allow it yet.
    pub(crate) fn delete_one(&mut self, name: &str) -> bool {
        if !oracle::listed(self).iter().any(|s| s.name == name) {
            // It was half deleted, and went with what was asked for before.
            assert!(self.doomed.contains(name), "{name} is gone, and nobody wanted that");
            return true;
        }
        match self.daemon.delete("seq", name) {
            Ok(_) => {
                self.doomed.remove(name);
                self.copies.remove(name);
                true
            }
            Err((error, text)) => {
                assert_eq!(error, "org.virtsnap1.Error.Unsupported", "{text}\n{}", self.daemon.journal());
                println!("  {text}");
                false
            }
        }
    }

    /// All that the policy does not keep goes, in as few merges as there are runs, and nothing else; or is cut short.
    pub(crate) fn prune(&mut self, number: u64) {
        let keep = 1 + self.dice.below(2);
        let cut = match self.dice.below(4) {
            0 => Some(Cut::Stops),
            1 => Some(Cut::Dies(self.victim())),
            _ => None,
        };
        self.daemon.policies(&format!("{POLICY}keep-last = {keep}\n"));
        self.daemon.ok("reload");
        let plan = self.daemon.json("plan seq --beyond-max-delete");
        let goes = plan["vms"][0]["verdicts"].as_array().unwrap().iter().filter(|v| v["keep"] == false);
        let goes: Vec<String> = goes.map(|v| v["name"].as_str().unwrap().to_owned()).collect();
        println!("{number}: prune {goes:?}, {cut:?}");
        self.doomed.extend(goes.iter().cloned());
        let vm = self.daemon.vm("seq");
        let ask = |mut options: Options| {
            options.insert("all", true.into());
            let job = self.daemon.bus.call(&vm, "org.virtsnap1.VM", "Prune", &(options,));
            let (job,): (zbus::OwnedObjectPath,) = job.unwrap();
            job.to_string()
        };
        if let Some(cut) = cut {
            self.cut_short(cut, ask);
        } else {
            let job = ask(Options::new());
            self.pruned(&goes, self.daemon.wait(&job));
        }
        self.daemon.wait_idle();
        self.daemon.policies(POLICY);
        self.daemon.ok("reload");
    }

    fn pruned(&self, goes: &[String], ended: Result<String, (String, String)>) {
        match ended {
            Ok(_) => {
                let left = oracle::listed(self);
                let left: Vec<_> = left.iter().filter(|s| goes.contains(&s.name)).collect();
                assert!(left.is_empty(), "{left:?} should have gone\n{}", self.daemon.journal());
            }
            // Another branch stands on it with a disk that was left out where they part, which is seen late.
            Err((error, text)) => {
                println!("  {text}");
                assert_eq!(error, "org.virtsnap1.Error.Unsupported", "{text}\n{}", self.daemon.journal());
            }
        }
    }

    /// What was begun is ended.
    pub(crate) fn finish(&mut self, number: u64) {
        println!("{number}: finish {:?}", self.doomed);
        self.daemon.prune("seq").unwrap_or_else(|e| panic!("{e:?}\n{}", self.daemon.journal()));
        let left = oracle::listed(self);
        let left: Vec<_> = left.iter().filter(|s| s.state != "ready").collect();
        assert!(left.is_empty(), "{left:?} should have gone\n{}", self.daemon.journal());
    }

    /// What was to go and has gone is not looked for any more; what is as good as before is as good as any.
    pub(crate) fn forget_gone(&mut self) {
        let all = oracle::listed(self);
        for name in std::mem::take(&mut self.doomed) {
            match all.iter().find(|s| s.name == name) {
                None => drop(self.copies.remove(&name)),
                Some(left) if left.state == "ready" => {}
                Some(left) => {
                    println!("  {name} is {}", left.state);
                    self.doomed.insert(name);
                }
            }
        }
    }

    fn cut_short(&self, cut: Cut, ask: impl FnOnce(Options) -> String) {
        match cut {
            Cut::Dies(victim) => {
                ask(Options::new());
                self.kill(victim);
            }
            Cut::Stops => {
                let slowly = NonZeroU64::new(512 * 1024).unwrap().get();
                let job = ask(Options::from([("bandwidth", slowly.into())]));
                self.stop(&job);
            }
        }
    }

    /// Stops this job as soon as it merges the last disk that it comes to, if it does.
    fn stop(&self, job: &str) {
        let get = |property| self.daemon.bus.get::<String>(job, JOB, property);
        let last = format!("merging {}", if self.made.is_multiple_of(2) { "vda" } else { "vdb" });
        wait_for(DEADLINE, "it merges, or has ended", || {
            (get("State") == "done" || get("Phase").starts_with(&last)).then_some(())
        });
        // In vain if it was faster.
        let none = Options::new();
        let told: Result<(), _> = self.daemon.bus.call(job, JOB, "Cancel", &(none,));
        match self.daemon.wait(job) {
            Ok(_) => println!("  it ended before it was told to stop: {told:?}"),
            Err((error, text)) => {
                println!("  {text}");
                let right = ["Cancelled", "Unsupported"].map(|e| format!("org.virtsnap1.Error.{e}"));
                assert!(right.contains(&error), "{error}: {text}\n{}", self.daemon.journal());
            }
        }
    }
}
