//! A VM that goes off just as its memory is to be kept. As libvirt has it: no error, and a snapshot that says it has the
//! memory.

use virtsnap::hypervisor::{Error, ErrorKind, Hypervisor, sim::Op};

use super::{
    client::{MANAGER, none, options},
    memory::{kept, told, web},
    rig::{Rig, held, id, snapshot_path, vm_path},
};

/// Asks for a snapshot with the memory, and switches the VM off in it; how that job ends.
async fn goes_off(rig: &Rig, memory: &'static str) -> Result<String, (String, String)> {
    let gate = rig.sim.gate(Op::Create);
    let job = rig.client.ask_create(id(1), "s1", options([("memory", memory.into())])).await.unwrap();
    held(&gate);
    rig.sim.stop(id(1)).unwrap();
    gate.open();
    rig.client.wait(&job).await
}

/// It holds the disks alone, says so, and is as good as any.
async fn is_of_its_disks(rig: &Rig) {
    let [content, reached, ..] = told(rig, "s1").await;
    assert_eq!((content.as_str(), reached.as_str()), ("disk", "crash"));
    assert_eq!(kept(&rig.sim), [""; 0]);
    assert_eq!(rig.store().intents().unwrap(), []);
    rig.client.until(&vm_path(id(1)), "VM.Health", |health: &String| health == "ok").await;
    let record = rig.sim.snapshots(id(1)).unwrap().remove(0);
    assert_eq!(record.memory_file, None, "else libvirt forgets it when it is started again");
    rig.client.job(&snapshot_path(id(1), "s1"), "Snapshot.Delete", none()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn its_disks_are_kept_and_that_is_said() {
    for memory in ["prefer", "require"] {
        let rig = web(|vm| vm).await;
        match goes_off(&rig, memory).await {
            Ok(_) => assert_eq!(memory, "prefer"),
            Err((_, text)) => {
                assert_eq!(memory, "require", "{text}");
                assert!(text.contains("VM web went off just as snapshot s1 was taken"), "{text}");
            }
        }
        let [_, _, _, note] = told(&rig, "s1").await;
        assert!(note.contains("the VM went off just then"), "{note}");
        is_of_its_disks(&rig).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_told_so_after_an_interruption_too() {
    let rig = web(|vm| vm).await;
    rig.sim.fail_next(Op::Redefine, Error::new(ErrorKind::Failed, "on request"));
    assert_eq!(goes_off(&rig, "prefer").await.unwrap_err().0, "Failed");
    rig.sim.disconnect("libvirtd was killed");
    rig.sim.connect();
    rig.client.until(MANAGER, "Manager.HypervisorConnected", |c: &bool| *c).await;
    rig.until_running().await;
    is_of_its_disks(&rig).await;
}
