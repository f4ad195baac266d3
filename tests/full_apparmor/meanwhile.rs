//! A confined VM's profile while other things are done to it than merges: it is branched off, a branch of it is promoted,
//! and a medium is ejected in the middle of a merge, at which libvirt writes the profile anew.

use std::io::Write as _;

use super::{Bare, COPIES, Host, JOB, Suite, Testbed, quote, wait_for};

/// A branch's QEMU reads images that are another VM's, and pulls them into its own.
pub(super) fn a_branch_of_a_confined_vm_is_promoted(tb: &Testbed) {
    let mut host = Host::new(tb);
    host.snapshot();
    host.snapshot();
    let oldest = quote(&host.snapshots[0]);
    host.virtsnap(&format!("branch web {oldest} trial --start"));
    let uuid = tb.ok("virsh -q domuuid trial");
    let trial = Bare::existing(tb, uuid.trim());
    let pid = || tb.ok("cat /run/libvirt/qemu/trial.pid");
    let before = pid();
    let label = tb.ok(&format!("cat /proc/{before}/attr/current"));
    assert_eq!(label.trim_end_matches('\0'), format!("libvirt-{} (enforce)", trial.uuid()));
    trial.write("vda", 120, 77);
    host.check("the branch");
    let refused = host.client(&format!("delete web {oldest} --yes"));
    assert!(!refused.success() && refused.stderr.contains("trial"), "{refused}");

    host.virtsnap("promote trial");
    assert_eq!((trial.state().as_str(), pid()), ("running", before), "the very same QEMU");
    for disk in trial.disks() {
        assert_eq!(trial.opened(disk).len(), 1, "{disk} is on its own image alone");
    }
    trial.write("vda", 121, 78);
    let denied =
        tb.ok("grep -a 'apparmor=\"DENIED\"' /var/log/audit/audit.log | grep -v /srv/forbidden || true");
    assert!(denied.is_empty(), "{denied}");
    // What it was branched off is nobody else's now, and the VM may write it again.
    host.delete(0);
    host.delete(0);
    tb.ok("virsh -q destroy trial && virsh -q undefine trial");
}

/// While the first disk's oldest snapshot is merged, slowly, somebody takes a medium out of a drive. Where the right is
/// written into the VM's profile it lasts; with a parser that does not know priorities it goes with what libvirt writes
/// anew, and QEMU may crash when the merge ends, as the manual says: there it is only told what happened.
pub(super) fn a_medium_is_ejected_in_the_middle_of_a_merge(tb: &Testbed) {
    let mut host = Host::new(tb);
    tb.ok("cd /var/lib/libvirt/images && truncate -s 1M medium.iso && virsh -q destroy web
        virsh -q attach-disk web /var/lib/libvirt/images/medium.iso hdc --type cdrom --mode readonly --config
        virsh -q start web");
    host.snapshot();
    let clusters: Vec<u64> = (2..66).collect();
    host.vm.write_all("vda", &clusters, 99);
    host.snapshot();
    host.snapshot();
    // The oldest goes with all that: 4 MiB, in about half a minute.
    host.copy("now");
    let (pid, name) = (host.pid(), quote(&host.snapshots[0]));
    let profiles = || tb.ok(&format!("md5sum /etc/apparmor.d/libvirt/libvirt-{}.files", host.vm.uuid()));
    tb.ok(&format!(
        "systemd-run -q --unit=merge --collect virtsnap delete web {name} --yes --bandwidth 128KiB"
    ));
    wait_for(JOB, "the first disk is merged", || {
        tb.ok("virsh blockjob web vda --info 2>&1").contains("Commit").then_some(())
    });
    let before = profiles();
    tb.ok("virsh -q change-media web hdc --eject --live");
    wait_for(JOB, "libvirt writes the profile anew", || (profiles() != before).then_some(()));
    let on_it = tb.ok("virsh blockjob web vda --info 2>&1");
    assert!(on_it.contains("Commit"), "the merge was over by then: {on_it}");
    wait_for(JOB * 2, "the merge's end", || (!tb.sh("systemctl -q is-active merge").success()).then_some(()));
    if tb.suite() == Suite::Bookworm {
        let said =
            tb.ok("virsh domstate web --reason; virsh snapshot-list web --name; virtsnap status || true");
        let _ = writeln!(std::io::stderr(), "a medium ejected in a merge, with an older parser: {said}");
        return;
    }
    let gone = host.snapshots.remove(0);
    tb.ok(&format!("rm -f {COPIES}/{}-*.raw", quote(&gone)));
    assert_eq!((host.vm.state().as_str(), host.pid()), ("running", pid), "the very same QEMU");
    host.check("the merge in which a medium was ejected");
    host.delete(0);
}
