//! `org.virtsnap1.Job`, one for each job that waits, runs, or ended a little while ago.

use std::{collections::HashMap, sync::Arc};

use zbus::{Connection, OwnedObjectPath, OwnedVariant, fdo, interface, message::Header};

use super::{
    Options, Shared,
    auth::Caller,
    error::{BusError, full_name},
    path,
    publish::usec,
};
use crate::core::{
    job::{JobId, Made, Outcome},
    machine::Change,
    view::JobView,
};

/// A job's object.
#[derive(Debug)]
pub(super) struct Job {
    shared: Shared,
    id: JobId,
}

impl Job {
    pub(super) fn new(shared: Shared, id: JobId) -> Self {
        Self { shared, id }
    }

    fn view(&self) -> Result<Arc<JobView>, BusError> {
        self.shared
            .job(self.id)
            .ok_or_else(|| BusError::new("NoSuchJob", format!("job {} ended long ago", self.id)))
    }
}

#[interface(name = "org.virtsnap1.Job", introspection_docs = false)]
impl Job {
    #[zbus(out_args("result", "object"))]
    async fn wait(
        &self,
        options: HashMap<String, OwnedVariant>,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(String, OwnedObjectPath), BusError> {
        let call = self.shared.waits(connection, &header).await?;
        Options::new(options, &[])?;
        let job = self.shared.ended_for(connection, call.as_ref(), self.id).await?;
        let object = match &job.outcome {
            Some(Outcome::Done(Some(Made::Snapshot(name)))) => path::snapshot(job.vm, name),
            Some(Outcome::Done(Some(Made::Vm(vm)))) => path::vm(*vm),
            _ => path::none(),
        };
        Ok(("done".to_owned(), object))
    }

    async fn cancel(
        &self,
        options: HashMap<String, OwnedVariant>,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(), BusError> {
        Options::new(options, &[])?;
        let caller = Caller::of(&self.shared, connection, &header).await?;
        self.shared.change(Change::Cancel(self.id), &caller).await.map(drop)
    }

    #[zbus(property(emits_changed_signal = "const"), name = "ID")]
    fn id(&self) -> u32 {
        self.id
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn operation(&self) -> fdo::Result<&'static str> {
        Ok(self.view()?.operation)
    }

    #[zbus(property)]
    fn state(&self) -> fdo::Result<&'static str> {
        Ok(self.view()?.state.as_str())
    }

    #[zbus(property)]
    fn phase(&self) -> fdo::Result<String> {
        Ok(self.view()?.phase.clone())
    }

    #[zbus(property)]
    fn progress(&self) -> fdo::Result<f64> {
        Ok(self.view()?.far.share.unwrap_or(0.0))
    }

    #[zbus(property)]
    fn progress_valid(&self) -> fdo::Result<bool> {
        Ok(self.view()?.far.share.is_some())
    }

    #[zbus(property)]
    fn bytes_done(&self) -> fdo::Result<u64> {
        Ok(self.view()?.far.copied.done)
    }

    #[zbus(property)]
    fn bytes_total(&self) -> fdo::Result<u64> {
        Ok(self.view()?.far.copied.total)
    }

    #[zbus(property)]
    fn objects(&self) -> fdo::Result<Vec<OwnedObjectPath>> {
        let view = self.view()?;
        let snapshot = view.snapshot.as_ref().map(|name| path::snapshot(view.vm, name));
        Ok(std::iter::once(path::vm(view.vm)).chain(snapshot).collect())
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn origin(&self) -> fdo::Result<&'static str> {
        Ok(self.view()?.asker.origin.as_str())
    }

    #[zbus(property(emits_changed_signal = "const"), name = "StartedByUID")]
    fn started_by_uid(&self) -> fdo::Result<u32> {
        Ok(self.view()?.asker.uid)
    }

    #[zbus(property(emits_changed_signal = "const"), name = "StartUSec")]
    fn start(&self) -> fdo::Result<u64> {
        Ok(usec(Some(self.view()?.asked)))
    }

    #[zbus(property)]
    fn cancelable(&self) -> fdo::Result<bool> {
        Ok(self.view()?.cancelable)
    }

    #[zbus(property)]
    fn result(&self) -> fdo::Result<&'static str> {
        Ok(self.view()?.outcome.as_ref().map_or("", |o| o.result().as_str()))
    }

    #[zbus(property)]
    fn error_name(&self) -> fdo::Result<String> {
        Ok(match &self.view()?.outcome {
            Some(Outcome::Failed(f)) => full_name(f),
            Some(Outcome::Cancelled(_)) => "org.virtsnap1.Error.Cancelled".to_owned(),
            _ => String::new(),
        })
    }

    #[zbus(property)]
    fn error_message(&self) -> fdo::Result<String> {
        Ok(match &self.view()?.outcome {
            Some(Outcome::Failed(f)) => f.message.clone(),
            Some(Outcome::Cancelled(text)) => text.clone(),
            _ => String::new(),
        })
    }
}
