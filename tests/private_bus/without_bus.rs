//! A caller that no bus vouches for: it may read, and change nothing, whatever it says of itself.

use std::os::unix::net::UnixStream;

use virtsnap::dbus::{self, Patience};
use zbus::{Guid, connection::Builder, interface, message::Type};

use super::{
    actions::CHANGERS,
    client::{Client, soon},
    readers::{answer, everything_is_answered},
    rig::{id, vm_path},
    scene::world,
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

#[tokio::test(flavor = "multi_thread")]
async fn nobody_vouches_for_a_caller_without_a_bus() {
    let (rig, scene) = world().await;
    let (ours, theirs) = UnixStream::pair().unwrap();
    let daemon = Builder::unix_stream(ours).server(Guid::generate()).p2p();
    let peer = Builder::unix_stream(theirs).p2p().serve_at("/org/freedesktop/DBus", MadeUpBus).build();
    let (served, peer) = soon("two peers", async {
        tokio::join!(dbus::serve(daemon, None, rig.handle(), Patience::default()), peer)
    })
    .await;
    let (_served, peer) = (served.unwrap(), Client { connection: peer.unwrap() });

    assert_eq!(peer.text(&vm_path(id(1)), "VM.Name").await, "web");
    everything_is_answered(&peer, &scene).await;
    let before = rig.client.managed().await;
    for sender in [None, Some(":1.1"), Some("org.freedesktop.DBus")] {
        for (method, ..) in CHANGERS {
            let reply = answer(&peer.connection, &scene.message(method, sender, false)).await;
            let text: String = reply.body().deserialize().unwrap();
            assert_eq!(reply.message_type(), Type::Error, "{method} from {sender:?}");
            let name = reply.header().error_name().unwrap().to_string();
            assert_eq!(name, "org.freedesktop.DBus.Error.AccessDenied", "{method} from {sender:?}: {text}");
            assert!(text.contains("must come over a bus"), "{method} from {sender:?}: {text}");
        }
    }
    assert_eq!(rig.client.managed().await, before);
}
