use super::{lines, policy, said};

#[track_caller]
fn assert_warned(text: &str, expected: &[&str]) {
    let lines: Vec<_> = lines(text)
        .iter()
        .map(|l| l.replacen(": warning: policy p", "", 1).trim_start_matches(": ").to_owned())
        .collect();
    assert_eq!(lines, expected, "{text}");
}

/// Without the limit that the usual one has.
fn unlimited(keys: &str) -> String {
    policy(keys).replace("max-count = 10\n", "")
}

#[test]
fn runs_and_how() {
    assert_warned(&policy(""), &[]);
    assert_warned(
        "[policy.p]\nvms = [\"*\"]\n",
        &["1:9: it has no schedule and runs before no operation: it runs only by hand"],
    );
    assert_warned("[policy.p]\nvms = [\"*\"]\nbefore = \"upgrade\"\n", &[]);
    assert_warned(
        &policy("spread = \"1d\""),
        &["5:1: runs are spread over 1d, but can be as little as 23h 30min apart"],
    );
    assert_warned(&policy("spread = \"22h\""), &[]);
    assert_warned(&policy("suspend-after = \"never\"\nstale-after = \"2d\""), &[]);
    assert_warned(
        &policy("stale-after = \"12h\""),
        &["5:1: a snapshot is stale after 12h, but the next run comes no sooner than 23h 30min after it"],
    );
    assert_warned(
        "[policy.p]\nvms = [\"*\"]\nbefore = \"upgrade\"\nsuspend-after = 2\n",
        &["4:1: `suspend-after` has no effect, as only runs by the schedule count"],
    );
    assert_warned(
        &policy("catch-up = \"skip\"\ncatch-up-within = \"1h\""),
        &["6:1: `catch-up-within` has no effect, as missed runs are skipped"],
    );
    assert_warned(
        &policy("memory = \"require\""),
        &["5:1: memory is required, but a VM that is shut off has none: its runs will fail"],
    );
    assert_warned(&policy("memory = \"require\"\nwhen = \"running\""), &[]);
    assert_warned(
        &policy("quiesce = \"require\"\nwhen = [\"paused\"]"),
        &["5:1: quiescing is required, but the agent of a paused VM cannot answer: its runs will fail"],
    );
    assert_warned(
        &policy("quiesce = \"never\"\nfreeze-timeout = \"5s\"\nmountpoints = \"all\""),
        &[
            "6:1: `freeze-timeout` has no effect, as nothing is frozen",
            "7:1: `mountpoints` has no effect, as nothing is frozen",
        ],
    );
}

#[test]
fn rules_that_cannot_apply() {
    assert_warned(
        &policy("keep-hourly = 5"),
        &["5:1: keep-hourly = 5 can never keep more than one a day: the schedule runs at most once a day"],
    );
    // What clients announce comes in between.
    assert_warned(&policy("keep-hourly = 5\nbefore = \"upgrade\""), &[]);
    assert_warned(
        &policy("keep-daily = 5").replace("30 2 * * *", "@monthly"),
        &["5:1: keep-daily = 5 can never keep more than one a month: the schedule runs at most once a month"],
    );
    assert_warned(
        &policy("keep-daily = 5\nkeep-weekly = 1"),
        &["6:1: keep-weekly = 1 adds nothing: keep-daily always keeps the same"],
    );
    assert_warned(&policy("keep-daily = 5\nkeep-weekly = 1\ncombine = \"extend\""), &[]);
    assert_warned(
        &policy("keep-last = 2\nkeep-monthly = 1"),
        &["6:1: keep-monthly = 1 adds nothing: keep-last always keeps the same"],
    );
    // Eight days reach into two weeks, seven need not.
    assert_warned(
        &policy("keep-daily = 8\nkeep-weekly = 2"),
        &["6:1: keep-weekly = 2 adds nothing: keep-daily always keeps the same"],
    );
    assert_warned(&policy("keep-daily = 7\nkeep-weekly = 2"), &[]);
    // A week lies in two months.
    assert_warned(&unlimited("keep-weekly = 12\nkeep-monthly = 2"), &[]);
    assert_warned(
        &policy("keep-monthly = 5\nmax-age = \"83d\""),
        &["6:1: max-age = 83d never lets keep-monthly = 5 be reached"],
    );
    assert_warned(&policy("keep-monthly = 5\nmax-age = \"84d\""), &[]);
    assert_warned(
        &policy("keep-within = \"5d\"\nmax-age = \"4d\""),
        &["6:1: max-age = 4d cuts keep-within = 5d"],
    );
}

#[test]
fn spans_and_ages_are_held_against_the_time_between_runs() {
    assert_warned(
        &policy("keep-within = \"1h\""),
        &["5:1: keep-within = 1h never keeps more than the newest: runs are at least 23h 30min apart"],
    );
    assert_warned(&policy("keep-within = \"1h\"").replace("30 2 *", "*/30 * *"), &[]);
    // What clients announce comes in between.
    assert_warned(&policy("keep-within = \"1h\"\nbefore = \"upgrade\""), &[]);
    let weekly = |keys: &str| policy(keys).replace("30 2 * * *", "0 12 * * mon");
    assert_warned(
        &weekly("keep-last = 5\nmax-age = \"10d\""),
        &["6:1: max-age = 10d never lets keep-last = 5 be reached"],
    );
    assert_warned(&weekly("keep-last = 5\nmax-age = \"36d\""), &[]);
    assert_warned(
        &weekly("keep-weekly = 3\nmax-age = \"10d\""),
        &["6:1: max-age = 10d never lets keep-weekly = 3 be reached"],
    );
    // All that there is to say, once.
    assert_warned(
        &weekly("keep-last = 5\nmax-age = \"3d\""),
        &[
            "6:1: max-age = 3d is not longer than the time between two runs, at least 6d 23h: only the newest stays",
        ],
    );
    let shown = said(&weekly("keep-last = 5\nmax-age = \"10d\"")).to_string();
    assert!(shown.contains("= help: no more than 2 runs come within 10d"), "{shown}");
}

#[test]
fn limits_below_rules() {
    assert_warned(&policy("keep-last = 11"), &["4:1: max-count = 10 is below keep-last = 11: only 10 stay"]);
    assert_warned(
        &policy("keep-daily = 9\nkeep-weekly = 3"),
        &["4:1: max-count = 10 is below the 11 snapshots that the keep rules can want"],
    );
    // The newest is of both.
    assert_warned(&policy("keep-daily = 8\nkeep-weekly = 3"), &[]);
    // One run a day: the last three are three of the seven days.
    assert_warned(&policy("keep-last = 3\nkeep-daily = 7\nkeep-weekly = 4"), &[]);
    assert_warned(
        &policy("keep-last = 3\nkeep-daily = 7\nkeep-weekly = 4\nbefore = \"upgrade\""),
        &["4:1: max-count = 10 is below the 12 snapshots that the keep rules can want"],
    );
    assert_warned(
        &policy("keep-last = 3\nkeep-daily = 7\nkeep-weekly = 4\ncombine = \"extend\""),
        &["4:1: max-count = 10 is below the 14 snapshots that the keep rules can want"],
    );
    assert_warned(
        &policy("keep-within = \"11d\""),
        &["4:1: max-count = 10 is below the 12 snapshots that the keep rules can want"],
    );
}

#[test]
fn rules_that_want_more_than_a_chain_holds() {
    assert_warned(&unlimited("keep-daily = 14"), &[]);
    assert_warned(
        &unlimited("keep-daily = 15"),
        &[
            "4:1: it can keep 15 snapshots, but a chain of max-chain = 16 layers holds 14 beside its base and the next \
             one",
        ],
    );
    assert_warned(
        &unlimited("max-count = 40"),
        &[
            "4:1: it can keep 40 snapshots, but a chain of max-chain = 16 layers holds 14 beside its base and the next \
             one",
        ],
    );
    assert_warned(&unlimited("keep-daily = 14\nmax-count = 40"), &[]);
    assert_warned(
        &unlimited(""),
        &["3:1: it deletes nothing: after 15 snapshots the chain is full and its runs fail"],
    );
}

#[test]
fn exceptions_are_held_against_their_policy() {
    assert_warned(
        &policy("keep-daily = 7\n[vm.db01]\npolicy.p.keep-daily = 30\n"),
        &["7:10 for VM db01: max-count = 10 is below the 30 snapshots that the keep rules can want"],
    );
    assert_warned(
        &policy("keep-daily = 7\n[vm.db01]\npolicy.p.keep-daily = 30\npolicy.p.max-count = \"none\"\n"),
        &[
            "7:10 for VM db01: it can keep 30 snapshots, but a chain of max-chain = 16 layers holds 14 beside its \
             base and the next one",
        ],
    );
    // What is wrong with the policy is not said again for each VM.
    assert_warned(
        &policy("memory = \"require\"\n[vm.db01]\npolicy.p.max-count = 5\n"),
        &["5:1: memory is required, but a VM that is shut off has none: its runs will fail"],
    );
}
