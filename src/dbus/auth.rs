//! Who may change something. It fails closed: who cannot be recognised may not.
//!
//! In this version the superuser may change everything and nobody else anything; polkit comes later and takes this
//! function's place. Reading is free for all.

use zbus::{Connection, fdo::DBusProxy, message::Header};

use super::error::BusError;

/// The proof that a caller may. Nothing outside this file can make one, so that a change without authorisation
/// does not compile.
#[derive(Debug, Clone)]
pub struct Permit {
    uid: u32,
}

impl Permit {
    /// The user who was authorised.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// The user's name, or the number of one that the system knows no name of.
    pub(super) fn user(&self) -> String {
        let user = nix::unistd::User::from_uid(self.uid.into()).ok().flatten();
        user.map_or_else(|| self.uid.to_string(), |user| user.name)
    }
}

/// Authorises the sender of this call to do this.
pub(super) async fn authorise(
    connection: &Connection,
    call: &Header<'_>,
    verb: &str,
) -> Result<Permit, BusError> {
    let Some(sender) = call.sender() else {
        return Err(BusError::access_denied(format!(
            "to {verb}, a caller must come over a bus that knows it"
        )));
    };
    let user =
        async { DBusProxy::new(connection).await?.get_connection_unix_user(sender.clone().into()).await };
    match user.await {
        Ok(0) => Ok(Permit { uid: 0 }),
        Ok(uid) => Err(BusError::access_denied(format!(
            "user {uid} may not {verb}: in this version only root may (try with sudo)"
        ))),
        Err(e) => Err(BusError::access_denied(format!("the bus does not say who wants to {verb}: {e}"))),
    }
}
