//! The client's real binary where there are many VMs: more than a bus lets one connection wait for, and a run that takes
//! longer than the daemon remembers jobs.

use futures_util::StreamExt as _;

use virtsnap::hypervisor::sim::{Op, VmSpec};
use zbus::{MatchRule, MessageStream, fdo::MonitoringProxy, message::Type};

use super::{
    client::{Client, soon},
    command_line::virtsnap,
    rig::{Rig, held},
};

const POLICY: &str = "[policy.p]\nvms = [\"*\"]\n";
/// More answers than this no connection may wait for on a `dbus-daemon` that is set up as it comes.
const LIMIT: u128 = 128;

async fn with(vms: u128) -> Rig {
    Rig::start(POLICY, |sim| {
        for number in 1..=vms {
            sim.add_vm(VmSpec::new(&format!("vm{number}"), number));
        }
    })
    .await
}

/// All calls of a method from now on, whoever makes them.
async fn calls(rig: &Rig, method: &'static str) -> MessageStream {
    let Client { connection } = Client::connect(&rig.address()).await;
    let calls = MessageStream::from(&connection);
    let monitor = soon("the bus", MonitoringProxy::new(&connection)).await.unwrap();
    let rule = MatchRule::builder().msg_type(Type::MethodCall).member(method).build().unwrap();
    soon("a monitor", monitor.become_monitor(&[rule], 0)).await.unwrap();
    calls
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_on_more_vms_than_a_connection_may_wait_for_tells_of_each() {
    let vms = LIMIT + 12;
    let rig = with(vms).await;
    let mut waits = calls(&rig, "Wait").await;
    let gate = rig.sim.gate(Op::Create);
    let address = rig.address();
    let run = tokio::spawn(async move { virtsnap(&["--bus-address", &address, "run", "p"]).await });
    held(&gate);
    soon("the client waits for many", waits.by_ref().take(50).count()).await;
    // Nothing reads it any more, and a full one would hold up the bus.
    drop(waits);
    gate.open();
    let (code, out, err) = run.await.unwrap();
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    let all: Vec<&str> = out.lines().collect();
    assert_eq!(u128::try_from(all.len()).unwrap(), vms, "{out}");
    for (number, line) in (1..).zip(all) {
        assert!(line.starts_with(&format!("vm{number}: snapshot ")), "{line}");
    }
}
