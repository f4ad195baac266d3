//! Ten thousand calls of one user who may do nothing, at once: others are answered, and what is due is done in its order.

use futures_util::{StreamExt as _, future::join_all};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc;
use virtsnap::{clock::Clock as _, hypervisor::sim::VmSpec};
use zbus::{Message, MessageStream, OwnedObjectPath, message::Type};

use super::{
    client::{Client, MANAGER, Options, none, soon},
    rig::{DEADLINE, Rig, id, policy_path, vm_path},
};

/// A `dbus-daemon` has one connection wait for so many answers.
const PER_CONNECTION: usize = 125;
const CONNECTIONS: usize = 80;

/// One runs five minutes before the other, each on a VM of its own.
const POLICIES: &str = "[policy.a]\nvms = [\"web\"]\nschedule = \"10 * * * *\"\n\
                        [policy.b]\nvms = [\"db\"]\nschedule = \"5 * * * *\"\n";

/// What is called, and what it may be answered with.
#[derive(Debug, Clone, Copy)]
enum What {
    Objects,
    Property,
    Tree,
    Create,
}

impl What {
    async fn call(self, client: &Client) -> Result<Message, zbus::Error> {
        let (connection, name) = (&client.connection, Some("org.virtsnap1"));
        let standard = "org.freedesktop.DBus";
        let vm = vm_path(id(1));
        match self {
            Self::Objects => {
                let interface = format!("{standard}.ObjectManager");
                connection
                    .call_method(name, MANAGER, Some(interface.as_str()), "GetManagedObjects", &())
                    .await
            }
            Self::Property => {
                let interface = format!("{standard}.Properties");
                let body = ("org.virtsnap1.VM", "State");
                connection.call_method(name, vm.as_str(), Some(interface.as_str()), "Get", &body).await
            }
            Self::Tree => {
                let interface = format!("{standard}.Introspectable");
                connection.call_method(name, MANAGER, Some(interface.as_str()), "Introspect", &()).await
            }
            Self::Create => {
                let body: (&str, Options) = ("flood", none());
                let interface = Some("org.virtsnap1.VM");
                connection.call_method(name, vm.as_str(), interface, "CreateSnapshot", &body).await
            }
        }
    }

    fn may_be(self, answer: &Result<Message, zbus::Error>) -> bool {
        let refused = match answer {
            Ok(answer) => {
                return answer.message_type() == Type::MethodReturn && !matches!(self, Self::Create);
            }
            Err(zbus::Error::MethodError(name, ..)) => name.as_str(),
            Err(zbus::Error::FDO(e)) => return matches!(self, Self::Create) && denied(e),
            Err(_) => return false,
        };
        // What is answered at once is not counted.
        refused == "org.virtsnap1.Error.LimitExceeded" && matches!(self, Self::Objects | Self::Create)
    }
}

fn denied(e: &zbus::fdo::Error) -> bool {
    matches!(e, zbus::fdo::Error::AccessDenied(_))
}

/// Has it be what a policy waits for, and the daemon look.
async fn pass_to_next(rig: &Rig, policy: &str) {
    let due: u64 = rig.client.get(&policy_path(policy), "Policy.NextRunUSec").await;
    let due = Timestamp::from_microsecond(i64::try_from(due).unwrap()).unwrap();
    rig.clock.advance(due.duration_since(rig.clock.now()) + SignedDuration::from_secs(1));
    // Anything that happens makes it look at the clock.
    rig.sim.set_tags(id(2), &[&due.to_string()]).unwrap();
}

/// The next snapshot that is begun.
async fn next_job(rig: &Rig, signals: &mut MessageStream) -> String {
    loop {
        let message = signals.next().await.expect("the bus goes on").unwrap();
        if message.header().member().is_some_and(|member| member == "JobNew") {
            let (_, job): (u32, OwnedObjectPath) = message.body().deserialize().unwrap();
            if rig.client.text(job.as_str(), "Job.Operation").await == "create" {
                return job.to_string();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_user_floods_it_with_the_daemon_does_what_is_due_in_its_order() {
    let rig = Rig::start(POLICIES, |sim| {
        sim.add_vm(VmSpec::new("web", 1));
        sim.add_vm(VmSpec::new("db", 2));
    })
    .await;
    let address = rig.address();
    let clients = join_all((0..CONNECTIONS).map(|_| Client::connect_as_nobody(&address))).await;
    for (round, what) in [What::Objects, What::Property, What::Tree, What::Create].into_iter().enumerate() {
        let mut signals = rig.client.signals().await;
        let (sender, mut answers) = mpsc::unbounded_channel();
        for client in clients.iter().flat_map(|client| [client; PER_CONNECTION]) {
            let (client, sender) = (client.clone(), sender.clone());
            tokio::spawn(async move {
                let _ = sender.send(what.call(&client).await);
            });
        }
        // Others are answered meanwhile.
        assert_eq!(rig.client.text(MANAGER, "Manager.State").await, "running");
        for (policy, vm) in [("b", id(2)), ("a", id(1))] {
            pass_to_next(&rig, policy).await;
            let job = soon("what is due", next_job(&rig, &mut signals)).await;
            assert_eq!(rig.client.objects(&job, "Job.Objects").await[0], vm_path(vm), "{what:?}");
            rig.client.wait(&job).await.unwrap();
        }
        let all = async {
            for _ in 0..CONNECTIONS * PER_CONNECTION {
                let answer = answers.recv().await.expect("calls are under way");
                assert!(what.may_be(&answer), "{what:?}: {answer:?}");
            }
        };
        tokio::time::timeout(6 * DEADLINE, all).await.expect("each call is answered");
        for policy in ["a", "b"] {
            assert_eq!(rig.client.text(&policy_path(policy), "Policy.LastResult").await, "done");
        }
        assert_eq!(rig.client.snapshots(id(1)).await.len(), round + 1, "the flood took nothing");
    }
}
