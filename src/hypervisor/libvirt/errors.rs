//! libvirt's error numbers, sorted into classes.
//!
//! Numbers first; texts only where one number stands for things that need different actions. Libvirt 9.0 reports
//! most of the agent's errors as "internal error: …", 11.2 and later have numbers for them.

use virt::error::{Error as VirtError, ErrorNumber};

use nix::errno::Errno;

use crate::{
    core::fitness::held_for_nobody,
    hypervisor::{Error, ErrorKind, ffi},
};

impl From<VirtError> for Error {
    fn from(e: VirtError) -> Self {
        let kind = match classify(&e) {
            // Its text is in the language that libvirt's daemon speaks.
            ErrorKind::Failed if ffi::errno_of(&e) == Some(Errno::ENOENT) => ErrorKind::NoSuchFile,
            kind => kind,
        };
        Self::new(kind, with_holder(e.message()))
    }
}

/// libvirt names the call that has a VM's lock; where it names none, nothing that is asked of it ends that.
fn with_holder(text: &str) -> String {
    if text.ends_with("cannot acquire state change lock") {
        return format!("{text}, which no call has. If that lasts for minutes: {}", held_for_nobody("NAME"));
    }
    text.to_owned()
}

fn classify(e: &VirtError) -> ErrorKind {
    let number = match e.code() {
        virt::enumutil::Enum::Known(n) => n,
        virt::enumutil::Enum::Unknown(_) => return by_text(e.message()),
    };
    match number {
        ErrorNumber::NoDomain => ErrorKind::NoSuchVm,
        ErrorNumber::NoDomainSnapshot => ErrorKind::NoSuchSnapshot,
        ErrorNumber::AgentUnresponsive | ErrorNumber::AgentUnsynced => agent(e.message()),
        ErrorNumber::AgentCommandTimeout => ErrorKind::AgentTimeout,
        ErrorNumber::AgentCommandFailed => failed(e.message()),
        ErrorNumber::OperationTimeout | ErrorNumber::BlockCopyActive | ErrorNumber::ResourceBusy => {
            ErrorKind::Busy
        }
        ErrorNumber::AuthFailed
        | ErrorNumber::AuthCancelled
        | ErrorNumber::AuthUnavailable
        | ErrorNumber::AccessDenied
        | ErrorNumber::OperationDenied => ErrorKind::Denied,
        ErrorNumber::NoSupport
        | ErrorNumber::ConfigUnsupported
        | ErrorNumber::OperationUnsupported
        | ErrorNumber::ArgumentUnsupported => match by_text(e.message()) {
            ErrorKind::Failed => ErrorKind::Unsupported,
            kind => kind,
        },
        ErrorNumber::StorageVolExist => ErrorKind::Exists,
        ErrorNumber::Rpc | ErrorNumber::NoConnect | ErrorNumber::InvalidConn => ErrorKind::Disconnected,
        ErrorNumber::SystemError => system(e.message()),
        _ => by_text(e.message()),
    }
}

/// What a snapshot with the memory failed with. To libvirt it is a migration into a file, and what forbids that has no
/// number of its own.
pub(super) fn of_memory(e: VirtError) -> Error {
    let virt::enumutil::Enum::Known(number) = e.code() else { return e.into() };
    let mut error = Error::from(e);
    if forbids_migration(number, &error.message) {
        error.kind = ErrorKind::NotMigratable;
    }
    error
}

fn forbids_migration(number: ErrorNumber, text: &str) -> bool {
    let any = |signs: &[&str]| signs.iter().any(|sign| text.contains(sign));
    match number {
        // Before anything is begun. A block job, or another migration, is in the way for a while only.
        ErrorNumber::OperationInvalid
        | ErrorNumber::OperationUnsupported
        | ErrorNumber::ConfigUnsupported => {
            let of_migration = ["migrat", "Migrat", "invtsc", "assigned non-USB host devices"];
            any(&of_migration) && !any(&["job", "in progress"])
        }
        // QEMU's own no: a device's, or that of a VM that stands still since its memory was kept.
        ErrorNumber::InternalError => {
            any(&["QEMU command 'migrate'"])
                && any(&["Can't migrate", "State blocked", "Migration is disabled"])
        }
        _ => false,
    }
}

/// An agent that could not do it; of Windows' one, that it need not.
fn failed(text: &str) -> ErrorKind {
    if text.contains("couldn't hold writes") {
        ErrorKind::LetGo
    } else if text.contains("has been disabled") {
        ErrorKind::Refused
    } else {
        ErrorKind::AgentFailed
    }
}

/// An agent that nobody answers for, or one that answered too late.
fn agent(text: &str) -> ErrorKind {
    if text.contains("within") || text.contains("synchronization") || text.contains("not available for now") {
        ErrorKind::AgentTimeout
    } else {
        ErrorKind::AgentUnavailable
    }
}

fn system(text: &str) -> ErrorKind {
    if text.contains("No space left") {
        ErrorKind::NoSpace
    } else if text.contains("Permission denied") {
        ErrorKind::Denied
    } else if ["socket", "onnection reset", "roken pipe", "End of file while reading"]
        .iter()
        .any(|sign| text.contains(sign))
    {
        // The last one is what was asked when libvirt ended.
        ErrorKind::Disconnected
    } else {
        ErrorKind::Failed
    }
}

fn by_text(text: &str) -> ErrorKind {
    let has = |what: &str| text.contains(what);
    if has("client socket is closed") || has("connection was closed") || has("End of file while reading") {
        ErrorKind::Disconnected
    } else if has("already exists") {
        ErrorKind::Exists
    } else if has("guest agent is not configured")
        || has("guest agent is not connected")
        || has("agent is not available")
    {
        ErrorKind::AgentUnavailable
    } else if has("didn't respond") || has("agent command timed out") {
        ErrorKind::AgentTimeout
    } else if has("unable to execute QEMU agent command")
        || has("fsfreeze")
        || has("FSFreeze")
        || has("failed to freeze")
    {
        failed(text)
    } else if has("No space left") {
        ErrorKind::NoSpace
    } else if has("Permission denied") {
        ErrorKind::Denied
    } else if has("asynchronous jobs running")
        || has("cannot acquire state change lock")
        || has("another block job")
        || has("block copy job")
    {
        ErrorKind::Busy
    } else {
        ErrorKind::Failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_no_call_has_is_told_with_the_way_out() {
        let lock = "Timed out during operation: cannot acquire state change lock";
        let itself = with_holder(lock);
        assert!(itself.starts_with(lock) && itself.contains("/run/libvirt/qemu/NAME.xml"), "{itself}");
        assert_eq!(by_text(&itself), ErrorKind::Busy);
        for other in ["monitor=remoteDispatchDomainBlockJobAbort", "agent=remoteDispatchDomainFSFreeze"] {
            let held = format!("{lock} (held by {other})");
            assert_eq!(with_holder(&held), held);
        }
    }

    #[test]
    fn what_cannot_be_migrated_is_told_from_what_fails() {
        use ErrorNumber::{InternalError, OperationFailed, OperationInvalid};
        for (number, text) in [
            (
                OperationInvalid,
                "Requested operation is not valid: cannot migrate domain: Migration is disabled when using feature 'peer mode' in device 'ivshmem'",
            ),
            (
                OperationInvalid,
                "Requested operation is not valid: cannot migrate domain: State blocked by non-migratable CPU device (invtsc flag)",
            ),
            (
                InternalError,
                "internal error: unable to execute QEMU command 'migrate': Can't migrate the vm that was paused due to previous migration",
            ),
        ] {
            assert!(forbids_migration(number, text), "{text}");
        }
        for (number, text) in [
            (OperationInvalid, "Requested operation is not valid: domain has active block job"),
            (OperationInvalid, "Requested operation is not valid: domain is not running"),
            (
                OperationFailed,
                "operation failed: /usr/lib/libvirt/libvirt_iohelper: failure with /i/a.memory: Unable to write /i/a.memory: No space left on device",
            ),
            (InternalError, "internal error: unable to execute QEMU command 'migrate': Broken pipe"),
        ] {
            assert!(!forbids_migration(number, text), "{text}");
        }
    }

    #[test]
    fn texts_that_libvirt_9_says_are_sorted() {
        for (text, kind) in [
            ("Guest agent is not responding: QEMU guest agent is not connected", ErrorKind::AgentUnavailable),
            (
                "internal error: unable to execute QEMU agent command 'guest-fsfreeze-freeze': child process has failed to execute fsfreeze hook",
                ErrorKind::AgentFailed,
            ),
            (
                "internal error: unable to execute QEMU agent command 'guest-fsfreeze-thaw': couldn't hold writes: fsfreeze is limited up to 10 seconds:",
                ErrorKind::LetGo,
            ),
            (
                "internal error: unable to execute QEMU agent command 'guest-fsfreeze-freeze': Command guest-fsfreeze-freeze has been disabled: the command is not allowed",
                ErrorKind::Refused,
            ),
            ("argument unsupported: QEMU guest agent is not configured", ErrorKind::AgentUnavailable),
            ("client socket is closed", ErrorKind::Disconnected),
            ("cannot write to '/x': No space left on device", ErrorKind::NoSpace),
            ("operation failed: domain snapshot k1 already exists", ErrorKind::Exists),
        ] {
            assert_eq!(by_text(text), kind, "{text}");
        }
        let in_flight = "End of file while reading data: Input/output error";
        assert_eq!(system(in_flight), ErrorKind::Disconnected);
        assert_eq!(
            agent("guest agent didn't respond to command within '2' seconds"),
            ErrorKind::AgentTimeout
        );
    }
}
