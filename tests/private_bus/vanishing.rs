//! Callers who go in the middle of it: nothing of them stays, in the daemon or on the bus.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
};

use futures_util::{StreamExt as _, future::join_all};
use virtsnap::hypervisor::sim::VmSpec;
use zbus::{Message, ObjectPath, OwnedFd, message::Flags};

use super::{
    client::{Client, MANAGER, none, soon},
    fake_polkit::{FakePolkit, Says},
    rig::{DEADLINE, Rig, id, vm_path},
};

/// A call that nobody waits for the answer of.
async fn send<B: serde::Serialize + zbus::DynamicType>(client: &Client, path: &str, method: &str, body: &B) {
    let (interface, member) = method.rsplit_once('.').unwrap();
    let call = Message::method_call(path, member).destination("org.virtsnap1").interface(interface);
    let call = call.with_flags(Flags::ALLOW_INTERACTIVE_AUTH).build(body).unwrap();
    client.connection.send(&call).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_asked_for_a_password_for_who_has_gone() {
    let rig = Rig::start("", |sim| {
        sim.add_vm(VmSpec::new("web", 1));
    })
    .await;
    let polkit = FakePolkit::start(&rig, Says::Nothing).await;
    let caller = Client::connect_as_nobody(&rig.address()).await;
    send(&caller, &vm_path(id(1)), "org.virtsnap1.VM.CreateSnapshot", &("late", none())).await;
    polkit.until_asked(1).await;
    let question = polkit.questions().remove(0);
    assert!(question.interactive);
    caller.connection.close().await.unwrap();
    polkit.until_taken_back(&question.number).await;
    // A yes is no longer anybody's.
    polkit.says(Says::Yes);
    rig.client.create(id(1), "s1", none()).await.unwrap();
    assert_eq!(rig.client.snapshots(id(1)).await, ["s1"]);
}

/// The daemon's process, which ends with this.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a process holds, and what the bus holds for it.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    descriptors: usize,
    threads: usize,
    rules: u32,
}

impl Process {
    /// A daemon as it is shipped, that is not connected to libvirt as long as there is no such file.
    async fn start(rig: &Rig, hypervisor: &Path) -> Self {
        rig.write_main(&format!("uri = \"test://{}\"\n", hypervisor.display()));
        let mut command = Command::new(env!("CARGO_BIN_EXE_virtsnapd"));
        command.arg("--config-dir").arg(rig.directory().join("etc"));
        command.arg("--state-dir").arg(rig.directory().join("state"));
        std::fs::create_dir(rig.directory().join("run")).unwrap();
        command.arg("--runtime-dir").arg(rig.directory().join("run"));
        command.arg("--bus-address").arg(rig.address());
        let daemon = Self(command.stderr(Stdio::null()).spawn().unwrap());
        rig.client.until_name_is(true).await;
        daemon
    }

    fn proc(&self, what: &str) -> String {
        format!("/proc/{}/{what}", self.0.id())
    }

    /// In KiB.
    fn resident(&self) -> i64 {
        let status = std::fs::read_to_string(self.proc("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    async fn held(&self, rig: &Rig) -> Held {
        let count = |what: &str| std::fs::read_dir(self.proc(what)).unwrap().count();
        let rules = rig.client.match_rules().await;
        Held { descriptors: count("fd"), threads: count("task"), rules }
    }

    /// Waits until it holds no more than then.
    async fn until_no_more_than(&self, rig: &Rig, before: &Held) {
        let no_more = |now: &Held| {
            now.descriptors <= before.descriptors
                && now.threads <= before.threads
                && now.rules <= before.rules
        };
        let waiting = async { while !no_more(&self.held(rig).await) {} };
        // A thread that found nothing to do stays for some seconds.
        let reached = tokio::time::timeout(2 * DEADLINE, waiting).await;
        assert!(reached.is_ok(), "before {before:?}, now {:?}", self.held(rig).await);
    }
}

/// So many come at once, and go at once.
const CALLERS: usize = 10;

/// They wait for a job, listen, want all objects, have something taken, keep scheduled runs waiting, and go.
async fn come_and_go(rig: &Rig, job: &str, vm: &str) {
    type Inhibitors = Vec<(String, String, u32, u64)>;
    let address = rig.address();
    let callers = join_all((0..CALLERS).map(|_| Client::connect(&address))).await;
    join_all(callers.iter().map(async |caller| {
        let _signals = caller.signals().await;
        send(caller, job, "org.virtsnap1.Job.Wait", &(none(),)).await;
        send(caller, MANAGER, "org.freedesktop.DBus.ObjectManager.GetManagedObjects", &()).await;
        let before = (ObjectPath::try_from(vm).unwrap(), "upgrade", none());
        send(caller, MANAGER, "org.virtsnap1.Manager.BeforeOperation", &before).await;
        let inhibit = ("backup", "on request", none());
        let (kept,): (OwnedFd,) = caller.call(MANAGER, "Manager.Inhibit", &inhibit).await.unwrap();
        send(caller, job, "org.virtsnap1.Job.Wait", &(none(),)).await;
        caller.connection.clone().close().await.unwrap();
        drop(kept);
    }))
    .await;
    // One is the test's own.
    rig.client.until(MANAGER, "Manager.Inhibitors", |all: &Inhibitors| all.len() == 1).await;
}

const POLICY: &str = "[policy.p]\nvms = [\"*\"]\nschedule = \"@reboot\"\nbefore = \"upgrade\"\n";

const NODE: &str = "<node><domain type='test'><name>web</name><uuid>00000000-0000-4000-8000-000000000001</uuid>\
    <memory>8192</memory><os><type>hvm</type></os></domain></node>";

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_holds_as_much_after_hundreds_of_callers_as_before() {
    let rig = Rig::without_daemon(POLICY, |_| {}).await;
    let node = rig.directory().join("node.xml");
    let daemon = Process::start(&rig, &node).await;
    // Before there is a VM, so that what is due then waits, for as long as the test does.
    let own = ("test", "", none());
    let (_own,): (OwnedFd,) = rig.client.call(MANAGER, "Manager.Inhibit", &own).await.unwrap();
    let mut news = rig.client.signals().await;
    std::fs::write(node, NODE).unwrap();
    let job = soon("a job", async {
        loop {
            let message = news.next().await.expect("the bus goes on").unwrap();
            if message.header().member().is_some_and(|member| member == "JobNew") {
                let (_, job): (u32, zbus::OwnedObjectPath) = message.body().deserialize().unwrap();
                return job.to_string();
            }
        }
    })
    .await;
    drop(news);
    // The job is told before it is known that these are all VMs.
    rig.client.until(MANAGER, "Manager.State", |state: &String| state == "running").await;
    let (vm,): (zbus::OwnedObjectPath,) =
        rig.client.call(MANAGER, "Manager.LookupVM", &("web",)).await.unwrap();

    for _ in 0..5 {
        come_and_go(&rig, &job, vm.as_str()).await;
    }
    let before = daemon.held(&rig).await;
    assert!(before.descriptors > 0 && before.threads > 0, "{before:?}");
    let mut sizes = vec![daemon.resident()];
    for _ in 0..2 {
        for _ in 0..20 {
            come_and_go(&rig, &job, vm.as_str()).await;
        }
        daemon.until_no_more_than(&rig, &before).await;
        sizes.push(daemon.resident());
    }
    println!("{before:?}, resident in KiB {sizes:?}");
    let (first, second) = (sizes[1] - sizes[0], sizes[2] - sizes[1]);
    assert!(second <= first.max(4096), "it grows with each caller: {sizes:?}");
    assert_eq!(rig.client.text(&job, "Job.State").await, "queued");
}
