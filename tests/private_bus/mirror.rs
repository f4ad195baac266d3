//! Signals alone keep a copy correct.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _};
use jiff::SignedDuration;
use virtsnap::hypervisor::{
    Error, ErrorKind,
    sim::{Fault, Mishap, Op, VmSpec},
};
use zbus::{Message, MessageStream, ObjectPath, OwnedFd, OwnedObjectPath, OwnedVariant};

use super::{
    client::{Client, MANAGER, Objects, none, of_ours, options, soon},
    rig::{Rig, id, policy_path, vm_path},
};

/// So many are done, unless the environment says otherwise.
const OPERATIONS: usize = 400;

/// Where nothing is told for so long, the truth is asked for again.
const QUIET: Duration = Duration::from_millis(100);

/// What somebody knows who only listens.
struct Mirror {
    objects: Objects,
    signals: MessageStream,
}

impl Mirror {
    async fn new(client: &Client) -> Self {
        let signals = client.signals().await;
        Self { objects: everything(client).await, signals }
    }

    fn take(&mut self, message: &Message) {
        type Added = (OwnedObjectPath, HashMap<String, HashMap<String, OwnedVariant>>);
        let header = message.header();
        let body = message.body();
        match header.member().unwrap().as_str() {
            "InterfacesAdded" => {
                let (path, interfaces): Added = body.deserialize().unwrap();
                self.objects.entry(path.to_string()).or_default().extend(of_ours(interfaces));
            }
            "InterfacesRemoved" => {
                let (path, interfaces): (OwnedObjectPath, Vec<String>) = body.deserialize().unwrap();
                if let Some(object) = self.objects.get_mut(path.as_str()) {
                    object.retain(|name, _| !interfaces.contains(name));
                    if object.is_empty() {
                        self.objects.remove(path.as_str());
                    }
                }
            }
            "PropertiesChanged" => {
                let (interface, changed, invalidated): (String, HashMap<String, OwnedVariant>, Vec<String>) =
                    body.deserialize().unwrap();
                assert_eq!(invalidated, [] as [String; 0], "a change carries its value");
                let path = header.path().unwrap().as_str();
                let object = self.objects.get_mut(path).unwrap_or_else(|| panic!("{path} was never added"));
                object.get_mut(&interface).expect("its interface").extend(changed);
            }
            _ => {}
        }
    }

    /// Listens until it equals what the daemon says, which it must when all is quiet.
    async fn until_right(&mut self, client: &Client) {
        let listening = async {
            loop {
                let truth = everything(client).await;
                while let Some(Some(message)) = self.signals.next().now_or_never() {
                    self.take(&message.unwrap());
                }
                if self.objects == truth {
                    return;
                }
                // The truth is two answers: what comes between them is in one of the two, and its signal may be the last.
                if let Ok(next) = tokio::time::timeout(QUIET, self.signals.next()).await {
                    self.take(&next.expect("the bus goes on").unwrap());
                }
            }
        };
        if tokio::time::timeout(super::rig::DEADLINE, listening).await.is_ok() {
            return;
        }
        let truth = everything(client).await;
        let mut differences = Vec::new();
        for path in self.objects.keys().chain(truth.keys()).collect::<std::collections::BTreeSet<_>>() {
            let (mirrored, true_one) = (self.objects.get(path), truth.get(path));
            if mirrored != true_one {
                differences.push(format!("{path}:\n  mirrored {mirrored:?}\n  true     {true_one:?}"));
            }
        }
        panic!("signals do not tell all:\n{}", differences.join("\n"));
    }
}

/// All objects, and the daemon's own, which is not below itself.
async fn everything(client: &Client) -> Objects {
    let mut all = client.managed().await;
    let method = "org.freedesktop.DBus.Properties.GetAll";
    let (root,): (HashMap<String, OwnedVariant>,) =
        client.call(MANAGER, method, &("org.virtsnap1.Manager",)).await.unwrap();
    all.insert(MANAGER.to_owned(), of_ours([("org.virtsnap1.Manager".to_owned(), root)]));
    all
}

/// Numbers that look random and are the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit
    }
}

const POLICIES: [&str; 3] = [
    "[policy.a]\nvms = [\"vm*\"]\nkeep-last = 2\nbefore = \"upgrade\"\n[policy.b]\nvms = [\"tag:b\"]\nkeep-last = 3\nschedule = \"@daily\"\n",
    "[policy.a]\nvms = [\"vm1\", \"vm3\"]\nkeep-last = 1\n[policy.c]\nvms = [\"*\"]\nmax-count = 2\n",
    "[policy.b]\nvms = [\"*\"]\nkeep-last = 1\ntimezone = \"Europe/Vienna\"\nschedule = \"5 4 * * *\"\n",
];

async fn something(rig: &Rig, dice: &mut Dice, kept: &mut Vec<OwnedFd>) {
    let vm = id(u128::from(dice.below(3) + 1));
    let client = &rig.client;
    // Whether it succeeds is not the question here; that all of it is told is.
    match dice.below(23) {
        0..=3 => drop(client.ask_create(vm, "", none()).await),
        4 => drop(client.create(vm, "s", options([("quiesce", "never".into())])).await),
        5 | 6 => {
            let snapshots = client.snapshots(vm).await;
            if !snapshots.is_empty() {
                let name = &snapshots[usize::try_from(dice.below(snapshots.len() as u64)).unwrap()];
                let path = super::rig::snapshot_path(vm, name);
                drop(client.job(&path, "Snapshot.Delete", none()).await);
            }
        }
        7 => drop(client.run(["a", "b", "c"][usize::try_from(dice.below(3)).unwrap()], none()).await),
        8 => drop(client.call::<_, (OwnedObjectPath,)>(&vm_path(vm), "VM.Prune", &(none(),)).await),
        9 => {
            rig.write_policies(POLICIES[usize::try_from(dice.below(3)).unwrap()]);
            client.call::<_, ()>(MANAGER, "Manager.Reload", &(none(),)).await.unwrap();
        }
        10 => drop(rig.sim.stop(vm).and_then(|()| rig.sim.rename(vm, &format!("vm{}", dice.below(9))))),
        11 => drop(rig.sim.start(vm)),
        12 => drop(rig.sim.set_tags(vm, if dice.below(2) == 0 { &["b"] } else { &[] })),
        13 => drop(rig.sim.agent_connected(vm, dice.below(2) == 0)),
        14 => {
            let op = [Op::Create, Op::Commit, Op::Prepare][usize::try_from(dice.below(3)).unwrap()];
            rig.sim.inject(Fault::new(op, Mishap::Refuse(Error::new(ErrorKind::Busy, "on request"))));
        }
        17 => {
            let body = (["backup", "another"][usize::from(dice.below(2) == 0)], "on request", none());
            let kept_now: Result<(OwnedFd,), _> = client.call(MANAGER, "Manager.Inhibit", &body).await;
            kept.extend(kept_now.map(|(fd,)| fd));
        }
        18 => drop(kept.pop()),
        19 => {
            let body = (ObjectPath::try_from(vm_path(vm)).unwrap(), "upgrade", none());
            let jobs: Result<(Vec<OwnedObjectPath>,), _> =
                client.call(MANAGER, "Manager.BeforeOperation", &body).await;
            drop(jobs);
        }
        20 => {
            let policy = policy_path(["a", "b", "c"][usize::try_from(dice.below(3)).unwrap()]);
            if dice.below(2) == 0 {
                let body = ("on request", none());
                drop(client.call::<_, ()>(&policy, "Policy.Suspend", &body).await);
            } else {
                drop(client.call::<_, ()>(&policy, "Policy.Resume", &(none(),)).await);
            }
        }
        21 => rig.clock.advance(SignedDuration::from_mins(i64::try_from(dice.below(600)).unwrap())),
        15 | 16 => {
            let snapshots = client.snapshots(vm).await;
            if !snapshots.is_empty() {
                let name = &snapshots[usize::try_from(dice.below(snapshots.len() as u64)).unwrap()];
                let path = super::rig::snapshot_path(vm, name);
                if dice.below(2) == 0 {
                    drop(client.call::<_, ()>(&path, "Snapshot.Pin", &("on request", 0_u64, none())).await);
                } else {
                    drop(client.call::<_, ()>(&path, "Snapshot.Unpin", &(none(),)).await);
                }
                let tags =
                    options([("tags", vec![["x", "y"][usize::try_from(dice.below(2)).unwrap()]].into())]);
                drop(client.call::<_, ()>(&path, "Snapshot.Update", &(tags,)).await);
            }
        }
        _ => {
            if rig.sim.stop(vm).is_ok() | rig.sim.undefine(vm).is_ok() {
                drop(rig.sim.make_foreign_snapshot(vm, "theirs"));
                if rig.hypervisor.vm(vm).is_err() {
                    let name = format!("new{}-{}", vm, dice.below(1000));
                    rig.sim.add_vm(VmSpec { id: vm, ..VmSpec::new(&name, 1) });
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_only_listens_knows_all_after_hundreds_of_random_operations() {
    let seed = std::env::var("VIRTSNAP_TEST_SEED").ok().and_then(|s| s.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) | 1);
    println!("VIRTSNAP_TEST_SEED={seed}");
    let rig = Rig::start(POLICIES[0], |sim| {
        for number in 1..=3 {
            sim.add_vm(VmSpec::new(&format!("vm{number}"), number));
        }
    })
    .await;
    let mut mirror = Mirror::new(&rig.client).await;
    let mut dice = Dice(seed);
    let mut ended = BTreeMap::new();
    let mut kept = Vec::new();
    let operations = std::env::var("VIRTSNAP_TEST_OPERATIONS").ok().and_then(|s| s.parse().ok());
    for i in 0..operations.unwrap_or(OPERATIONS) {
        something(&rig, &mut dice, &mut kept).await;
        if i % 50 == 49 {
            rig.sim.heal();
            // What is held would never end.
            kept.clear();
            rig.client.until_idle().await;
            mirror.until_right(&rig.client).await;
            for (path, interfaces) in &mirror.objects {
                if let Some(job) = interfaces.get("org.virtsnap1.Job") {
                    let word = |name: &str| String::try_from(job[name].clone()).unwrap();
                    ended.insert(path.clone(), (word("Operation"), word("Result")));
                }
            }
        }
    }
    println!("{} objects at the end, {} jobs", mirror.objects.len(), ended.len());
    // Most of it is luck, but not that nothing at all was done.
    let done =
        |operation: &str| ended.values().filter(|(of, result)| of == operation && result == "done").count();
    assert!(done("create") >= 10, "{} snapshots were taken: {ended:?}", done("create"));
    assert!(done("delete") + done("prune") > 0, "nothing was deleted: {ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_carry_values_and_jobs_and_policies_come_and_go_with_signals() {
    let rig = Rig::start("[policy.old]\nvms = [\"*\"]\n", |sim| {
        sim.add_vm(VmSpec::new("web", 1));
    })
    .await;
    let mut signals = rig.client.signals().await;
    let mut next = async |wanted: &str, path: &str| -> Message {
        soon(&format!("{wanted} of {path}"), async {
            loop {
                let message = signals.next().await.expect("the bus goes on").unwrap();
                let header = message.header();
                let about = match header.member().unwrap().as_str() {
                    "PropertiesChanged" => header.path().unwrap().to_string(),
                    "JobNew" | "JobRemoved" => MANAGER.to_owned(),
                    _ => first_path(&message),
                };
                if header.member().unwrap().as_str() == wanted && about == path {
                    return message.clone();
                }
            }
        })
        .await
    };
    rig.sim.pause(id(1)).unwrap();
    let changed = next("PropertiesChanged", &vm_path(id(1))).await;
    let (interface, values, _): (String, HashMap<String, OwnedVariant>, Vec<String>) =
        changed.body().deserialize().unwrap();
    assert_eq!(interface, "org.virtsnap1.VM");
    assert_eq!(values.keys().collect::<Vec<_>>(), ["State"]);
    assert_eq!(String::try_from(values["State"].clone()).unwrap(), "paused");

    let job = rig.client.ask_create(id(1), "s1", none()).await.unwrap();
    let new: (u32, OwnedObjectPath) = next("JobNew", MANAGER).await.body().deserialize().unwrap();
    assert_eq!((format!("{MANAGER}/job/{}", new.0), new.1.to_string()), (job.clone(), job.clone()));
    rig.client.wait(&job).await.unwrap();

    rig.write_policies("[policy.new]\nvms = [\"*\"]\n");
    rig.client.call::<_, ()>(MANAGER, "Manager.Reload", &(none(),)).await.unwrap();
    next("InterfacesRemoved", &policy_path("old")).await;
    next("InterfacesAdded", &policy_path("new")).await;
}

/// The first argument of `InterfacesAdded` and `InterfacesRemoved`.
fn first_path(message: &Message) -> String {
    type Added = (OwnedObjectPath, HashMap<String, HashMap<String, OwnedVariant>>);
    let body = message.body();
    body.deserialize::<Added>()
        .map(|(path, _)| path)
        .or_else(|_| body.deserialize::<(OwnedObjectPath, Vec<String>)>().map(|(path, _)| path))
        .unwrap()
        .to_string()
}
