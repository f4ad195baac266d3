//! Calls under way, and that no caller has too many of them or too large ones: each holds its arguments and a task of the
//! daemon's until it is answered, which may take as long as a person takes to find a password, or a job to end.
//!
//! What is answered at once (properties, `LookupVM`) is not counted: it holds nothing. Who waits for jobs is counted
//! apart: that many may as there may be jobs, and none of it keeps anybody from changing something. So is who wants all
//! objects, which on a large host takes a while each time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use zbus::{Connection, fdo::DBusProxy, message::Header, names::OwnedUniqueName};

use super::{departures::Departures, error::BusError};
use crate::core::queue;

/// So many bytes a call's arguments may have.
pub(super) const LONGEST: usize = 64 << 10;

/// What is counted by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// It changes something, or reads for a while.
    Work,
    /// It waits for a job's end.
    Wait,
    /// It wants to know of every object.
    Objects,
}

impl Kind {
    /// So many of one user may be under way. For each job that waits, one may wait.
    const fn per_user(self) -> usize {
        match self {
            Self::Work => 512,
            Self::Wait => queue::WAITING,
            Self::Objects => 64,
        }
    }

    /// So many of all users but root.
    const fn at_once(self) -> usize {
        match self {
            Self::Work => 4096,
            Self::Wait => 2 * queue::WAITING,
            Self::Objects => 256,
        }
    }

    /// What so many of them are.
    const fn calls(self) -> &'static str {
        match self {
            Self::Work => "calls under way",
            Self::Wait => "calls that wait for jobs",
            Self::Objects => "calls of GetManagedObjects",
        }
    }

    fn refused(self, why: &str) -> BusError {
        let so = match self {
            Self::Work | Self::Objects => "nothing was done; try again when one was answered",
            Self::Wait => {
                "this one does not wait, and the job goes on; its properties say how it ends, or wait again when another call \
                 was answered"
            }
        };
        BusError::new("LimitExceeded", format!("{why}: {so}"))
    }
}

/// All that are under way.
#[derive(Debug, Default)]
pub(super) struct Calls {
    counts: Mutex<Counts>,
    departures: Departures,
}

#[derive(Debug, Default)]
struct Counts {
    /// Counted before it is known whose they are.
    by_sender: HashMap<(Kind, OwnedUniqueName), usize>,
    by_user: HashMap<(Kind, u32), usize>,
}

impl Counts {
    fn others(&self, kind: Kind) -> usize {
        let others = self.by_user.iter().filter(|((of, uid), _)| *of == kind && *uid != 0);
        others.map(|(_, calls)| calls).sum()
    }
}

/// One that is under way, until it is dropped.
#[derive(Debug)]
pub(super) struct Call {
    calls: Arc<Calls>,
    kind: Kind,
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
    match call {
        Some(call) => call.calls.departures.of(connection, &call.sender).await,
        None => std::future::pending().await,
    }
}

impl Calls {
    /// One more, of this sender on a bus, unless it is too large, or there are too many.
    pub(super) async fn enter(
        self: &Arc<Self>,
        connection: &Connection,
        header: &Header<'_>,
        sender: OwnedUniqueName,
        kind: Kind,
    ) -> Result<Call, BusError> {
        fits(header)?;
        let mut call = self.begin(kind, sender.clone())?;
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
    fn begin(self: &Arc<Self>, kind: Kind, sender: OwnedUniqueName) -> Result<Call, BusError> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let of_sender = counts.by_sender.entry((kind, sender.clone())).or_default();
        let (most, calls) = (kind.per_user(), kind.calls());
        if *of_sender >= most {
            return Err(kind.refused(&format!("{sender} has {most} {calls}, and no user may have more")));
        }
        *of_sender += 1;
        Ok(Call { calls: Arc::clone(self), kind, sender, uid: None })
    }

    fn count(&self, call: &mut Call, uid: u32) -> Result<(), BusError> {
        let kind = call.kind;
        let (most, at_once, calls) = (kind.per_user(), kind.at_once(), kind.calls());
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if uid != 0 && counts.others(kind) >= at_once {
            return Err(kind.refused(&format!("there are {at_once} {calls}, which is all there may be")));
        }
        let of_user = counts.by_user.entry((kind, uid)).or_default();
        if *of_user >= most {
            return Err(kind.refused(&format!("user {uid} has {most} {calls}, and no user may have more")));
        }
        *of_user += 1;
        call.uid = Some(uid);
        Ok(())
    }

    /// None is under way.
    #[cfg(test)]
    fn is_empty(&self) -> bool {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
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

impl Drop for Call {
    fn drop(&mut self) {
        let mut counts = self.calls.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = &mut *counts;
        less(&mut counts.by_sender, &(self.kind, self.sender.clone()));
        if let Some(uid) = self.uid {
            less(&mut counts.by_user, &(self.kind, uid));
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

    const PER_USER: usize = Kind::Work.per_user();

    fn of(kind: Kind, calls: &Arc<Calls>, sender: usize, uid: u32) -> Result<Call, BusError> {
        let mut call = calls.begin(kind, format!(":1.{sender}").try_into().unwrap())?;
        calls.count(&mut call, uid).map(|()| call)
    }

    fn one(calls: &Arc<Calls>, sender: usize, uid: u32) -> Result<Call, BusError> {
        of(Kind::Work, calls, sender, uid)
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
    fn who_waits_for_all_jobs_there_can_be_keeps_nobody_from_changing_something() {
        let calls = Arc::new(Calls::default());
        for uid in [0, 1000] {
            let waits: Vec<_> =
                (0..queue::WAITING).map(|_| of(Kind::Wait, &calls, 1, uid).unwrap()).collect();
            let over_one = of(Kind::Wait, &calls, 1, uid).unwrap_err();
            let over_another = of(Kind::Wait, &calls, 2, uid).unwrap_err();
            for refused in [over_one, over_another] {
                let text = refused.description().unwrap();
                assert!(text.contains("the job goes on") && !text.contains("nothing was done"), "{text}");
            }
            let work: Vec<_> = (0..PER_USER).map(|_| one(&calls, 1, uid).unwrap()).collect();
            let refused = one(&calls, 1, uid).unwrap_err();
            assert!(refused.description().unwrap().contains("nothing was done"), "{refused:?}");
            let _theirs = of(Kind::Wait, &calls, 3, 1001).unwrap();
            drop((waits, work));
        }
        assert!(calls.is_empty());
    }

    #[test]
    fn one_connection_is_refused_before_the_bus_is_asked_whose_it_is() {
        let calls = Arc::new(Calls::default());
        let sender = || OwnedUniqueName::try_from(":1.5").unwrap();
        let all: Vec<_> = (0..PER_USER).map(|_| calls.begin(Kind::Work, sender()).unwrap()).collect();
        assert!(calls.begin(Kind::Work, sender()).is_err());
        drop(all);
        assert!(calls.is_empty());
    }

    #[test]
    fn there_is_an_end_for_all_and_root_has_room_beyond_it() {
        for kind in [Kind::Work, Kind::Wait, Kind::Objects] {
            let (each, at_once) = (kind.per_user(), kind.at_once());
            let calls = Arc::new(Calls::default());
            let user = |n: usize| 1000 + u32::try_from(n / each).unwrap();
            let all: Vec<_> = (0..at_once).map(|n| of(kind, &calls, n, user(n)).unwrap()).collect();
            let refused = of(kind, &calls, at_once, 2000).unwrap_err();
            assert!(refused.description().unwrap().contains(&at_once.to_string()), "{refused:?}");
            let root: Vec<_> = (0..each).map(|n| of(kind, &calls, n, 0).unwrap()).collect();
            drop((all, root));
            assert!(calls.is_empty(), "nothing is left of them");
        }
    }
}
