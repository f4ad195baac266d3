//! Reverts to snapshots that do not have all of the VM's disks.

use virtsnap::hypervisor::{Hypervisor as _, sim::VmSpec};

use super::{
    client::{none, options},
    rig::{Rig, id, snapshot_path, vm_path},
};

/// A VM with two disks.
async fn web() -> Rig {
    Rig::start("", |sim| {
        sim.add_vm(VmSpec::new("web", 1).with_disks(&["vda", "vdb"]));
    })
    .await
}

async fn take(rig: &Rig, name: &str, disks: &[&str]) {
    let disks: Vec<String> = disks.iter().map(|target| (*target).to_owned()).collect();
    let given = options([("disks", disks.into())]);
    rig.client.create(id(1), name, given).await.unwrap();
}

async fn revert(rig: &Rig, name: &str) -> Result<String, (String, String)> {
    rig.client.job(&snapshot_path(id(1), name), "Snapshot.Revert", none()).await
}

/// The metadata says what the VM is on: its newest snapshot is taken, and merged away again.
async fn sound(rig: &Rig, what: &str) {
    rig.client.create(id(1), "probe", none()).await.unwrap();
    let probe = snapshot_path(id(1), "probe");
    rig.client.until_there(&probe, true).await;
    assert_eq!(rig.client.text(&vm_path(id(1)), "VM.HealthReason").await, "", "{what}");
    let deleted = rig.client.job(&probe, "Snapshot.Delete", none()).await;
    assert!(deleted.is_ok(), "{what}: {deleted:?}");
    rig.client.until_there(&probe, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_disk_is_on_another_branch_it_is_refused_before_anything_is_touched() {
    let rig = web().await;
    take(&rig, "s0", &["vda", "vdb"]).await;
    take(&rig, "x", &["vda", "vdb"]).await;
    take(&rig, "t", &["vda"]).await;
    revert(&rig, "t").await.unwrap();
    sound(&rig, "on the line of the disk").await;
    revert(&rig, "s0").await.unwrap();
    sound(&rig, "on another branch").await;
    let before = (rig.images(), rig.sim.snapshots(id(1)).unwrap(), rig.sim.vm(id(1)).unwrap());
    let (kind, text) = revert(&rig, "t").await.unwrap_err();
    assert_eq!(kind, "Unsupported", "{text}");
    for words in ["VM web", "does not have disk vdb", "Revert to x first", "Nothing was touched"] {
        assert!(text.contains(words), "{text}");
    }
    assert_eq!((rig.images(), rig.sim.snapshots(id(1)).unwrap(), rig.sim.vm(id(1)).unwrap()), before);
    revert(&rig, "x").await.unwrap();
    revert(&rig, "t").await.unwrap();
    sound(&rig, "as it was told to").await;
}

/// Whatever is taken, reverted to and deleted, of whichever disks: what is not refused leaves a VM that goes on.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_taken_and_reverted_to_the_metadata_says_what_the_vm_is_on() {
    const DISKS: [&[&str]; 3] = [&["vda"], &["vdb"], &["vda", "vdb"]];
    let (mut done, mut refused) = (0, 0);
    for seed in 0..5_u64 {
        let rig = web().await;
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut below = |n: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state >> 33).unwrap() % n
        };
        for step in 0..14 {
            let names: Vec<String> =
                rig.sim.snapshots(id(1)).unwrap().into_iter().map(|r| r.name.to_string()).collect();
            let what = format!("seed {seed}, step {step}");
            if names.is_empty() || (names.len() < 12 && below(2) == 0) {
                take(&rig, &format!("n{step}"), DISKS[below(3)]).await;
            } else {
                match revert(&rig, &names[below(names.len())]).await {
                    Ok(_) => done += 1,
                    Err((kind, text)) => {
                        assert!(
                            kind == "Unsupported" && text.contains("does not have disk"),
                            "{what}: {text}"
                        );
                        refused += 1;
                    }
                }
            }
            sound(&rig, &what).await;
        }
    }
    assert!(done > 10 && refused > 0, "{done} {refused}");
}
