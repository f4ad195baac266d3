//! `org.virtsnap1.Manager`, the daemon itself.

use std::collections::HashMap;

use zbus::{
    Connection, OwnedFd, OwnedObjectPath, OwnedVariant, interface, message::Header,
    object_server::SignalEmitter,
};

use super::{
    Options, Shared,
    auth::{self, Caller, Reload},
    calls,
    error::BusError,
    hold, path,
};
use crate::{
    core::{
        inhibit::Inhibitor,
        machine::{Change, Reply},
        model::VmId,
        trouble::Trouble,
        verb::Matter,
        view::DaemonState,
    },
    engine::Ask,
};

/// The object at the root.
#[derive(Debug)]
pub(super) struct Manager {
    shared: Shared,
}

impl Manager {
    pub(super) fn new(shared: Shared) -> Self {
        Self { shared }
    }
}

#[interface(name = "org.virtsnap1.Manager", introspection_docs = false)]
impl Manager {
    #[zbus(name = "LookupVM", out_args("vm"))]
    fn lookup_vm(
        &self,
        name_or_uuid: &str,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<OwnedObjectPath, BusError> {
        let call = header;
        calls::fits(&call)?;
        let view = self.shared.lens.view();
        // As long as not all VMs are known, that there is no such one would be a guess.
        let miss = || match &view.manager {
            m if !m.hypervisor_connected => {
                let why = "there is no connection to libvirt, so that nobody knows which VMs there are";
                BusError::new(
                    "Disconnected",
                    format!("VM {name_or_uuid:?} is not known: {why}; ask again later"),
                )
            }
            m if m.state == DaemonState::Starting => {
                let why = "the daemon is starting, and has not seen all VMs";
                BusError::new(
                    "Disconnected",
                    format!("VM {name_or_uuid:?} is not known yet: {why}; ask again in a moment"),
                )
            }
            _ => BusError::new("NoSuchVM", format!("there is no VM {name_or_uuid:?}")),
        };
        view.vms
            .values()
            .find(|vm| vm.record.name == name_or_uuid)
            .map(|vm| path::vm(vm.record.id))
            .or_else(|| {
                name_or_uuid.parse::<VmId>().ok().filter(|id| view.vms.contains_key(id)).map(path::vm)
            })
            .ok_or_else(miss)
    }

    async fn reload(
        &self,
        options: HashMap<String, OwnedVariant>,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(), BusError> {
        Options::new(options, &[])?;
        let caller = Caller::of(&self.shared, connection, &header).await?;
        let permit = auth::authorise(&caller, Matter::reload(), &self.shared).await?.on(Reload)?;
        let answer = self.shared.engine.ask(|reply| Ask::Reload(permit, reply)).await;
        self.shared.settle(answer).await.map(drop)
    }

    #[zbus(out_args("jobs"))]
    async fn before_operation(
        &self,
        vm: OwnedObjectPath,
        operation: String,
        options: HashMap<String, OwnedVariant>,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Vec<OwnedObjectPath>, BusError> {
        Options::new(options, &[])?;
        let vm = path::vm_of(vm.as_str())
            .ok_or_else(|| BusError::invalid(format!("{} is not a VM's path", vm.as_str())))?;
        let caller = Caller::of(&self.shared, connection, &header).await?;
        match self.shared.change(Change::Before { vm, operation }, &caller).await? {
            Reply::Jobs(jobs) => Ok(jobs.into_iter().map(path::job).collect()),
            _ => Err(BusError::new("Failed", "the engine gave no jobs")),
        }
    }

    #[zbus(out_args("fd"))]
    async fn inhibit(
        &self,
        who: String,
        why: String,
        options: HashMap<String, OwnedVariant>,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<OwnedFd, BusError> {
        Options::new(options, &[])?;
        let caller = Caller::of(&self.shared, connection, &header).await?;
        let change = Change::Inhibit { who, why };
        let matter = Matter::of(&change, caller.known_user());
        // First: who waits for a password takes none of our descriptors.
        let permit = auth::authorise(&caller, matter, &self.shared).await?.on(change)?;
        // Before anything is held: with no descriptor left it could not be let go again.
        let (ours, theirs) = hold::pair().map_err(|e| {
            BusError::new("Failed", format!("there is no file descriptor for it ({e}): nothing is held"))
        })?;
        match self.shared.carry_out(permit).await? {
            Reply::Inhibited(id) => {
                hold::watch(ours, id, self.shared.engine.clone());
                Ok(theirs)
            }
            _ => Err(BusError::new("Failed", "the engine gave no inhibitor")),
        }
    }

    /// A job came into being.
    #[zbus(signal)]
    pub(super) async fn job_new(
        emitter: &SignalEmitter<'_>,
        id: u32,
        job: OwnedObjectPath,
    ) -> zbus::Result<()>;

    /// A job ended.
    #[zbus(signal)]
    pub(super) async fn job_removed(
        emitter: &SignalEmitter<'_>,
        id: u32,
        job: OwnedObjectPath,
        result: &str,
    ) -> zbus::Result<()>;

    #[zbus(property(emits_changed_signal = "const"))]
    #[expect(clippy::unused_self, reason = "a property is a method of its object")]
    fn version(&self) -> &'static str {
        env!("CARGO_PKG_VERSION")
    }

    #[zbus(property, name = "HypervisorURI")]
    fn hypervisor_uri(&self) -> String {
        self.shared.lens.view().manager.hypervisor_uri.clone()
    }

    #[zbus(property)]
    fn hypervisor_connected(&self) -> bool {
        self.shared.lens.view().manager.hypervisor_connected
    }

    #[zbus(property)]
    fn hypervisor_version(&self) -> String {
        self.shared.lens.view().manager.hypervisor_version.clone()
    }

    #[zbus(property)]
    fn state(&self) -> &'static str {
        self.shared.lens.view().manager.state.as_str()
    }

    #[zbus(property, name = "NextRunUSec")]
    fn next_run(&self) -> u64 {
        super::publish::usec(self.shared.lens.view().manager.next_run)
    }

    #[zbus(property)]
    fn problems(&self) -> Vec<String> {
        self.shared.lens.view().manager.troubles.iter().map(Trouble::text).collect()
    }

    #[zbus(property)]
    fn warnings(&self) -> Vec<String> {
        self.shared.lens.view().manager.warnings.to_vec()
    }

    #[zbus(property)]
    fn inhibitors(&self) -> Vec<(String, String, u32, u64)> {
        let one = |i: &Inhibitor| (i.who.clone(), i.why.clone(), i.uid, super::publish::usec(Some(i.since)));
        self.shared.lens.view().manager.inhibitors.iter().map(one).collect()
    }
}
