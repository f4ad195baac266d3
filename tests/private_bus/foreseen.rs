//! What a policy would do is told by what does it.

use std::collections::{BTreeMap, HashMap};

use jiff::SignedDuration;
use virtsnap::hypervisor::sim::VmSpec;
use zbus::{ObjectPath, OwnedFd, OwnedObjectPath, OwnedVariant};

use super::{
    client::{Failure, MANAGER, Options, none, options},
    command_line::virtsnap,
    rig::{Rig, id, policy_path, snapshot_path, vm_path},
    time_travel::told,
};

const POLICIES: &str = r#"
[policy.p]
vms = ["*", "!other"]
schedule = "30 2 * * *"
spread = "20min"
when = "running"
keep-last = 2
[policy.q]
vms = ["web"]
"#;

type Fate = (OwnedObjectPath, String, bool, Vec<(String, String, String)>, String);

/// What is foreseen on one VM.
struct Foreseen(HashMap<String, OwnedVariant>);

impl Foreseen {
    fn get<T: TryFrom<OwnedVariant>>(&self, key: &str) -> Option<T> {
        let value = self.0.get(key)?.clone();
        Some(T::try_from(value).unwrap_or_else(|_| panic!("{key} has another type")))
    }

    fn text(&self, key: &str) -> String {
        self.get(key).unwrap_or_else(|| panic!("no {key}"))
    }

    /// The names of the snapshots that would go.
    fn doomed(&self) -> Vec<String> {
        let verdicts: Vec<Fate> = self.get("verdicts").expect("verdicts");
        verdicts.into_iter().filter(|(_, _, keep, ..)| !keep).map(|(_, name, ..)| name).collect()
    }
}

async fn foresee(rig: &Rig, options: Options) -> Result<BTreeMap<String, Foreseen>, Failure> {
    let (all,): (Vec<HashMap<String, OwnedVariant>>,) =
        rig.client.call(&policy_path("p"), "Policy.Preview", &(options,)).await?;
    let all = all.into_iter().map(Foreseen);
    Ok(all.map(|f| (f.get::<OwnedObjectPath>("vm").expect("a VM").to_string(), f)).collect())
}

async fn three() -> Rig {
    Rig::start(POLICIES, |sim| {
        sim.add_vm(VmSpec::new("web", 1));
        sim.add_vm(VmSpec::new("db", 2));
        sim.add_vm(VmSpec::new("other", 3));
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_foreseen_is_what_a_run_then_does() {
    let rig = three().await;
    let web = vm_path(id(1));
    let mut gone = 0;
    for round in 0..5 {
        rig.clock.advance(SignedDuration::from_mins(1));
        let before = rig.client.snapshots(id(1)).await;
        let foreseen = foresee(&rig, none()).await.unwrap();
        assert_eq!(foreseen.keys().collect::<Vec<_>>(), [&web, &vm_path(id(2))]);
        assert_eq!(foreseen[&web].text("outlook"), "take");
        let doomed = foreseen[&web].doomed();
        assert_eq!(rig.client.snapshots(id(1)).await, before, "nothing was changed");

        let jobs = rig.client.run("p", none()).await.unwrap();
        let mut made = Vec::new();
        for job in &jobs {
            made.push(rig.client.wait(job).await.unwrap());
        }
        rig.client.until_idle().await;
        // The second in which it is taken may be another one.
        let name = foreseen[&web].text("name");
        let (name, _) = name.split_at("p-20400615T".len());
        let path = snapshot_path(id(1), name);
        assert!(made.iter().any(|made| made.starts_with(&path)), "{path} in {made:?}");
        let after = rig.client.snapshots(id(1)).await;
        let lost: Vec<_> = before.into_iter().filter(|name| !after.contains(name)).collect();
        assert_eq!(lost, doomed, "round {round}");
        gone += lost.len();
    }
    assert_eq!(gone, 3, "two of five stay");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeline_says_what_goes_at_the_next_run_and_that_run_takes_it() {
    // Days count by when a run comes, not by when somebody asks: one now would take the place of today's.
    let daily = "[policy.daily]\nvms = [\"web\"]\nschedule = \"30 2 1 1 *\"\nkeep-daily = 2\n";
    let rig = Rig::start(daily, |sim| {
        sim.add_vm(VmSpec::new("web", 1));
    })
    .await;
    let mut goes: Option<String> = None;
    for day in 0..4 {
        for job in rig.client.run("daily", none()).await.unwrap() {
            rig.client.wait(&job).await.unwrap();
        }
        rig.client.until_idle().await;
        let there = rig.client.snapshots(id(1)).await;
        assert_eq!(there.len(), (day + 1).min(2), "{there:?}");
        assert!(goes.is_none_or(|goes| !there.contains(&goes)), "it was to go: {there:?}");

        let (code, out, err) = told(&rig, None, &["list", "web", "--timeline"]).await;
        assert_eq!((code, err.as_str()), (0, ""));
        let marked: Vec<_> = out
            .lines()
            .filter(|l| l.contains("goes at the next run of daily (2041-01-01 02:30:00, in "))
            .collect();
        let (_, json, _) = told(&rig, None, &["list", "web", "--timeline", "--json"]).await;
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let all = json["snapshots"].as_array().unwrap();
        let (going, staying): (Vec<_>, Vec<_>) = all.iter().partition(|point| !point["goes"].is_null());
        rig.clock.advance(SignedDuration::from_hours(24));
        goes = (day > 0).then(|| there[0].clone());
        if day == 0 {
            assert_eq!((marked.len(), going.len()), (0, 0), "there is room for it: {out}");
            continue;
        }
        assert_eq!((marked.len(), going.len(), staying.len()), (1, 1, 1), "{out}");
        assert!(marked[0].contains(&there[0]), "the oldest of {there:?}: {out}");
        assert!(marked[0].contains("no keep rule of policy daily wants it"), "{out}");
        assert_eq!(going[0]["name"], there[0].as_str());
        assert_eq!(going[0]["goes"]["policy"], "daily");
        assert_eq!(going[0]["goes"]["at"], "2041-01-01T02:30:00+00:00", "{json}");
        assert_eq!(going[0]["next"]["keep"], true, "a prune now takes nothing");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_what_is_in_the_way_and_when_the_turn_of_each_vm_comes() {
    let rig = three().await;
    let (web, db) = (vm_path(id(1)), vm_path(id(2)));
    let next: u64 = rig.client.get(&policy_path("p"), "Policy.NextRunUSec").await;
    let all = foresee(&rig, none()).await.unwrap();
    let turns: Vec<u64> = all.values().map(|f| f.get("next-run-usec").expect("a time")).collect();
    assert!(turns.iter().all(|at| (next..next + 20 * 60_000_000).contains(at)), "{turns:?} after {next}");
    assert_ne!(turns[0], turns[1], "each has its own place in the spread");

    rig.sim.stop(id(2)).unwrap();
    rig.client.until(&db, "VM.State", |state: &String| state == "shut-off").await;
    let all = foresee(&rig, none()).await.unwrap();
    assert_eq!(all[&db].text("outlook"), "wrong-state");
    assert!(all[&db].text("text").contains("the VM is shut-off"), "{}", all[&db].text("text"));
    assert_eq!(all[&db].get::<String>("name"), None);

    let body = ("backup", "copies", none());
    let (fd,): (OwnedFd,) = rig.client.call(MANAGER, "Manager.Inhibit", &body).await.unwrap();
    let all = foresee(&rig, none()).await.unwrap();
    assert_eq!(all[&web].text("outlook"), "held");
    assert!(all[&web].text("text").contains("backup of user 0"), "{}", all[&web].text("text"));
    assert!(all[&web].get::<String>("name").is_some(), "it is taken, later");
    drop(fd);

    let why = ("moving house", none());
    let () = rig.client.call(&policy_path("p"), "Policy.Suspend", &why).await.unwrap();
    let all = foresee(&rig, none()).await.unwrap();
    assert_eq!(all[&web].text("outlook"), "suspended");
    assert!(all[&web].text("text").contains("moving house"), "{}", all[&web].text("text"));
    assert_eq!(all[&web].get::<u64>("next-run-usec"), Some(0));
    let (code, out, _) = virtsnap(&["--bus-address", &rig.address(), "plan", "--policy", "p", "web"]).await;
    assert_eq!(code, Some(0));
    assert!(out.starts_with("web: takes nothing, as it is suspended by hand since "), "{out}");
    assert!(!out.contains("db"), "{out}");

    // Suspended on one VM alone, it goes on elsewhere.
    let () = rig.client.call(&policy_path("p"), "Policy.Resume", &(none(),)).await.unwrap();
    let on_web = options([("vm", ObjectPath::try_from(web.clone()).unwrap().into())]);
    let () = rig.client.call(&policy_path("p"), "Policy.Suspend", &("", on_web)).await.unwrap();
    let all = foresee(&rig, none()).await.unwrap();
    assert_eq!(all[&web].text("outlook"), "suspended");
    assert_eq!(all[&web].get::<u64>("next-run-usec"), Some(0));
    assert!(all[&db].get::<u64>("next-run-usec").unwrap() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_vm_alone_can_be_asked_about_and_what_is_wrong_is_refused() {
    let rig = three().await;
    let on = |path: String| options([("vm", ObjectPath::try_from(path).unwrap().into())]);
    let one = foresee(&rig, on(vm_path(id(2)))).await.unwrap();
    assert_eq!(one.into_keys().collect::<Vec<_>>(), [vm_path(id(2))]);
    assert_eq!(foresee(&rig, on(vm_path(id(3)))).await.err().unwrap().0, "InvalidArgument");
    assert_eq!(foresee(&rig, on(vm_path(id(9)))).await.err().unwrap().0, "NoSuchVM");
    let unknown = options([("all", true.into())]);
    assert_eq!(foresee(&rig, unknown).await.err().unwrap().0, "InvalidArgument");
}
