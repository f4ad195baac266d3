//! The keys of `[policy.*]`: what each holds, how it is read, what it sets, and whether a VM may have its own.

use std::{collections::BTreeSet, sync::Arc};

use jiff::{SignedDuration, tz::TimeZone};

use super::{
    Environment,
    diagnostic::{Diagnostic, Diagnostics, Place},
    item::{Item, unknown_word},
    names, selectors,
    values::ValueError,
};
use crate::core::{
    model::{PolicyName, VmState},
    policy::{
        CatchUp, Combine, How, Keep, Limits, Memory, Mountpoints, Policy, Quiesce, Retention, Selector,
        Source,
    },
    schedule::Schedule,
};

/// The word that takes a policy's rule or limit away for one VM.
const NONE: &str = "none";
/// The word for what does not happen.
const NEVER: &str = "never";
/// More than a chain can ever hold, and few enough to add up.
const COUNT_MAX: u32 = 100_000;
const SECOND: SignedDuration = SignedDuration::from_secs(1);
/// States in which libvirt takes a snapshot.
const STATES: &[VmState] = &[VmState::Running, VmState::Paused, VmState::ShutOff, VmState::Crashed];

/// What a key says.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Setting {
    Vms(Vec<(Selector, Place)>),
    Schedule(Vec<Schedule>),
    Timezone(TimeZone),
    CatchUp(CatchUp),
    CatchUpWithin(SignedDuration),
    Spread(SignedDuration),
    Before(BTreeSet<String>),
    Quiesce(Quiesce),
    FreezeTimeout(SignedDuration),
    Mountpoints(Mountpoints),
    Memory(Memory),
    When(BTreeSet<VmState>),
    SkipUnchanged(bool),
    Name(String),
    KeepLast(Option<u32>),
    KeepHourly(Option<u32>),
    KeepDaily(Option<u32>),
    KeepWeekly(Option<u32>),
    KeepMonthly(Option<u32>),
    KeepYearly(Option<u32>),
    KeepWithin(Option<SignedDuration>),
    Combine(Combine),
    MaxCount(Option<u32>),
    MaxAge(Option<SignedDuration>),
    MaxSize(Option<u64>),
    MaxDelete(u32),
    SuspendAfter(Option<u32>),
    StaleAfter(Option<SignedDuration>),
}

/// A key that was given, and where.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Given {
    pub(super) key: &'static str,
    pub(super) setting: Setting,
    pub(super) key_place: Place,
    /// The value's.
    pub(super) place: Place,
    /// The line, found once: explanations are made for many VMs.
    pub(super) source: Source,
}

/// What surrounds an item.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope<'a> {
    pub(super) environment: &'a Environment,
    /// True for `[vm.*] policy.NAME.KEY`.
    pub(super) exception: bool,
}

type Read = fn(&Item<'_>, Scope<'_>, &mut Diagnostics) -> Option<Setting>;

/// A key of `[policy.*]`.
pub(super) struct Key {
    pub(super) name: &'static str,
    read: Read,
    /// Why a VM cannot have its own; `None`: it can.
    pub(super) not_per_vm: Option<&'static str>,
}

const WHICH: Option<&str> = Some("which VMs a policy is for is said by the policy alone");
const ONE_RUN: Option<&str> =
    Some("a policy runs for all of its VMs at once; for another time, write a policy of its own for this VM");

macro_rules! keys {
    ($($name:literal, $not_per_vm:expr, $read:expr;)+) => {
        /// All keys, in the order in which they are documented.
        pub(super) const KEYS: &[Key] =
            &[$(Key { name: $name, read: $read, not_per_vm: $not_per_vm }),+];
        /// Their names.
        pub(super) const NAMES: &[&str] = &[$($name),+];
    };
}

keys! {
    "vms", WHICH, |item, _, out| selectors::vms(item, out);
    "schedule", ONE_RUN, |item, _, out| schedules(item, out);
    "timezone", ONE_RUN, |item, scope, out| timezone(item, scope.environment, out).map(Setting::Timezone);
    "catch-up", ONE_RUN, |item, _, out| item.word(CatchUp::ALL, out).map(Setting::CatchUp);
    "catch-up-within", ONE_RUN, |item, _, out| {
        item.duration(SECOND..=SignedDuration::MAX, out).map(Setting::CatchUpWithin)
    };
    "spread", ONE_RUN, |item, _, out| {
        item.duration(SignedDuration::ZERO..=SignedDuration::MAX, out).map(Setting::Spread)
    };
    "before", ONE_RUN, |item, _, out| {
        let wanted = "the name of an operation such as \"upgrade\", or a list";
        let list = item.text_or_texts(wanted, names::operation, out)?;
        Some(Setting::Before(list.into_iter().map(|(operation, _)| operation).collect()))
    };
    "quiesce", None, |item, _, out| item.word(Quiesce::ALL, out).map(Setting::Quiesce);
    "freeze-timeout", None, |item, _, out| {
        item.duration(SECOND..=SignedDuration::from_secs(300), out).map(Setting::FreezeTimeout)
    };
    "mountpoints", None, |item, _, out| mountpoints(item, out).map(Setting::Mountpoints);
    "memory", None, |item, _, out| item.word(Memory::ALL, out).map(Setting::Memory);
    "when", None, |item, _, out| when(item, out).map(Setting::When);
    "skip-unchanged", None, |item, _, out| item.bool(out).map(Setting::SkipUnchanged);
    "name", Some("snapshots that share a policy share its way of naming"), |item, _, out| {
        item.text("a template such as \"{policy}-{timestamp}\"", names::name_template, out).map(Setting::Name)
    };
    "keep-last", None, |item, scope, out| count(item, scope, out).map(Setting::KeepLast);
    "keep-hourly", None, |item, scope, out| count(item, scope, out).map(Setting::KeepHourly);
    "keep-daily", None, |item, scope, out| count(item, scope, out).map(Setting::KeepDaily);
    "keep-weekly", None, |item, scope, out| count(item, scope, out).map(Setting::KeepWeekly);
    "keep-monthly", None, |item, scope, out| count(item, scope, out).map(Setting::KeepMonthly);
    "keep-yearly", None, |item, scope, out| count(item, scope, out).map(Setting::KeepYearly);
    "keep-within", None, |item, scope, out| age(item, scope, out).map(Setting::KeepWithin);
    "combine", None, |item, _, out| item.word(Combine::ALL, out).map(Setting::Combine);
    "max-count", None, |item, scope, out| count(item, scope, out).map(Setting::MaxCount);
    "max-age", None, |item, scope, out| age(item, scope, out).map(Setting::MaxAge);
    "max-size", None, |item, scope, out| {
        if scope.exception && item.is_word(NONE) {
            return Some(Setting::MaxSize(None));
        }
        item.size(out).map(|size| Setting::MaxSize(Some(size)))
    };
    "max-delete", None, |item, _, out| {
        item.number(1..=COUNT_MAX, Some("to keep everything, give no keep rules and no limits"), out)
            .map(Setting::MaxDelete)
    };
    "suspend-after", None, |item, _, out| {
        if item.is_word(NEVER) {
            return Some(Setting::SuspendAfter(None));
        }
        item.number(1..=COUNT_MAX, Some("write \"never\" to have it tried at each of its times"), out)
            .map(|count| Setting::SuspendAfter(Some(count)))
    };
    "stale-after", None, |item, _, out| {
        if item.is_word(NEVER) {
            return Some(Setting::StaleAfter(None));
        }
        item.duration(SECOND..=SignedDuration::MAX, out).map(|age| Setting::StaleAfter(Some(age)))
    };
}

impl Key {
    pub(super) fn find(name: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.name == name)
    }

    pub(super) fn read(&self, item: &Item<'_>, scope: Scope<'_>, out: &mut Diagnostics) -> Option<Given> {
        let setting = (self.read)(item, scope, out)?;
        let key_place = item.key_place();
        Some(Given { key: self.name, setting, source: key_place.source(), key_place, place: item.place() })
    }
}

fn schedules(item: &Item<'_>, out: &mut Diagnostics) -> Option<Setting> {
    let read = |text: &str| {
        Schedule::parse(text).map_err(|e| ValueError {
            message: e.message,
            span: Some(e.span),
            help: e.help.unwrap_or_else(|| "five cron fields or a macro such as @daily".to_owned()),
        })
    };
    let wanted = "a cron expression such as \"30 2 * * *\", or a list of them";
    let list = item.text_or_texts(wanted, read, out)?;
    Some(Setting::Schedule(list.into_iter().map(|(schedule, _)| schedule).collect()))
}

/// An IANA zone, or `system`.
pub(super) fn timezone(
    item: &Item<'_>,
    environment: &Environment,
    out: &mut Diagnostics,
) -> Option<TimeZone> {
    if item.is_word("system") {
        return Some(environment.timezone.clone());
    }
    let read = |text: &str| {
        TimeZone::get(text).map_err(|_| {
            let known: Vec<_> = jiff::tz::db().available().map(|name| name.as_str().to_owned()).collect();
            if known.is_empty() {
                return ValueError {
                    message: "this system has no time zones".to_owned(),
                    span: None,
                    help: "install tzdata".to_owned(),
                };
            }
            // The city alone, or what it was called elsewhere in the tree, is the likeliest slip.
            let city = known.iter().find(|name| {
                name.rsplit('/').next().is_some_and(|city| city.eq_ignore_ascii_case(&text.replace(' ', "_")))
            });
            ValueError {
                message: format!("{text:?} is not a time zone"),
                span: None,
                help: match city
                    .map(String::as_str)
                    .or_else(|| super::similar::closest(text, known.iter().map(String::as_str)))
                {
                    Some(near) => format!("did you mean {near:?}?"),
                    None => "an IANA name such as \"Europe/Vienna\", \"UTC\", or \"system\"".to_owned(),
                },
            }
        })
    };
    item.text("an IANA time zone such as \"Europe/Vienna\"", read, out)
}

fn mountpoints(item: &Item<'_>, out: &mut Diagnostics) -> Option<Mountpoints> {
    if item.is_word("auto") {
        return Some(Mountpoints::Auto);
    }
    if item.is_word("all") {
        return Some(Mountpoints::All);
    }
    let list = item.texts("\"auto\", \"all\" or a list of paths in the guest", names::mountpoint, out)?;
    if list.is_empty() {
        out.push(
            item.error("`mountpoints` names no file system")
                .help("to freeze none, write quiesce = \"never\""),
        );
        return None;
    }
    Some(Mountpoints::List(list.into_iter().map(|(path, _)| path).collect()))
}

fn when(item: &Item<'_>, out: &mut Diagnostics) -> Option<BTreeSet<VmState>> {
    let words: Vec<_> = STATES.iter().map(ToString::to_string).collect();
    let read = |text: &str| match text.parse::<VmState>() {
        Ok(state) if STATES.contains(&state) => Ok(state),
        Ok(VmState::PmSuspended) => Err(ValueError {
            message: "libvirt takes no snapshot of a VM that its guest suspended to memory".to_owned(),
            span: None,
            help: unknown_word(text, &words).help,
        }),
        _ => Err(unknown_word(text, &words)),
    };
    let list = item.text_or_texts("a VM state or a list of them", read, out)?;
    if list.is_empty() {
        out.push(item.error("`when` names no state, so that the policy would never run"));
        return None;
    }
    Some(list.into_iter().map(|(state, _)| state).collect())
}

/// A count; `none` takes the policy's away for one VM.
#[expect(clippy::option_option, reason = "outside: is it well written; inside: is there a rule")]
fn count(item: &Item<'_>, scope: Scope<'_>, out: &mut Diagnostics) -> Option<Option<u32>> {
    if scope.exception && item.is_word(NONE) {
        return Some(None);
    }
    let zero = if scope.exception {
        "write \"none\" to take the policy's away for this VM"
    } else {
        "omit it instead"
    };
    item.number(1..=COUNT_MAX, Some(zero), out).map(Some)
}

#[expect(clippy::option_option, reason = "as for `count`")]
fn age(item: &Item<'_>, scope: Scope<'_>, out: &mut Diagnostics) -> Option<Option<SignedDuration>> {
    if scope.exception && item.is_word(NONE) {
        return Some(None);
    }
    item.duration(SECOND..=SignedDuration::MAX, out).map(Some)
}

/// A policy that says nothing.
pub(super) fn defaults(name: PolicyName, timezone: TimeZone, source: Source) -> Policy {
    Policy {
        name,
        vms: Vec::new(),
        schedules: Vec::new(),
        catch_up: CatchUp::Once,
        // More than a year: however long the host was off, one restore point late is better than none. A
        // shorter default would silently lose a month's run to a week's outage.
        catch_up_within: SignedDuration::from_hours(24 * 400),
        spread: SignedDuration::ZERO,
        before: BTreeSet::new(),
        how: How {
            quiesce: Quiesce::Prefer,
            freeze_timeout: SignedDuration::from_secs(8),
            mountpoints: Mountpoints::Auto,
            memory: Memory::Never,
            when: BTreeSet::from([VmState::Running, VmState::ShutOff]),
            skip_unchanged: false,
            name: "{policy}-{timestamp}".to_owned(),
        },
        retention: Retention {
            keep: Keep::default(),
            combine: Combine::Union,
            limits: Limits { max_delete: Some(10), ..Limits::default() },
            timezone,
        },
        suspend_after: Some(5),
        stale_after: None,
        source,
    }
}

impl Setting {
    /// Says it of `policy`.
    pub(super) fn apply(&self, policy: &mut Policy) {
        let How { quiesce, freeze_timeout, mountpoints, memory, when, skip_unchanged, name } =
            &mut policy.how;
        let Retention { keep, combine, limits, timezone } = &mut policy.retention;
        match self {
            Self::Vms(list) => policy.vms = list.iter().map(|(selector, _)| selector.clone()).collect(),
            Self::Schedule(list) => policy.schedules.clone_from(list),
            Self::Timezone(zone) => *timezone = zone.clone(),
            Self::CatchUp(value) => policy.catch_up = *value,
            Self::CatchUpWithin(value) => policy.catch_up_within = *value,
            Self::Spread(value) => policy.spread = *value,
            Self::Before(value) => policy.before.clone_from(value),
            Self::Quiesce(value) => *quiesce = *value,
            Self::FreezeTimeout(value) => *freeze_timeout = *value,
            Self::Mountpoints(value) => mountpoints.clone_from(value),
            Self::Memory(value) => *memory = *value,
            Self::When(value) => when.clone_from(value),
            Self::SkipUnchanged(value) => *skip_unchanged = *value,
            Self::Name(value) => name.clone_from(value),
            Self::KeepLast(value) => keep.last = *value,
            Self::KeepHourly(value) => keep.hourly = *value,
            Self::KeepDaily(value) => keep.daily = *value,
            Self::KeepWeekly(value) => keep.weekly = *value,
            Self::KeepMonthly(value) => keep.monthly = *value,
            Self::KeepYearly(value) => keep.yearly = *value,
            Self::KeepWithin(value) => keep.within = *value,
            Self::Combine(value) => *combine = *value,
            Self::MaxCount(value) => limits.max_count = *value,
            Self::MaxAge(value) => limits.max_age = *value,
            Self::MaxSize(value) => limits.max_size = *value,
            Self::MaxDelete(value) => limits.max_delete = Some(*value),
            Self::SuspendAfter(value) => policy.suspend_after = *value,
            Self::StaleAfter(value) => policy.stale_after = *value,
        }
    }
}

/// A policy of these keys, with their exceptions' if there are any.
pub(super) fn apply_all<'a>(policy: &mut Arc<Policy>, given: impl IntoIterator<Item = &'a Given>) {
    for one in given {
        one.setting.apply(Arc::make_mut(policy));
    }
}

/// Notes a key that one VM cannot have for itself.
pub(super) fn refuse_per_vm(item: &Item<'_>, why: &str, out: &mut Diagnostics) {
    out.push(
        Diagnostic::error(&item.key_place(), format!("`{}` cannot be set for one VM", item.key())).help(why),
    );
}
