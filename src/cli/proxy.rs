//! What the client calls on the bus: the methods of the five interfaces, as `dbus/*.xml` documents them.
//!
//! Properties are not here: they are read in bulk ([`super::inventory`], [`super::props`]), never one by one.

use std::collections::HashMap;

use zbus::{ObjectPath, OwnedObjectPath, OwnedVariant, Variant, proxy};

use super::props::Interfaces;

/// The daemon's name on the bus.
pub const SERVICE: &str = "org.virtsnap1";

/// The root object.
pub const ROOT: &str = "/org/virtsnap1";

/// The `a{sv}` at the end of every method that may grow.
pub type Options<'a> = HashMap<&'a str, Variant<'a>>;

/// One line of `PreviewPrune`: snapshot, name, keep, reasons as (rule, policy, bucket), text.
pub type RawVerdict = (OwnedObjectPath, String, bool, Vec<(String, String, String)>, String);

/// All objects in one call. zbus's own proxy for it would make an owned variant of every property.
#[proxy(
    interface = "org.freedesktop.DBus.ObjectManager",
    default_service = "org.virtsnap1",
    default_path = "/org/virtsnap1"
)]
pub trait Objects {
    /// Every object with every property.
    fn get_managed_objects(&self) -> zbus::Result<HashMap<OwnedObjectPath, Interfaces>>;
}

/// `org.virtsnap1.Manager`
#[proxy(
    interface = "org.virtsnap1.Manager",
    default_service = "org.virtsnap1",
    default_path = "/org/virtsnap1"
)]
pub trait Manager {
    /// Finds a VM by its name or UUID.
    #[zbus(name = "LookupVM")]
    fn lookup_vm(&self, name_or_uuid: &str) -> zbus::Result<OwnedObjectPath>;

    /// Runs the policies that are to run before that; answers with a job for each snapshot.
    #[zbus(allow_interactive_auth)]
    fn before_operation(
        &self,
        vm: &ObjectPath<'_>,
        operation: &str,
        options: Options<'_>,
    ) -> zbus::Result<Vec<OwnedObjectPath>>;

    /// Reads the configuration again.
    #[zbus(allow_interactive_auth)]
    fn reload(&self, options: Options<'_>) -> zbus::Result<()>;
}

/// `org.virtsnap1.VM`
#[proxy(interface = "org.virtsnap1.VM", default_service = "org.virtsnap1")]
pub trait VM {
    /// Takes a snapshot; answers with the job.
    #[zbus(allow_interactive_auth)]
    fn create_snapshot(&self, name: &str, options: Options<'_>) -> zbus::Result<OwnedObjectPath>;

    /// What `prune` would do.
    fn preview_prune(&self, options: Options<'_>) -> zbus::Result<Vec<RawVerdict>>;

    /// What of the configuration is for it, and why.
    fn explain(&self, options: Options<'_>) -> zbus::Result<Vec<HashMap<String, OwnedVariant>>>;

    /// Copies what its disks lie on into their own images; answers with the job.
    #[zbus(allow_interactive_auth)]
    fn promote(&self, options: Options<'_>) -> zbus::Result<OwnedObjectPath>;

    /// Deletes what no policy wants to keep; answers with the job.
    #[zbus(allow_interactive_auth)]
    fn prune(&self, options: Options<'_>) -> zbus::Result<OwnedObjectPath>;

    /// Takes over what others made; answers when it is done.
    #[zbus(allow_interactive_auth)]
    fn adopt(&self, options: Options<'_>) -> zbus::Result<()>;
}

/// `org.virtsnap1.Snapshot`
#[proxy(interface = "org.virtsnap1.Snapshot", default_service = "org.virtsnap1")]
pub trait Snapshot {
    /// Deletes it; answers with the job.
    #[zbus(allow_interactive_auth)]
    fn delete(&self, options: Options<'_>) -> zbus::Result<OwnedObjectPath>;

    /// Reverts the VM to it; answers with the job.
    #[zbus(allow_interactive_auth)]
    fn revert(&self, options: Options<'_>) -> zbus::Result<OwnedObjectPath>;

    /// Holds it: neither pruned nor deleted.
    #[zbus(allow_interactive_auth)]
    fn pin(&self, reason: &str, expires: u64, options: Options<'_>) -> zbus::Result<()>;

    /// Takes pins off.
    #[zbus(allow_interactive_auth)]
    fn unpin(&self, options: Options<'_>) -> zbus::Result<()>;

    /// Changes what people say of it; answers when it is done.
    #[zbus(allow_interactive_auth)]
    fn update(&self, options: Options<'_>) -> zbus::Result<()>;

    /// Makes another VM on it; answers with the job.
    #[zbus(allow_interactive_auth)]
    fn branch(&self, new_vm: &str, options: Options<'_>) -> zbus::Result<OwnedObjectPath>;
}

/// `org.virtsnap1.Policy`
#[proxy(interface = "org.virtsnap1.Policy", default_service = "org.virtsnap1")]
pub trait Policy {
    /// Runs it now; answers with the jobs.
    #[zbus(allow_interactive_auth)]
    fn run(&self, options: Options<'_>) -> zbus::Result<Vec<OwnedObjectPath>>;

    /// What a run would come to on each of its VMs.
    fn preview(&self, options: Options<'_>) -> zbus::Result<Vec<HashMap<String, OwnedVariant>>>;

    /// Has its schedule not run it any more.
    #[zbus(allow_interactive_auth)]
    fn suspend(&self, reason: &str, options: Options<'_>) -> zbus::Result<()>;

    /// Has its schedule run it again.
    #[zbus(allow_interactive_auth)]
    fn resume(&self, options: Options<'_>) -> zbus::Result<()>;
}

/// `org.virtsnap1.Job`
#[proxy(interface = "org.virtsnap1.Job", default_service = "org.virtsnap1")]
pub trait Job {
    /// Answers when it has ended: its result and what it made.
    fn wait(&self, options: Options<'_>) -> zbus::Result<(String, OwnedObjectPath)>;

    /// Asks it to stop.
    #[zbus(allow_interactive_auth)]
    fn cancel(&self, options: Options<'_>) -> zbus::Result<()>;
}

/// The object that a path names, if it names one: "/" stands for none.
pub fn some_object(path: &ObjectPath<'_>) -> Option<OwnedObjectPath> {
    (path.as_str() != "/").then(|| path.to_owned().into())
}
