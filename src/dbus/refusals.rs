//! What somebody was not allowed, for the journal: an entry a minute for each user and action at most, as whoever is refused
//! may go on asking.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::{
    core::{verb::Matter, view::View},
    logging::message,
};

/// So long nothing is told again that was told.
const QUIET: Duration = Duration::from_mins(1);

/// Why somebody may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Why {
    /// polkit says so.
    Refused,
    /// polkit cannot be asked.
    Unasked,
}

/// Who was refused what, and is told for now.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<BTreeMap<(u32, &'static str, Why), Duration>>);

impl Refusals {
    /// Tells it, unless the same was told within the minute. `text`: the caller's answer.
    pub(super) fn tell(
        &self,
        uid: u32,
        matter: &Matter,
        view: &View,
        (why, text): (Why, &str),
        now: Duration,
    ) {
        let action = matter.verb().action();
        if !self.is_new((uid, action, why), now) {
            return;
        }
        let details = matter.details(view);
        let of = |key| details.iter().find(|(k, _)| *k == key).map(|(_, value)| value.as_str());
        match why {
            Why::Refused => tracing::info!(
                MESSAGE_ID = message::NOT_AUTHORISED,
                VIRTSNAP_UID = uid,
                VIRTSNAP_ACTION = action,
                VIRTSNAP_VM = of("vm"),
                VIRTSNAP_VM_UUID = of("vm-uuid"),
                VIRTSNAP_SNAPSHOT = of("snapshot"),
                VIRTSNAP_POLICY = of("policy"),
                "{text}"
            ),
            Why::Unasked => tracing::warn!(
                MESSAGE_ID = message::POLKIT_UNAVAILABLE,
                VIRTSNAP_UID = uid,
                VIRTSNAP_ACTION = action,
                VIRTSNAP_VM = of("vm"),
                VIRTSNAP_VM_UUID = of("vm-uuid"),
                VIRTSNAP_SNAPSHOT = of("snapshot"),
                VIRTSNAP_POLICY = of("policy"),
                "{text}"
            ),
        }
    }

    fn is_new(&self, what: (u32, &'static str, Why), now: Duration) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, at| now.saturating_sub(*at) < QUIET);
        if told.contains_key(&what) {
            return false;
        }
        told.insert(what, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{
        core::{
            machine::{Machine, Start},
            model::{SnapshotName, VmId},
        },
        logging::heard::heard,
    };

    #[test]
    fn one_a_minute_is_told_for_each_user_and_action() {
        let refusals = Refusals::default();
        let second = Duration::from_secs;
        let is_new = |uid, action, why, at| refusals.is_new((uid, action, why), second(at));
        assert!(is_new(1000, "a", Why::Refused, 10));
        assert!(!is_new(1000, "a", Why::Refused, 69), "within the minute");
        assert!(is_new(1000, "b", Why::Refused, 69) && is_new(1001, "a", Why::Refused, 69));
        assert!(is_new(1000, "a", Why::Unasked, 69), "another thing");
        assert!(is_new(1000, "a", Why::Refused, 70), "the minute is over");
        assert!(!is_new(1000, "a", Why::Refused, 129));
        assert!(is_new(1, "a", Why::Refused, 1000));
        assert_eq!(refusals.0.lock().unwrap().len(), 1, "nobody is kept for longer than that");
    }

    #[test]
    fn it_is_told_who_wanted_what_of_which_vm() {
        let (loaded, vm) = (config(), VmId(Uuid::from_u128(1)));
        let machine = Machine::new(Start::first(loaded));
        let matter = Matter::update(vm, SnapshotName::existing("s1"));
        let refusals = Refusals::default();
        let told = heard(|| {
            for why in [Why::Refused, Why::Unasked, Why::Refused] {
                refusals.tell(1000, &matter, machine.view(), (why, "user 1000 may not"), Duration::ZERO);
            }
        });
        let kinds: Vec<_> = told.iter().map(|entry| entry.one("MESSAGE_ID")).collect();
        assert_eq!(kinds, [message::NOT_AUTHORISED, message::POLKIT_UNAVAILABLE]);
        for entry in &told {
            let fields =
                ["VIRTSNAP_UID", "VIRTSNAP_ACTION", "VIRTSNAP_VM_UUID", "VIRTSNAP_SNAPSHOT", "message"];
            let wanted = ["1000", "org.virtsnap1.update", &vm.to_string(), "s1", "user 1000 may not"];
            assert_eq!(fields.map(|field| entry.one(field)), wanted);
            assert!(entry.all("VIRTSNAP_POLICY").is_empty(), "it is about none");
        }
    }

    fn config() -> std::sync::Arc<crate::core::settings::Settings> {
        let environment = crate::config::Environment { timezone: jiff::tz::TimeZone::UTC, cores: 1 };
        std::sync::Arc::new(crate::config::parse(&[], &environment).unwrap().settings)
    }
}
