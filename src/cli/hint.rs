//! What to do about a failure: the next step, with the commands for it.

use super::{exit::Failure, place::Place};

impl Failure {
    /// The next step, if there is one to name, where the daemon is.
    pub fn hint(&self, place: &Place) -> Option<String> {
        let virtsnap = |arguments| place.virtsnap(arguments);
        let there = |command| place.command(command);
        Some(match self {
            Self::NotFound { look: (arguments, shows), .. } => format!("{} {shows}", virtsnap(arguments)),
            Self::NoBus(_) => "is D-Bus running? `systemctl status dbus`".to_owned(),
            Self::NoHost { .. } => format!(
                "does {} work? It wants systemd there, and a login that may use D-Bus",
                there("systemd-stdio-bridge")
            ),
            Self::NoDaemon(_) => format!(
                "is it running{}? {}, {}",
                place.on(),
                there("systemctl status virtsnapd"),
                there("journalctl -u virtsnapd")
            ),
            Self::Stopped => format!(
                "when it runs again it goes on with what the job was at, or takes that back: {} shows which",
                virtsnap("list VM")
            ),
            Self::Answered { name, .. } => return hint_for(name, place),
            Self::Answer(_) => format!(
                "are the client and the daemon of the same version? `virtsnap --version`, {}",
                virtsnap("status")
            ),
            Self::Usage(_) | Self::Declined | Self::Interrupted | Self::Output(_) => return None,
        })
    }
}

/// What to do about a D-Bus error, by its name, where the daemon is.
pub fn hint_for(name: &str, place: &Place) -> Option<String> {
    if let Some(own) = name.strip_prefix("org.virtsnap1.Error.") {
        return hint_for_own(own, place);
    }
    Some(match name.strip_prefix("org.freedesktop.DBus.Error.")? {
        // ssh's user is who asks there, and nobody there can be asked.
        "AccessDenied" | "AuthFailed" | "InteractiveAuthorizationRequired" if place.is_far() => format!(
            "log in as somebody who may, as root with {}; `man virtsnapd` shows the polkit rule for that machine \
             that would let you do it",
            place.virtsnap_as_root("...")
        ),
        "AccessDenied" | "AuthFailed" => {
            "try it with sudo; `man virtsnapd` shows the polkit rule that would let you do it".to_owned()
        }
        "InteractiveAuthorizationRequired" => {
            "try it with sudo, or on a desktop, whose agent asks for the password; \
             `man virtsnapd` shows the polkit rule that would let you do it without"
                .to_owned()
        }
        "UnknownMethod" | "UnknownInterface" | "UnknownProperty" => {
            format!("the daemon is older than this client: {} shows its version", place.virtsnap("status"))
        }
        "UnknownObject" => {
            format!("it went while the command ran; look again with {}", place.virtsnap("list"))
        }
        _ => return None,
    })
}

/// The same, by the last part of one of virtsnap's own error names.
fn hint_for_own(own: &str, place: &Place) -> Option<String> {
    let virtsnap = |arguments| place.virtsnap(arguments);
    let there = |command| place.command(command);
    Some(match own {
        "NoSuchVM" => format!("{} shows the VMs", virtsnap("list")),
        "NoSuchSnapshot" => format!("{} shows its snapshots", virtsnap("list VM")),
        "NoSuchPolicy" => format!("{} lists them", virtsnap("policies")),
        "NoSuchJob" => format!("{} shows the jobs; finished ones go after a while", virtsnap("jobs")),
        "InUse" => format!(
            "the message says what stands on it: remove that first, or {} it if it is a branch",
            virtsnap("promote")
        ),
        "Busy" => format!("{} shows what is under way; try again when it is done", virtsnap("jobs")),
        "Deferred" => format!(
            "does it run? {}; {} shows what it does of what was asked for before",
            there("systemctl status virtsnapd"),
            virtsnap("jobs")
        ),
        "Stopping" => "the daemon is stopping or restarting; try again in a moment".to_owned(),
        "Disconnected" => format!(
            "the daemon has no connection to libvirt: {}, {}",
            virtsnap("status"),
            there("systemctl status libvirtd")
        ),
        "QuiesceFailed" => {
            "is qemu-guest-agent running in the guest, and do its freeze hooks end? quiesce \"prefer\" goes \
             on without"
                .to_owned()
        }
        "HookFailed" => format!(
            "{} has what the hook said; one whose name ends in .optional may fail",
            there("journalctl -u virtsnapd")
        ),
        "NotManaged" => {
            format!("with --foreign it is deleted all the same; {} takes it over", virtsnap("adopt"))
        }
        "Pinned" => format!(
            "once nobody needs it, {} takes your pin off, and --all everybody's",
            virtsnap("unpin VM SNAPSHOT")
        ),
        "NotPinned" => format!("{} shows whose pins there are", virtsnap("show VM SNAPSHOT")),
        "NotMigratable" => "memory \"prefer\" keeps the disks alone of such a VM".to_owned(),
        "ChainMismatch" => format!(
            "compare {} with {}; {} says more",
            there("virsh domblklist VM"),
            there("virsh snapshot-list VM --tree"),
            virtsnap("status")
        ),
        "InvalidConfiguration" => {
            format!("the settings in force were kept; {} reads the files again", there("virtsnapd --check"))
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leaves_a_person_stranded_names_the_next_step() {
        let here = Place::default();
        for name in
            ["NoSuchVM", "NoSuchSnapshot", "NoSuchPolicy", "Busy", "Disconnected", "QuiesceFailed", "InUse"]
        {
            assert!(hint_for(&format!("org.virtsnap1.Error.{name}"), &here).is_some(), "{name}");
        }
        assert!(Failure::NoDaemon(String::new()).hint(&here).is_some());
        for name in ["AccessDenied", "InteractiveAuthorizationRequired"] {
            let name = format!("org.freedesktop.DBus.Error.{name}");
            let hint = hint_for(&name, &here).expect("what would allow it");
            assert!(hint.contains("sudo") && hint.contains("`man virtsnapd`"), "{name}: {hint}");
        }
    }

    #[test]
    fn of_another_machine_the_commands_are_for_that_one() {
        let far = Place::of(Some("far"));
        let denied = hint_for("org.freedesktop.DBus.Error.AccessDenied", &far).unwrap();
        assert!(denied.contains("`virtsnap -H root@far ...`") && !denied.contains("sudo"), "{denied}");
        for (failure, wanted) in [
            (
                Failure::NoDaemon(String::new()),
                "is it running on \"far\"? `ssh far systemctl status virtsnapd`",
            ),
            (Failure::NoHost { host: "far".into(), why: String::new() }, "`ssh far systemd-stdio-bridge`"),
            (
                Failure::NotFound { what: String::new(), look: ("list", "shows the VMs") },
                "`virtsnap -H far list`",
            ),
        ] {
            let hint = failure.hint(&far).unwrap();
            assert!(hint.contains(wanted), "{hint}");
        }
        for name in ["Busy", "Disconnected", "HookFailed", "ChainMismatch", "InvalidConfiguration"] {
            let hint = hint_for(&format!("org.virtsnap1.Error.{name}"), &far).unwrap();
            let commands = hint.split('`').skip(1).step_by(2);
            let here = commands.filter(|c| !c.starts_with("virtsnap -H far ") && !c.starts_with("ssh far "));
            assert_eq!(here.count(), 0, "{hint}");
        }
    }
}
