//! What a merge wants of AppArmor, on Debian's own kernels: in full VMs, where libvirtd confines each QEMU with a profile
//! of its own, the daemon installed as its package does it. Takes long; `make test-full` runs it, and nothing else does.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[allow(unused_macros, reason = "full VMs are started in another way")]
mod harness;
#[path = "full_apparmor/meanwhile.rs"]
mod meanwhile;

use std::{io::Write as _, path::Path, process::Command, time::Duration};

use harness::{Bare, Output, Suite, Testbed, quote, wait_for};

const COPIES: &str = "/var/tmp/copies";
/// Ten times that, in a full VM.
const JOB: Duration = Duration::from_mins(2);

/// A full VM with virtsnapd, and a confined VM with two disks in it.
struct Host<'a> {
    tb: &'a Testbed,
    vm: Bare,
    /// Its snapshots, the oldest first.
    snapshots: Vec<String>,
    /// What is written next.
    next: u8,
}

/// Starts the full VM with what `make install` installs.
fn start(suite: Suite) -> Testbed {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let binaries = Path::new(env!("CARGO_BIN_EXE_virtsnapd")).parent().unwrap();
    let files = tempfile::tempdir().unwrap();
    let script = format!(
        "set -e; make --no-print-directory -s install-files DESTDIR={files}/root BINARIES={binaries}
         strip --strip-debug {files}/root/usr/bin/* {files}/root/usr/sbin/*; cp packaging/debian/postinst {files}/",
        files = quote(&files.path().display().to_string()),
        binaries = quote(&binaries.display().to_string()),
    );
    let made = Command::new("bash").current_dir(root).args(["-c", &script]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Testbed::start_full(suite, files.path())
}

impl<'a> Host<'a> {
    fn new(tb: &'a Testbed) -> Self {
        tb.ok("cp -a --no-preserve=ownership /files/root/. / && sh /files/postinst configure");
        tb.push_file("/etc/virtsnap/virtsnapd.toml", "[daemon]\nmin-free = \"1%\"\n", 0o644);
        tb.push_file("/var/tmp/compare.py", include_str!("full_apparmor/compare.py"), 0o755);
        let host = Self { tb, vm: Bare::define(tb, "web", 2), snapshots: Vec::new(), next: 1 };
        host.keep("");
        tb.ok(&format!("mkdir {COPIES}; virsh -q start web"));
        host.assert_confined();
        host
    }

    fn client(&self, arguments: &str) -> Output {
        self.tb.sh_within(JOB, &format!("virtsnap {arguments}"))
    }

    fn virtsnap(&self, arguments: &str) {
        let out = self.client(arguments);
        assert!(out.success(), "virtsnap {arguments}: {out}\n{}", self.evidence());
    }

    /// What there is to know when something went wrong.
    fn evidence(&self) -> String {
        self.tb.ok(
            "virsh domstate web --reason; virsh snapshot-list web --tree; journalctl --no-pager -o short | tail -n 60
             tail -n 5 /var/log/libvirt/qemu/web.log; cat /etc/apparmor.d/libvirt/libvirt-*; grep -a DENIED /var/log/audit/audit.log",
        )
    }

    /// Makes this what the policy keeps.
    fn keep(&self, rules: &str) {
        let policy =
            format!("[policy.p]\nvms = [\"web\"]\nquiesce = \"never\"\nname = \"{{timestamp}}\"\n{rules}\n");
        self.tb.push_file("/etc/virtsnap/policies.d/test.toml", policy, 0o644);
        self.virtsnap("reload");
    }

    fn pid(&self) -> String {
        self.tb.ok("cat /run/libvirt/qemu/web.pid")
    }

    /// By the kernel's word, not by ours: its QEMU runs under a profile of its own, which forbids what is not the VM's.
    fn assert_confined(&self) {
        let profile = format!("libvirt-{}", self.vm.uuid());
        let label = self.tb.ok(&format!("cat /proc/{}/attr/current", self.pid()));
        assert_eq!(label.trim_end_matches('\0'), format!("{profile} (enforce)"));
        assert!(self.tb.ok("aa-status").contains(&profile));
        assert!(self.tb.ok("virsh dumpxml web").contains(&format!("<label>{profile}</label>")));
        self.tb.ok("echo secret >/srv/forbidden && chmod 644 /srv/forbidden");
        let open = r#"{"execute":"blockdev-add","arguments":{"driver":"file","node-name":"x","filename":"/srv/forbidden","read-only":true}}"#;
        let said = self.tb.ok(&format!("virsh qemu-monitor-command web {}", quote(open)));
        assert!(said.contains("Permission denied"), "{said}");
        wait_for(JOB, "the audit log tells of it", || self.denied().contains("/srv/forbidden").then_some(()));
    }

    /// What the kernel denied this VM's QEMU.
    fn denied(&self) -> String {
        let profile = format!("profile=\"libvirt-{}", self.vm.uuid());
        self.tb.ok(&format!(
            "grep -a 'apparmor=\"DENIED\"' /var/log/audit/audit.log | grep -aF {} || true",
            quote(&profile)
        ))
    }

    /// A raw copy of each disk as it is now.
    fn copy(&self, name: &str) {
        for disk in self.vm.disks() {
            let active = quote(&self.vm.active(disk));
            self.tb.ok(&format!("qemu-img convert -U -f qcow2 -O raw {active} {COPIES}/{name}-{disk}.raw"));
        }
    }

    /// Writes something new, takes a copy aside, and has the policy take a snapshot.
    fn snapshot(&mut self) {
        for disk in self.vm.disks() {
            // One that all of them write, one that each snapshot alone has.
            self.vm.write(disk, 0, self.next);
            self.vm.write(disk, u64::from(self.next % 100) + 1, self.next);
        }
        self.next += 1;
        self.copy("now");
        self.virtsnap("run p");
        let name = self.tb.ok("virsh -q snapshot-current --name web");
        self.tb
            .ok(&format!("cd {COPIES} && for d in vda vdb; do cp now-$d.raw {}-$d.raw; done", quote(&name)));
        self.snapshots.push(name);
    }

    /// The VM and all its snapshots are what they should be, and nothing was denied.
    fn check(&self, after: &str) {
        let listed = self.tb.ok("virsh -q snapshot-list web --name --topological");
        let listed: Vec<&str> = listed.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        assert_eq!(listed, self.snapshots, "after {after}");
        let compared = self.tb.sh_within(JOB, &format!("/var/tmp/compare.py web {COPIES}"));
        assert!(compared.success(), "after {after}: {compared}\n{}", self.evidence());
        let denied = self.denied();
        let unexpected: Vec<&str> = denied.lines().filter(|l| !l.contains("/srv/forbidden")).collect();
        assert!(unexpected.is_empty(), "after {after}: {unexpected:#?}");
    }

    fn delete(&mut self, at: usize) {
        let name = self.snapshots.remove(at);
        self.virtsnap(&format!("delete web {} --yes", quote(&name)));
        self.check(&format!("the deletion of number {at}"));
    }

    /// How often the helper has given the right.
    fn grants(&self) -> usize {
        self.tb
            .ok("journalctl --no-pager -o cat -u 'virtsnap-apparmor@*' | grep -c 'may write its' || true")
            .parse()
            .unwrap()
    }

    /// Seven snapshots; the oldest, one in the middle and the newest go one by one, then three at once.
    fn merge_them_all(&mut self) {
        let (state, before) = (self.vm.state(), self.grants());
        let pid = (state == "running").then(|| self.pid());
        while self.snapshots.len() < 7 {
            self.snapshot();
        }
        self.check("seven snapshots");
        self.delete(0);
        self.delete(2);
        self.delete(4);
        self.keep("keep-last = 1");
        self.virtsnap("prune web --yes");
        self.keep("");
        self.snapshots.drain(..3);
        self.check("the prune");
        assert_eq!(self.vm.state(), state);
        assert_eq!((state == "running").then(|| self.pid()), pid, "the very same QEMU");
        assert_eq!(self.grants() - before, 4 * 2, "for each disk of each merge");
    }

    fn profile(&self) -> String {
        self.tb.ok(&format!("cat /etc/apparmor.d/libvirt/libvirt-{}", self.vm.uuid()))
    }

    /// libvirt denies writing to some image below the active ones.
    fn is_denied_its_images(&self) -> bool {
        let files = self.tb.ok(&format!("cat /etc/apparmor.d/libvirt/libvirt-{}.files", self.vm.uuid()));
        files.lines().any(|l| l.trim().starts_with("deny \"/var/lib/libvirt/images/web-"))
    }
}

fn snapshots_of_a_confined_vm_are_merged(tb: &Testbed) {
    let mut host = Host::new(tb);
    // Started on single images: libvirt denies nothing at first, and after the first merge it does.
    assert!(!host.is_denied_its_images());
    host.merge_them_all();
    assert!(host.is_denied_its_images());

    // Started on a chain, all of it denied.
    host.snapshot();
    host.tb.ok("virsh -q destroy web && virsh -q start web");
    assert!(host.is_denied_its_images());
    host.merge_them_all();

    // Reverted, and back; what is merged then has been reverted to.
    host.snapshot();
    host.snapshot();
    host.virtsnap(&format!("revert web {} --yes", quote(&host.snapshots[1])));
    assert_eq!(host.vm.state(), "running");
    let way_back = tb.ok("virsh -q snapshot-list web --name | grep before-revert");
    tb.ok(&format!(
        "cd {COPIES} && for d in vda vdb; do cp now-$d.raw {way_back}-$d.raw; cp {}-$d.raw now-$d.raw; done",
        host.snapshots[1]
    ));
    host.snapshots.push(way_back);
    host.check("the revert");
    host.delete(3);
    host.delete(2);
    host.delete(0);

    // Stopped.
    host.tb.ok("virsh -q destroy web");
    host.merge_them_all();

    // Gone: what was written into the profile goes, too.
    let ours = "# virtsnap";
    assert_eq!(host.profile().contains(ours), tb.suite() == Suite::Trixie, "{}", host.profile());
    tb.ok("virsh -q undefine web --snapshots-metadata");
    wait_for(JOB, "the profile is as libvirt made it", || (!host.profile().contains(ours)).then_some(()));
}

fn without_the_helper_nothing_is_touched(tb: &Testbed) {
    let mut host = Host::new(tb);
    host.snapshot();
    host.snapshot();
    let images = || {
        tb.ok("cd /var/lib/libvirt/images && sha256sum web-*; virsh dumpxml --inactive web; virsh domblklist web")
    };
    let before = images();
    let unit = format!("virtsnap-apparmor@{}.service", host.vm.uuid());
    let oldest = quote(&host.snapshots[0]);
    for state in ["running", "shut off"] {
        if state == "shut off" {
            tb.ok("virsh -q destroy web");
        }
        for masked in ["virtsnap-apparmor@.service", unit.as_str()] {
            tb.ok(&format!("systemctl mask {masked}"));
            let refused = host.client(&format!("delete web {oldest} --yes"));
            let said = ["AppArmor confines the VM", "is masked", "Nothing was touched", "systemctl unmask"];
            assert!(!refused.success() && said.iter().all(|s| refused.stderr.contains(s)), "{refused}");
            assert_eq!(host.vm.state(), state);
            assert_eq!(images(), before);
            host.check("a refusal");
            tb.ok(&format!("systemctl unmask virtsnap-apparmor@.service {unit}"));
        }
    }
    // The way out that it said.
    host.delete(0);
    native(tb);
}

/// Why all this: what libvirt's own deletion does on such a host, of the oldest of a running VM with two disks. Nothing
/// is asserted of it; libvirt may mend it.
fn native(tb: &Testbed) {
    let vm = Bare::define(tb, "native", 2);
    tb.ok("virsh -q start native");
    for name in ["n1", "n2"] {
        vm.write("vda", 1, 1);
        vm.write("vdb", 1, 2);
        tb.ok(&format!("virsh -q snapshot-create-as native {name} --disk-only --atomic"));
    }
    let out = tb.sh("virsh snapshot-delete native n1");
    let state = tb.ok("virsh domstate native --reason; virsh snapshot-list native --name");
    let mut stderr = std::io::stderr();
    let _ = writeln!(
        stderr,
        "native snapshot-delete on {}: {out}\n--- the VM, its snapshots\n{state}",
        tb.suite().name()
    );
}

mod full_trixie {
    use super::{Suite, start};

    #[test]
    fn snapshots_of_a_confined_vm_are_merged() {
        super::snapshots_of_a_confined_vm_are_merged(&start(Suite::Trixie));
    }

    #[test]
    fn without_the_helper_nothing_is_touched() {
        super::without_the_helper_nothing_is_touched(&start(Suite::Trixie));
    }

    #[test]
    fn a_branch_of_a_confined_vm_is_promoted() {
        super::meanwhile::a_branch_of_a_confined_vm_is_promoted(&start(Suite::Trixie));
    }

    #[test]
    fn a_medium_is_ejected_in_the_middle_of_a_merge() {
        super::meanwhile::a_medium_is_ejected_in_the_middle_of_a_merge(&start(Suite::Trixie));
    }
}

mod full_bookworm {
    use super::{Suite, start};

    #[test]
    fn snapshots_of_a_confined_vm_are_merged() {
        super::snapshots_of_a_confined_vm_are_merged(&start(Suite::Bookworm));
    }

    #[test]
    fn without_the_helper_nothing_is_touched() {
        super::without_the_helper_nothing_is_touched(&start(Suite::Bookworm));
    }

    #[test]
    fn a_branch_of_a_confined_vm_is_promoted() {
        super::meanwhile::a_branch_of_a_confined_vm_is_promoted(&start(Suite::Bookworm));
    }

    #[test]
    fn a_medium_is_ejected_in_the_middle_of_a_merge() {
        super::meanwhile::a_medium_is_ejected_in_the_middle_of_a_merge(&start(Suite::Bookworm));
    }
}
