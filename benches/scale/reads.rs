//! What it costs to read it over the bus, and to hear of one change.

use std::{num::NonZero, time::Instant};

use futures_util::StreamExt as _;
use zbus::{MatchRule, Message, MessageStream, OwnedObjectPath, message::Type};

use crate::{
    client,
    host::{Host, LIBVIRT_DBUS, domain, snapshot, uri},
    median,
};

const ROUNDS: usize = 5;
const READS: usize = 10_000;
const CHANGES: u32 = 50;
/// Seconds for all objects.
const ALL_BAR: f64 = 0.5;
/// MiB resident.
const MEMORY_BAR: f64 = 60.0;
/// Microseconds for one property.
const READ_BAR: f64 = 70.0;

pub(crate) fn measure(host: &Host) {
    host.start_ours();
    host.start(LIBVIRT_DBUS);
    let theirs = fill(host);
    let (mut ours, mut size) = (vec![], 0);
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        let all = call(
            host,
            "org.virtsnap1",
            "/org/virtsnap1",
            "org.freedesktop.DBus.ObjectManager",
            "GetManagedObjects",
            &(),
        );
        ours.push(begin.elapsed().as_secs_f64());
        size = all.data().len();
    }
    let begin = Instant::now();
    walk(host, &theirs);
    let their_time = begin.elapsed().as_secs_f64();
    let our_time = median(&ours);
    println!(
        "all of them over D-Bus: virtsnapd {our_time:.2} s in one call of {:.1} MiB (median of {ROUNDS}), libvirt-dbus {their_time:.1} s \
         in {} calls, virsh in one session {:.1} s for the names alone: the bar is {ALL_BAR} s",
        f64::from(u32::try_from(size).unwrap()) / f64::from(1 << 20),
        1 + host.vms * (2 + host.snapshots),
        names(host),
    );
    println!(
        "resident with all of them: virtsnapd {:.0} MiB, libvirt-dbus {:.0} MiB; the bar is {MEMORY_BAR} MiB",
        host.resident("virtsnapd"),
        host.resident(LIBVIRT_DBUS.name)
    );
    client::measure(host, our_time);
    properties(host, &theirs[0]);
    change(host);
    host.stop(LIBVIRT_DBUS.name);
    host.stop("virtsnapd");
}

fn properties(host: &Host, their_vm: &OwnedObjectPath) {
    let vm = host.daemon.vm("vm7");
    let get = "org.freedesktop.DBus.Properties";
    let mut times = [vec![], vec![], vec![]];
    for round in 0..READS * 3 {
        let begin = Instant::now();
        match round % 3 {
            0 => call(host, "org.virtsnap1", &vm, get, "Get", &("org.virtsnap1.VM", "Name")),
            1 => call(host, "org.libvirt", their_vm, get, "Get", &("org.libvirt.Domain", "Name")),
            _ => call(
                host,
                "org.freedesktop.DBus",
                "/org/freedesktop/DBus",
                "org.freedesktop.DBus",
                "GetId",
                &(),
            ),
        };
        times[round % 3].push(begin.elapsed().as_secs_f64() * 1e6);
    }
    let [ours, theirs, floor] = times.map(|times| median(&times));
    println!(
        "one property, p50 of {READS}: virtsnapd {ours:.0} µs, libvirt-dbus {theirs:.0} µs, a question to the bus itself \
         {floor:.0} µs: ratio to libvirt-dbus {:.2}; the bar is {READ_BAR} µs",
        ours / theirs
    );
}

/// From a pin that is asked for to the signal that tells of it; it is on the disk by then.
fn change(host: &Host) {
    let (runtime, connection) = host.daemon.bus.raw();
    let vm = host.daemon.vm("vm7");
    let (name, path) = host.daemon.snapshots("vm7")[0].clone();
    assert!(path.starts_with(&vm));
    // Ours alone can be pinned.
    let these = std::collections::HashMap::from([("snapshots", zbus::Variant::from(vec![name]))]);
    call(host, "org.virtsnap1", &vm, "org.virtsnap1.VM", "Adopt", &(these,));
    let rule = MatchRule::builder().msg_type(Type::Signal).sender("org.virtsnap1").build().unwrap();
    let mut signals =
        runtime.block_on(MessageStream::for_match_rule(rule, connection, NonZero::new(1 << 16))).unwrap();
    let none = std::collections::HashMap::<&str, zbus::Variant<'_>>::new();
    let (mut times, mut told) = (vec![], 0);
    for round in 0..CHANGES {
        let begin = Instant::now();
        if round % 2 == 0 {
            call(host, "org.virtsnap1", &path, "org.virtsnap1.Snapshot", "Pin", &("bench", 0_u64, &none));
        } else {
            call(host, "org.virtsnap1", &path, "org.virtsnap1.Snapshot", "Unpin", &(&none,));
        }
        runtime.block_on(async {
            loop {
                let signal = signals.next().await.unwrap().unwrap();
                told += 1;
                if signal.header().path().is_some_and(|at| at.as_str() == path) {
                    break;
                }
            }
        });
        times.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    println!(
        "one change among all of them, to the signal that tells it: {:.1} ms (p50 of {CHANGES}), {:.1} signals each",
        median(&times),
        f64::from(told) / f64::from(CHANGES)
    );
}

/// The same VMs and snapshots in libvirt-dbus' own test driver; the VMs' paths.
fn fill(host: &Host) -> Vec<OwnedObjectPath> {
    let vms = (0..host.vms).map(|vm| {
        let (_, body) = domain(vm);
        let xml = format!("<domain type='test'>{body}</domain>");
        let made =
            call(host, "org.libvirt", "/org/libvirt/Test", "org.libvirt.Connect", "DomainDefineXML", &(xml,));
        let path: OwnedObjectPath = made.body().deserialize().unwrap();
        for n in 0..host.snapshots {
            let xml = format!("<domainsnapshot>{}</domainsnapshot>", snapshot(n, &body));
            call(host, "org.libvirt", &path, "org.libvirt.Domain", "SnapshotCreateXML", &(xml, 0_u32));
        }
        path
    });
    vms.collect()
}

/// What a client of libvirt-dbus does to know as much.
fn walk(host: &Host, vms: &[OwnedObjectPath]) {
    call(host, "org.libvirt", "/org/libvirt/Test", "org.libvirt.Connect", "ListDomains", &(0_u32,));
    for vm in vms {
        call(host, "org.libvirt", vm, "org.freedesktop.DBus.Properties", "GetAll", &("org.libvirt.Domain",));
        let listed = call(host, "org.libvirt", vm, "org.libvirt.Domain", "ListDomainSnapshots", &(0_u32,));
        let listed: Vec<OwnedObjectPath> = listed.body().deserialize().unwrap();
        assert_eq!(listed.len(), host.snapshots);
        for snapshot in &listed {
            call(host, "org.libvirt", snapshot, "org.libvirt.DomainSnapshot", "GetXMLDesc", &(0_u32,));
        }
    }
}

/// One virsh that is told to list each VM's snapshots; seconds.
fn names(host: &Host) -> f64 {
    let script = format!(
        "for n in $(seq 0 {}); do echo snapshot-list vm$n --name; done >/tmp/script
         begin=$(date +%s.%N); virsh -c '{}' </tmp/script >/tmp/names; end=$(date +%s.%N)
         echo $begin $end",
        host.vms - 1,
        uri()
    );
    let times = host.tb.ok_within(std::time::Duration::from_mins(5), &script);
    let times: Vec<f64> = times.split_whitespace().map(|time| time.parse().unwrap()).collect();
    times[1] - times[0]
}

fn call<B>(host: &Host, to: &str, path: &str, interface: &str, method: &str, body: &B) -> Message
where
    B: serde::Serialize + zbus::DynamicType,
{
    let (runtime, connection) = host.daemon.bus.raw();
    let answer = runtime.block_on(connection.call_method(Some(to), path, Some(interface), method, body));
    answer.unwrap_or_else(|e| panic!("{interface}.{method} of {path}: {e}"))
}
