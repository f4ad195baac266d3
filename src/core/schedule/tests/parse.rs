//! What is refused, where, and what is said about it.

use proptest::prelude::*;

use super::{cron, model};
use crate::core::schedule::{Schedule, ScheduleError};

fn refused(text: &str) -> ScheduleError {
    Schedule::parse(text).expect_err(text)
}

/// The text, the bytes that are to blame, a part of the message, a part of the help.
const REFUSED: &[(&str, &str, &str, &str)] = &[
    ("", "", "empty", "minute hour day-of-month"),
    (" \t ", " \t ", "empty", "minute hour day-of-month"),
    ("30 2 * *", "30 2 * *", "five fields, this has 4", "minute hour"),
    ("  30  ", "30", "five fields, this has 1", "minute hour"),
    ("0 30 2 * * *", "*", "five fields, this has 6", "no field for seconds"),
    ("0 30 2 * * * 2026", "* 2026", "five fields, this has 7", "years"),
    ("30 2 * * * root /bin/true", "root /bin/true", "has 7", "a command"),
    ("60 2 * * *", "60", "60 is out of range for the minute field", "takes 0 to 59"),
    ("30 24 * * *", "24", "out of range for the hour", "0 to 23"),
    ("30 2 0 * *", "0", "out of range for the day of month", "1 to 31"),
    ("30 2 32 * *", "32", "out of range", "1 to 31"),
    ("30 2 * 13 *", "13", "out of range for the month", "1 to 12, and jan to dec"),
    ("30 2 * * 8", "8", "out of range for the day of week", "0 to 7, and sun to sat"),
    ("5,10,99999999999999999999 2 * * *", "99999999999999999999", "out of range", "0 to 59"),
    ("10-70/2 2 * * *", "70", "out of range", "0 to 59"),
    ("30 22-2 * * *", "22-2", "runs backwards", "`22-23,0-2`"),
    ("30 2 * * fri-tue", "fri-tue", "runs backwards", "`5-6,0-2`"),
    ("30 2 * * 7-2", "7-2", "runs backwards", "`0-2`"),
    ("30 2 * nov-jan *", "nov-jan", "runs backwards", "`11-12,1`"),
    ("*/0 2 * * *", "0", "step of zero", "*/15"),
    ("*/ 2 * * *", "*/", "no step after", "*/15"),
    ("*/x 2 * * *", "x", "`x` is no step", "*/15"),
    ("*/5/2 2 * * *", "5/2", "no step", "*/15"),
    ("5/15 2 * * *", "5/15", "a step needs a range", "`5-59/…`"),
    ("*-5 2 * * *", "*-5", "part of a range", "alone"),
    ("1- 2 * * *", "1-", "lacks a value", "0 to 59"),
    ("-5 2 * * *", "-5", "lacks a value", "0 to 59"),
    ("+5 2 * * *", "+5", "no value", "0 to 59"),
    ("1-2-3 2 * * *", "2-3", "no value", "0 to 59"),
    ("1,,2 2 * * *", "1,,2", "an empty value", "0 to 59"),
    ("jan 2 * * *", "jan", "no value of the minute", "0 to 59"),
    ("30 2 * january *", "january", "no value of the month", "jan to dec"),
    ("30 2 * * montag", "montag", "no value of the day of week", "sun to sat"),
    ("30 2 * * mön", "mön", "no value", "sun to sat"),
    ("30 2 ? * *", "?", "not cron's", "write `*`"),
    ("30 2 L * *", "L", "not cron's", "Quartz's"),
    ("30 2 LW * *", "LW", "not cron's", "Quartz's"),
    ("30 2 15W * *", "15W", "not cron's", "Quartz's"),
    ("30 2 L-3 * *", "L", "not cron's", "Quartz's"),
    ("30 2 * * friL", "friL", "not cron's", "Quartz's"),
    ("30 2 * * 5L", "5L", "not cron's", "Quartz's"),
    ("30 2 * * mon#2", "#", "not cron's", "nth weekday"),
    ("0~59 2 * * *", "~", "not cron's", "`spread`"),
    ("30 2 30 2 *", "30 2", "there is no 30 February", "a day that one of the months has"),
    ("30 2 31 4 *", "31 4", "there is no 31 April", "a day"),
    ("30 2 31 4,jun,9,11 *", "31 4,jun,9,11", "no 31 April or June or September or November", "a day"),
    ("30 2 30,31 feb */2", "30,31 feb", "no 30 or 31 February", "a day"),
    ("@never", "@never", "unknown macro `@never`", "@hourly"),
    ("@every 5m", "5m", "nothing may follow", "*/20 * * * *"),
    ("@daily * * *", "* * *", "nothing may follow", "`@daily` alone"),
    ("30 2 * * *\n", "\n", "one line", "a list"),
    ("30 2\u{a0}* * * *", "2\u{a0}*", "no value of the hour", "0 to 23"),
];

#[test]
fn what_cron_would_misread_is_refused_in_its_place() {
    for (text, blamed, message, help) in REFUSED {
        let error = refused(text);
        assert_eq!(text.get(error.span.clone()), Some(*blamed), "{text:?}: {error:?}");
        assert!(error.message.contains(message), "{text:?}: {error:?}");
        assert!(error.help.as_ref().is_some_and(|h| h.contains(help)), "{text:?}: {error:?}");
        assert_eq!(error.to_string(), error.message);
    }
}

#[test]
fn the_span_is_that_of_the_last_field_not_an_equal_one_before() {
    assert_eq!(refused("8 8 8 8 8").span, 8..9);
    assert_eq!(refused("0 30 2 * * *").span, 11..12);
    assert_eq!(refused("1,2,3,4,60,5 * * * *").span, 8..10);
}

#[test]
fn what_vixie_cron_takes_is_taken() {
    let texts = [
        "  05\t2 * *  * ",
        "*,5 * * * *",
        "0 0 1-31 * 1",
        "0 0 * JAN-mar,Dec MON-fri",
        "0 0 * * fri-sun",
        "0 0 * * sun-sun",
        "0 0 * * 0-7/2",
        "0 */24 * * *",
        "*/90 * * * *",
        "0 0 30 2 1",
        "0 0 29 2 *",
        "0 0 31 1-2 *",
        "@Daily",
        " @reboot ",
    ];
    for text in texts {
        assert_eq!(cron(text).to_string(), text, "shown as written");
        assert_eq!(cron(text).as_str(), text);
    }
    assert_eq!(format!("{:>8}", cron("@daily")), "  @daily");
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused_in_its_place(
        text in prop_oneof!["\\PC{0,20}", "[0-9*/,@?#LWa-n ~-]{0,24}", "([0-9*/,-]{1,5} ){4,6}"]
    ) {
        match Schedule::parse(&text) {
            Ok(schedule) => prop_assert_eq!(schedule.to_string(), text),
            Err(error) => {
                prop_assert!(text.get(error.span.clone()).is_some(), "{:?}", error);
                prop_assert!(!error.span.is_empty() || text.is_empty(), "{:?}", error);
                prop_assert!(!error.message.is_empty());
            }
        }
    }

    #[test]
    fn what_the_grammar_makes_is_taken(model in model()) {
        prop_assert_eq!(cron(&model.text).to_string(), model.text);
    }
}
