use uuid::Uuid;

use super::*;
use crate::{
    core::{
        job::{Asker, CreateJob, Failure},
        label::Label,
        model::Origin,
        policy::{How, Memory, Mountpoints, Quiesce},
    },
    logging::heard::heard,
};

fn create(policies: &[&str]) -> Job {
    let policies = policies.iter().map(|p| p.parse().unwrap()).collect();
    let how = How {
        quiesce: Quiesce::Require,
        freeze_timeout: SignedDuration::from_secs(8),
        mountpoints: Mountpoints::Auto,
        memory: Memory::Never,
        when: [VmState::Running].into(),
        skip_unchanged: false,
        name: "{policy}-{timestamp}".to_owned(),
    };
    let (description, label) = (String::new(), Label::default());
    let operation =
        Operation::Create(CreateJob { name: None, description, policies, how, disks: None, label });
    let asker = Asker { origin: Origin::Schedule, uid: 0 };
    Job { id: 7, vm: VmId(Uuid::from_u128(1)), operation, asker, asked: Timestamp::UNIX_EPOCH }
}

/// `journalctl VIRTSNAP_POLICY=nightly` has to show the night that failed.
#[test]
fn a_job_that_failed_is_found_by_each_of_its_policies_by_its_snapshot_and_by_its_error() {
    let name = SnapshotName::existing("s1");
    let told = heard(|| {
        log(&Note::Ended {
            job: Box::new(create(&["hourly", "nightly"])),
            vm_name: "web".to_owned(),
            snapshot: Some(name),
            outcome: Outcome::Failed(Failure::new("QuiesceFailed", "it did not freeze")),
        });
    });
    let [entry] = &told[..] else { panic!("{told:?}") };
    assert_eq!(entry.one("MESSAGE_ID"), message::JOB_FAILED);
    assert_eq!(entry.all("VIRTSNAP_POLICY"), ["hourly", "nightly"]);
    let fields =
        ["VIRTSNAP_SNAPSHOT", "VIRTSNAP_ERROR_NAME", "VIRTSNAP_VM", "VIRTSNAP_JOB"].map(|f| entry.one(f));
    assert_eq!(fields, ["s1", "QuiesceFailed", "web", "7"]);
}

/// An empty field would be found by nobody, and be shown as one that is known.
#[test]
fn what_a_job_has_not_is_no_field() {
    let told = heard(|| {
        log(&Note::Ended {
            job: Box::new(Job { operation: Operation::Finish, ..create(&[]) }),
            vm_name: "web".to_owned(),
            snapshot: None,
            outcome: Outcome::Cancelled("job 7 was cancelled".to_owned()),
        });
    });
    let [entry] = &told[..] else { panic!("{told:?}") };
    assert_eq!(entry.one("MESSAGE_ID"), message::JOB_CANCELLED);
    assert!(entry.all("VIRTSNAP_POLICY").is_empty() && entry.all("VIRTSNAP_SNAPSHOT").is_empty());
}
