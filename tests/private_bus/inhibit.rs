//! Programs that have scheduled runs wait, for as long as they keep a file descriptor.

use jiff::SignedDuration;
use virtsnap::{
    core::inhibit::{AT_ONCE, PER_USER},
    hypervisor::sim::VmSpec,
};
use zbus::OwnedFd;

use super::{
    client::{Client, Failure, MANAGER, none, options},
    command_line::virtsnap,
    rig::{Rig, id, policy_path},
};

const HOURLY: &str = "[policy.p]\nvms = [\"*\"]\nschedule = \"5 * * * *\"\nkeep-last = 2\n";

/// As the bus has them: who, why, the user, since when.
type Inhibitors = Vec<(String, String, u32, u64)>;

async fn one() -> Rig {
    Rig::start(HOURLY, |sim| {
        sim.add_vm(VmSpec::new("web", 1));
    })
    .await
}

async fn inhibit(client: &Client, who: &str, why: &str) -> Result<OwnedFd, Failure> {
    let (fd,): (OwnedFd,) = client.call(MANAGER, "Manager.Inhibit", &(who, why, none())).await?;
    Ok(fd)
}

async fn until_so_many(rig: &Rig, wanted: usize) {
    rig.client.until(MANAGER, "Manager.Inhibitors", |all: &Inhibitors| all.len() == wanted).await;
}

/// Lets an hour pass, and waits until the policy fired for it.
async fn hour(rig: &Rig) {
    let due = rig.client.get::<u64>(&policy_path("p"), "Policy.NextRunUSec").await;
    rig.clock.advance(SignedDuration::from_hours(1));
    // Anything that happens makes the daemon look at the clock.
    rig.sim.set_tags(id(1), &[&due.to_string()]).unwrap();
    rig.client.until(&policy_path("p"), "Policy.LastRunUSec", |at: &u64| *at >= due).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduled_run_waits_until_the_descriptor_and_its_duplicates_are_closed() {
    let rig = one().await;
    let fd = inhibit(&rig.client, "backup", "copies images").await.unwrap();
    let all: Inhibitors = rig.client.get(MANAGER, "Manager.Inhibitors").await;
    let [(who, why, 0, since)] = &all[..] else { panic!("{all:?}") };
    assert_eq!((who.as_str(), why.as_str(), *since > 0), ("backup", "copies images", true));
    hour(&rig).await;
    let job = rig.client.managed().await.into_keys().find(|path| path.contains("/job/")).expect("one waits");
    assert_eq!(rig.client.text(&job, "Job.State").await, "queued");
    assert_eq!(rig.client.text(&job, "Job.Phase").await, "held by backup of user 0: copies images");
    let (_, out, _) = virtsnap(&["--bus-address", &rig.address(), "status"]).await;
    assert!(out.contains("Scheduled runs and prunes wait:\n  held by backup of user 0 since "), "{out}");
    // By hand all goes as ever.
    rig.client.create(id(1), "mine", none()).await.unwrap();

    let copy = std::os::fd::OwnedFd::from(fd).try_clone().unwrap();
    assert_eq!(rig.client.get::<Inhibitors>(MANAGER, "Manager.Inhibitors").await.len(), 1);
    assert_eq!(rig.client.text(&job, "Job.State").await, "queued");
    drop(copy);
    until_so_many(&rig, 0).await;
    rig.client.wait(&job).await.unwrap();
    rig.client.until_idle().await;
    assert_eq!(rig.client.snapshots(id(1)).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_kept_by_the_descriptor_and_does_not_outlive_the_daemon() {
    let mut rig = one().await;
    let address = rig.address();
    let other = Client::connect(&address).await;
    let fd = inhibit(&other, "backup", "").await.unwrap();
    // Off the bus, and the descriptor is there: that is what counts.
    other.connection.close().await.unwrap();
    assert_eq!(rig.client.get::<Inhibitors>(MANAGER, "Manager.Inhibitors").await.len(), 1);
    rig.stop().await;
    rig.boot().await;
    rig.until_running().await;
    assert_eq!(rig.client.get::<Inhibitors>(MANAGER, "Manager.Inhibitors").await, []);
    drop(fd);
    hour(&rig).await;
    rig.client.until_idle().await;
    assert_eq!(rig.client.snapshots(id(1)).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_has_more_than_so_many_and_what_is_wrong_is_refused() {
    let rig = one().await;
    let mut kept = Vec::new();
    for _ in 0..PER_USER {
        kept.push(inhibit(&rig.client, "backup", "").await.unwrap());
    }
    let (name, text) = inhibit(&rig.client, "backup", "").await.unwrap_err();
    assert!(name == "LimitExceeded" && text.contains("user 0 has 16"), "{name}: {text}");
    // What is let go leaves room, however often.
    for round in 0..AT_ONCE {
        kept.remove(round % PER_USER);
        until_so_many(&rig, PER_USER - 1).await;
        kept.push(inhibit(&rig.client, "backup", "").await.unwrap());
    }
    kept.clear();
    until_so_many(&rig, 0).await;
    for (who, why) in [("", ""), (" ", ""), ("a\nb", ""), (&"x".repeat(129), ""), ("x", &"x".repeat(1025))] {
        assert_eq!(inhibit(&rig.client, who, why).await.unwrap_err().0, "InvalidArgument", "{who:?}");
    }
    let body = ("x", "", options([("what", "all".into())]));
    let unknown: Result<(OwnedFd,), _> = rig.client.call(MANAGER, "Manager.Inhibit", &body).await;
    assert_eq!(unknown.unwrap_err().0, "InvalidArgument");
}
