use super::left_over::may_be_ours;
use crate::{
    core::merge::DiskPart,
    hypervisor::{
        BlockJob, Copied,
        JobKind::{ActiveCommit, Commit, Other},
    },
};

#[test]
fn a_job_that_an_earlier_life_cannot_have_begun_is_somebody_else_s() {
    let part = |above: Option<&str>| DiskPart {
        target: "vda".into(),
        base: "/base".into(),
        base_format: "qcow2".into(),
        top: "/top".into(),
        gone: vec!["/top".into()],
        above: above.map(str::to_owned),
        base_bytes: None,
    };
    let job = |kind, into: Option<&str>| BlockJob {
        target: "vda".into(),
        kind,
        copied: Copied::default(),
        ready: true,
        into: into.map(str::to_owned),
    };
    let (active, inner) = (part(None), part(Some("/above")));
    assert!(may_be_ours(&job(ActiveCommit, Some("/base")), &active));
    assert!(may_be_ours(&job(ActiveCommit, None), &active));
    assert!(!may_be_ours(&job(ActiveCommit, Some("/lower")), &active));
    assert!(!may_be_ours(&job(ActiveCommit, Some("/base")), &inner));
    assert!(may_be_ours(&job(Commit, None), &inner));
    assert!(!may_be_ours(&job(Commit, None), &active));
    assert!(!may_be_ours(&job(Other, None), &active) && !may_be_ours(&job(Other, None), &inner));
}
