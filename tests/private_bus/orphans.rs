//! Files that belong to nobody: told, put in quarantine by command, and removed after a week.

use jiff::SignedDuration;
use virtsnap::{
    core::{model::SnapshotName, stray::QUARANTINE},
    hypervisor::{
        Error, ErrorKind, Hypervisor as _,
        sim::{Fault, Mishap, Op, VmSpec},
    },
};

use super::{
    client::{none, options},
    command_line::virtsnap,
    rig::{Rig, id, vm_path},
};

type Orphans = Vec<(String, u64, u64)>;
type Forgotten = Vec<(String, String, u64, u64)>;

const STRAY: &str = "/images/left-over.qcow2";

/// A VM with a snapshot, and a file on its images that nobody has.
async fn with_stray() -> Rig {
    let rig = Rig::start("", |sim| {
        sim.add_vm(VmSpec::new("web", 1));
        let base = sim.vm(id(1)).unwrap().disks[0].chain[0].path.clone();
        sim.make_image(STRAY, &base).unwrap();
    })
    .await;
    rig.client.until(&vm_path(id(1)), "VM.Orphans", |o: &Orphans| o.len() == 1).await;
    rig
}

async fn adopt(rig: &Rig, paths: &[&str]) -> Result<(), (String, String)> {
    let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
    let given = if paths.is_empty() { none() } else { options([("orphans", paths.into())]) };
    rig.client.call(&vm_path(id(1)), "VM.Adopt", &(given,)).await
}

async fn orphans(rig: &Rig) -> Orphans {
    rig.client.get(&vm_path(id(1)), "VM.Orphans").await
}

/// A week later, and libvirt comes back, so that it is looked again.
fn a_week_later(rig: &Rig) {
    rig.clock.advance(QUARANTINE + SignedDuration::from_mins(1));
    rig.sim.disconnect("a week goes by");
    rig.sim.connect();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_told_and_in_quarantine_by_command_and_gone_after_a_week() {
    let rig = with_stray().await;
    let vm = vm_path(id(1));
    assert_eq!(rig.client.text(&vm, "VM.Health").await, "degraded");
    let reason = rig.client.text(&vm, "VM.HealthReason").await;
    assert!(reason.starts_with(STRAY) && reason.contains("adopt --orphans"), "{reason}");
    let (path, bytes, removed) = orphans(&rig).await.remove(0);
    assert_eq!((path.as_str(), removed), (STRAY, 0));
    assert_eq!(bytes, rig.sim.files()[STRAY]);

    adopt(&rig, &[STRAY]).await.unwrap();
    assert!(orphans(&rig).await[0].2 > 0);
    assert_eq!(rig.client.text(&vm, "VM.Health").await, "ok");
    assert!(rig.images().contains(&STRAY.to_owned()), "it stays as it is");
    a_week_later(&rig);
    rig.client.until(&vm, "VM.Orphans", |o: &Orphans| o.is_empty()).await;
    assert!(!rig.images().contains(&STRAY.to_owned()));
    assert_eq!(rig.images().len(), 1, "and nothing else");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_has_by_then_stays() {
    let rig = with_stray().await;
    adopt(&rig, &[STRAY]).await.unwrap();
    let mut other = VmSpec::new("other", 2);
    STRAY.clone_into(&mut other.disks[0].path);
    rig.sim.add_vm(other);
    a_week_later(&rig);
    rig.client.until(&vm_path(id(1)), "VM.Orphans", |o: &Orphans| o.is_empty()).await;
    rig.client.until_idle().await;
    assert!(rig.images().contains(&STRAY.to_owned()));
    assert_eq!(rig.store().quarantined_since(jiff::Timestamp::MAX).unwrap(), [].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_the_removal_is_cut_short_it_ends_with_the_next_look_and_nothing_else_goes() {
    for op in [Op::Strays, Op::Vm, Op::Discard] {
        for lost in [false, true] {
            let rig = with_stray().await;
            adopt(&rig, &[STRAY]).await.unwrap();
            let error = Error::new(ErrorKind::Failed, "on request");
            let mishap = if lost { Mishap::Lose(error) } else { Mishap::Refuse(error) };
            rig.sim.inject(Fault::new(op, mishap));
            a_week_later(&rig);
            rig.client.until(&vm_path(id(1)), "VM.AgentConnected", |_: &bool| true).await;
            rig.client.until_idle().await;
            rig.sim.heal();
            a_week_later(&rig);
            rig.client.until(&vm_path(id(1)), "VM.Orphans", |o: &Orphans| o.is_empty()).await;
            assert_eq!(rig.images().len(), 1, "{op:?} {lost}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_shows_them_and_takes_none_that_it_did_not_show() {
    let rig = with_stray().await;
    let address = rig.address();
    let client = |arguments: &[&str]| {
        let all: Vec<String> =
            ["--bus-address", &address].iter().chain(arguments).map(|s| (*s).to_owned()).collect();
        async move { virtsnap(&all.iter().map(String::as_str).collect::<Vec<_>>()).await }
    };
    let (_, out, _) = client(&["list", "web"]).await;
    assert!(out.contains(&format!("{STRAY} (192 KiB) belongs to nobody")), "{out}");
    let (code, out, _) = client(&["status"]).await;
    assert_eq!(code, Some(1));
    assert!(out.contains(STRAY), "{out}");
    let (code, _, err) = client(&["adopt", "web", "--orphans"]).await;
    assert_eq!(code, Some(2), "nobody is there to be asked: {err}");
    // What came since the last look is found by this one.
    rig.sim.make_image("/images/newer.qcow2", STRAY).unwrap();
    let (code, out, err) = client(&["adopt", "web", "--orphans", "--yes"]).await;
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert_eq!(out, format!("web: {STRAY} is in quarantine\nweb: /images/newer.qcow2 is in quarantine\n"));
    let (_, out, _) = client(&["list", "web"]).await;
    assert!(
        out.contains(&format!("{STRAY} (192 KiB) belongs to nobody: in quarantine, removed 2040-")),
        "{out}"
    );
    let (_, out, _) = client(&["--json", "list", "web"]).await;
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["vm"]["orphans"].as_array().unwrap().len(), 2, "{json}");
    let (code, _, _) = client(&["status"]).await;
    assert_eq!(code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_libvirt_forgot_inside_images_is_told() {
    let mut rig = Rig::start("", |sim| {
        sim.add_vm(VmSpec::new("web", 1));
        sim.make_internal_snapshot(id(1), "known").unwrap();
        sim.make_internal_snapshot(id(1), "in'side").unwrap();
        sim.forget_snapshot(id(1), &SnapshotName::existing("in'side")).unwrap();
    })
    .await;
    let vm = vm_path(id(1));
    let one = |all: &Forgotten| all.len() == 1;
    rig.client.until(&vm, "VM.ForgottenSnapshots", one).await;
    let (image, name, bytes, taken) =
        rig.client.get::<Forgotten>(&vm, "VM.ForgottenSnapshots").await.remove(0);
    assert_eq!((image, name.as_str()), (rig.images().remove(0), "in'side"));
    assert!(bytes > 0 && taken > 0);
    rig.client.until(&vm, "VM.Health", |health: &String| health == "degraded").await;
    let reason = rig.client.text(&vm, "VM.HealthReason").await;
    assert!(reason.contains(r"`qemu-img snapshot -d 'in'\''side' /images/"), "{reason}");
    let address = rig.address();
    let client = async |arguments: &[&str]| {
        let (_, out, err) = virtsnap(&[&["--bus-address", address.as_str()], arguments].concat()).await;
        assert_eq!(err, "");
        out
    };
    let listed = client(&["list", "web"]).await;
    assert!(listed.contains("in'side inside /images/"), "{listed}");
    let listed = client(&["list", "web", "--timeline"]).await;
    assert!(listed.contains("in'side inside /images/"), "{listed}");
    let shown = client(&["show", "web"]).await;
    assert!(shown.contains("Libvirt forgot"), "{shown}");
    let json: serde_json::Value = serde_json::from_str(&client(&["list", "web", "--json"]).await).unwrap();
    assert_eq!(json["vm"]["forgotten"][0]["name"], "in'side", "{json}");
    // What was found is known again after a restart, before anybody has looked.
    rig.stop().await;
    rig.sim.inject(Fault::new(Op::SnapshotsInside, Mishap::Refuse(Error::new(ErrorKind::Failed, "no"))));
    rig.boot().await;
    rig.until_running().await;
    assert_eq!(rig.client.get::<Forgotten>(&vm, "VM.ForgottenSnapshots").await.len(), 1);
}
