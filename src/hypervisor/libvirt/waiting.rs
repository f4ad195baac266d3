//! Block jobs that nobody ends any more, by QEMU's own word.
//!
//! libvirt's own deletion of a stopped VM's snapshot starts a QEMU for it, with its CPUs stopped. A libvirtd that dies
//! meanwhile finds that QEMU again and leaves it, its jobs "pending" or "ready", as it is: only of a VM that had been
//! running does it cancel them (seen with 9.0 and 11.3). They are not to be ended one by one either: to break off a commit
//! of the active layer that libvirtd found again, without a `<mirror>` in the XML, crashes libvirtd (both as well).

use serde::{Deserialize, de::DeserializeOwned};
use virt::{domain::Domain, enumutil::Enum, error::ErrorNumber};

use super::{Connections, domain, inspect};
use crate::{
    core::model::{VmId, VmState},
    hypervisor::{Error, ErrorKind, Result, WaitingJob},
};

#[derive(Debug, Deserialize)]
struct Answer<T> {
    #[serde(rename = "return")]
    said: T,
}

#[derive(Debug, Deserialize)]
struct Status {
    status: String,
}

/// One of those that `query-block-jobs` answers.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Job {
    #[serde(rename = "type")]
    kind: String,
    /// Its name, which libvirt gave it.
    device: String,
    status: String,
    #[serde(default)]
    busy: bool,
    #[serde(default)]
    auto_finalize: bool,
}

pub(super) fn jobs(connections: &Connections, id: VmId) -> Result<Option<Vec<WaitingJob>>> {
    let domain = domain(&connections.work, id)?;
    if inspect::state(&domain)? != VmState::Paused || domain.job_info()?.r#type != 0 {
        return Ok(None);
    }
    if !never_ran(&domain)? {
        return Ok(None);
    }
    let jobs: Option<Vec<Job>> = ask(&domain, "query-block-jobs")?;
    Ok(jobs.and_then(|jobs| waiting(&jobs)))
}

/// Whether its CPUs have stood still since its QEMU was started. Of one that somebody let go on and suspended since QEMU says
/// another word, and of one that was restored or received from another host as well; a restart of libvirtd changes nothing
/// (seen with 9.0 and 11.3).
pub(super) fn never_ran(domain: &Domain) -> Result<bool> {
    Ok(ask::<Status>(domain, "query-status")?.is_some_and(|now| now.status == "prelaunch"))
}

fn waiting(jobs: &[Job]) -> Option<Vec<WaitingJob>> {
    let all: Option<Vec<WaitingJob>> = jobs.iter().map(waits).collect();
    all.filter(|jobs| !jobs.is_empty())
}

fn waits(job: &Job) -> Option<WaitingJob> {
    if job.kind != "commit" || job.busy {
        return None;
    }
    let of_deletion = match (job.status.as_str(), job.auto_finalize) {
        ("pending", false) => true,
        ("ready" | "standby", true) => false,
        _ => return None,
    };
    let (target, _) = job.device.strip_prefix("commit-")?.split_once("-libvirt-")?;
    Some(WaitingJob { target: target.to_owned(), of_deletion })
}

/// What QEMU answers; `None` where there is none.
fn ask<T: DeserializeOwned>(domain: &Domain, command: &str) -> Result<Option<T>> {
    let text = match domain.qemu_monitor_command(&format!(r#"{{"execute":"{command}"}}"#), 0) {
        Err(e) if e.code() == Enum::Known(ErrorNumber::NoSupport) => return Ok(None),
        answer => {
            answer.map_err(|e| Error::from(e).context("asking the VM's QEMU for its state and its jobs"))?
        }
    };
    let answer: Answer<T> = serde_json::from_str(&text).map_err(|e| {
        Error::new(
            ErrorKind::Failed,
            format!("what QEMU says of its state and its jobs cannot be read: {e}: {text}"),
        )
    })?;
    Ok(Some(answer.said))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(answer: &str) -> Option<Vec<WaitingJob>> {
        waiting(&serde_json::from_str::<Answer<Vec<Job>>>(answer).unwrap().said)
    }

    fn job(target: &str, of_deletion: bool) -> WaitingJob {
        WaitingJob { target: target.to_owned(), of_deletion }
    }

    #[test]
    fn what_waits_is_told_with_who_began_it() {
        // As QEMU 10.0 answered when libvirtd had died before it ended the jobs of a deletion, and 7.2 the same.
        let inner = r#"{"return":[{"auto-finalize":false,"io-status":"ok","device":"commit-vdb-libvirt-2-format",
            "auto-dismiss":false,"busy":false,"len":8388608,"offset":8388608,"status":"pending","paused":false,"speed":0,
            "ready":false,"type":"commit"},{"auto-finalize":false,"io-status":"ok",
            "device":"commit-vda-libvirt-6-format","auto-dismiss":false,"busy":false,"len":8388608,"offset":8388608,
            "status":"pending","paused":false,"speed":0,"ready":false,"type":"commit"}],"id":"libvirt-35"}"#;
        assert_eq!(read(inner), Some(vec![job("vdb", true), job("vda", true)]));
        let active = r#"{"return":[{"auto-finalize":true,"io-status":"ok","device":"commit-vda-libvirt-5-format",
            "auto-dismiss":false,"busy":false,"len":0,"offset":0,"status":"ready","paused":false,"speed":0,"ready":true,
            "type":"commit"}],"id":"libvirt-15"}"#;
        assert_eq!(read(active), Some(vec![job("vda", false)]));
        // One at work, one of another kind, one that libvirt did not name: nobody can tell.
        for (from, to) in [
            (r#""status":"ready""#, r#""status":"running""#),
            (r#""busy":false"#, r#""busy":true"#),
            (r#""type":"commit""#, r#""type":"mirror""#),
            ("commit-vda-libvirt-5-format", "theirs"),
            (r#""auto-finalize":true"#, r#""auto-finalize":false"#),
        ] {
            assert_eq!(read(&active.replace(from, to)), None, "{to}");
        }
        assert_eq!(read(r#"{"return":[]}"#), None);
    }
}
