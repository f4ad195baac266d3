//! Who leaves the bus: what is done for one caller alone need not go on without.
//!
//! There is one match rule, for all who are waited for. A bus lets a connection have no more than some hundred, and one
//! that was being asked for when nobody wanted it any more would stay. There is none while nobody is waited for: on a
//! system's bus others come and go all the time, and an idle daemon is not to be woken by them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use futures_util::StreamExt as _;
use tokio::sync::{Notify, oneshot, watch};
use zbus::{
    AsyncDrop as _, Connection, MatchRule, Message, MessageStream, fdo::DBusProxy, message::Type,
    names::OwnedUniqueName,
};

/// Where departures are waited for.
#[derive(Debug, Default)]
pub(super) struct Departures(Mutex<Weak<Watch>>);

/// Those who are waited for, by how many, and what tells these. No name is given twice, so that each leaves once.
type Peers = Mutex<HashMap<OwnedUniqueName, (usize, Arc<Notify>)>>;

/// Listens for as long as it is there.
#[derive(Debug)]
struct Watch {
    peers: Arc<Peers>,
    /// True from when nothing is missed any more; closed if that cannot be.
    listening: watch::Receiver<bool>,
    /// The listener ends when this goes.
    _end: oneshot::Sender<()>,
}

/// One who is waited for, for as long as that is.
struct Peer<'a> {
    watch: &'a Watch,
    name: &'a OwnedUniqueName,
    left: Arc<Notify>,
}

impl Departures {
    /// Waits until whoever has this name is off the bus. Where that cannot be told, for ever.
    pub(super) async fn of(&self, connection: &Connection, name: &OwnedUniqueName) {
        let watch = self.watch(connection);
        let peer = Peer::new(&watch, name);
        // From here on: it may leave while somebody looks whether it has.
        let left = peer.left.notified();
        let there = async {
            watch.listening.clone().wait_for(|listening| *listening).await.ok()?;
            let bus = DBusProxy::new(connection).await.ok()?;
            bus.name_has_owner(name.inner().clone().into()).await.ok()
        };
        match there.await {
            Some(false) => {}
            Some(true) => left.await,
            None => std::future::pending().await,
        }
    }

    fn watch(&self, connection: &Connection) -> Arc<Watch> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watch) = last.upgrade() {
            return watch;
        }
        let (peers, (ready, listening), (end, ended)) =
            (Arc::<Peers>::default(), watch::channel(false), oneshot::channel());
        // A task of its own, which nobody ends half-way: what is asked of the bus and not waited for would stay there.
        tokio::spawn(listen(connection.clone(), Arc::clone(&peers), ready, ended));
        let watch = Arc::new(Watch { peers, listening, _end: end });
        *last = Arc::downgrade(&watch);
        watch
    }
}

impl<'a> Peer<'a> {
    fn new(watch: &'a Watch, name: &'a OwnedUniqueName) -> Self {
        let mut peers = watch.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let (waiting, left) = peers.entry(name.clone()).or_default();
        *waiting += 1;
        Self { watch, name, left: Arc::clone(left) }
    }
}

impl Drop for Peer<'_> {
    fn drop(&mut self) {
        let mut peers = self.watch.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((waiting, _)) = peers.get_mut(self.name) {
            *waiting -= 1;
            if *waiting == 0 {
                peers.remove(self.name);
            }
        }
    }
}

/// Tells those who wait of departures, until nobody does.
async fn listen(
    connection: Connection,
    peers: Arc<Peers>,
    ready: watch::Sender<bool>,
    mut ended: oneshot::Receiver<()>,
) {
    let departures = async {
        let rule = MatchRule::builder().msg_type(Type::Signal).sender("org.freedesktop.DBus");
        let rule = rule.interface("org.freedesktop.DBus").member("NameOwnerChanged").arg(2, "").build()?;
        MessageStream::for_match_rule(rule, &connection, None).await
    };
    let mut departures = match departures.await {
        Ok(departures) => departures,
        Err(e) => {
            tracing::warn!(error = %e, "what callers wait for who leave the bus goes on, as nothing is told of them");
            return;
        }
    };
    ready.send_replace(true);
    loop {
        let change = tokio::select! {
            _ = &mut ended => break,
            change = departures.next() => change,
        };
        match change {
            Some(Ok(change)) => tell(&peers, &change),
            // The bus is gone, and everybody with it: the daemon ends.
            Some(Err(_)) | None => break,
        }
    }
    departures.async_drop().await;
}

fn tell(peers: &Peers, change: &Message) {
    let body = change.body();
    let Ok((name, _, _)) = body.deserialize::<(&str, &str, &str)>() else { return };
    let Ok(name) = OwnedUniqueName::try_from(name) else { return };
    let peers = peers.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, left)) = peers.get(&name) {
        left.notify_waiters();
    }
}
