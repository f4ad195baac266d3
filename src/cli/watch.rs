//! `virtsnap watch`: what happens, a line for each change.

mod change;

use std::collections::{BTreeMap, HashMap};

use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use zbus::{
    Connection, MatchRule, Message, OwnedObjectPath, OwnedVariant, Variant, fdo::DBusProxy, message::Type,
};

use self::change::Change;
use super::{
    args,
    console::Console,
    exit::{Exit, Failure},
    inventory::{Inventory, label_read},
    news,
    props::Interfaces,
    proxy::SERVICE,
    render::Watch,
};

/// What is known of an object, to name it when it changes.
#[derive(Debug, Clone)]
struct Known {
    kind: &'static str,
    name: String,
    /// Its VM's path.
    vm: Option<OwnedObjectPath>,
}

/// Shows changes until the person or the daemon has enough.
pub(super) async fn watch(
    args: &args::Watch,
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    // Listening comes first, so that nothing falls between it and what there is.
    let rule = MatchRule::builder().msg_type(Type::Signal).sender(SERVICE).build()?;
    let mut signals = news::signals(rule, bus).await?;
    let daemon = DBusProxy::new(bus).await?;
    let mut owners = daemon.receive_name_owner_changed_with_args(&[(0, SERVICE)]).await?;
    let all = match &args.vm {
        None => Inventory::fetch(bus).await?,
        Some(vm) => Inventory::about(vm, bus).await?,
    };
    let only = args.vm.as_deref().map(|vm| all.vm(vm).map(|vm| vm.path.clone())).transpose()?;
    let mut known = Objects::of(&all);
    // One for the whole time: a Ctrl-C while a line is written counts, too.
    let mut interrupt = signal(SignalKind::interrupt())?;
    console.remark("watching; Ctrl-C ends it");
    console.flush()?;
    loop {
        tokio::select! {
            Some(()) = interrupt.recv() => return Ok(Exit::Done),
            Some(_) = owners.next() => return Err(Failure::NoDaemon("it has stopped, or was started anew".to_owned())),
            Some(signal) = signals.recv() => {
                let at = Watch { now: console.screen.clock.now(), ..console.watch.clone() };
                let Some((path, change)) = known.take(&signal?, &at) else { continue };
                if only.as_ref().is_none_or(|vm| known.is_about(&path, vm)) {
                    if console.json {
                        console.line(&serde_json::to_string(&change).map_err(std::io::Error::from)?)?;
                    } else {
                        console.line(&change.text(&|path| known.called(path), &at))?;
                    }
                    console.flush()?;
                }
                if change.event == "removed" {
                    known.0.remove(&path);
                }
            }
        }
    }
}

/// What there is, by its path.
struct Objects(HashMap<OwnedObjectPath, Known>);

impl Objects {
    fn of(all: &Inventory) -> Self {
        let mut known = HashMap::new();
        for vm in all.vms() {
            known.insert(
                vm.path.clone(),
                Known { kind: "vm", name: vm.name.clone(), vm: Some(vm.path.clone()) },
            );
            for s in all.snapshots(vm) {
                let of_it = Known { kind: "snapshot", name: s.name.clone(), vm: Some(vm.path.clone()) };
                known.insert(s.path.clone(), of_it);
            }
        }
        for policy in all.policies() {
            known.insert(policy.path.clone(), Known { kind: "policy", name: policy.name.clone(), vm: None });
        }
        for job in all.jobs() {
            let vm = job.objects.first().cloned();
            known.insert(job.path.clone(), Known { kind: "job", name: job_name(job.id, &job.operation), vm });
        }
        Self(known)
    }

    /// What a signal tells; `None`: nothing that others do not tell.
    fn take(&mut self, signal: &Message, at: &Watch) -> Option<(OwnedObjectPath, Change)> {
        let header = signal.header();
        let body = signal.body();
        match header.member()?.as_str() {
            "InterfacesAdded" => {
                let (path, interfaces): (OwnedObjectPath, Interfaces) = body.deserialize().ok()?;
                let (known, properties) = introduced(&path, interfaces)?;
                self.0.insert(path.clone(), known);
                let change = self.change("added", &path, at, properties)?;
                Some((path, change))
            }
            "InterfacesRemoved" => {
                let (path, _): (OwnedObjectPath, Vec<String>) = body.deserialize().ok()?;
                let change = self.change("removed", &path, at, BTreeMap::new())?;
                Some((path, change))
            }
            "PropertiesChanged" => {
                let path: OwnedObjectPath = header.path()?.to_owned().into();
                let (_, changed, _): (String, HashMap<String, OwnedVariant>, Vec<String>) =
                    body.deserialize().ok()?;
                if let Some(Variant::Str(name)) = changed.get("Name").map(|v| &**v)
                    && let Some(known) = self.0.get_mut(&path)
                {
                    name.as_str().clone_into(&mut known.name);
                }
                let properties = changed.iter().map(|(key, value)| (key.clone(), json(value))).collect();
                let change = self.change("changed", &path, at, properties)?;
                Some((path, change))
            }
            _ => None,
        }
    }

    fn change(
        &self,
        event: &'static str,
        path: &OwnedObjectPath,
        at: &Watch,
        properties: BTreeMap<String, Value>,
    ) -> Option<Change> {
        let time = at.now.display_with_offset(at.zone.to_offset(at.now)).to_string();
        let object = path.as_str().to_owned();
        let Some(known) = self.0.get(path) else {
            // The daemon's own object is not among those below it.
            let name = "virtsnapd".to_owned();
            return (object == super::proxy::ROOT && event == "changed").then_some(Change {
                time,
                event,
                kind: "daemon",
                name,
                vm: None,
                object,
                properties,
            });
        };
        let vm = known.vm.as_ref().and_then(|vm| self.0.get(vm)).map(|vm| vm.name.clone());
        Some(Change { time, event, kind: known.kind, name: known.name.clone(), vm, object, properties })
    }

    /// What kind of thing is, or was, at a path, and its name.
    fn called(&self, path: &str) -> Option<(&'static str, String)> {
        let known = OwnedObjectPath::try_from(path).ok().and_then(|path| self.0.get(&path));
        known.map(|known| (known.kind, known.name.clone())).or_else(|| {
            let gone = |kind, label| Some((kind, label_read(label)?));
            let snapshot = path.split_once("/snapshot/").and_then(|(_, label)| gone("snapshot", label));
            snapshot.or_else(|| path.split_once("/policy/").and_then(|(_, label)| gone("policy", label)))
        })
    }

    fn is_about(&self, path: &OwnedObjectPath, vm: &OwnedObjectPath) -> bool {
        self.0.get(path).is_some_and(|known| known.vm.as_ref() == Some(vm))
    }
}

/// Of an object that is new: what it is, and what a reader wants to know of it at once.
fn introduced(path: &OwnedObjectPath, all: Interfaces) -> Option<(Known, BTreeMap<String, Value>)> {
    let with = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), Value::from(*value))).collect()
    };
    if let Some(vm) = all.vm {
        let properties = with(&[("State", &vm.state)]);
        Some((Known { kind: "vm", name: vm.name, vm: Some(path.clone()) }, properties))
    } else if let Some(s) = all.snapshot {
        let properties = with(&[("State", &s.state), ("Consistency", &s.consistency), ("Origin", &s.origin)]);
        Some((Known { kind: "snapshot", name: s.name, vm: Some(s.vm) }, properties))
    } else if let Some(policy) = all.policy {
        Some((Known { kind: "policy", name: policy.name, vm: None }, BTreeMap::new()))
    } else {
        let job = all.job?;
        let properties = with(&[("State", &job.state), ("Origin", &job.origin)]);
        let vm = job.objects.first().cloned();
        Some((Known { kind: "job", name: job_name(job.id, &job.operation), vm }, properties))
    }
}

fn job_name(id: u32, operation: &str) -> String {
    format!("{id} ({operation})")
}

/// A property's value as JSON has it.
pub(super) fn json(value: &Variant<'_>) -> Value {
    match value {
        Variant::Bool(yes) => Value::from(*yes),
        Variant::U8(n) => Value::from(*n),
        Variant::U16(n) => Value::from(*n),
        Variant::U32(n) => Value::from(*n),
        Variant::U64(n) => Value::from(*n),
        Variant::I16(n) => Value::from(*n),
        Variant::I32(n) => Value::from(*n),
        Variant::I64(n) => Value::from(*n),
        Variant::F64(n) => Value::from(*n),
        Variant::Str(text) => Value::from(text.as_str()),
        Variant::ObjectPath(path) => Value::from(path.as_str()),
        Variant::Variant(inner) => json(inner),
        Variant::Array(all) => Value::Array(all.inner().iter().map(json).collect()),
        Variant::Structure(all) => Value::Array(all.fields().iter().map(json).collect()),
        Variant::Dict(all) => {
            let key = |key: &Variant<'_>| match json(key) {
                Value::String(text) => text,
                other => other.to_string(),
            };
            Value::Object(all.iter().map(|(k, v)| (key(k), json(v))).collect())
        }
        other => Value::from(format!("{other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_the_bus_are_plain_json() {
        let list = Variant::from(vec!["a", "b"]);
        assert_eq!(json(&list), serde_json::json!(["a", "b"]));
        assert_eq!(json(&Variant::from(7_u64)), serde_json::json!(7));
        assert_eq!(json(&Variant::from(("/x", 1_u32))), serde_json::json!(["/x", 1]));
    }

    #[test]
    fn what_is_gone_still_has_the_name_that_its_path_tells() {
        let known = Objects(HashMap::new());
        let called = |path| known.called(path).map(|(kind, name)| format!("{kind} {name}"));
        assert_eq!(called("/o/vm/1/snapshot/a_2db").as_deref(), Some("snapshot a-b"));
        assert_eq!(called("/o/policy/day").as_deref(), Some("policy day"));
        assert_eq!(called("/o/vm/1"), None);
    }
}
