//! A host with something of each kind on the bus, and a call of each method there.

use virtsnap::hypervisor::sim::VmSpec;
use zbus::{
    Message, ObjectPath,
    message::{Builder, Flags},
};

use super::{
    client::{MANAGER, none},
    documented::methods,
    rig::{Rig, id, policy_path, snapshot_path, vm_path},
};

/// Where each interface can be called.
pub struct Scene {
    pub vm: String,
    pub snapshot: String,
    pub policy: String,
    pub job: String,
}

impl Scene {
    /// All interfaces of ours, each with the object that has it.
    pub fn all(&self) -> [(&'static str, &str); 5] {
        ["Manager", "VM", "Snapshot", "Policy", "Job"].map(|interface| (interface, self.path(interface)))
    }

    /// The object that has this interface.
    pub fn path(&self, interface: &str) -> &str {
        match interface {
            "Manager" => MANAGER,
            "VM" => &self.vm,
            "Snapshot" => &self.snapshot,
            "Policy" => &self.policy,
            "Job" => &self.job,
            other => panic!("where is {other}?"),
        }
    }

    /// A call as busctl takes it.
    pub fn call(&self, method: &str, arguments: &[&str], interactive: bool) -> Vec<String> {
        let (interface, member) = method.split_once('.').unwrap();
        let types = &methods()[method];
        let flag = format!("--allow-interactive-authorization={interactive}");
        let path = self.path(interface);
        let interface = format!("org.virtsnap1.{interface}");
        let fixed = [flag.as_str(), "call", "org.virtsnap1", path, &interface, member, types];
        fixed.iter().chain(arguments).map(|s| (*s).to_owned()).collect()
    }

    /// A call with something of the right types, from this sender.
    pub fn message(&self, method: &str, sender: Option<&'static str>, interactive: bool) -> Message {
        let (interface, member) = method.split_once('.').unwrap();
        let name = format!("org.virtsnap1.{interface}");
        let call = to_daemon(self.path(interface), &name, member);
        let call = if interactive { call.with_flags(Flags::ALLOW_INTERACTIVE_AUTH) } else { call };
        let call = if let Some(sender) = sender { call.sender(sender) } else { call };
        let call = match methods()[method].as_str() {
            "s" => call.build(&("web",)),
            "a{sv}" => call.build(&(none(),)),
            "sa{sv}" => call.build(&("x", none())),
            "ssa{sv}" => call.build(&("x", "y", none())),
            "osa{sv}" => call.build(&(ObjectPath::try_from(self.vm.as_str()).unwrap(), "x", none())),
            "sta{sv}" => call.build(&("x", 0_u64, none())),
            other => panic!("say here how {other} is called"),
        };
        call.unwrap()
    }
}

/// A call of the daemon, without arguments so far.
pub fn to_daemon<'a>(path: &'a str, interface: &'a str, member: &'a str) -> Builder<'a> {
    Message::method_call(path, member).destination("org.virtsnap1").interface(interface)
}

/// A VM with a snapshot, another VM, a policy, and a job that waits for nothing.
pub async fn world() -> (Rig, Scene) {
    let rig = Rig::start("[policy.p]\nvms = [\"*\"]\n", |sim| {
        sim.add_vm(VmSpec::new("web", 1));
        sim.add_vm(VmSpec::new("db", 2));
    })
    .await;
    rig.client.create(id(1), "s1", none()).await.unwrap();
    rig.client.create(id(2), "d1", none()).await.unwrap();
    let job = rig.client.ask_create(id(1), "s2", none()).await.unwrap();
    rig.client.wait(&job).await.unwrap();
    rig.client.until_there(&snapshot_path(id(1), "s2"), true).await;
    rig.client.until_idle().await;
    let (vm, snapshot, policy) = (vm_path(id(1)), snapshot_path(id(1), "s1"), policy_path("p"));
    (rig, Scene { vm, snapshot, policy, job })
}
