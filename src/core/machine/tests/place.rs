//! What a policy remembers of its own over a restart.

use super::*;

/// The last place that was written down.
fn place(effects: &[Effect]) -> Place {
    let places = remembered(effects).into_iter();
    places
        .filter_map(|e| if let Entry::Place(_, place) = e { Some(place) } else { None })
        .next_back()
        .unwrap()
}

fn restarted(toml: &str, now: &str, place: Place) -> Bench {
    Bench::starting(toml, now, |start| start.places = [(nightly(), place)].into())
}

#[test]
fn a_schedule_that_was_changed_while_the_daemon_was_down_begins_at_the_start() {
    let mut b = Bench::new(NIGHTLY, "2026-03-02T02:00:00Z", None);
    let known = place(&b.connect(&[1]));
    let noon = NIGHTLY.replace("30 2 * * *", "0 12 * * *");
    let zone = format!("{NIGHTLY}timezone = \"Asia/Tokyo\"\n");
    for (toml, next) in [(&noon, "2026-03-03T12:00:00Z"), (&zone, "2026-03-02T17:30:00Z")] {
        let mut b = restarted(toml, "2026-03-02T14:00:00Z", known.clone());
        let effects = b.connect(&[1]);
        assert_eq!(started(&effects), [], "{toml}");
        assert_eq!(wake(&effects), Some(at(next)), "{toml}");
    }
    // The same one is caught up, and so is one of which nobody wrote down what it was.
    for place in [known.clone(), Place { times: String::new(), ..known }] {
        let mut b = restarted(NIGHTLY, "2026-03-02T14:00:00Z", place);
        assert_eq!(started(&b.connect(&[1])).len(), 1);
    }
}

#[test]
fn when_a_policy_ran_last_and_how_that_ended_outlives_a_restart() {
    let mut b = Bench::new(NIGHTLY, "2026-03-02T02:00:00Z", None);
    b.connect(&[1]);
    b.now = at("2026-03-02T02:30:00Z");
    let jobs = started(&b.send(Event::Timer));
    let effects = b.send(Event::Ended(jobs[0].id, Outcome::Failed(Failure::new("Failed", "on request"))));
    let mut b = restarted(NIGHTLY, "2026-03-02T14:00:00Z", place(&effects));
    b.connect(&[1]);
    let view = &b.machine.view().policies[&nightly()];
    assert_eq!(view.last_run, Some(at("2026-03-02T02:30:00Z")));
    assert_eq!(view.last_result, "failed");
}
