//! What the configuration may say and this version does not do: told at start, at a reload and by `--check`, so that
//! nobody relies on it. The format is whole from the first version on, so that no file has to change later.

use crate::{config::Settings, core::policy::Memory};

/// One line for each such thing, as `file:line: warning: …`.
pub fn warnings(settings: &Settings) -> Vec<String> {
    let mut lines = Vec::new();
    if settings.daemon.metrics_textfile.is_some() {
        lines.push(
            "warning: `metrics-textfile` has no effect in this version: no metrics are written yet"
                .to_owned(),
        );
    }
    if settings.daemon.hooks != std::path::Path::new("/etc/virtsnap/hooks.d") {
        lines.push("warning: `hooks` has no effect in this version: no hooks are run yet".to_owned());
    }
    for policy in settings.policies.values() {
        let mut say =
            |what: &str| lines.push(format!("{}: warning: policy {}: {what}", policy.source, policy.name));
        if !policy.before.is_empty() {
            say("`before` has no effect in this version: operations cannot be announced yet");
        }
        if policy.how.skip_unchanged {
            say("`skip-unchanged` has no effect in this version: each run takes a snapshot");
        }
        match policy.how.memory {
            Memory::Never => {}
            Memory::Prefer => say("this version takes no memory with a snapshot: it is of the disks alone"),
            Memory::Require => say("this version takes no memory with a snapshot: every run will fail"),
        }
    }
    lines
}
