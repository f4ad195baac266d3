//! A name for layers that have none: a snapshot's metadata written as if it had been there when they were put on top.
//!
//! Tried with 9.0.0 and 11.3: on a running VM and on one that is off, with and without snapshots below, such a one is
//! kept over restarts, and libvirt's own deletion of it, and of those below it, merges what it should.

use virt::{domain::Domain, enumutil::Enum, error::ErrorNumber};

use super::{
    Connections, definition, domain, inspect,
    nodes::{attribute, element},
};
use crate::{
    core::model::VmId,
    hypervisor::{Error, ErrorKind, Layer, NewRecord, Result},
};

pub(super) fn name(connections: &Connections, id: VmId, new: &NewRecord) -> Result<()> {
    let domain = domain(&connections.work, id)?;
    match Domain::lookup_snapshot_by_name(&domain, new.name.as_str(), 0) {
        Ok(_) => {
            let text = format!("there is a snapshot {} already", new.name);
            return Err(Error::new(ErrorKind::Exists, text));
        }
        Err(e) if e.code() == Enum::Known(ErrorNumber::NoDomainSnapshot) => {}
        Err(e) => return Err(e.into()),
    }
    let vm = inspect::vm(connections, id)?;
    for disk in &new.disks {
        let chain = vm.disks.iter().find(|d| d.target == disk.target).map_or(&[][..], |d| &d.chain);
        if !chain.windows(2).any(|w| w[0].path == disk.overlay && w[1].path == disk.state_image) {
            return Err(Error::new(
                ErrorKind::ChainMismatch,
                format!(
                    "disk {} does not have {} on {}. Nothing was touched",
                    disk.target, disk.overlay, disk.state_image
                ),
            ));
        }
    }
    let flags = virt_sys::VIR_DOMAIN_XML_INACTIVE | virt_sys::VIR_DOMAIN_XML_SECURE;
    let now = domain.xml_desc(flags)?;
    let images: Vec<(String, Layer)> = new
        .disks
        .iter()
        .map(|d| (d.target.clone(), Layer { path: d.state_image.clone(), format: d.format.clone() }))
        .collect();
    let then = definition::put_together(&now, &now, &images)?;
    let targets: Vec<&str> = vm.disks.iter().map(|d| d.target.as_str()).collect();
    let text = snapshot(new, &targets, &then);
    let flags = virt_sys::VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE | virt_sys::VIR_DOMAIN_SNAPSHOT_CREATE_CURRENT;
    domain.create_snapshot_xml(&text, flags)?;
    Ok(())
}

fn snapshot(new: &NewRecord, targets: &[&str], definition: &str) -> String {
    let mut x = String::from("<domainsnapshot>");
    element(&mut x, "name", new.name.as_str());
    element(&mut x, "description", &new.description);
    element(&mut x, "state", "disk-snapshot");
    element(&mut x, "creationTime", &new.created.as_second().to_string());
    if let Some(parent) = &new.parent {
        x.push_str("<parent>");
        element(&mut x, "name", parent.as_str());
        x.push_str("</parent>");
    }
    x.push_str("<memory snapshot='no'/><disks>");
    for target in targets {
        x.push_str("<disk");
        attribute(&mut x, "name", target);
        match new.disks.iter().find(|d| d.target == *target) {
            None => x.push_str(" snapshot='no'/>"),
            Some(disk) => {
                x.push_str(" snapshot='external' type='file'><driver type='qcow2'/><source");
                attribute(&mut x, "file", &disk.overlay);
                x.push_str("/></disk>");
            }
        }
    }
    x.push_str("</disks>");
    // Without a declaration before it: it stands inside.
    x.push_str(definition.strip_prefix("<?xml version='1.0'?>").unwrap_or(definition).trim());
    x.push_str("</domainsnapshot>");
    x
}

#[cfg(test)]
mod tests {
    use super::{super::xml, *};
    use crate::{
        core::model::SnapshotName,
        hypervisor::{SnapshotDisk, Taken},
    };

    #[test]
    fn what_is_written_reads_back_as_what_it_is() {
        let seen = include_str!("seen/snapshot-11.3.xml");
        let now = definition::of_snapshot(seen).unwrap();
        let disk = SnapshotDisk {
            target: "vda".into(),
            overlay: "/i/it's <new>".into(),
            state_image: "/i/below & more".into(),
            format: "qcow2".into(),
        };
        let images = [("vda".to_owned(), Layer { path: disk.state_image.clone(), format: "qcow2".into() })];
        let then = definition::put_together(&now, &now, &images).unwrap();
        let new = NewRecord {
            name: SnapshotName::existing("a<b"),
            description: "one\ntwo".into(),
            created: jiff::Timestamp::from_second(1_700_000_000).unwrap(),
            parent: Some(SnapshotName::existing("s1")),
            disks: vec![disk.clone()],
        };
        let text = snapshot(&new, &["vda", "vdb"], &then);
        let read = xml::snapshot(&text).unwrap();
        assert_eq!((read.name, read.description, read.created), (new.name, new.description, new.created));
        assert_eq!((read.parent, read.disks, read.taken), (new.parent, vec![disk], Taken::DiskOnly));
        assert!(text.contains("passwd='secret'") && !text.contains("backingStore"), "{text}");
    }
}
