//! `virtsnap watch`: what happens, a line for each change.

use std::collections::{BTreeMap, HashMap};

use futures_util::StreamExt as _;
use serde::Serialize;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use zbus::{
    Connection, MatchRule, Message, OwnedObjectPath, OwnedVariant, Variant, fdo::DBusProxy, message::Type,
};

use super::{
    args,
    console::Console,
    exit::{Exit, Failure},
    inventory::Inventory,
    news,
    props::Interfaces,
    proxy::SERVICE,
    render::{quoted, safe},
};

/// One change.
#[derive(Debug, Serialize)]
struct Change {
    /// added, changed or removed.
    event: &'static str,
    /// vm, snapshot, policy, job or daemon.
    kind: &'static str,
    name: String,
    /// The VM that it is about, if it is about one.
    vm: Option<String>,
    object: String,
    /// What is so now.
    properties: BTreeMap<String, Value>,
}

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
                let Some((path, change)) = known.take(&signal?) else { continue };
                if only.as_ref().is_none_or(|vm| known.is_about(&path, vm)) {
                    if console.json {
                        console.line(&serde_json::to_string(&change).map_err(std::io::Error::from)?)?;
                    } else {
                        console.line(&change.text())?;
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

impl Change {
    /// `VM "web": State paused`
    fn text(&self) -> String {
        let kind = if self.kind == "vm" { "VM" } else { self.kind };
        let whose = match &self.vm {
            Some(vm) if self.kind != "vm" => format!(" of VM {}", quoted(vm)),
            _ => String::new(),
        };
        let name = if self.kind == "job" { safe(&self.name) } else { quoted(&self.name) };
        let each = self.properties.iter().map(|(key, value)| match value {
            Value::String(text) if text.is_empty() => format!("{key} -"),
            Value::String(text) => format!("{key} {}", safe(text)),
            other => format!("{key} {}", safe(&other.to_string())),
        });
        let so = each.collect::<Vec<_>>().join(", ");
        let what = match self.event {
            "added" if so.is_empty() => "is there".to_owned(),
            "added" => format!("is there ({so})"),
            "removed" => "is gone".to_owned(),
            _ => so,
        };
        format!("{kind} {name}{whose}: {what}")
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
    fn take(&mut self, signal: &Message) -> Option<(OwnedObjectPath, Change)> {
        let header = signal.header();
        let body = signal.body();
        match header.member()?.as_str() {
            "InterfacesAdded" => {
                let (path, interfaces): (OwnedObjectPath, Interfaces) = body.deserialize().ok()?;
                let (known, properties) = introduced(&path, interfaces)?;
                self.0.insert(path.clone(), known);
                let change = self.change("added", &path, properties)?;
                Some((path, change))
            }
            "InterfacesRemoved" => {
                let (path, _): (OwnedObjectPath, Vec<String>) = body.deserialize().ok()?;
                let change = self.change("removed", &path, BTreeMap::new())?;
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
                let change = self.change("changed", &path, properties)?;
                Some((path, change))
            }
            _ => None,
        }
    }

    fn change(
        &self,
        event: &'static str,
        path: &OwnedObjectPath,
        properties: BTreeMap<String, Value>,
    ) -> Option<Change> {
        let object = path.as_str().to_owned();
        let Some(known) = self.0.get(path) else {
            // The daemon's own object is not among those below it.
            let name = "virtsnapd".to_owned();
            return (object == super::proxy::ROOT && event == "changed").then_some(Change {
                event,
                kind: "daemon",
                name,
                vm: None,
                object,
                properties,
            });
        };
        let vm = known.vm.as_ref().and_then(|vm| self.0.get(vm)).map(|vm| vm.name.clone());
        Some(Change { event, kind: known.kind, name: known.name.clone(), vm, object, properties })
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
    fn a_line_says_what_of_whom_and_how_it_is_now() {
        let change = |event, kind, name: &str, vm: Option<&str>, properties: &[(&str, Value)]| Change {
            event,
            kind,
            name: name.into(),
            vm: vm.map(Into::into),
            object: "/".into(),
            properties: properties.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect(),
        };
        let properties = [("State", "paused".into()), ("LastError", "".into())];
        assert_eq!(
            change("changed", "vm", "web", Some("web"), &properties).text(),
            "VM \"web\": LastError -, State paused"
        );
        assert_eq!(
            change("removed", "snapshot", "s\n1", Some("web"), &[]).text(),
            "snapshot \"s\\n1\" of VM \"web\": is gone"
        );
        let progress = [("Progress", 0.5.into()), ("Phase", "merging vda".into())];
        assert_eq!(
            change("changed", "job", "7 (delete)", Some("web"), &progress).text(),
            "job 7 (delete) of VM \"web\": Phase merging vda, Progress 0.5"
        );
    }

    #[test]
    fn values_of_the_bus_are_plain_json() {
        let list = Variant::from(vec!["a", "b"]);
        assert_eq!(json(&list), serde_json::json!(["a", "b"]));
        assert_eq!(json(&Variant::from(7_u64)), serde_json::json!(7));
        assert_eq!(json(&Variant::from(("/x", 1_u32))), serde_json::json!(["/x", 1]));
    }
}
