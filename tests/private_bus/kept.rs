//! What was kept with a snapshot (memory, firmware's variables) when only its metadata or only its images are gone.

use jiff::SignedDuration;
use virtsnap::{
    core::{model::SnapshotName, stray},
    hypervisor::{
        Error, ErrorKind, Hypervisor as _, Metadata as _, Nvram,
        sim::{Fault, Mishap, Op, VmSpec},
    },
};

use super::{
    client::options,
    rig::{Rig, id, snapshot_path, vm_path},
};

type Orphans = Vec<(String, u64, u64)>;

/// A VM with snapshots s1 and s2, each with memory and variables.
async fn two() -> Rig {
    let rig = Rig::start("", |sim| {
        let nvram = Nvram { kind: "file".into(), path: "/nvram/web.fd".into(), format: "raw".into() };
        sim.put_bytes("/nvram/web.fd", b"one");
        sim.add_vm(VmSpec { nvram: Some(nvram), ..VmSpec::new("web", 1) });
    })
    .await;
    for name in ["s1", "s2"] {
        rig.client.create(id(1), name, options([("memory", "require".into())])).await.unwrap();
    }
    rig
}

fn kept(rig: &Rig) -> Vec<String> {
    rig.images().into_iter().filter(|path| stray::kept_with(path).is_some()).collect()
}

fn forget(rig: &Rig, name: &str) {
    rig.sim.forget(id(1), &SnapshotName::existing(name)).unwrap();
}

/// libvirt comes back, so that all is read anew.
fn anew(rig: &Rig) {
    rig.sim.disconnect("all is read anew");
    rig.sim.connect();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_forgot_the_snapshot_of_is_shown_and_goes_through_quarantine_alone() {
    let rig = two().await;
    let vm = vm_path(id(1));
    let (all, images) = (kept(&rig), rig.images().len());
    assert_eq!(all.len(), 4);
    // One that looks like ours, and is of no snapshot that is known.
    let other = format!("/images/{}", stray::kept_name(uuid::Uuid::from_u128(5), "memory"));
    rig.sim.put_bytes(&other, b"somebody's");
    forget(&rig, "s2");
    anew(&rig);
    rig.client.until(&vm, "VM.Orphans", |o: &Orphans| o.len() == 2).await;
    let orphans: Orphans = rig.client.get(&vm, "VM.Orphans").await;
    let paths: Vec<String> = orphans.into_iter().map(|(path, ..)| path).collect();
    assert!(paths.iter().all(|path| all.contains(path)), "{paths:?}");
    let reason = rig.client.text(&vm, "VM.HealthReason").await;
    assert!(reason.contains(&paths[0]) && reason.contains("adopt --orphans"), "{reason}");

    let () =
        rig.client.call(&vm, "VM.Adopt", &(options([("orphans", paths.clone().into())]),)).await.unwrap();
    assert_eq!(kept(&rig).len(), 5, "they stay as they are");
    rig.clock.advance(stray::QUARANTINE + SignedDuration::from_mins(1));
    anew(&rig);
    rig.client.until(&vm, "VM.Orphans", |o: &Orphans| o.is_empty()).await;
    let left = kept(&rig);
    assert_eq!((left.len(), rig.images().len()), (3, images - 1), "{left:?}");
    assert!(left.contains(&other) && !left.iter().any(|path| paths.contains(path)), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_snapshot_whose_images_are_gone_it_goes_wherever_that_is_cut_short() {
    for (op, lost) in [(Op::Copy, false), (Op::Forget, false), (Op::Forget, true), (Op::Discard, false)] {
        let rig = two().await;
        // The VM is put on something else, and the snapshots' images go.
        let record = rig.sim.snapshots(id(1)).unwrap().into_iter().find(|r| r.name.as_str() == "s2").unwrap();
        rig.sim.make_image("/images/other.qcow2", "/images/web-vda.qcow2").unwrap();
        rig.sim.stop(id(1)).unwrap();
        rig.sim.point_definition_at(id(1), "vda", "/images/other.qcow2").unwrap();
        rig.sim.remove_file(&record.disks[0].state_image);
        assert_eq!(kept(&rig).len(), 4);
        anew(&rig);
        // What is proven of the rest is put right by itself, one thing after the other: then nothing else is wrong.
        let alone = |reason: &String| {
            reason.starts_with("Snapshot s2 is lost")
                && reason.ends_with("`virtsnap delete --metadata-only` forgets the snapshot.")
        };
        rig.client.until(&vm_path(id(1)), "VM.HealthReason", alone).await;
        rig.client.until_idle().await;
        let path = snapshot_path(id(1), "s2");
        let asked = || options([("metadata-only", true.into())]);
        let error = Error::new(ErrorKind::Failed, "on request");
        rig.sim.inject(Fault::new(op, if lost { Mishap::Lose(error) } else { Mishap::Refuse(error) }));
        let (_, text) = rig.client.job(&path, "Snapshot.Delete", asked()).await.unwrap_err();
        assert!(text.contains("on request"), "{op:?} {lost}: {text}");
        let there = rig.sim.snapshots(id(1)).unwrap().iter().any(|r| r.name.as_str() == "s2");
        if there {
            assert_eq!(kept(&rig).len(), 4, "{op:?}: it has what was kept with it");
            assert_eq!(rig.store().intents().unwrap(), [], "{op:?}");
            rig.client.job(&path, "Snapshot.Delete", asked()).await.unwrap();
        }
        assert_eq!(kept(&rig).len(), 2, "{op:?} {lost}: {:?}", kept(&rig));
        assert_eq!(rig.store().intents().unwrap(), [], "{op:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_that_is_lost_is_told() {
    let rig = two().await;
    let memory = rig.sim.snapshots(id(1)).unwrap().into_iter().find_map(|r| r.memory_file).unwrap();
    rig.sim.remove_file(&memory);
    anew(&rig);
    let vm = vm_path(id(1));
    let says = |reason: &String| reason.contains("The memory of snapshot s") && reason.contains(&memory);
    rig.client.until(&vm, "VM.HealthReason", says).await;
    assert_eq!(rig.client.text(&vm, "VM.Health").await, "degraded");
}
