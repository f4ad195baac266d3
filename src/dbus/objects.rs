//! `org.freedesktop.DBus.ObjectManager` at the root: every object with every property in one call.
//!
//! zbus has one of its own, which makes all of it in memory first: 660 MiB for the 20,000 snapshots of 1,000 VMs. Here
//! each object is written as it is read; one answer at a time, so that a flood of calls has the daemon do nothing else
//! by turns only; and none that is longer than the bus takes, which throws off who sends one.

use std::{
    collections::HashMap,
    fmt::Write,
    iter,
    sync::{Arc, mpsc},
    thread,
};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use serde::ser::{Error as _, Serialize, SerializeMap, Serializer};
use tokio::sync::{Mutex, RwLock};
use zbus::{
    BoxDBusError, Connection, Message, ObjectPath, ObjectServer, OwnedObjectPath, OwnedVariant, Signature,
    Type, Variant, fdo,
    fdo::ObjectManager,
    message::{Flags, Header},
    names::{InterfaceName, MemberName},
    object_server::{DispatchResult, Interface, SignalEmitter},
};

use super::{
    Shared, calls::Kind, error::BusError, job::Job, path, policy::Policy, snapshot::Snapshot, vm::Vm,
};
use crate::core::{model::SnapshotName, view::View};

/// So many bytes an answer may have: `max_message_size` of dbus-daemon(1), as it comes.
const LONGEST: usize = 32 << 20;

/// Whoever answers with all objects holds it to read, and whoever changes what objects there are to write: who is told
/// that one is gone is never told of it again.
pub(super) type Still = Arc<RwLock<()>>;

/// What answers.
#[derive(Debug)]
pub(super) struct Objects {
    shared: Shared,
    still: Still,
    turn: Mutex<()>,
}

impl Objects {
    pub(super) fn new(shared: Shared, still: Still) -> Self {
        Self { shared, still, turn: Mutex::default() }
    }

    async fn answer(&self, connection: &Connection, call: &Message) -> Result<(), BusError> {
        let header = call.header();
        if header.primary().flags().contains(Flags::NO_REPLY_EXPECTED) {
            return Ok(());
        }
        let _under_way = self.shared.let_in(connection, &header, Kind::Objects).await?;
        let _turn = self.turn.lock().await;
        // Until it is sent: what is told of changes comes after it.
        let _still = self.still.read().await;
        let view = self.shared.lens.view();
        let (shared, bus, of) = (self.shared.held(&view), connection.clone(), call.clone());
        // It takes a while, in which others are to be answered.
        let made = tokio::task::spawn_blocking(move || reply(&of.header(), &All { view, shared, bus })).await;
        let reply = made.map_err(|e| failed(&e))??;
        connection.send(&reply).await.map_err(|e| failed(&e))
    }
}

fn failed(e: &dyn std::error::Error) -> BusError {
    BusError::new("Failed", format!("the objects could not be put together: {e}"))
}

fn reply(to: &Header<'_>, all: &All) -> Result<Message, BusError> {
    let mut reply = Message::method_return(to);
    if let Some(own) = all.bus.unique_name() {
        reply = reply.sender(own.to_owned());
    }
    let reply = reply.build(all).map_err(|e| failed(&e))?;
    let bytes = reply.data().len();
    if bytes <= LONGEST {
        return Ok(reply);
    }
    Err(BusError::new(
        "LimitExceeded",
        format!(
            "all objects with their properties are {} MiB, and the bus takes {} MiB at once: org.freedesktop.DBus.Introspectable \
             names what is below each object, beginning with {}/vm, and org.freedesktop.DBus.Properties reads one",
            bytes >> 20,
            LONGEST >> 20,
            path::ROOT
        ),
    ))
}

/// All that there is in a view, written as it is read.
#[derive(Debug)]
struct All {
    view: Arc<View>,
    shared: Shared,
    bus: Connection,
}

impl Type for All {
    const SIGNATURE: &'static Signature =
        <HashMap<ObjectPath<'_>, HashMap<&str, HashMap<&str, Variant<'_>>>>>::SIGNATURE;
}

/// One object with its properties.
struct Read {
    at: OwnedObjectPath,
    interface: InterfaceName<'static>,
    properties: HashMap<String, OwnedVariant>,
}

/// Those that are read together: what belongs to one VM.
type Batch = Vec<Result<Read, fdo::Error>>;

/// So many of these are read ahead at most.
const AHEAD: usize = 16;

impl Serialize for All {
    /// What is read on another thread is written on this one: that they take about as long, and it is the longest wait
    /// that a client knows.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut all = serializer.serialize_map(None)?;
        thread::scope(|scope| {
            let (send, batches) = mpsc::sync_channel(AHEAD);
            let ahead = move || {
                // Whoever writes may have given up.
                let _ = self.batches().try_for_each(|batch| send.send(batch));
            };
            match thread::Builder::new().name("objects".to_owned()).spawn_scoped(scope, ahead) {
                Ok(_) => batches.into_iter().try_for_each(|batch| write(&mut all, batch)),
                Err(_) => self.batches().try_for_each(|batch| write(&mut all, batch)),
            }
        })?;
        all.end()
    }
}

fn write<M: SerializeMap>(to: &mut M, batch: Batch) -> Result<(), M::Error> {
    for read in batch {
        let Read { at, interface, properties } = read.map_err(M::Error::custom)?;
        to.serialize_entry(&at, &HashMap::from([(interface, properties)]))?;
    }
    Ok(())
}

impl All {
    fn batches(&self) -> impl Iterator<Item = Batch> {
        let shared = || self.shared.clone();
        let policies = self.view.policies.keys();
        let policies =
            policies.map(move |name| self.one(path::policy(name), &Policy::new(shared(), name.clone())));
        let vms = self.view.vms.iter().map(move |(id, vm)| {
            let names = vm.record.snapshots.keys();
            let snapshot = |name: &SnapshotName| {
                self.one(path::snapshot(*id, name), &Snapshot::new(shared(), *id, name.clone()))
            };
            iter::once(self.one(path::vm(*id), &Vm::new(shared(), *id))).chain(names.map(snapshot)).collect()
        });
        let jobs = self.view.jobs.keys().map(move |id| self.one(path::job(*id), &Job::new(shared(), *id)));
        iter::once(policies.collect()).chain(vms).chain(iter::once(jobs.collect()))
    }

    /// By the getters that answer for each property alone. None of them waits for anything.
    fn one<I: Interface>(&self, at: OwnedObjectPath, object: &I) -> Result<Read, fdo::Error> {
        let emitter = SignalEmitter::new(&self.bus, &at)?;
        let properties = object.get_all(self.bus.object_server(), &self.bus, None, &emitter).now_or_never();
        let properties =
            properties.ok_or_else(|| fdo::Error::Failed("a property is waited for".to_owned()))??;
        drop(emitter);
        Ok(Read { at, interface: I::name(), properties })
    }
}

/// By hand, as the macro that zbus has for it would have all of it in memory again.
#[async_trait]
impl Interface for Objects {
    fn name() -> InterfaceName<'static> {
        ObjectManager::name()
    }

    async fn get(
        &self,
        _: &str,
        _: &ObjectServer,
        _: &Connection,
        _: Option<&Header<'_>>,
        _: &SignalEmitter<'_>,
    ) -> Option<Result<OwnedVariant, BoxDBusError>> {
        None
    }

    async fn get_all(
        &self,
        _: &ObjectServer,
        _: &Connection,
        _: Option<&Header<'_>>,
        _: &SignalEmitter<'_>,
    ) -> fdo::Result<HashMap<String, OwnedVariant>> {
        Ok(HashMap::new())
    }

    async fn set_mut(
        &mut self,
        _: &str,
        _: &Variant<'_>,
        _: &ObjectServer,
        _: &Connection,
        _: Option<&Header<'_>>,
        _: &SignalEmitter<'_>,
    ) -> Option<Result<(), BoxDBusError>> {
        None
    }

    fn call<'call>(
        &'call self,
        _: &'call ObjectServer,
        connection: &'call Connection,
        call: &'call Message,
        name: MemberName<'call>,
    ) -> DispatchResult<'call> {
        if name.as_str() != "GetManagedObjects" {
            return DispatchResult::NotFound;
        }
        DispatchResult::Async(Box::pin(async move {
            self.answer(connection, call).await.map_err(|e| -> BoxDBusError { Box::new(e) })
        }))
    }

    fn call_mut<'call>(
        &'call mut self,
        _: &'call ObjectServer,
        _: &'call Connection,
        _: &'call Message,
        _: MemberName<'call>,
    ) -> DispatchResult<'call> {
        DispatchResult::NotFound
    }

    fn introspect_to_writer(&self, writer: &mut dyn Write, level: usize) {
        ObjectManager.introspect_to_writer(writer, level);
    }
}
