//! What people, programs, libvirt and its VMs do, in no order.

use jiff::SignedDuration;
use virtsnap::{
    core::model::VmId,
    hypervisor::{
        Error, ErrorKind,
        sim::{Fault, Mishap, Op, VmSpec},
    },
};
use zbus::{ObjectPath, OwnedFd, OwnedObjectPath};

use super::{
    super::{
        client::{MANAGER, Options, none, options},
        rig::{Rig, id, policy_path, snapshot_path, vm_path},
    },
    Mirror,
};

pub const POLICIES: [&str; 3] = [
    "[policy.a]\nvms = [\"vm*\"]\nkeep-last = 2\nbefore = \"upgrade\"\n[policy.b]\nvms = [\"tag:b\"]\nkeep-last = 3\nschedule = \"@daily\"\n",
    "[policy.a]\nvms = [\"vm1\", \"vm3\"]\nkeep-last = 1\n[policy.c]\nvms = [\"*\"]\nmax-count = 2\n",
    "[policy.b]\nvms = [\"*\"]\nkeep-last = 1\ntimezone = \"Europe/Vienna\"\nschedule = \"5 4 * * *\"\n",
];
/// What they are called.
const NAMES: [&str; 3] = ["a", "b", "c"];

/// With more VMs than this, one goes rather than that another one comes.
const CROWD: usize = 6;

/// Numbers that look random and are the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % u64::try_from(limit).unwrap();
        usize::try_from(number).unwrap()
    }

    fn yes(&mut self) -> bool {
        self.below(2) == 0
    }

    fn one_of<T: Clone>(&mut self, all: &[T]) -> Option<T> {
        if all.is_empty() { None } else { Some(all[self.below(all.len())].clone()) }
    }
}

/// Whoever does it. Whether it succeeds is not the question here; that all of it is told is.
pub struct Hands<'a> {
    rig: &'a Rig,
    dice: Dice,
    /// What keeps the daemon from running policies by itself.
    kept: Vec<OwnedFd>,
    made: u128,
}

impl<'a> Hands<'a> {
    pub fn new(rig: &'a Rig, seed: u64) -> Self {
        Self { rig, dice: Dice(seed), kept: Vec::new(), made: 100 }
    }

    /// Does each thing once, with success: of the others, which do is luck.
    pub async fn each_once(&self) {
        let (client, sim, own) = (&self.rig.client, &self.rig.sim, id(50));
        sim.add_vm(VmSpec::new("own", 50));
        let path = vm_path(own);
        client.until_there(&path, true).await;
        let s1 = client.create(own, "s1", none()).await.unwrap();
        let (job,): (OwnedObjectPath,) =
            client.call(&s1, "Snapshot.Branch", &("branch", none())).await.unwrap();
        let branch = client.wait(job.as_str()).await.unwrap();
        client.job(&branch, "VM.Promote", none()).await.unwrap();
        sim.make_foreign_snapshot(own, "theirs").unwrap();
        sim.set_tags(own, &["x"]).unwrap();
        client.until_there(&snapshot_path(own, "theirs"), true).await;
        let adopted = options([("snapshots", vec!["theirs"].into())]);
        client.call::<_, ()>(&path, "VM.Adopt", &(adopted,)).await.unwrap();
        let s2 = client.create(own, "s2", none()).await.unwrap();
        client.job(&s2, "Snapshot.Delete", none()).await.unwrap();
        client.job(&s1, "Snapshot.Revert", none()).await.unwrap();
        client.job(&path, "VM.Prune", none()).await.unwrap();
        // The first one keeps the second one waiting.
        let gate = sim.gate_vm(Op::Create, own);
        client.ask_create(own, "s3", none()).await.unwrap();
        let waits = client.ask_create(own, "s4", none()).await.unwrap();
        client.call::<_, ()>(&waits, "Job.Cancel", &(none(),)).await.unwrap();
        gate.open();
    }

    /// Puts an end to all that would keep jobs from ending, and waits for those.
    pub async fn rest(&mut self) {
        self.rig.sim.heal();
        self.kept.clear();
        self.rig.sim.connect();
        self.rig.client.until(MANAGER, "Manager.HypervisorConnected", |c: &bool| *c).await;
        self.rig.client.until_idle().await;
    }

    /// Does one thing, to what somebody who listens knows of.
    pub async fn something(&mut self, known: &Mirror) {
        match self.dice.below(30) {
            0..=11 => self.touch_vm(known).await,
            12..=19 => self.touch_snapshot(known).await,
            20 | 21 => self.touch_policy(known).await,
            22 => {
                let jobs = known.all("Job");
                let open: Vec<_> =
                    jobs.into_iter().filter(|job| known.text(job, "Job", "State") != "done").collect();
                if let Some(job) = self.dice.one_of(&open) {
                    self.start(&job, "Job.Cancel", none()).await;
                }
            }
            23 | 24 => self.touch_daemon().await,
            25 => {
                let op = self.dice.one_of(&[Op::Create, Op::Commit, Op::Prepare, Op::Define, Op::Pull]);
                let refused = Mishap::Refuse(Error::new(ErrorKind::Busy, "on request"));
                self.rig.sim.inject(Fault::new(op.unwrap(), refused));
            }
            26 => {
                if self.dice.yes() {
                    self.rig.sim.disconnect("on request");
                } else {
                    self.rig.sim.connect();
                }
            }
            _ => self.touch_host(known),
        }
    }

    /// Calls a method that takes options alone, and does not wait for what it starts.
    async fn start(&self, path: &str, method: &str, options: Options) {
        let (interface, member) = method.split_once('.').unwrap();
        let interface = format!("org.virtsnap1.{interface}");
        let (name, body) = (Some("org.virtsnap1"), (options,));
        let call =
            self.rig.client.connection.call_method(name, path, Some(interface.as_str()), member, &body);
        drop(super::super::client::soon(method, call).await);
    }

    fn vm(&mut self, known: &Mirror) -> Option<String> {
        self.dice.one_of(&known.all("VM"))
    }

    async fn touch_vm(&mut self, known: &Mirror) {
        let Some(vm) = self.vm(known) else { return };
        let client = &self.rig.client;
        match self.dice.below(10) {
            choice @ 0..=5 => {
                let quiesce = if choice == 0 { "never" } else { "prefer" };
                let memory = if choice == 1 { "prefer" } else { "never" };
                let given = options([("quiesce", quiesce.into()), ("memory", memory.into())]);
                let body = ("", given);
                drop(client.call::<_, (OwnedObjectPath,)>(&vm, "VM.CreateSnapshot", &body).await);
            }
            6 => self.start(&vm, "VM.Prune", none()).await,
            7 => {
                let body = (ObjectPath::try_from(vm).unwrap(), "upgrade", none());
                let jobs =
                    client.call::<_, (Vec<OwnedObjectPath>,)>(MANAGER, "Manager.BeforeOperation", &body);
                drop(jobs.await);
            }
            8 => {
                let branches: Vec<_> = known.all("VM");
                let branch =
                    branches.into_iter().find(|vm| known.text(vm, "VM", "Name").starts_with("branch"));
                self.start(&branch.unwrap_or(vm), "VM.Promote", none()).await;
            }
            _ => {
                let of_it = format!("{vm}/snapshot/");
                let foreign = known.all("Snapshot").into_iter().filter(|s| s.starts_with(&of_it));
                let foreign: Vec<_> = foreign.filter(|s| !known.yes(s, "Snapshot", "Managed")).collect();
                let Some(foreign) = self.dice.one_of(&foreign) else {
                    self.made += 1;
                    drop(self.rig.sim.make_foreign_snapshot(number_of(&vm), &format!("theirs{}", self.made)));
                    // Of the snapshot alone libvirt tells nothing.
                    drop(self.rig.sim.set_tags(number_of(&vm), &[]));
                    return;
                };
                let name = known.text(&foreign, "Snapshot", "Name");
                let adopted = options([("snapshots", vec![name].into())]);
                // It answers when it is done, which may be long: its job is waited for where all rests.
                let client = client.clone();
                tokio::spawn(async move { client.call::<_, ()>(&vm, "VM.Adopt", &(adopted,)).await });
            }
        }
    }

    async fn touch_snapshot(&mut self, known: &Mirror) {
        let Some(snapshot) = self.dice.one_of(&known.all("Snapshot")) else { return };
        let client = &self.rig.client;
        match self.dice.below(10) {
            0..=3 => self.start(&snapshot, "Snapshot.Delete", options([("foreign", true.into())])).await,
            4 | 5 => {
                let then = self.dice.one_of(&["as-before", "running", "shut-off"]).unwrap();
                self.start(&snapshot, "Snapshot.Revert", options([("state", then.into())])).await;
            }
            6 => {
                if known.all("VM").len() < CROWD {
                    self.made += 1;
                    let body = (format!("branch{}", self.made), none());
                    drop(client.call::<_, (OwnedObjectPath,)>(&snapshot, "Snapshot.Branch", &body).await);
                }
            }
            7 => drop(client.call::<_, ()>(&snapshot, "Snapshot.Pin", &("on request", 0_u64, none())).await),
            8 => drop(client.call::<_, ()>(&snapshot, "Snapshot.Unpin", &(none(),)).await),
            _ => {
                let tag = self.dice.one_of(&["x", "y"]).unwrap();
                let expires = if self.dice.yes() { 0 } else { 2_300_000_000_000_000_u64 };
                let given = options([("tags", vec![tag].into()), ("expires", expires.into())]);
                drop(client.call::<_, ()>(&snapshot, "Snapshot.Update", &(given,)).await);
            }
        }
    }

    async fn touch_policy(&mut self, known: &Mirror) {
        let policy = policy_path(self.dice.one_of(&NAMES).unwrap());
        let vm = if self.dice.yes() { self.vm(known) } else { None };
        let only = vm.map(|vm| ("vm", OwnedObjectPath::try_from(vm).unwrap().into()));
        let only: Options = only.into_iter().collect();
        match self.dice.below(4) {
            0 => {
                let body = ("on request", only);
                drop(self.rig.client.call::<_, ()>(&policy, "Policy.Suspend", &body).await);
            }
            1 => self.start(&policy, "Policy.Resume", only).await,
            _ => self.start(&policy, "Policy.Run", only).await,
        }
    }

    async fn touch_daemon(&mut self) {
        let client = &self.rig.client;
        match self.dice.below(3) {
            0 => {
                self.rig.write_policies(self.dice.one_of(&POLICIES).unwrap());
                client.call::<_, ()>(MANAGER, "Manager.Reload", &(none(),)).await.unwrap();
            }
            1 => {
                let body = (self.dice.one_of(&["backup", "another"]).unwrap(), "on request", none());
                let kept: Result<(OwnedFd,), _> = client.call(MANAGER, "Manager.Inhibit", &body).await;
                self.kept.extend(kept.map(|(fd,)| fd));
            }
            _ => drop(self.kept.pop()),
        }
    }

    fn touch_host(&mut self, known: &Mirror) {
        let sim = &self.rig.sim;
        let vms = known.all("VM");
        let Some(path) = self.dice.one_of(&vms) else { return };
        let vm = number_of(&path);
        match self.dice.below(9) {
            0 => drop(sim.stop(vm).and_then(|()| sim.rename(vm, &format!("vm{}", self.dice.below(9))))),
            1 | 2 => drop(sim.start(vm)),
            3 => drop(if self.dice.yes() { sim.pause(vm) } else { sim.resume(vm) }),
            4 => drop(sim.set_tags(vm, if self.dice.yes() { &["b"] } else { &[] })),
            5 => drop(sim.agent_connected(vm, self.dice.yes())),
            6 => {
                let minutes = i64::try_from(self.dice.below(600)).unwrap();
                self.rig.clock.advance(SignedDuration::from_mins(minutes));
            }
            7 => {
                drop(sim.stop(vm));
                drop(sim.undefine(vm));
            }
            _ => {
                if vms.len() < CROWD {
                    self.made += 1;
                    let name = format!("vm{}", self.made);
                    sim.add_vm(VmSpec { id: id(self.made), ..VmSpec::new(&name, 1) });
                }
            }
        }
    }
}

/// The VM that a path stands for.
fn number_of(path: &str) -> VmId {
    path.rsplit('/').next().unwrap().replace('_', "-").parse().unwrap()
}
