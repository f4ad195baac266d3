//! What tests read in libvirt's XML.

/// A disk's source in each `<disk>` under this element: target and path.
pub fn sources(under: roxmltree::Node<'_, '_>) -> Vec<(String, String)> {
    let disks = under.descendants().filter(|n| n.has_tag_name("disk"));
    let read = |disk: roxmltree::Node<'_, '_>| {
        let child = |name: &str| disk.children().find(|c| c.has_tag_name(name));
        let target = disk.attribute("name").or_else(|| child("target")?.attribute("dev"))?;
        Some((target.to_owned(), child("source")?.attribute("file")?.to_owned()))
    };
    disks.filter_map(read).collect()
}
