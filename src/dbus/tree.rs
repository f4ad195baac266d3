//! `org.freedesktop.DBus.Introspectable` of the places above the VMs, the policies and the jobs: what is below them, one
//! level of it, as the specification asks for at least.
//!
//! zbus itself answers with the whole tree and the interfaces of all in it. With some thousand snapshots that is longer
//! than a message may be, and the bus would throw the daemon off, whoever asked.

use std::fmt::Write as _;

use zbus::{
    ObjectServer, fdo, interface,
    object_server::{Interface, InterfaceRef},
};

use super::{Shared, manager::Manager, objects::Objects, path};
use crate::core::view::View;

/// What each object has, by the specification.
const STANDARD: &str = r#"  <interface name="org.freedesktop.DBus.Introspectable">
    <method name="Introspect">
      <arg type="s" direction="out"/>
    </method>
  </interface>
  <interface name="org.freedesktop.DBus.Peer">
    <method name="Ping"/>
    <method name="GetMachineId">
      <arg type="s" direction="out"/>
    </method>
  </interface>
  <interface name="org.freedesktop.DBus.Properties">
    <method name="Get">
      <arg name="interface_name" type="s" direction="in"/>
      <arg name="property_name" type="s" direction="in"/>
      <arg type="v" direction="out"/>
    </method>
    <method name="Set">
      <arg name="interface_name" type="s" direction="in"/>
      <arg name="property_name" type="s" direction="in"/>
      <arg name="value" type="v" direction="in"/>
    </method>
    <method name="GetAll">
      <arg name="interface_name" type="s" direction="in"/>
      <arg type="a{sv}" direction="out"/>
    </method>
    <signal name="PropertiesChanged">
      <arg name="interface_name" type="s"/>
      <arg name="changed_properties" type="a{sv}"/>
      <arg name="invalidated_properties" type="as"/>
    </signal>
  </interface>
"#;

#[derive(Debug, Clone, Copy)]
enum Place {
    Top,
    Org,
    Root,
    Vms,
    Policies,
    Jobs,
}

impl Place {
    const ALL: [Self; 6] = [Self::Top, Self::Org, Self::Root, Self::Vms, Self::Policies, Self::Jobs];

    fn path(self) -> &'static str {
        match self {
            Self::Top => "/",
            Self::Org => "/org",
            Self::Root => path::ROOT,
            Self::Vms => path::VMS,
            Self::Policies => path::POLICIES,
            Self::Jobs => path::JOBS,
        }
    }

    /// The labels of what is below it.
    fn children(self, view: &View) -> Vec<String> {
        let fixed = |labels: &[&str]| labels.iter().map(|label| (*label).to_owned()).collect();
        let last = |path: zbus::OwnedObjectPath| path.rsplit('/').next().unwrap_or_default().to_owned();
        match self {
            Self::Top => fixed(&["org"]),
            Self::Org => fixed(&["freedesktop", "virtsnap1"]),
            Self::Root => fixed(&["job", "policy", "vm"]),
            Self::Vms => view.vms.keys().map(|id| last(path::vm(*id))).collect(),
            Self::Policies => view.policies.keys().map(|name| last(path::policy(name))).collect(),
            Self::Jobs => view.jobs.keys().map(|id| last(path::job(*id))).collect(),
        }
    }
}

#[derive(Debug)]
struct Tree {
    shared: Shared,
    place: Place,
}

#[interface(name = "org.freedesktop.DBus.Introspectable", introspection_docs = false)]
impl Tree {
    async fn introspect(&self, #[zbus(object_server)] server: &ObjectServer) -> fdo::Result<String> {
        let mut xml = String::from(
            "<!DOCTYPE node PUBLIC \"-//freedesktop//DTD D-BUS Object Introspection 1.0//EN\"\n \
             \"http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd\">\n<node>\n",
        );
        xml += STANDARD;
        if matches!(self.place, Place::Root) {
            let manager: InterfaceRef<Manager> = server.interface(path::ROOT).await?;
            manager.get().await.introspect_to_writer(&mut xml, 2);
            let objects: InterfaceRef<Objects> = server.interface(path::ROOT).await?;
            objects.get().await.introspect_to_writer(&mut xml, 2);
        }
        for label in self.place.children(&self.shared.lens.view()) {
            let _ = writeln!(xml, "  <node name=\"{label}\"/>");
        }
        Ok(xml + "</node>\n")
    }
}

/// Keeps a place where nothing may be below: zbus gives up one without. Nobody is told of it.
#[derive(Debug)]
struct Anchor;

#[interface(name = "org.virtsnap1.Anchor")]
impl Anchor {}

/// Has the places answer like that from now on. Before anybody knows the name: it is told as changes.
pub(super) async fn plant(server: &ObjectServer, shared: &Shared) -> zbus::Result<()> {
    for place in Place::ALL {
        let at = place.path();
        if matches!(place, Place::Vms | Place::Policies | Place::Jobs) {
            server.at(at, Anchor).await?;
        }
        server.remove_named(at, Tree::name()).await?;
        server.at(at, Tree { shared: shared.clone(), place }).await?;
    }
    Ok(())
}
