//! A caller that no bus vouches for: it may read, and change nothing, whatever it says of itself.

use std::os::unix::net::UnixStream;

use futures_util::StreamExt as _;
use virtsnap::{
    dbus::{self, Patience},
    hypervisor::sim::VmSpec,
};
use zbus::{
    Connection, Guid, Message, MessageStream, ObjectPath, connection::Builder, interface, message::Type,
};

use super::{
    actions::{CHANGERS, methods},
    client::{Client, MANAGER, none, soon},
    rig::{Rig, id, policy_path, snapshot_path, vm_path},
};

/// What a peer would answer for the bus, if it were asked: that everybody is root.
#[derive(Debug)]
struct MadeUpBus;

#[interface(name = "org.freedesktop.DBus")]
impl MadeUpBus {
    #[zbus(name = "GetConnectionUnixUser")]
    fn user(&self, name: &str) -> u32 {
        assert!(!name.is_empty(), "{self:?} is asked about somebody");
        0
    }
}

/// A call of the method with something of the right types, from this sender.
fn call(path: &str, method: &str, sender: Option<&'static str>) -> Message {
    let (interface, member) = method.split_once('.').unwrap();
    let message = Message::method_call(path, member);
    let mut message = message.interface(format!("org.virtsnap1.{interface}"));
    if let Some(sender) = sender {
        message = message.sender(sender);
    }
    let message = match methods()[method].as_str() {
        "a{sv}" => message.build(&(none(),)),
        "sa{sv}" => message.build(&("x", none())),
        "ssa{sv}" => message.build(&("x", "y", none())),
        "osa{sv}" => {
            let vm = vm_path(id(1));
            message.build(&(ObjectPath::try_from(vm.as_str()).unwrap(), "x", none()))
        }
        "sta{sv}" => message.build(&("x", 0_u64, none())),
        other => panic!("say here how {other} is called"),
    };
    message.unwrap()
}

async fn ask(connection: &Connection, call: &Message) -> Message {
    let mut replies = MessageStream::from(connection);
    connection.send(call).await.unwrap();
    soon("a reply", async {
        loop {
            let message = replies.next().await.expect("the peer is there").unwrap();
            if message.header().reply_serial() == Some(call.primary_header().serial_num()) {
                return message;
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_vouches_for_a_caller_without_a_bus() {
    let rig = Rig::start("[policy.p]\nvms = [\"*\"]\n", |sim| {
        sim.add_vm(VmSpec::new("web", 1));
    })
    .await;
    let job = rig.client.ask_create(id(1), "s1", none()).await.unwrap();
    rig.client.wait(&job).await.unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let daemon = Builder::unix_stream(ours).server(Guid::generate()).p2p();
    let peer = Builder::unix_stream(theirs).p2p().serve_at("/org/freedesktop/DBus", MadeUpBus).build();
    let (served, peer) = soon("two peers", async {
        tokio::join!(dbus::serve(daemon, None, rig.handle(), Patience::default()), peer)
    })
    .await;
    let (_served, peer) = (served.unwrap(), Client { connection: peer.unwrap() });

    assert_eq!(peer.text(&vm_path(id(1)), "VM.Name").await, "web");
    let before = rig.client.managed().await;
    for sender in [None, Some(":1.1"), Some("org.freedesktop.DBus")] {
        for (method, ..) in CHANGERS {
            let path = match method.split_once('.').unwrap().0 {
                "Manager" => MANAGER.to_owned(),
                "VM" => vm_path(id(1)),
                "Snapshot" => snapshot_path(id(1), "s1"),
                "Policy" => policy_path("p"),
                "Job" => job.clone(),
                other => panic!("where is {other}?"),
            };
            let reply = ask(&peer.connection, &call(&path, method, sender)).await;
            let text: String = reply.body().deserialize().unwrap();
            assert_eq!(reply.message_type(), Type::Error, "{method} from {sender:?}");
            let name = reply.header().error_name().unwrap().to_string();
            assert_eq!(name, "org.freedesktop.DBus.Error.AccessDenied", "{method} from {sender:?}: {text}");
            assert!(text.contains("must come over a bus"), "{method} from {sender:?}: {text}");
        }
    }
    assert_eq!(rig.client.managed().await, before);
}
