//! Who may change something. It fails closed: who cannot be recognised may not. Reading is free for all.
//!
//! ```text
//!   call ──▶ Caller ──(root, or polkit's yes to a Matter)──▶ Permit ──(a change of that Matter)──▶ Permitted ──▶ engine
//! ```
//!
//! Neither a [`Permit`] nor a [`Permitted`] can be made outside this file, and the engine takes nothing else: a change
//! that nobody was asked about does not compile, and one that somebody was asked about for another verb, VM or
//! snapshot is refused.

use nix::unistd::User;
use zbus::{
    Connection,
    message::{Flags, Header},
};
use zbus_polkit::policykit1::Subject;

use super::{
    Shared,
    calls::{Call, Kind},
    error::BusError,
};
use crate::{
    core::{machine::Change, verb::Matter},
    logging::message,
};

/// Who calls.
#[derive(Debug)]
pub(super) struct Caller {
    connection: Connection,
    call: Call,
    user: Option<String>,
    subject: Subject,
    interactive: bool,
}

impl Caller {
    /// The sender of this call, as the bus knows it. The call counts as under way for as long as this lives.
    pub(super) async fn of(
        shared: &Shared,
        connection: &Connection,
        header: &Header<'_>,
    ) -> Result<Self, BusError> {
        // Without a bus, a peer could call itself what it likes, and answer for the bus and for polkit.
        let known = header.sender().filter(|_| connection.is_bus());
        let (Some(sender), Ok(subject)) = (known, Subject::new_for_message_header(header)) else {
            return Err(BusError::access_denied(
                "whoever wants to change something must come over a bus that knows who it is",
            ));
        };
        let interactive = header.primary().flags().contains(Flags::ALLOW_INTERACTIVE_AUTH);
        let call = shared.calls.enter(connection, header, sender.to_owned().into(), Kind::Work).await?;
        Ok(Self { connection: connection.clone(), call, user: None, subject, interactive })
    }

    /// The same, with the user's name, or the number of one that the system knows no name of. Where that is asked for,
    /// it may take its time.
    pub(super) async fn named(self) -> Self {
        let uid = self.uid();
        let known = tokio::task::spawn_blocking(move || User::from_uid(uid.into()).ok().flatten());
        let name = known.await.ok().flatten().map_or_else(|| uid.to_string(), |user| user.name);
        Self { user: Some(name), ..self }
    }

    /// The bus that it came over.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The call, as it counts.
    pub(super) fn call(&self) -> &Call {
        &self.call
    }

    /// The user's number.
    pub(super) fn uid(&self) -> u32 {
        self.call.uid()
    }

    /// The user's name, or else the number.
    pub(super) fn user(&self) -> String {
        self.user.clone().unwrap_or_else(|| self.uid().to_string())
    }

    /// The user's name, or else the number, if it was asked for.
    pub(super) fn known_user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The caller as polkit has it: the connection, so that no other process can step into the place of one that ended.
    pub(super) fn subject(&self) -> &Subject {
        &self.subject
    }

    /// The call allows that a person is asked.
    pub(super) fn interactive(&self) -> bool {
        self.interactive
    }
}

/// What permits are given for.
pub(super) trait Permissible {
    /// As this user's, if the name is known.
    fn matter(&self, user: Option<&str>) -> Matter;
}

impl Permissible for Change {
    fn matter(&self, user: Option<&str>) -> Matter {
        Matter::of(self, user)
    }
}

/// To have the configuration read again.
#[derive(Debug, Clone, Copy)]
pub struct Reload;

impl Permissible for Reload {
    fn matter(&self, _: Option<&str>) -> Matter {
        Matter::reload()
    }
}

/// The proof that a caller may do one thing to one object.
///
/// There is no other way to have one than to be authorised:
///
/// ```compile_fail,E0451
/// fn forged(matter: virtsnap::core::verb::Matter) -> virtsnap::dbus::Permit {
///     virtsnap::dbus::Permit { uid: 0, user: None, matter }
/// }
/// ```
///
/// Who is given one, as here, can make nothing of it outside the D-Bus service, where what is done is held against what
/// was asked for:
///
/// ```
/// fn kept(permit: virtsnap::dbus::Permit) -> virtsnap::dbus::Permit {
///     permit
/// }
/// ```
///
/// ```compile_fail,E0624
/// fn used(permit: virtsnap::dbus::Permit) {
///     permit.on(virtsnap::dbus::Reload);
/// }
/// ```
#[derive(Debug)]
pub struct Permit {
    uid: u32,
    user: Option<String>,
    matter: Matter,
}

impl Permit {
    /// What may be done by it. What it was not given for is refused.
    pub(super) fn on<T: Permissible>(&self, what: T) -> Result<Permitted<T>, BusError> {
        let matter = what.matter(self.user.as_deref());
        if matter == self.matter {
            return Ok(Permitted { what, uid: self.uid });
        }
        tracing::error!(
            MESSAGE_ID = message::INTERNAL_ERROR,
            VIRTSNAP_UID = self.uid,
            "what was authorised as {} was to be used for {}: nothing was changed",
            self.matter.verb().action(),
            matter.verb().action()
        );
        Err(BusError::access_denied(format!(
            "user {} was authorised for {}, and this is {}: nothing was changed. That is a bug of virtsnapd",
            self.uid,
            self.matter.verb().action(),
            matter.verb().action()
        )))
    }
}

/// What a caller may have done, with the proof of it. The engine takes that,
///
/// ```
/// use virtsnap::{core::machine::Change, dbus::Permitted, engine::{Answer, Ask}};
///
/// fn ask(change: Permitted<Change>, reply: tokio::sync::oneshot::Sender<Answer>) -> Ask {
///     Ask::Change(change, reply)
/// }
/// ```
///
/// and nothing less: an unauthorised change does not compile,
///
/// ```compile_fail,E0308
/// use virtsnap::{core::machine::Change, engine::{Answer, Ask}};
///
/// fn ask(change: Change, reply: tokio::sync::oneshot::Sender<Answer>) -> Ask {
///     Ask::Change(change, reply)
/// }
/// ```
///
/// nor does one that somebody calls authorised,
///
/// ```compile_fail,E0451
/// use virtsnap::{core::machine::Change, dbus::Permitted};
///
/// fn call_it_so(what: Change) -> Permitted<Change> {
///     Permitted { what, uid: 0 }
/// }
/// ```
///
/// nor one that is made of what was authorised for another.
///
/// ```compile_fail,E0616
/// use virtsnap::{core::machine::Change, dbus::Permitted};
///
/// fn take_its_place(permitted: &mut Permitted<Change>, what: Change) {
///     permitted.what = what;
/// }
/// ```
#[derive(Debug)]
pub struct Permitted<T> {
    what: T,
    uid: u32,
}

impl<T> Permitted<T> {
    /// What is to be done, and the user who was authorised.
    pub fn into_parts(self) -> (T, u32) {
        (self.what, self.uid)
    }
}

/// Authorises a caller for this.
///
/// Root may without anybody being asked, as with systemd: whoever runs as root can do it all by other ways, and must be
/// able to where polkit is absent or does not answer.
pub(super) async fn authorise(caller: &Caller, matter: Matter, shared: &Shared) -> Result<Permit, BusError> {
    if caller.uid() != 0 {
        shared.polkit.ask(caller, &matter, &shared.lens.view()).await?;
    }
    Ok(Permit { uid: caller.uid(), user: caller.user.clone(), matter })
}

#[cfg(test)]
mod tests {
    use zbus::DBusError as _;

    use super::*;
    use crate::core::{
        job::Pace,
        machine::{Edit, Whose},
        model::{SnapshotName, VmId},
    };

    const WEB: VmId = VmId(uuid::Uuid::from_u128(1));
    const DB: VmId = VmId(uuid::Uuid::from_u128(2));

    fn name(text: &str) -> SnapshotName {
        SnapshotName::existing(text.to_owned())
    }

    fn describe(vm: VmId, snapshot: &str) -> Change {
        Change::Describe { vm, name: name(snapshot), description: String::new() }
    }

    fn unpin(owner: &str) -> Change {
        Change::Label { vm: WEB, name: name("a"), edit: Edit::Unpin(Whose::Owner(owner.to_owned())) }
    }

    #[test]
    fn a_permit_is_for_what_it_was_given_for_and_nothing_else() {
        let permit = Permit { uid: 1000, user: None, matter: Matter::update(WEB, name("a")) };
        let (change, uid) = permit.on(describe(WEB, "a")).expect("it was given for that").into_parts();
        assert_eq!((change, uid), (describe(WEB, "a"), 1000));
        let delete = Change::Delete { vm: WEB, name: name("a"), pace: Pace::default(), foreign: false };
        for other in [describe(WEB, "b"), describe(DB, "a"), delete, Change::Cancel(1), unpin("joe")] {
            let refused = permit.on(other.clone()).expect_err("it was given for something else");
            assert_eq!(refused.name(), "org.freedesktop.DBus.Error.AccessDenied", "{other:?}");
        }
        assert!(permit.on(Reload).is_err());
    }

    #[test]
    fn ones_own_pins_are_known_by_the_name_alone() {
        for (user, may) in [(Some("joe"), true), (Some("jane"), false), (None, false)] {
            let matter = Matter::of(&unpin("joe"), Some("joe"));
            let permit = Permit { uid: 1000, user: user.map(str::to_owned), matter };
            assert_eq!(permit.on(unpin("joe")).is_ok(), may, "{user:?}");
        }
    }
}
