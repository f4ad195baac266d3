//! A job that lost libvirt in the middle counts as ended when what it left is settled, and the new connection is told
//! when nothing is left to settle but what jobs have.

use std::sync::{Arc, Condvar, Mutex};

use uuid::Uuid;
use virtsnap::{
    clock::Clock as _,
    core::model::SnapshotName,
    hypervisor::{
        Error, ErrorKind,
        sim::{Fault, Mishap, Op, Sim, VmSpec},
    },
    store::{Begun, Intent},
};

use super::{
    client::{MANAGER, none},
    hooked::Hooked,
    rig::{DEADLINE, Rig, held, id},
};

/// Where a job's thread is held up, as a slow host would, while libvirt goes and comes.
#[derive(Debug, Default)]
struct Slow {
    /// From now on, and whether a thread has come there.
    state: Mutex<(bool, bool)>,
    moved: Condvar,
}

impl Slow {
    /// A hypervisor on which jobs' threads are held up before they ask for snapshots.
    fn on(sim: &Arc<Sim>) -> (Arc<Self>, Arc<Hooked>) {
        let slow = Arc::new(Self::default());
        let at = Arc::clone(&slow);
        let hooked = Hooked::new(sim, move |op| {
            let job = std::thread::current().name().is_some_and(|name| name.starts_with("job-"));
            if job && op == Op::Snapshots {
                at.pass();
            }
        });
        (slow, hooked)
    }

    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.1 |= state.0;
        self.moved.notify_all();
        drop(self.moved.wait_while(state, |(closed, _)| *closed).unwrap());
    }

    fn close(&self) {
        self.state.lock().unwrap().0 = true;
    }

    fn until_held(&self) {
        let state = self.state.lock().unwrap();
        let held = tokio::task::block_in_place(|| {
            self.moved.wait_timeout_while(state, DEADLINE, |(_, came)| !*came).unwrap()
        });
        assert!(!held.1.timed_out(), "no job came there");
    }

    fn open(&self) {
        self.state.lock().unwrap().0 = false;
        self.moved.notify_all();
    }
}

/// A snapshot of VM 1 of which libvirt switched the disks and then died: its job is held up before it could look at that,
/// and will not be able to tell what QEMU is on. The job.
async fn cut_short(rig: &Rig, slow: &Slow) -> String {
    rig.sim.die_in_next_create();
    let gate = rig.sim.gate_vm(Op::Create, id(1));
    let job = rig.client.ask_create(id(1), "s1", none()).await.unwrap();
    held(&gate);
    slow.close();
    gate.open();
    slow.until_held();
    rig.sim.inject(Fault::new(Op::Opened, Mishap::Refuse(Error::new(ErrorKind::Failed, "on request"))));
    rig.client.until(MANAGER, "Manager.HypervisorConnected", |c: &bool| !c).await;
    job
}

async fn rig(vms: u128) -> (Rig, Arc<Slow>) {
    let mut rig = Rig::without_daemon("", |sim| {
        for number in 1..=vms {
            sim.add_vm(VmSpec::new(&format!("vm{number}"), number));
        }
    })
    .await;
    let (slow, hooked) = Slow::on(&rig.sim);
    rig.hypervisor = hooked;
    rig.boot().await;
    rig.until_running().await;
    (rig, slow)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_goes_on_past_the_new_connection_ends_when_what_it_left_is_settled() {
    let (rig, slow) = rig(1).await;
    let job = cut_short(&rig, &slow).await;
    rig.sim.connect();
    rig.client.until(MANAGER, "Manager.HypervisorConnected", |c: &bool| *c).await;
    let gate = rig.sim.gate(Op::NameLayer);
    slow.open();
    held(&gate);
    assert_eq!(rig.client.text(&job, "Job.State").await, "running", "its snapshot has no name yet");
    gate.open();
    rig.client.wait(&job).await.unwrap_err();
    assert_eq!(rig.client.snapshots(id(1)).await, ["s1"]);
    assert!(rig.store().intents().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_new_connection_is_told_when_what_a_job_left_meanwhile_is_settled() {
    let (rig, slow) = rig(2).await;
    // Something of another VM, which is settled after that of the first.
    let left = "/images/left.qcow2";
    rig.sim.make_image(left, "/images/vm2-vda.qcow2").unwrap();
    let intent = Intent::new(Uuid::from_u128(2), id(2), SnapshotName::existing("gone"), Begun::Drop);
    let intent = Intent { overlays: vec![left.to_owned()], ..intent };
    rig.store().begin(&intent, rig.clock.now()).unwrap();
    let job = cut_short(&rig, &slow).await;
    let settling = rig.sim.gate_vm(Op::Discard, id(2));
    rig.sim.connect();
    held(&settling);
    // The first VM was passed over; its job ends while the other's is settled.
    let gate = rig.sim.gate(Op::NameLayer);
    slow.open();
    rig.client.wait(&job).await.unwrap_err();
    settling.open();
    held(&gate);
    assert!(!rig.client.get::<bool>(MANAGER, "Manager.HypervisorConnected").await);
    gate.open();
    rig.client.until(MANAGER, "Manager.HypervisorConnected", |c: &bool| *c).await;
    assert!(rig.store().intents().unwrap().is_empty());
    rig.client.create(id(1), "s3", none()).await.unwrap();
    assert_eq!(rig.client.snapshots(id(1)).await, ["s1", "s3"]);
}
