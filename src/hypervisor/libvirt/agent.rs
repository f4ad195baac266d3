//! The guest agent, asked through libvirt with a time limit on each command.
//!
//! Why not `virDomainFSFreeze`: its time limit is a property of the VM that all clients share and none can read
//! back, and by default there is none. An agent command carries its own. What the agent is asked is the same.

use std::time::Duration;

use serde_json::{Value, json};
use virt::{connect::Connect, enumutil::Enum, error::ErrorNumber};

use super::{domain, xml};
use crate::{
    core::model::VmId,
    hypervisor::{Error, ErrorKind, FreezeStatus, GuestFileSystem, GuestSystem, Result},
};

pub(super) fn freeze_status(connection: &Connect, vm: VmId, timeout: Duration) -> Result<FreezeStatus> {
    match ask(connection, vm, &json!({"execute": "guest-fsfreeze-status"}), timeout)?.as_str() {
        Some("frozen") => Ok(FreezeStatus::Frozen),
        Some("thawed") => Ok(FreezeStatus::Thawed),
        other => Err(Error::new(ErrorKind::AgentFailed, format!("the agent's freeze status is {other:?}"))),
    }
}

pub(super) fn freeze(
    connection: &Connect,
    vm: VmId,
    mountpoints: Option<&[String]>,
    timeout: Duration,
) -> Result<u32> {
    let command = match mountpoints {
        None => json!({"execute": "guest-fsfreeze-freeze"}),
        Some(list) => json!({"execute": "guest-fsfreeze-freeze-list", "arguments": {"mountpoints": list}}),
    };
    count(&ask(connection, vm, &command, timeout)?)
}

pub(super) fn thaw(connection: &Connect, vm: VmId, timeout: Duration) -> Result<u32> {
    count(&ask(connection, vm, &json!({"execute": "guest-fsfreeze-thaw"}), timeout)?)
}

/// The agent's own word for what it runs in.
pub(super) fn guest_system(connection: &Connect, vm: VmId, timeout: Duration) -> Result<GuestSystem> {
    let answer = ask(connection, vm, &json!({"execute": "guest-get-osinfo"}), timeout)?;
    let windows = answer.get("id").and_then(Value::as_str) == Some("mswindows");
    Ok(if windows { GuestSystem::Windows } else { GuestSystem::Other })
}

/// The guest's file systems, with the disks found by their PCI addresses; one whose disk has none is left
/// without disks, and so is never left out of a freeze by mistake.
pub(super) fn file_systems(
    connection: &Connect,
    vm: VmId,
    timeout: Duration,
) -> Result<Vec<GuestFileSystem>> {
    let answer = ask(connection, vm, &json!({"execute": "guest-get-fsinfo"}), timeout)?;
    let definition = xml::domain(&domain(connection, vm)?.xml_desc(0)?)?;
    let target_at = |disk: &Value| {
        let pci = disk.get("pci-controller")?;
        let number = |key| pci.get(key).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
        let address = [number("domain")?, number("bus")?, number("slot")?, number("function")?];
        definition.disks.iter().find(|d| d.pci == Some(address)).map(|d| d.disk.target.clone())
    };
    let rows = answer.as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(rows
        .iter()
        .filter_map(|row| {
            Some(GuestFileSystem {
                mountpoint: row.get("mountpoint")?.as_str()?.to_owned(),
                disks: row.get("disk")?.as_array()?.iter().filter_map(target_at).collect(),
            })
        })
        .collect())
}

fn ask(connection: &Connect, vm: VmId, command: &Value, timeout: Duration) -> Result<Value> {
    // Whole seconds are what libvirt takes, and 0 would mean "do not wait".
    let seconds = i32::try_from(timeout.as_secs().max(1)).unwrap_or(i32::MAX);
    let domain = domain(connection, vm)?;
    let text = domain.qemu_agent_command(&command.to_string(), seconds, 0).map_err(|e| {
        let stopped = e.code() == Enum::Known(ErrorNumber::OperationInvalid);
        let mut error = Error::from(e);
        if stopped && error.kind == ErrorKind::Failed {
            error.kind = ErrorKind::AgentUnavailable;
        }
        error
    })?;
    let mut answer: Value = serde_json::from_str(&text).map_err(|e| {
        Error::new(ErrorKind::AgentFailed, format!("the agent's answer {text:?} is not JSON: {e}"))
    })?;
    match answer.get_mut("return") {
        Some(value) => Ok(value.take()),
        None => Err(Error::new(ErrorKind::AgentFailed, format!("the agent answered {text}"))),
    }
}

fn count(value: &Value) -> Result<u32> {
    value
        .as_u64()
        .and_then(|n| u32::try_from(n).ok())
        .ok_or_else(|| Error::new(ErrorKind::AgentFailed, format!("the agent answered {value} for a number")))
}
