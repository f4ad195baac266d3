//! QEMU's own word on its disks, through libvirt's passage to its monitor.

use serde::Deserialize;
use virt::{enumutil::Enum, error::ErrorNumber};

use super::{Connections, definition, domain, inspect, switch::INACTIVE, xml};
use crate::{
    core::model::{VmId, VmState},
    hypervisor::{Error, ErrorKind, Layer, OpenedDisk, Result},
};

/// What `query-block` answers, as far as it is asked for.
#[derive(Debug, Deserialize)]
struct Answer {
    #[serde(rename = "return")]
    drives: Vec<Drive>,
}

#[derive(Debug, Deserialize)]
struct Drive {
    /// The guest's device: a path of QEMU's objects, one part of which is libvirt's alias.
    #[serde(default)]
    qdev: String,
    inserted: Option<Inserted>,
}

#[derive(Debug, Deserialize)]
struct Inserted {
    image: Image,
}

#[derive(Debug, Deserialize)]
struct Image {
    filename: String,
    #[serde(default)]
    format: String,
    #[serde(rename = "backing-image")]
    backing: Option<Box<Image>>,
}

pub(super) fn opened(connections: &Connections, id: VmId) -> Result<Option<Vec<OpenedDisk>>> {
    let domain = domain(&connections.work, id)?;
    if inspect::state(&domain)? == VmState::ShutOff {
        return Ok(None);
    }
    let aliases = xml::aliases(&domain.xml_desc(0)?)?;
    match domain.qemu_monitor_command(r#"{"execute":"query-block"}"#, 0) {
        Ok(text) => read(&text, &aliases).map(Some),
        // Where there is no QEMU, nobody but libvirt has disks.
        Err(e) if e.code() == Enum::Known(ErrorNumber::NoSupport) => {
            let disks = xml::domain(&domain.xml_desc(0)?)?.disks.into_iter();
            Ok(Some(disks.map(|d| OpenedDisk { target: d.disk.target, chain: d.disk.chain }).collect()))
        }
        Err(e) => Err(Error::from(e).context("asking the VM's QEMU for its disks")),
    }
}

fn read(text: &str, aliases: &[(String, String)]) -> Result<Vec<OpenedDisk>> {
    let answer: Answer = serde_json::from_str(text).map_err(|e| {
        Error::new(ErrorKind::Failed, format!("what QEMU says of its disks cannot be read: {e}: {text}"))
    })?;
    let target = |qdev: &str| {
        let is = |alias: &String| qdev.split('/').any(|part| part == alias);
        aliases.iter().find(|(_, alias)| is(alias)).map(|(target, _)| target.clone())
    };
    Ok(answer
        .drives
        .into_iter()
        .filter_map(|drive| {
            let mut chain = Vec::new();
            let mut next = Some(Box::new(drive.inserted?.image));
            while let Some(image) = next {
                chain.push(Layer { path: path(image.filename), format: image.format });
                next = image.backing;
            }
            Some(OpenedDisk { target: target(&drive.qdev)?, chain })
        })
        .collect())
}

/// What QEMU opened in another way than the image's own header says it calls by all its options.
fn path(filename: String) -> String {
    let options =
        filename.strip_prefix("json:").and_then(|o| serde_json::from_str::<serde_json::Value>(o).ok());
    let of_file = |o: &serde_json::Value| {
        let name = o.pointer("/file/filename").or_else(|| o.get("filename"))?;
        name.as_str().map(str::to_owned)
    };
    options.as_ref().and_then(of_file).unwrap_or(filename)
}

pub(super) fn name_for_next_start(
    connections: &Connections,
    id: VmId,
    sources: &[(String, Layer)],
) -> Result<()> {
    let domain = domain(&connections.work, id)?;
    let now = domain.xml_desc(INACTIVE)?;
    connections.work.define_domain_xml(&definition::put_together(&now, &now, sources)?)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As QEMU 7.2 answered, shortened: a disk on an overlay, a CD-ROM drive with nothing in it, and a node of nobody.
    const ANSWER: &str = r#"{"return":[
        {"io-status":"ok","device":"","qdev":"/machine/peripheral/virtio-disk0/virtio-backend","inserted":{
            "file":"/i/a.s2","node-name":"libvirt-3-format","image":{"filename":"/i/a.s2","format":"qcow2",
            "backing-image":{"filename":"/i/a \"b\".qcow2","format":"raw"}}}},
        {"device":"","qdev":"sata0-0-0","removable":true},
        {"device":"x","inserted":{"image":{"filename":"/i/x","format":"qcow2"}}}],"id":"libvirt-13"}"#;

    #[test]
    fn a_disk_is_found_by_its_alias_and_has_its_whole_chain() {
        let aliases = [("vda", "virtio-disk0"), ("vdb", "virtio-disk"), ("sda", "sata0-0-0")];
        let aliases = aliases.map(|(t, a)| (t.to_owned(), a.to_owned()));
        let layer = |path: &str, format: &str| Layer { path: path.into(), format: format.into() };
        let chain = vec![layer("/i/a.s2", "qcow2"), layer("/i/a \"b\".qcow2", "raw")];
        assert_eq!(read(ANSWER, &aliases).unwrap(), [OpenedDisk { target: "vda".into(), chain }]);
    }

    #[test]
    fn what_is_named_by_all_its_options_is_found_by_its_file() {
        let options = r#"json:{"backing": {"driver": "qcow2", "file": {"filename": "/i/b"}}, "driver": "qcow2",
            "file": {"driver": "file", "filename": "/i/a"}}"#;
        assert_eq!(path(options.to_owned()), "/i/a");
        assert_eq!(path(r#"json:{"driver": "file", "filename": "/i/c"}"#.to_owned()), "/i/c");
        assert_eq!(path("json:x".to_owned()), "json:x");
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        assert!(read(r#"{"id":"x","error":{"class":"CommandNotFound"}}"#, &[]).is_err());
    }
}
