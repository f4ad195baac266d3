//! Jobs that somebody asked for and that had not begun when the daemon was told to stop. A restart, which an upgrade is,
//! is none of their business: the next life does them. What comes up much later, or on a host that was restarted
//! meanwhile, nobody expects any more.

use jiff::{SignedDuration, Timestamp};

use super::job::Job;

/// For so long after the daemon was told to stop its next life still does them.
pub const KEPT_FOR: SignedDuration = SignedDuration::from_mins(10);

/// What they wait for until then, as a phase.
pub const PHASE: &str = "waiting for the daemon to start again";

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deferred {
    /// It, with the number that it had.
    pub job: Job,
    /// When the daemon was told to stop; `None`: the host was restarted since.
    pub since: Option<Timestamp>,
}

/// Why one of before a stop at this time is not to be done any more, if it is not. A clock that was set back says nothing of
/// how long ago that was.
pub fn over(since: Option<Timestamp>, now: Timestamp) -> Option<String> {
    let Some(since) = since else {
        return Some("did not begin before the host was restarted: nothing was done".to_owned());
    };
    let gone = now.duration_since(since);
    (gone < SignedDuration::ZERO || gone > KEPT_FOR).then(|| {
        format!(
            "did not begin before the daemon was stopped, at {since:.0}, nor within {} minutes of that: nothing was done",
            KEPT_FOR.as_mins()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_done_soon_after_and_not_when_nobody_expects_it() {
        let at = |second| Timestamp::from_second(second).unwrap();
        for (now, is_over) in [(1000, false), (1001, false), (1600, false), (1601, true), (999, true)] {
            assert_eq!(over(Some(at(1000)), at(now)).is_some(), is_over, "{now}");
        }
        assert!(over(None, at(1001)).unwrap().contains("restarted"));
    }
}
