//! The state of a VM's emulated TPM, kept with snapshots and put back by reverts.

use virtsnap::{
    core::stray,
    hypervisor::{
        Error, ErrorKind, Hypervisor, Tpm,
        sim::{Fault, Mishap, Op, VmSpec},
    },
};

use super::{
    client::none,
    rig::{Rig, held, id, snapshot_path},
};

const STATE: &str = "/tpm/web/tpm2-00.permall";

async fn web(state: Option<&str>) -> Rig {
    let tpm = Tpm { state: state.map(str::to_owned) };
    Rig::start("", |sim| {
        sim.put_bytes(STATE, b"one");
        sim.add_vm(VmSpec { tpm: Some(tpm), ..VmSpec::new("web", 1) });
    })
    .await
}

fn kept(rig: &Rig) -> Vec<String> {
    rig.images().into_iter().filter(|path| stray::kept_with(path).is_some()).collect()
}

async fn create(rig: &Rig, name: &str) -> String {
    rig.client.create(id(1), name, none()).await.unwrap();
    rig.client.until_there(&snapshot_path(id(1), name), true).await;
    rig.client.text(&snapshot_path(id(1), name), "Snapshot.ConsistencyNote").await
}

async fn revert(rig: &Rig, name: &str) -> Result<String, (String, String)> {
    rig.client.job(&snapshot_path(id(1), name), "Snapshot.Revert", none()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_kept_with_a_snapshot_and_goes_with_it() {
    let rig = web(Some(STATE)).await;
    assert_eq!(create(&rig, "s1").await, "");
    let files = kept(&rig);
    assert_eq!(files.len(), 1);
    assert_eq!(rig.sim.bytes_of(&files[0]).unwrap(), b"one");
    rig.client.job(&snapshot_path(id(1), "s1"), "Snapshot.Delete", none()).await.unwrap();
    assert_eq!(kept(&rig), Vec::<String>::new());
    assert_eq!(rig.sim.bytes_of(STATE).unwrap(), b"one");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_back_with_a_revert_which_can_be_reverted() {
    let rig = web(Some(STATE)).await;
    create(&rig, "s1").await;
    rig.sim.put_bytes(STATE, b"two, and longer");
    let safety = revert(&rig, "s1").await.unwrap();
    assert_eq!(rig.sim.bytes_of(STATE).unwrap(), b"one");
    rig.sim.put_bytes(STATE, b"three");
    rig.client.job(&safety, "Snapshot.Revert", none()).await.unwrap();
    assert_eq!(rig.sim.bytes_of(STATE).unwrap(), b"two, and longer");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revert_that_fails_leaves_the_one_that_the_vm_had() {
    let rig = web(Some(STATE)).await;
    create(&rig, "s1").await;
    rig.sim.put_bytes(STATE, b"two");
    for op in [Op::PrepareOn, Op::Stop, Op::Define, Op::Redefine, Op::Start] {
        rig.sim.inject(Fault::new(op, Mishap::Refuse(Error::new(ErrorKind::Failed, "on request"))));
        let (_, text) = revert(&rig, "s1").await.unwrap_err();
        assert!(text.contains("on request"), "{op:?}: {text}");
        assert_eq!(rig.sim.bytes_of(STATE).unwrap(), b"two", "{op:?}: {text}");
        let snapshots = rig.sim.snapshots(id(1)).unwrap().len();
        assert_eq!(kept(&rig).len(), snapshots, "{op:?}: nothing is left over");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_cannot_be_read_is_said_and_stays_as_it_is() {
    for state in [None, Some("/tpm/web/never-started.permall")] {
        let rig = web(state).await;
        let note = create(&rig, "s1").await;
        assert!(
            note.contains("TPM was not kept") && note.contains("a revert leaves that as it is"),
            "{note}"
        );
        assert_eq!(kept(&rig), Vec::<String>::new());
        rig.sim.put_bytes(STATE, b"two");
        revert(&rig, "s1").await.unwrap();
        assert_eq!(rig.sim.bytes_of(STATE).unwrap(), b"two");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_whose_tpm_has_no_state_is_to_be_started_once_before_it_is_reverted() {
    let rig = web(Some(STATE)).await;
    create(&rig, "s1").await;
    rig.sim.remove_file(STATE);
    let before = (rig.images(), rig.sim.snapshots(id(1)).unwrap());
    let (error, text) = revert(&rig, "s1").await.unwrap_err();
    assert_eq!(error, "Unsupported", "{text}");
    assert!(text.contains("VM web") && text.contains("Start the VM once"), "{text}");
    assert_eq!((rig.images(), rig.sim.snapshots(id(1)).unwrap()), before);
    rig.sim.put_bytes(STATE, b"new");
    revert(&rig, "s1").await.unwrap();
    assert_eq!(rig.sim.bytes_of(STATE).unwrap(), b"one");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_kept_and_is_lost_is_no_reason_not_to_revert() {
    let rig = web(Some(STATE)).await;
    create(&rig, "s1").await;
    rig.sim.put_bytes(STATE, b"two");
    rig.sim.remove_file(&kept(&rig)[0]);
    revert(&rig, "s1").await.unwrap();
    assert_eq!(rig.sim.bytes_of(STATE).unwrap(), b"two");
}

/// One of another length is removed and made anew, and the second may fail.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_lost_while_it_is_replaced_is_made_again_as_it_was() {
    for full in [false, true] {
        let rig = web(Some(STATE)).await;
        let gate = rig.sim.gate(Op::Create);
        let job = rig.client.ask_create(id(1), "s1", none()).await.unwrap();
        held(&gate);
        rig.sim.put_bytes(STATE, b"two, and longer");
        let no_space = || Error::new(ErrorKind::NoSpace, "No space left on device");
        rig.sim.inject(Fault::new(Op::Save, Mishap::Half(no_space())));
        if full {
            rig.sim.inject(Fault::new(Op::Save, Mishap::Refuse(no_space())).after(1));
        }
        gate.open();
        rig.client.wait(&job).await.unwrap();
        rig.client.until_there(&snapshot_path(id(1), "s1"), true).await;
        let note = rig.client.text(&snapshot_path(id(1), "s1"), "Snapshot.ConsistencyNote").await;
        assert!(note.contains("No space left"), "{note}");
        if full {
            assert!(note.contains("lost or damaged"), "{note}");
            assert_eq!(kept(&rig), Vec::<String>::new());
        } else {
            assert!(note.contains("the one from just before it"), "{note}");
            assert_eq!(rig.sim.bytes_of(&kept(&rig)[0]).unwrap(), b"one");
        }
    }
}
