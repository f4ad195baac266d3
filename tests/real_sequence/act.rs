//! What is done: by the daemon's clients, by people beside it, and by bad luck.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use super::{
    dice::Dice,
    harness::{Bare, Daemon, Testbed, wait_for},
    merges::Cut,
    oracle::{self, Listed},
};

/// The clusters that are written to, of the 128 that a disk has.
const CLUSTERS: u64 = 12;
/// More are not kept at a time: each one makes every check longer.
const AT_MOST: usize = 8;

/// A job's end.
type Done = Result<String, (String, String)>;

/// Who dies in the middle of it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Victim {
    Daemon,
    Libvirtd,
}

/// The VM, what is done to it, and what it must hold.
pub(crate) struct World<'a> {
    pub(crate) tb: &'a Testbed,
    pub(crate) daemon: &'a Daemon<'a>,
    pub(crate) vm: Bare,
    pub(crate) dice: Dice,
    pub(crate) made: u32,
    /// Of each snapshot that may be there: its disks, and the full copy of each.
    pub(crate) copies: BTreeMap<String, BTreeMap<String, String>>,
    /// Those whose deletion was begun and did not end: they alone may have failed, or go at any time.
    pub(crate) doomed: BTreeSet<String>,
}

impl<'a> World<'a> {
    pub(crate) fn new(tb: &'a Testbed, daemon: &'a Daemon<'a>, vm: Bare, seed: u64) -> Self {
        for target in vm.disks() {
            tb.ok(&format!("truncate -s 8M {}", oracle::now(target)));
        }
        let dice = Dice::new(seed);
        Self { tb, daemon, vm, dice, made: 0, copies: BTreeMap::new(), doomed: BTreeSet::new() }
    }

    /// Does one thing and waits until all is at rest.
    pub(crate) fn step(&mut self, number: u64) {
        let all = oracle::listed(self);
        let ready: Vec<Listed> = all.iter().filter(|s| s.state == "ready").cloned().collect();
        let (some, room) = (!all.is_empty(), all.len() < AT_MOST);
        let if_so = |so: bool, weight: u64| if so { weight } else { 0 };
        let weights = [
            ("write", 6),
            ("create", if_so(room, 6)),
            ("delete", if_so(some, 3)),
            ("revert", if_so(room && !ready.is_empty(), 3)),
            ("start or stop", 2),
            ("restart libvirtd", 1),
            ("a create that is cut short", if_so(room, 2)),
            ("a delete that is cut short", if_so(some, 2)),
            ("a delete that is stopped", if_so(some, 3)),
            ("prune", if_so(some, 2)),
            ("finish", if_so(!self.doomed.is_empty(), 6)),
            ("branch", if_so(!ready.is_empty(), 1)),
        ];
        let mut at = self.dice.below(weights.iter().map(|(_, weight)| weight).sum());
        let what = weights.iter().find(|(_, weight)| {
            let here = at < *weight;
            at = at.saturating_sub(*weight);
            here
        });
        let what = what.unwrap().0;
        match what {
            "write" => self.write(),
            "create" => self.create(number, None),
            "delete" => self.delete(number, &all, None),
            "revert" => self.revert(number, &ready),
            "start or stop" => self.start_or_stop(number),
            "restart libvirtd" => {
                println!("{number}: restart libvirtd");
                self.daemon.restart_libvirtd();
            }
            "a create that is cut short" => {
                let victim = self.victim();
                self.create(number, Some(victim));
            }
            "a delete that is cut short" => {
                let victim = self.victim();
                self.delete(number, &all, Some(Cut::Dies(victim)));
            }
            "a delete that is stopped" => self.delete(number, &all, Some(Cut::Stops)),
            "prune" => self.prune(number),
            "finish" => self.finish(number),
            "branch" => self.branch(number, &ready),
            other => unreachable!("{other}"),
        }
        self.daemon.wait_idle();
        self.forget_gone();
    }

    /// All goes, the newest or the oldest first, and what is left is the disks as they are.
    pub(crate) fn end(&mut self) {
        loop {
            let all = oracle::listed(self);
            if all.is_empty() {
                break;
            }
            // Where branches meet, not every one can go first; but one of them can.
            let gone = all.iter().any(|one| {
                println!("at the end: delete {}", one.name);
                self.delete_one(&one.name)
            });
            assert!(gone, "none of {all:?} can go\n{}", self.daemon.journal());
            self.forget_gone();
            self.check();
        }
        // A disk that a snapshot on another branch left out stays on what it is on; what lies there belongs to none then.
        let layers = |world: &Self| {
            let chains =
                world.vm.disks().iter().map(|disk| oracle::chain(world.tb, &world.vm.active(disk)).len());
            chains.max()
        };
        if layers(self) > Some(1) {
            let words = "made for snapshots that are gone by now";
            wait_for(Duration::from_secs(75), "what is left is told", || {
                let reason: String =
                    self.daemon.bus.get(&self.daemon.vm("seq"), "org.virtsnap1.VM", "HealthReason");
                reason.contains(words).then_some(())
            });
            println!("at the end: {}", self.daemon.ok("adopt seq --layers --yes").trim());
            let adopted = oracle::listed(self);
            assert!(!adopted.is_empty(), "there are layers");
            for one in adopted.iter().rev() {
                self.daemon.delete("seq", &one.name).unwrap_or_else(|e| panic!("{e:?}"));
            }
            self.check();
        }
        assert_eq!(layers(self), Some(1), "each disk is one image again");
        if self.vm.state() == "shut off" {
            self.tb.ok("virsh -q start seq");
        }
        self.check();
    }

    pub(crate) fn victim(&mut self) -> Victim {
        if self.dice.below(2) == 0 { Victim::Daemon } else { Victim::Libvirtd }
    }

    fn write(&mut self) {
        let disks = self.vm.disks().to_vec();
        let target = self.dice.pick(&disks).unwrap().clone();
        for _ in 0..=self.dice.below(3) {
            let (cluster, value) =
                (self.dice.below(CLUSTERS), u8::try_from(1 + self.dice.below(255)).unwrap());
            self.vm.write(&target, cluster, value);
            oracle::write_now(self.tb, &target, cluster, value);
        }
    }

    fn create(&mut self, number: u64, victim: Option<Victim>) {
        self.made += 1;
        let name = format!("s{}", self.made);
        let mut disks = self.vm.disks().to_vec();
        // Now and then one disk takes no part.
        if self.dice.below(4) == 0 {
            let left_out = usize::try_from(self.dice.below(disks.len() as u64)).unwrap();
            disks.remove(left_out);
        }
        println!("{number}: create {name} of {disks:?}, {victim:?} dies");
        let copies = disks.iter().map(|target| {
            let copy = oracle::copy_of(&name, target);
            self.tb.ok(&format!("cp --sparse=always {} {copy}", oracle::now(target)));
            (target.clone(), copy)
        });
        let copies: BTreeMap<_, _> = copies.collect();
        // Those that are taken for a policy are all of one that is pruned.
        if victim.is_none() && disks.len() == self.vm.disks().len() && self.dice.below(3) > 0 {
            self.run_policy(copies);
            return;
        }
        let job = self.ask(&name, &disks);
        self.copies.insert(name.clone(), copies);
        match victim {
            None => {
                let made = self.daemon.wait(&job);
                self.or_again(made, || self.daemon.wait(&self.ask(&name, &disks)));
            }
            Some(victim) => {
                self.kill(victim);
                // It was taken, or it was not; both is right.
                if !oracle::listed(self).iter().any(|s| s.name == name) {
                    println!("  {name} was not taken");
                    self.copies.remove(&name);
                }
            }
        }
    }

    /// Asks for a snapshot of these disks; the job.
    fn ask(&self, name: &str, disks: &[String]) -> String {
        let options = HashMap::from([("disks", zbus::Variant::from(disks.to_vec()))]);
        let vm = self.daemon.vm("seq");
        let job = self.daemon.bus.call(&vm, "org.virtsnap1.VM", "CreateSnapshot", &(name, options));
        let (job,): (zbus::OwnedObjectPath,) = job.unwrap();
        job.to_string()
    }

    /// What the disks hold is in a snapshot of its own then, and what they held at that one is what they hold.
    fn revert(&mut self, number: u64, ready: &[Listed]) {
        let one = self.dice.pick(ready).unwrap();
        println!("{number}: revert to {}", one.name);
        let none = HashMap::<&str, zbus::Variant<'_>>::new();
        let job = self.daemon.bus.call(&one.path, "org.virtsnap1.Snapshot", "Revert", &(none,));
        let (job,): (zbus::OwnedObjectPath,) = job.unwrap();
        let safety = match self.daemon.wait(job.as_str()) {
            Ok(safety) => safety,
            // One that lacks a disk which is on another branch by now.
            Err((_, text)) if text.contains("does not have disk") => return println!("  {text}"),
            Err(e) => panic!("{e:?}\n{}", self.daemon.journal()),
        };
        let safety = oracle::listed(self).into_iter().find(|s| s.path == safety).unwrap().name;
        let copies = self.vm.disks().iter().map(|target| {
            let copy = oracle::copy_of(&safety, target);
            self.tb.ok(&format!("cp --sparse=always {} {copy}", oracle::now(target)));
            (target.clone(), copy)
        });
        let copies = copies.collect();
        self.copies.insert(safety, copies);
        for (target, copy) in &self.copies[&one.name] {
            self.tb.ok(&format!("cp --sparse=always {copy} {}", oracle::now(target)));
        }
    }

    /// The policy's snapshot of what these are copies of.
    fn run_policy(&mut self, copies: BTreeMap<String, String>) {
        let run = || self.daemon.run("p").remove(0);
        let path = self.or_again(run(), run);
        let name = oracle::listed(self).into_iter().find(|s| s.path == path).unwrap().name;
        println!("  it is {name}");
        self.copies.insert(name, copies);
    }

    /// What a libvirtd leaves in QEMU when it is killed goes with that QEMU, as the error says.
    fn or_again(&self, made: Done, again: impl FnOnce() -> Done) -> String {
        let left = matches!(&made, Err((_, text)) if text.contains("shut the VM down and start it again"));
        let made = if left {
            println!("  libvirt left its images in QEMU");
            self.tb.ok("virsh -q destroy seq && virsh -q start seq");
            again()
        } else {
            made
        };
        made.unwrap_or_else(|e| panic!("{e:?}\n{}", self.daemon.journal()))
    }

    fn start_or_stop(&mut self, number: u64) {
        let command = if self.vm.state() == "shut off" { "start" } else { "destroy" };
        println!("{number}: {command}");
        self.tb.ok(&format!("virsh -q {command} seq"));
    }

    /// At once, wherever it is, and back again; returns when all is settled.
    pub(crate) fn kill(&self, victim: Victim) {
        match victim {
            Victim::Daemon => self.daemon.kill(),
            Victim::Libvirtd => self.daemon.kill_libvirtd(),
        }
        self.daemon.wait_idle();
        let told = || self.daemon.says_adrift("seq");
        if self.end_lost() || self.vm.put_right(told) {
            // What was cut short is settled before the next job, whatever comes of that one.
            println!("  {:?}", self.daemon.prune("seq"));
            self.daemon.wait_idle();
        }
    }

    /// A libvirtd that is killed just as it starts the VM loses sight of its QEMU, and then no call ends that: what could not
    /// be done says how to find it. Whether that was so.
    fn end_lost(&self) -> bool {
        let lost = self.vm.state() == "shut off" && self.daemon.journal().contains("Somebody has its files");
        lost && self.tb.sh("pkill -KILL -f '[g]uest=seq,'").success()
    }
}
