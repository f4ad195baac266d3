//! Against libvirt's own test driver, which lives in the client library and needs no daemon.

use std::{sync::mpsc, time::Duration};

use super::*;

const DEADLINE: Duration = Duration::from_secs(20);

#[test]
fn a_tag_set_as_virsh_metadata_does_is_told_at_once_and_read() {
    let hypervisor = Libvirt::new("test:///default");
    let (send, events) = mpsc::channel();
    hypervisor.watch(Box::new(move |event| {
        let _ = send.send(event);
    }));
    let until = |wanted: &dyn Fn(&Event) -> bool| {
        while !wanted(&events.recv_timeout(DEADLINE).expect("the event comes")) {}
    };
    until(&|event| matches!(event, Event::Connected(_)));
    let vm = hypervisor.vms().unwrap()[0];
    let work = hypervisor.now().unwrap();
    // `virsh metadata VM --uri … --key … --set … --live --config`
    let element = 2;
    domain(&work.work, vm)
        .unwrap()
        .set_metadata(
            element,
            Some("<vm><tag>prod</tag><tag>web</tag></vm>"),
            Some("virtsnap"),
            Some("urn:virtsnap:vm:1"),
            virt_sys::VIR_DOMAIN_AFFECT_LIVE | virt_sys::VIR_DOMAIN_AFFECT_CONFIG,
        )
        .unwrap();
    until(&|event| matches!(event, Event::Changed(changed) if *changed == vm));
    let xml = domain(&work.work, vm).unwrap().xml_desc(0).unwrap();
    assert_eq!(xml::domain(&xml).unwrap().tags.into_iter().collect::<Vec<_>>(), ["prod", "web"]);
}
