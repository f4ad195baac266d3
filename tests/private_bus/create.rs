//! Taking a snapshot by hand.

use std::time::Duration;

use virtsnap::{
    core::model::SnapshotName,
    hypervisor::{
        Metadata as _, Redefine, RevertDisks,
        sim::{BLOCK, DiskSpec, EMPTY_IMAGE, Op, VmSpec},
    },
};

use super::{
    client::{MANAGER, none, options},
    hooked::Hooked,
    rig::{Rig, held, id, snapshot_path, vm_path},
};

async fn web() -> Rig {
    Rig::start("", |sim| {
        sim.add_vm(VmSpec::new("web", 1).with_disks(&["vda", "vdb"]));
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_on_the_bus_when_the_call_returns_and_its_snapshot_when_wait_returns() {
    let rig = web().await;
    for i in 0..20 {
        let job = rig.client.ask_create(id(1), &format!("s{i}"), none()).await.unwrap();
        assert!(rig.client.managed().await.contains_key(&job), "no job at {job}");
        assert_eq!(rig.client.text(&job, "Job.Operation").await, "create");
        assert_eq!(rig.client.get::<u32>(&job, "Job.StartedByUID").await, 0);
        assert_eq!(rig.client.text(&job, "Job.Origin").await, "manual");

        let snapshot = rig.client.wait(&job).await.unwrap();
        assert_eq!(snapshot, snapshot_path(id(1), &format!("s{i}")));
        assert!(rig.client.managed().await.contains_key(&snapshot), "no snapshot at {snapshot} yet");
        assert_eq!(rig.client.object(&vm_path(id(1)), "VM.CurrentSnapshot").await, snapshot);
        let objects = rig.client.objects(&job, "Job.Objects").await;
        assert_eq!(objects, [vm_path(id(1)), snapshot.clone()]);
        assert_eq!(rig.client.text(&job, "Job.Result").await, "done");
        assert_eq!(rig.client.wait(&job).await.unwrap(), snapshot, "as often as somebody asks");
        // The chain is to have room for the next.
        let gone = rig.client.job(&snapshot, "Snapshot.Delete", none()).await.unwrap();
        assert_eq!(gone, "/");
        assert!(!rig.client.managed().await.contains_key(&snapshot), "{snapshot} is still there");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_libvirt_lists_before_it_is_taken_is_creating_and_then_ready() {
    let rig = web().await;
    let gate = rig.sim.gate(Op::Create);
    let job = rig.client.ask_create(id(1), "s1", none()).await.unwrap();
    held(&gate);
    // Anything that happens has the VM read.
    rig.sim.set_tags(id(1), &["meanwhile"]).unwrap();
    let path = snapshot_path(id(1), "s1");
    rig.client.until_there(&path, true).await;
    assert_eq!(rig.client.text(&path, "Snapshot.State").await, "creating");
    assert_eq!(rig.client.get::<u64>(&vm_path(id(1)), "VM.LastSuccessUSec").await, 0);
    drop(gate);
    rig.client.wait(&job).await.unwrap();
    assert_eq!(rig.client.text(&path, "Snapshot.State").await, "ready");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_job_did_is_seen_when_wait_returns_however_slowly_libvirt_tells() {
    let mut rig = Rig::without_daemon("", |sim| {
        sim.add_vm(VmSpec::new("web", 1));
    })
    .await;
    rig.hypervisor = Hooked::tells_late(&rig.sim, Duration::from_millis(300));
    rig.boot().await;
    rig.until_running().await;
    let snapshot = rig.client.create(id(1), "s1", none()).await.unwrap();
    assert!(rig.client.managed().await.contains_key(&snapshot), "no snapshot at {snapshot} yet");
    assert_eq!(rig.client.object(&vm_path(id(1)), "VM.CurrentSnapshot").await, snapshot);
    rig.client.job(&snapshot, "Snapshot.Delete", none()).await.unwrap();
    assert!(!rig.client.managed().await.contains_key(&snapshot), "{snapshot} is still there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_says_what_it_is() {
    let rig = web().await;
    let description = "before <the> upgrade & more\n\n[virtsnap:1 not really]\n";
    rig.client.create(id(1), "s1", options([("description", description.into())])).await.unwrap();
    assert!(rig.sim.write(id(1), "vda", 7, 7));
    rig.client.create(id(1), "s2", none()).await.unwrap();
    let (first, second) = (snapshot_path(id(1), "s1"), snapshot_path(id(1), "s2"));
    rig.client.until_there(&second, true).await;
    rig.client.until(&first, "Snapshot.Current", |c: &bool| !c).await;

    let text = async |property| rig.client.text(&first, property).await;
    assert_eq!(text("Snapshot.Name").await, "s1");
    assert_eq!(text("Snapshot.Description").await, description);
    assert_eq!(text("Snapshot.State").await, "ready");
    assert_eq!(text("Snapshot.Content").await, "disk");
    assert_eq!(text("Snapshot.Storage").await, "external");
    assert_eq!(text("Snapshot.Origin").await, "manual");
    assert_eq!(text("Snapshot.Consistency").await, "filesystem");
    assert_eq!(text("Snapshot.ConsistencyNote").await, "");
    assert_eq!(rig.client.object(&first, "Snapshot.VM").await, vm_path(id(1)));
    assert_eq!(rig.client.object(&first, "Snapshot.Parent").await, "/");
    assert_eq!(rig.client.objects(&first, "Snapshot.Children").await, std::slice::from_ref(&second));
    assert_eq!(rig.client.object(&second, "Snapshot.Parent").await, first);
    assert_eq!(rig.client.objects(&second, "Snapshot.Children").await, [] as [String; 0]);
    assert!(rig.client.get::<bool>(&second, "Snapshot.Current").await);
    assert!(rig.client.get::<bool>(&first, "Snapshot.Managed").await);
    assert!(rig.client.get::<u64>(&first, "Snapshot.FrozenUSec").await > 0);
    assert_eq!(rig.client.get::<u64>(&first, "Snapshot.SizeBytes").await, 2 * EMPTY_IMAGE + BLOCK);
    let (a, b) = (
        rig.client.get::<u64>(&first, "Snapshot.CreatedUSec").await,
        rig.client.get::<u64>(&second, "Snapshot.CreatedUSec").await,
    );
    assert!(a < b, "{a} {b}");
    assert_eq!(rig.client.get::<u64>(&vm_path(id(1)), "VM.LastSuccessUSec").await, b);
    assert_eq!(rig.client.get::<u32>(&vm_path(id(1)), "VM.ChainDepth").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_without_a_name_gets_one_of_the_time_and_any_legal_name_is_kept() {
    let rig = web().await;
    let made = rig.client.create(id(1), "", none()).await.unwrap();
    rig.client.until_there(&made, true).await;
    let name = rig.client.text(&made, "Snapshot.Name").await;
    assert!(name.starts_with("manual-20400615T1200"), "{name}");
    for name in ["a b", "<&>'\"", "ü%s", "_", "1", &"x".repeat(120)] {
        let made = rig.client.create(id(1), name, none()).await.unwrap();
        rig.client.until_there(&made, true).await;
        assert_eq!(rig.client.text(&made, "Snapshot.Name").await, name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_taken_is_refused_also_when_nobody_told_of_it() {
    let rig = web().await;
    rig.client.create(id(1), "s1", none()).await.unwrap();
    // libvirt tells of no creation, so the daemon does not know of this one yet.
    rig.sim.make_foreign_snapshot(id(1), "theirs").unwrap();
    for name in ["s1", "theirs"] {
        let (error, text) = rig.client.create(id(1), name, none()).await.unwrap_err();
        assert_eq!(error, "Exists", "{text}");
        assert!(text.contains("VM web") && text.contains(name), "{text}");
    }
    // Two that ask for the same name at the same time: one gets it.
    let gate = rig.sim.gate(Op::Prepare);
    let (first, second) = (
        rig.client.ask_create(id(1), "s2", options([("description", "1".into())])).await.unwrap(),
        rig.client.ask_create(id(1), "s2", options([("description", "2".into())])).await.unwrap(),
    );
    gate.open();
    rig.client.wait(&first).await.unwrap();
    assert_eq!(rig.client.wait(&second).await.unwrap_err().0, "Exists");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_names_and_bad_options_are_refused_before_anything_is_done() {
    let rig = web().await;
    rig.sim.clear_calls();
    for name in ["a/b", "../x", ".hidden", "-x", "a\nb", "a\u{7f}", &"x".repeat(121)] {
        let (error, text) = rig.client.ask_create(id(1), name, none()).await.unwrap_err();
        assert_eq!(error, "InvalidArgument", "{name:?}: {text}");
    }
    for (option, value) in [
        ("Description", "x".into()),
        ("name", "x".into()),
        ("description", 1_u32.into()),
        ("quiesce", "perhaps".into()),
        ("quiesce", true.into()),
        ("disks", "vda".into()),
        ("disks", vec![1_u32].into()),
    ] {
        let (error, text) = rig.client.ask_create(id(1), "s", options([(option, value)])).await.unwrap_err();
        assert_eq!(error, "InvalidArgument", "{option}: {text}");
        assert!(text.contains(option), "{option}: {text}");
    }
    assert_eq!(rig.sim.calls(), []);
    let jobs = rig.client.managed().await.into_keys().filter(|p| p.starts_with(&format!("{MANAGER}/job/")));
    assert_eq!(jobs.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_disks_that_were_asked_for_take_part_and_unknown_ones_are_refused() {
    let rig = Rig::start("", |sim| {
        let mut spec = VmSpec::new("web", 1).with_disks(&["vda", "vdb"]);
        let cd = DiskSpec { writable: false, ..DiskSpec::new("sda", "/images/cd.iso") };
        let block = DiskSpec { kind: "block".to_owned(), ..DiskSpec::new("vdc", "/dev/vg/data") };
        spec.disks.extend([cd, block]);
        sim.add_vm(spec);
    })
    .await;
    let disks = |targets: &[&str]| {
        options([("disks", targets.iter().map(|t| (*t).to_owned()).collect::<Vec<String>>().into())])
    };
    rig.client.create(id(1), "s1", disks(&["vdb"])).await.unwrap();
    let record = rig.hypervisor.snapshots(id(1)).unwrap().remove(0);
    assert_eq!(record.disks.iter().map(|d| d.target.as_str()).collect::<Vec<_>>(), ["vdb"]);
    let froze = rig.sim.calls().into_iter().find(|c| c.op == Op::Freeze).unwrap();
    assert_eq!(froze.about, "/mnt/vdb", "only what is on that disk");

    let before = rig.images();
    let refused: [(&[&str], &str, &str); 6] = [
        (&["vdx"], "InvalidArgument", "vdx"),
        (&["vda", "vdx"], "InvalidArgument", "vdx"),
        (&["sda"], "InvalidArgument", "sda"),
        (&["vda", "vda"], "InvalidArgument", "vda"),
        (&["vdc"], "Unsupported", "vdc"),
        (&[], "InvalidArgument", "disks"),
    ];
    for (targets, error, named) in refused {
        let (name, text) = rig.client.create(id(1), "s2", disks(targets)).await.unwrap_err();
        assert_eq!(name, error, "{targets:?}: {text}");
        assert!(text.contains(named), "{targets:?}: {text}");
    }
    // All writable ones are meant, and one of them cannot be: all or none.
    assert_eq!(rig.client.create(id(1), "s2", none()).await.unwrap_err().0, "Unsupported");
    assert_eq!(rig.images(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_job_can_be_cancelled_and_undoes_nothing_of_the_one_at_work() {
    let rig = web().await;
    let gate = rig.sim.gate(Op::Create);
    let running = rig.client.ask_create(id(1), "s1", none()).await.unwrap();
    held(&gate);
    let waiting = rig.client.ask_create(id(1), "s2", none()).await.unwrap();
    assert_eq!(rig.client.text(&waiting, "Job.State").await, "queued");
    assert!(rig.client.get::<bool>(&waiting, "Job.Cancelable").await);
    assert!(!rig.client.get::<bool>(&running, "Job.Cancelable").await);
    let cancel = async |job: &str| rig.client.call::<_, ()>(job, "Job.Cancel", &(none(),)).await;
    cancel(&waiting).await.unwrap();
    let (name, text) = rig.client.wait(&waiting).await.unwrap_err();
    assert_eq!(name, "Cancelled");
    assert!(text.contains("VM web") && text.contains("before it began: nothing was done"), "{text}");
    assert_eq!(rig.client.text(&waiting, "Job.Result").await, "cancelled");
    assert_eq!(rig.client.text(&waiting, "Job.ErrorName").await, "org.virtsnap1.Error.Cancelled");
    assert_eq!(cancel(&waiting).await.unwrap_err().0, "NotCancelable");
    assert_eq!(cancel(&running).await.unwrap_err().0, "NotCancelable");
    gate.open();
    rig.client.wait(&running).await.unwrap();
    assert_eq!(cancel(&running).await.unwrap_err().0, "NotCancelable");
    assert_eq!(rig.client.text(&vm_path(id(1)), "VM.LastError").await, "", "a cancelled job is no error");
}

/// libvirt 11 names in its metadata what such a VM runs on; libvirt 9 does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_was_reverted_to_one_with_children_is_snapshotted_and_one_that_was_tampered_with_is_not() {
    for named in [true, false] {
        let rig = web().await;
        for name in ["s1", "s2"] {
            rig.client.create(id(1), name, none()).await.unwrap();
        }
        rig.sim.stop(id(1)).unwrap();
        let s1 = SnapshotName::existing("s1");
        rig.sim.revert(id(1), &s1).unwrap();
        if !named {
            let forgotten = Redefine { revert: RevertDisks::Drop, ..Redefine::new(s1) };
            rig.sim.redefine(id(1), &forgotten).unwrap();
        }
        rig.client.create(id(1), "s3", none()).await.unwrap();
        rig.client.create(id(1), "s4", none()).await.unwrap();

        rig.sim.merge_chain_behind(id(1), "vda").unwrap();
        let (kind, text) = rig.client.create(id(1), "s5", none()).await.unwrap_err();
        assert_eq!(kind, "ChainMismatch", "{text}");
        assert!(text.contains("vda") && text.contains("s4") && text.contains("VM web"), "{text}");
    }
}
