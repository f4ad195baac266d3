//! Calls under way, and that no caller has too many of them or too large ones: each holds its arguments and a task of the
//! daemon's until it is answered, which may take as long as a person takes to find a password, or a job to end.
//!
//! What is answered at once (properties, `GetManagedObjects`, `LookupVM`) is not counted: it holds nothing.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::StreamExt as _;
use zbus::{Connection, fdo::DBusProxy, message::Header, names::OwnedUniqueName};

use super::error::BusError;

/// So many calls of one user may be under way. The client waits for 64 jobs at once.
pub(super) const PER_USER: usize = 512;
/// So many of all users but root.
pub(super) const AT_ONCE: usize = 4096;
/// So many bytes a call's arguments may have.
pub(super) const LONGEST: usize = 64 << 10;

/// All that are under way.
#[derive(Debug, Default)]
pub(super) struct Calls(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// Counted before it is known whose they are.
    by_sender: HashMap<OwnedUniqueName, usize>,
    by_user: HashMap<u32, usize>,
}

impl Counts {
    fn others(&self) -> usize {
        self.by_user.iter().filter(|(uid, _)| **uid != 0).map(|(_, calls)| calls).sum()
    }
}

/// One that is under way, until it is dropped.
#[derive(Debug)]
pub(super) struct Call {
    calls: Arc<Calls>,
    sender: OwnedUniqueName,
    uid: Option<u32>,
}

impl Call {
    /// The user's number.
    pub(super) fn uid(&self) -> u32 {
        self.uid.unwrap_or(u32::MAX)
    }
}

/// Waits until whoever called is off the bus. Where that cannot be told, for ever.
pub(super) async fn gone(connection: &Connection, call: Option<&Call>) {
    let left = async {
        let sender = &call?.sender;
        let bus = DBusProxy::new(connection).await.ok()?;
        let rule = [(0, sender.as_str()), (2, "")];
        let mut changes = bus.receive_name_owner_changed_with_args(&rule).await.ok()?;
        // It may have gone before somebody looked.
        if bus.name_has_owner(sender.inner().clone().into()).await.ok()? {
            changes.next().await?;
        }
        Some(())
    };
    if left.await.is_none() {
        std::future::pending::<()>().await;
    }
}

impl Calls {
    /// One more, of this sender on a bus, unless it is too large, or there are too many.
    pub(super) async fn enter(
        self: &Arc<Self>,
        connection: &Connection,
        header: &Header<'_>,
        sender: OwnedUniqueName,
    ) -> Result<Call, BusError> {
        fits(header)?;
        let mut call = self.begin(sender.clone())?;
        let user = async {
            DBusProxy::new(connection).await?.get_connection_unix_user(sender.inner().clone().into()).await
        };
        let uid = user
            .await
            .map_err(|e| BusError::access_denied(format!("the bus does not say who wants that: {e}")))?;
        self.count(&mut call, uid)?;
        Ok(call)
    }

    /// Before anything is asked: a flood is not to be passed on to the bus.
    fn begin(self: &Arc<Self>, sender: OwnedUniqueName) -> Result<Call, BusError> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_sender = counts.by_sender.entry(sender.clone()).or_default();
        if *of_sender >= PER_USER {
            return Err(too_many(&format!(
                "{sender} has {PER_USER} calls under way, and no user may have more"
            )));
        }
        *of_sender += 1;
        Ok(Call { calls: Arc::clone(self), sender, uid: None })
    }

    fn count(&self, call: &mut Call, uid: u32) -> Result<(), BusError> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if uid != 0 && counts.others() >= AT_ONCE {
            return Err(too_many(&format!("there are {AT_ONCE} calls under way, which is all there may be")));
        }
        let of_user = counts.by_user.entry(uid).or_default();
        if *of_user >= PER_USER {
            return Err(too_many(&format!(
                "user {uid} has {PER_USER} calls under way, and no user may have more"
            )));
        }
        *of_user += 1;
        call.uid = Some(uid);
        Ok(())
    }

    /// None is under way.
    #[cfg(test)]
    fn is_empty(&self) -> bool {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.by_sender.is_empty() && counts.by_user.is_empty()
    }
}

/// Whether a call's arguments are no larger than they may be.
pub(super) fn fits(header: &Header<'_>) -> Result<(), BusError> {
    let bytes = header.primary().body_len() as usize;
    if bytes <= LONGEST {
        return Ok(());
    }
    Err(BusError::new(
        "LimitExceeded",
        format!("the call's arguments have {bytes} bytes, more than {LONGEST}: nothing was done"),
    ))
}

fn too_many(text: &str) -> BusError {
    BusError::new("LimitExceeded", format!("{text}: nothing was done; try again when one was answered"))
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut counts = self.calls.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = &mut *counts;
        less(&mut counts.by_sender, &self.sender);
        if let Some(uid) = self.uid {
            less(&mut counts.by_user, &uid);
        }
    }
}

fn less<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use zbus::DBusError as _;

    use super::*;

    fn one(calls: &Arc<Calls>, sender: usize, uid: u32) -> Result<Call, BusError> {
        let mut call = calls.begin(format!(":1.{sender}").try_into().unwrap())?;
        calls.count(&mut call, uid).map(|()| call)
    }

    #[test]
    fn a_user_who_has_all_leaves_room_for_others_whatever_connections_they_come_over() {
        let calls = Arc::new(Calls::default());
        let mine: Vec<_> = (0..PER_USER).map(|n| one(&calls, n % 7, 1000).unwrap()).collect();
        let refused = one(&calls, 99, 1000).unwrap_err();
        assert_eq!(refused.name(), "org.virtsnap1.Error.LimitExceeded");
        let _theirs = one(&calls, 100, 1001).unwrap();
        drop(mine);
        one(&calls, 99, 1000).unwrap();
    }

    #[test]
    fn one_connection_is_refused_before_the_bus_is_asked_whose_it_is() {
        let calls = Arc::new(Calls::default());
        let sender = || OwnedUniqueName::try_from(":1.5").unwrap();
        let all: Vec<_> = (0..PER_USER).map(|_| calls.begin(sender()).unwrap()).collect();
        assert!(calls.begin(sender()).is_err());
        drop(all);
        assert!(calls.is_empty());
    }

    #[test]
    fn there_is_an_end_for_all_and_root_has_room_beyond_it() {
        let calls = Arc::new(Calls::default());
        let all = (0..AT_ONCE).map(|n| one(&calls, n, 1000 + u32::try_from(n / PER_USER).unwrap()).unwrap());
        let all: Vec<_> = all.collect();
        assert!(one(&calls, AT_ONCE, 2000).unwrap_err().description().unwrap().contains("4096"));
        let root: Vec<_> = (0..PER_USER).map(|n| one(&calls, n, 0).unwrap()).collect();
        drop((all, root));
        assert!(calls.is_empty(), "nothing is left of them");
    }
}
