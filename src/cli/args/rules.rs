//! Keys of a policy as options, for trying one without a file.

use clap::Args;

/// Where the help text lists the keys of a policy.
const RULES: &str = "Rules, as in a policy file";

/// Keys of `[policy.*]` as options. Their values are read as those of a file are.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = RULES)]
pub struct InlineRules {
    /// Keep the newest so many
    #[arg(long, value_name = "N")]
    keep_last: Option<String>,
    /// Keep the newest of so many hours
    #[arg(long, value_name = "N")]
    keep_hourly: Option<String>,
    /// Keep the newest of so many days
    #[arg(long, value_name = "N")]
    keep_daily: Option<String>,
    /// Keep the newest of so many ISO weeks
    #[arg(long, value_name = "N")]
    keep_weekly: Option<String>,
    /// Keep the newest of so many months
    #[arg(long, value_name = "N")]
    keep_monthly: Option<String>,
    /// Keep the newest of so many years
    #[arg(long, value_name = "N")]
    keep_yearly: Option<String>,
    /// Keep what is less than this much older than the newest, such as 2d
    #[arg(long, value_name = "SPAN")]
    keep_within: Option<String>,
    /// How the rules work together: union or extend
    #[arg(long, value_name = "HOW")]
    combine: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N")]
    max_count: Option<String>,
    /// None older than this, such as 400d
    #[arg(long, value_name = "SPAN")]
    max_age: Option<String>,
    /// At most so many bytes, such as 200GiB
    #[arg(long, value_name = "SIZE")]
    max_size: Option<String>,
    /// At most so many deletions in one prune
    #[arg(long, value_name = "N")]
    max_delete: Option<String>,
    /// When it runs, as cron has it, for --until; may be repeated
    #[arg(long = "schedule", value_name = "CRON")]
    schedules: Vec<String>,
}

impl InlineRules {
    /// As they would stand in a file; empty if none is given.
    pub fn toml(&self) -> String {
        let given = [
            ("keep-last", &self.keep_last),
            ("keep-hourly", &self.keep_hourly),
            ("keep-daily", &self.keep_daily),
            ("keep-weekly", &self.keep_weekly),
            ("keep-monthly", &self.keep_monthly),
            ("keep-yearly", &self.keep_yearly),
            ("keep-within", &self.keep_within),
            ("combine", &self.combine),
            ("max-count", &self.max_count),
            ("max-age", &self.max_age),
            ("max-size", &self.max_size),
            ("max-delete", &self.max_delete),
        ];
        let line = |(key, value): (&str, &Option<String>)| {
            let value = value.as_deref()?;
            // A number is one; all else is a text, and no text can end the line it stands on.
            let value = value.parse::<i64>().map_or_else(|_| text_of(value), |n| n.to_string());
            Some(format!("{key} = {value}\n"))
        };
        let mut text: String = given.into_iter().filter_map(line).collect();
        if !self.schedules.is_empty() {
            let all: Vec<String> = self.schedules.iter().map(|s| text_of(s)).collect();
            text = format!("{text}schedule = [{}]\n", all.join(", "));
        }
        text
    }
}

/// A TOML string.
fn text_of(value: &str) -> String {
    toml::Value::from(value).to_string()
}
