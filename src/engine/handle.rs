//! The ways to the engine from outside: requests in, the published view out, and signals.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::Input;
use crate::{
    clock::Clock,
    core::{
        inhibit::InhibitorId,
        machine::{Change, Query, Refusal, Reply},
        view::View,
    },
    dbus::{Permitted, Reload},
};

/// A published view, and how many went before it.
#[derive(Debug, Clone)]
pub struct Published {
    /// Counts up with each publication.
    pub generation: u64,
    /// What clients may see.
    pub view: Arc<View>,
}

/// What a client gets, and from which publication on its effects can be seen.
pub type Answer = (Result<Reply, Refusal>, u64);

/// A client's request on its way in.
#[derive(Debug)]
pub enum Ask {
    /// Tell something.
    Query(Query, oneshot::Sender<Answer>),
    /// Change something, which the caller may: only authorisation for this very change makes one.
    Change(Permitted<Change>, oneshot::Sender<Answer>),
    /// Read the configuration again.
    Reload(Permitted<Reload>, oneshot::Sender<Answer>),
    /// Nobody keeps this inhibitor any more. Whose it was need not be allowed to let it go.
    Released(InhibitorId),
}

/// How others reach the engine.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) requests: mpsc::Sender<Ask>,
    pub(super) clock: Arc<dyn Clock>,
    /// The newest publication.
    pub published: watch::Receiver<Published>,
}

impl Handle {
    /// The engine's clock.
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock)
    }

    /// Asks, and waits for the answer. An engine that is gone answers as one that is stopping.
    pub async fn ask(&self, make: impl FnOnce(oneshot::Sender<Answer>) -> Ask) -> Answer {
        let (sender, receiver) = oneshot::channel();
        let gone = || (Err(Refusal::new("Stopping", "the daemon is stopping; nothing new is begun")), 0);
        if self.requests.send(make(sender)).await.is_err() {
            return gone();
        }
        receiver.await.unwrap_or_else(|_| gone())
    }

    /// Says that an inhibitor is gone. There is nobody to answer to.
    pub async fn released(&self, id: InhibitorId) {
        let _ = self.requests.send(Ask::Released(id)).await;
    }
}

/// Sends signals in from outside.
#[derive(Debug, Clone)]
pub struct Control(pub(super) mpsc::UnboundedSender<Input>);

impl Control {
    /// Finish what runs, and end.
    pub fn stop(&self) {
        let _ = self.0.send(Input::Stop);
    }

    /// Read the configuration again.
    pub fn reload(&self) {
        let _ = self.0.send(Input::Reload);
    }
}
