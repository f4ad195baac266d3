//! Talking to systemd: ready, status, watchdog. Silent where there is no systemd.

use std::time::Duration;

use sd_notify::NotifyState;

/// Everything is served and the bus name is ours.
pub fn ready() {
    notify(&[NotifyState::Ready]);
}

/// On the way out.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// One line for `systemctl status`.
pub fn status(text: &str) {
    // A VM's name may hold a newline, and what follows one would be read as another assignment.
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    notify(&[NotifyState::Status(&line)]);
}

/// Says that the engine is alive.
pub fn ping() {
    notify(&[NotifyState::Watchdog]);
}

/// How often to [`ping`]: half of what systemd asks for. `None`: not at all.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        tracing::debug!(error = %e, "systemd cannot be told");
    }
}
