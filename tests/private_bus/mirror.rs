//! Signals alone keep a copy correct.

mod hands;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _};
use virtsnap::hypervisor::sim::VmSpec;
use zbus::{Message, MessageStream, OwnedObjectPath, OwnedVariant};

use self::hands::{Hands, POLICIES};
use super::{
    client::{Client, Interfaces, MANAGER, Objects, none, of_ours, soon},
    documented::properties,
    rig::{Rig, id, policy_path, vm_path},
};

/// So many are done, unless the environment says otherwise.
const OPERATIONS: usize = 2000;

/// After so many, all comes to rest and is compared.
const BETWEEN: usize = 100;

/// Where nothing is told for so long, the truth is asked for again.
const QUIET: Duration = Duration::from_millis(100);

/// What somebody knows who only listens.
struct Mirror {
    objects: Objects,
    /// Those that `JobNew` told of, and no `JobRemoved`.
    jobs: BTreeSet<String>,
    announced: BTreeMap<(String, String), String>,
    signals: MessageStream,
}

impl Mirror {
    async fn new(client: &Client) -> Self {
        let signals = client.signals().await;
        let objects = everything(client).await;
        Self { jobs: jobs(&objects), objects, announced: properties(), signals }
    }

    /// Takes in all that is there already.
    fn catch_up(&mut self) {
        while let Some(Some(message)) = self.signals.next().now_or_never() {
            self.take(&message.unwrap());
        }
    }

    fn take(&mut self, message: &Message) {
        type Added = (OwnedObjectPath, HashMap<String, HashMap<String, OwnedVariant>>);
        let header = message.header();
        let body = message.body();
        match header.member().unwrap().as_str() {
            "InterfacesAdded" => {
                let (path, interfaces): Added = body.deserialize().unwrap();
                self.add(path.as_str(), of_ours(interfaces));
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
                for property in changed.keys() {
                    let how = &self.announced[&(interface.clone(), property.clone())];
                    assert_eq!(how, "true", "{path} tells of a change of {interface}.{property}");
                }
                let object = self.objects.get_mut(path).unwrap_or_else(|| panic!("{path} was never added"));
                object.get_mut(&interface).expect("its interface").extend(changed);
            }
            "JobNew" => {
                let (number, job): (u32, OwnedObjectPath) = body.deserialize().unwrap();
                assert_eq!(job.as_str(), format!("{MANAGER}/job/{number}"));
                assert!(self.objects.contains_key(job.as_str()), "{job} is there before it is told of");
                self.jobs.insert(job.to_string());
            }
            "JobRemoved" => {
                let (_, job, result): (u32, OwnedObjectPath, String) = body.deserialize().unwrap();
                assert!(["done", "failed", "cancelled"].contains(&result.as_str()), "{job}: {result:?}");
                self.jobs.remove(job.as_str());
            }
            _ => {}
        }
    }

    fn add(&mut self, path: &str, interfaces: Interfaces) {
        let object = self.objects.entry(path.to_owned()).or_default();
        for (interface, properties) in interfaces {
            // The first answer may have had it already; what cannot change must be the same then.
            for (property, first) in object.get(&interface).into_iter().flatten() {
                if self.announced[&(interface.clone(), property.clone())] == "const" {
                    assert_eq!(Some(first), properties.get(property), "{path}: {interface}.{property}");
                }
            }
            object.insert(interface, properties);
        }
    }

    /// Listens until it equals what the daemon says, which it must when all is quiet.
    async fn until_right(&mut self, client: &Client) {
        let listening = async {
            loop {
                let truth = everything(client).await;
                self.catch_up();
                if self.objects == truth && self.jobs == jobs(&truth) {
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
        for path in self.objects.keys().chain(truth.keys()).collect::<BTreeSet<_>>() {
            let (mirrored, true_one) = (self.objects.get(path), truth.get(path));
            if mirrored != true_one {
                differences.push(format!("{path}:\n  mirrored {mirrored:?}\n  true     {true_one:?}"));
            }
        }
        let of_jobs = self.jobs.symmetric_difference(&jobs(&truth)).cloned().collect::<Vec<_>>();
        panic!("signals do not tell all:\n{}\njobs: {of_jobs:?}", differences.join("\n"));
    }

    /// The interface's objects.
    fn all(&self, interface: &str) -> Vec<String> {
        let interface = format!("org.virtsnap1.{interface}");
        let with = self.objects.iter().filter(|(_, interfaces)| interfaces.contains_key(&interface));
        with.map(|(path, _)| path.clone()).collect()
    }

    /// The jobs that have ended, and how.
    fn note_ends(&self, ended: &mut Ended) {
        for job in self.all("Job") {
            let how = (self.text(&job, "Job", "Operation"), self.text(&job, "Job", "Result"));
            ended.entry(how).or_default().insert(job);
        }
    }

    /// A property that is true or false.
    fn yes(&self, path: &str, interface: &str, property: &str) -> bool {
        bool::try_from(self.objects[path][&format!("org.virtsnap1.{interface}")][property].clone()).unwrap()
    }

    /// A property that is text.
    fn text(&self, path: &str, interface: &str, property: &str) -> String {
        let value = &self.objects[path][&format!("org.virtsnap1.{interface}")][property];
        String::try_from(value.clone()).unwrap()
    }
}

fn jobs(objects: &Objects) -> BTreeSet<String> {
    objects.keys().filter(|path| path.contains("/job/")).cloned().collect()
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

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_only_listens_knows_all_after_thousands_of_random_operations() {
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
    let mut hands = Hands::new(&rig, seed);
    let mut ended = Ended::new();
    hands.each_once().await;
    hands.rest().await;
    mirror.until_right(&rig.client).await;
    mirror.note_ends(&mut ended);
    let done = |ended: &Ended, how: (&str, &str)| {
        ended.get(&(how.0.to_owned(), how.1.to_owned())).map_or(0, BTreeSet::len)
    };
    for operation in ["create", "delete", "prune", "revert", "branch", "promote", "adopt"] {
        assert!(done(&ended, (operation, "done")) > 0, "no {operation} was done: {ended:?}");
    }
    assert_eq!(done(&ended, ("create", "cancelled")), 1, "{ended:?}");

    let operations = std::env::var("VIRTSNAP_TEST_OPERATIONS").ok().and_then(|s| s.parse().ok());
    let operations = operations.unwrap_or(OPERATIONS);
    for i in 1..=operations {
        mirror.catch_up();
        hands.something(&mirror).await;
        if i % BETWEEN == 0 {
            hands.rest().await;
            mirror.until_right(&rig.client).await;
            mirror.note_ends(&mut ended);
        }
    }
    let counts: BTreeMap<_, _> = ended.iter().map(|(how, jobs)| (how, jobs.len())).collect();
    println!("{} objects at the end; {counts:?}", mirror.objects.len());
    // Which do is luck, but not that hardly any did.
    assert!(done(&ended, ("create", "done")) > operations / 50, "few snapshots were taken: {counts:?}");
}

/// Jobs, by their operations and results.
type Ended = BTreeMap<(String, String), BTreeSet<String>>;

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
