//! Reading is free: to whom polkit lets change nothing, where there is no polkit, and where nobody vouches for the caller.

use std::collections::{BTreeSet, HashMap};

use futures_util::StreamExt as _;
use serde::Serialize;
use zbus::{Connection, DynamicType, Message, MessageStream, OwnedVariant, message::Type};

use super::{
    actions::READERS,
    client::{Client, MANAGER, soon},
    documented::properties,
    scene::{Scene, to_daemon},
};

const STANDARD: &str = "org.freedesktop.DBus";
const LOG_CONTROL: (&str, &str) = ("/org/freedesktop/LogControl1", "org.freedesktop.LogControl1");

/// The answer to a call, an error as well.
pub async fn answer(connection: &Connection, call: &Message) -> Message {
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

/// What is answered, which is no error.
async fn read(client: &Client, call: &Message) -> Message {
    let answer = answer(&client.connection, call).await;
    let text = answer.body().deserialize::<String>().unwrap_or_default();
    assert_eq!(answer.message_type(), Type::MethodReturn, "{call:?}: {answer:?}: {text}");
    answer
}

/// A call of an interface that every object has, or the root alone.
async fn standard<T>(client: &Client, path: &str, method: &str, arguments: &T) -> Message
where
    T: Serialize + DynamicType,
{
    let (interface, member) = method.split_once('.').unwrap();
    let interface = format!("{STANDARD}.{interface}");
    let call = to_daemon(path, &interface, member).build(arguments).unwrap();
    read(client, &call).await
}

/// Asserts that this caller is answered whatever it wants to know: each method that changes nothing, all there is of
/// each object, and each property by itself.
pub async fn everything_is_answered(client: &Client, scene: &Scene) {
    for method in READERS {
        for interactive in [false, true] {
            read(client, &scene.message(method, None, interactive)).await;
        }
    }
    let documented = properties();
    for (interface, path) in scene.all() {
        let interface = format!("org.virtsnap1.{interface}");
        let names: BTreeSet<String> =
            documented.keys().filter(|(of, _)| *of == interface).map(|(_, name)| name.clone()).collect();
        assert!(!names.is_empty(), "{interface}");
        let all = standard(client, path, "Properties.GetAll", &(&interface,)).await;
        let (all,): (HashMap<String, OwnedVariant>,) = all.body().deserialize().unwrap();
        assert_eq!(all.into_keys().collect::<BTreeSet<_>>(), names, "{interface}");
        for name in names {
            standard(client, path, "Properties.Get", &(&interface, name)).await;
        }
        standard(client, path, "Introspectable.Introspect", &()).await;
        standard(client, path, "Peer.Ping", &()).await;
    }
    standard(client, MANAGER, "ObjectManager.GetManagedObjects", &()).await;
    let (path, interface) = LOG_CONTROL;
    standard(client, path, "Properties.GetAll", &(interface,)).await;
    standard(client, path, "Introspectable.Introspect", &()).await;
}
