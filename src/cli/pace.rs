//! `--bandwidth` and `--until`: how fast images are merged, and for how long.

use super::{args::Pace, exit::Failure, proxy::Options, render::Watch, when};
use crate::config;

/// As the methods that merge take it, added to their other options.
pub(super) fn options<'a>(
    pace: &Pace,
    watch: &Watch,
    mut others: Options<'a>,
) -> Result<Options<'a>, Failure> {
    if let Some(text) = &pace.bandwidth {
        let bytes = config::size(text).ok().filter(|bytes| *bytes > 0);
        let bytes = bytes.ok_or_else(|| {
            let hint = "give what goes in a second, as in 100MiB";
            Failure::Usage(format!("--bandwidth {text:?} is not a size; {hint}"))
        })?;
        others.insert("bandwidth", bytes.into());
    }
    if let Some(text) = &pace.until {
        let at = when::point(text, watch).ok_or_else(|| {
            let hint = "give a time of day, as in 06:00, or a date and a time, as in \"2026-11-21 06:00\"";
            Failure::Usage(format!("--until {text:?} is not a time; {hint}"))
        })?;
        others.insert("until", when::usec("until", text, at, watch)?.into());
    }
    Ok(others)
}

#[cfg(test)]
mod tests {
    use jiff::{Timestamp, tz::TimeZone};

    use super::*;

    fn given(bandwidth: Option<&str>, until: Option<&str>) -> Result<Vec<(String, String)>, Failure> {
        let zone = TimeZone::get("Europe/Vienna").unwrap();
        let now = "2026-11-20T23:30:00+01:00".parse().unwrap();
        let pace = Pace { bandwidth: bandwidth.map(str::to_owned), until: until.map(str::to_owned) };
        let all = options(&pace, &Watch { zone, now }, Options::new())?;
        let mut all: Vec<_> = all.into_iter().map(|(k, v)| (k.to_owned(), v.to_string())).collect();
        all.sort();
        Ok(all)
    }

    #[test]
    fn a_limit_is_bytes_a_second_and_a_time_of_day_the_next_one() {
        assert_eq!(given(None, None).unwrap(), []);
        let limit = given(Some("100MiB"), None).unwrap();
        assert_eq!((limit[0].0.as_str(), limit.len()), ("bandwidth", 1));
        assert!(limit[0].1.contains("104857600"), "{limit:?}");
        for (text, at) in [
            ("06:00", "2026-11-21T06:00:00+01:00"),
            ("23:45", "2026-11-20T23:45:00+01:00"),
            ("2026-11-22 06:00", "2026-11-22T06:00:00+01:00"),
            ("2026-11-21T01:00:00Z", "2026-11-21T01:00:00Z"),
        ] {
            let at: Timestamp = at.parse().unwrap();
            let until = given(None, Some(text)).unwrap();
            assert!(until[0].1.contains(&at.as_microsecond().to_string()), "{text}: {until:?}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for bandwidth in ["100", "fast", "0MiB"] {
            assert!(matches!(given(Some(bandwidth), None), Err(Failure::Usage(_))), "{bandwidth}");
        }
        for until in ["soon", "25:00", "2026-11-20 23:00"] {
            assert!(matches!(given(None, Some(until)), Err(Failure::Usage(_))), "{until}");
        }
    }
}
