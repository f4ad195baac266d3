//! The daemon is restarted, as an upgrade does, while somebody waits for a job that had not begun: its next life does it.

use std::time::Duration;

use zbus::{
    Connection, MatchRule,
    fdo::DBusProxy,
    message::Type,
    names::{BusName, OwnedUniqueName},
};

use super::{
    exit::Failure,
    follow::{self, Ended},
    inventory::Object,
    news,
    props::Job,
    proxy::SERVICE,
};
use crate::core::deferred::KEPT_FOR;

/// The error of whoever waits for a job that the daemon's next life does.
pub(super) const DEFERRED: &str = "org.virtsnap1.Error.Deferred";

/// Who the daemon is by now, if it is there. That it is asked for does not start it.
pub(super) async fn life(bus: &Connection) -> Option<OwnedUniqueName> {
    let name = BusName::try_from(SERVICE).ok()?;
    DBusProxy::new(bus).await.ok()?.get_name_owner(name).await.ok()
}

/// Waits for another life of the daemon than this one, for as long as it would do the job; whether it does. An error where
/// that is not known.
pub(super) async fn takes_up(
    job: &Object<Job>,
    last: Option<&OwnedUniqueName>,
    bus: &Connection,
) -> Result<bool, Failure> {
    let most = Duration::try_from(KEPT_FOR).unwrap_or_default();
    match tokio::time::timeout(most, another(last, bus)).await {
        Ok(came) => came?,
        Err(_) => return Ok(false),
    }
    match follow::read(&job.path, bus).await {
        // Another job may have its number, if the daemon does not know of it.
        Ok(now) => {
            Ok((now.start, &now.operation, now.started_by) == (job.start, &job.operation, job.started_by))
        }
        Err(Failure::Answered { name, .. }) if name == "org.freedesktop.DBus.Error.UnknownObject" => {
            Ok(false)
        }
        Err(unknown) => Err(unknown),
    }
}

/// How a job ended that the daemon's next life did not do.
pub(super) fn not_taken_up() -> Ended {
    Ended::Unknown(Failure::Answered {
        name: DEFERRED.to_owned(),
        message: format!(
            "the daemon stopped before it began, and was not there again with it within {} minutes: nothing was done",
            KEPT_FOR.as_mins()
        ),
    })
}

async fn another(last: Option<&OwnedUniqueName>, bus: &Connection) -> Result<(), Failure> {
    let rule = MatchRule::builder().msg_type(Type::Signal).sender("org.freedesktop.DBus");
    let rule = rule.interface("org.freedesktop.DBus").member("NameOwnerChanged").arg(0, SERVICE).build()?;
    let mut changes = news::signals(rule, bus).await?;
    loop {
        let now = life(bus).await;
        if now.is_some() && now.as_ref() != last {
            return Ok(());
        }
        match changes.recv().await {
            Some(change) => drop(change?),
            None => return Err(Failure::NoBus("the connection was lost".to_owned())),
        }
    }
}
