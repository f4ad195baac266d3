//! A VM as the question for its fitness wants it.

use super::{Error, ErrorKind, Result, Vm};
use crate::core::{
    fitness::{self, Facts, Kind, Limits, Unfit},
    model::SnapshotName,
};

impl Vm {
    /// What counts for a snapshot of these disks.
    pub fn fit_facts<'a>(&'a self, disks: &[&str], internal: Option<&'a SnapshotName>) -> Facts<'a> {
        let part = |d: &'a super::Disk| fitness::Disk {
            target: &d.target,
            kind: &d.kind,
            device: &d.device,
            bus: &d.bus,
            shared: d.shared,
            chain: d.chain.iter().map(|layer| layer.path.as_str()).collect(),
            configured: d.configured.as_deref(),
        };
        Facts {
            name: &self.name,
            state: self.state,
            persistent: self.persistent,
            managed_save: self.managed_save,
            block_jobs: self.block_jobs,
            busy: self.busy,
            confined: self.confined_by.is_some(),
            xml_bytes: self.xml_bytes,
            internal,
            disks: self.disks.iter().filter(|d| disks.contains(&d.target.as_str())).map(part).collect(),
        }
    }

    /// A driver's own last look before it makes overlays for these disks.
    pub(super) fn check_fit<'a>(
        &self,
        disks: impl IntoIterator<Item = &'a str>,
        layer_limit: usize,
    ) -> Result<()> {
        let disks: Vec<&str> = disks.into_iter().collect();
        let limits = Limits { max_chain: usize::MAX, layer_limit };
        fitness::check(&self.fit_facts(&disks, None), 0, limits).map_err(Error::from)
    }
}

impl From<Unfit> for Error {
    fn from(unfit: Unfit) -> Self {
        let kind = match unfit.kind {
            Kind::Unsupported => ErrorKind::Unsupported,
            Kind::Busy => ErrorKind::Busy,
            Kind::ChainMismatch => ErrorKind::ChainMismatch,
        };
        Self::new(kind, unfit.text)
    }
}
