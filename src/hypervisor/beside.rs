//! What a VM keeps in files of the host besides its disks.

/// Where a VM's firmware keeps its variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nvram {
    /// libvirt's type of its source: `file`, `block`, `network` …
    pub kind: String,
    /// Its path.
    pub path: String,
    /// Its format, `raw` or `qcow2`.
    pub format: String,
}

/// An emulated TPM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tpm {
    /// The file of the host with its state, which the VM's first start makes. `None`: nobody knows where that is.
    pub state: Option<String>,
}
