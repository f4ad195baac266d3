//! Asking polkit whether a caller may. Never without a limit, and for one user only so often at once: one that does not
//! answer, or is flooded, holds up nobody but those who wait for its answer.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Semaphore, time::timeout};
use zbus::{Connection, proxy::CacheProperties};
use zbus_polkit::policykit1::{AuthorityProxy, AuthorizationResult, CheckAuthorizationFlags};

use super::{
    auth::Caller,
    calls,
    error::{BusError, told},
    refusals::{Refusals, Why},
};
use crate::{
    clock::Clock,
    core::{verb::Matter, view::View},
};

/// How long polkit may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// To decide by itself. Less than most callers wait for an answer (25 s), so that they learn what was wrong.
    pub rules: Duration,
    /// To have a person authenticate.
    pub person: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { rules: Duration::from_secs(20), person: Duration::from_mins(5) }
    }
}

/// So many questions about one user are open at once; others wait for their turn. A bus has a limit for all of them.
const AT_ONCE: usize = 8;

/// Who reads an error finds the rest there.
const SEE: &str = "virtsnapd(8) shows how a rule allows it";

/// The way to polkit.
#[derive(Debug)]
pub(super) struct Polkit {
    patience: Patience,
    turns: Mutex<HashMap<u32, Weak<Semaphore>>>,
    asked: AtomicU64,
    clock: Arc<dyn Clock>,
    refusals: Refusals,
}

impl Polkit {
    pub(super) fn new(patience: Patience, clock: Arc<dyn Clock>) -> Self {
        let (turns, refusals) = (Mutex::default(), Refusals::default());
        Self { patience, turns, asked: AtomicU64::new(0), clock, refusals }
    }

    /// Returns if the caller may.
    pub(super) async fn ask(&self, caller: &Caller, matter: &Matter, view: &View) -> Result<(), BusError> {
        let sentence = matter.sentence(view);
        // polkit would put details in the place of what looks like a reference to one.
        let message = format!("Authentication is required to {}", sentence.replace("$(", "$ ("));
        let details = matter.details(view);
        let mut details: HashMap<&str, &str> = details.iter().map(|(k, v)| (*k, v.as_str())).collect();
        details.insert("polkit.message", &message);
        let (flags, limit) = if caller.interactive() {
            (CheckAuthorizationFlags::ALLOW_USER_INTERACTION, self.patience.person)
        } else {
            (CheckAuthorizationFlags::empty(), self.patience.rules)
        };
        let action = matter.verb().action();
        let number = format!("virtsnapd-{}", self.asked.fetch_add(1, Ordering::Relaxed));
        let turn = self.turns_of(caller.uid());
        let answer = async {
            let _turn = turn.acquire().await;
            let authority = authority(caller.connection()).await?;
            authority.check_authorization(caller.subject(), action, &details, flags, &number).await
        };
        let no = Refused { uid: caller.uid(), sentence: &sentence, action };
        let answer = tokio::select! {
            answer = timeout(limit, answer) => answer,
            () = calls::gone(caller.connection(), Some(caller.call())) => {
                self.give_up(caller, number);
                return Err(no.denied("whoever wanted that is off the bus"));
            }
        };
        let (why, refused) = match answer {
            Ok(Ok(answer)) => match no.unless(&answer, caller.interactive()) {
                Ok(()) => return Ok(()),
                Err(e) => (Why::Refused, e),
            },
            Ok(Err(e)) => (Why::Unasked, no.unasked(&e)),
            Err(_) => {
                self.give_up(caller, number);
                (Why::Unasked, no.unanswered(limit))
            }
        };
        let now = self.clock.elapsed();
        self.refusals.tell(caller.uid(), matter, view, (why, refused.message()), now);
        Err(refused)
    }

    /// Takes the question back, so that nobody is asked for a password any more that nothing waits for.
    fn give_up(&self, caller: &Caller, number: String) {
        let (connection, limit) = (caller.connection().clone(), self.patience.rules);
        tokio::spawn(async move {
            let taken_back =
                async { authority(&connection).await?.cancel_check_authorization(&number).await };
            let _ = timeout(limit, taken_back).await;
        });
    }

    fn turns_of(&self, uid: u32) -> Arc<Semaphore> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(&uid).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::new(Semaphore::new(AT_ONCE));
        turns.insert(uid, Arc::downgrade(&turn));
        turn
    }
}

/// polkit, which need not be there.
async fn authority(connection: &Connection) -> zbus::Result<AuthorityProxy<'_>> {
    AuthorityProxy::builder(connection).cache_properties(CacheProperties::No).build().await
}

/// Who may not do what, and what would allow it.
struct Refused<'a> {
    uid: u32,
    sentence: &'a str,
    action: &'a str,
}

impl Refused<'_> {
    fn unless(&self, answer: &AuthorizationResult, interactive: bool) -> Result<(), BusError> {
        if answer.is_authorized {
            return Ok(());
        }
        let Self { uid, sentence, action } = self;
        let dismissed = answer.details.get("polkit.dismissed").is_some_and(|text| !text.is_empty());
        Err(match (dismissed, answer.is_challenge) {
            (true, _) => self.denied("the authentication was dismissed"),
            (false, false) => self.denied(&format!("polkit says no to {action}; {SEE}")),
            (false, true) => {
                let how = if interactive {
                    "no agent is there that could ask for a password (a desktop has one)"
                } else {
                    "the call does not allow that a person is asked: set the message's flag \
                     ALLOW_INTERACTIVE_AUTHORIZATION (busctl: --allow-interactive-authorization=yes)"
                };
                BusError::interactive_required(format!(
                    "user {uid} may {sentence} only after authentication for {action}, and {how}, or call as root; \
                     {SEE} without"
                ))
            }
        })
    }

    fn unasked(&self, e: &zbus::Error) -> BusError {
        let (name, text) = told(e);
        if is_absent(&name) {
            self.denied(&format!("polkit is not on the bus ({text}), and without it only root may"))
        } else {
            self.denied(&format!(
                "polkit cannot decide on {} ({name}: {text}); root may all the same",
                self.action
            ))
        }
    }

    fn unanswered(&self, limit: Duration) -> BusError {
        let seconds = limit.as_secs();
        self.denied(&format!(
            "polkit did not answer within {seconds} s (`systemctl status polkit`); root may all the same"
        ))
    }

    fn denied(&self, why: &str) -> BusError {
        let Self { uid, sentence, .. } = self;
        BusError::access_denied(format!("user {uid} may not {sentence}: {why}. Nothing was changed"))
    }
}

/// Whether an error's name says that polkit is not there and cannot be started.
fn is_absent(name: &str) -> bool {
    name.starts_with("org.freedesktop.systemd1.")
        || name.strip_prefix("org.freedesktop.DBus.Error.").is_some_and(|rest| {
            rest.starts_with("Spawn.") || matches!(rest, "ServiceUnknown" | "NameHasNoOwner")
        })
}
