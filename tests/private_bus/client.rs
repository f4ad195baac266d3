//! A client of the daemon that panics where it should not fail.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ffi::OsString,
    num::NonZero,
};

use futures_util::StreamExt as _;
use serde::{Serialize, de::DeserializeOwned};
use virtsnap::core::model::VmId;
use zbus::{
    Address, Connection, DBusError as _, DynamicType, MatchRule, MessageStream, OwnedObjectPath,
    OwnedVariant, Type, Variant,
    address::transport::{Transport, Unixexec},
    fdo::{DBusProxy, ManagedObjects},
};

use super::rig::{DEADLINE, vm_path};

/// The root object.
pub const MANAGER: &str = "/org/virtsnap1";
const NAME: &str = "org.virtsnap1";
/// So many messages wait for a test: one that is full would hold up the replies, too.
const QUEUE: usize = 100_000;

/// An error's name, after `org.virtsnap1.Error.` if it has that, and its text.
pub type Failure = (String, String);
/// A method's options.
pub type Options = HashMap<&'static str, Variant<'static>>;

/// Within the deadline.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let ended = tokio::time::timeout(DEADLINE, future).await;
    ended.unwrap_or_else(|_| panic!("{what}: not within {DEADLINE:?}"))
}

/// No options.
pub fn none() -> Options {
    Options::new()
}

/// These options.
pub fn options<const N: usize>(options: [(&'static str, Variant<'static>); N]) -> Options {
    options.into()
}

/// A connection, and what is asked over it. Methods and properties are given as `VM.Prune` or with their full name.
#[derive(Debug, Clone)]
pub struct Client {
    /// The connection.
    pub connection: Connection,
}

impl Client {
    /// Connects to a bus.
    pub async fn connect(address: &str) -> Self {
        let builder = zbus::connection::Builder::address(address);
        Self { connection: soon("connecting", builder.build()).await.unwrap() }
    }

    /// Connects to a bus as the user `nobody`, who may do nothing on any system.
    pub async fn connect_as_nobody(address: &str) -> Self {
        let as_nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", "--", "systemd-stdio-bridge"];
        let words = as_nobody.into_iter().map(OsString::from).chain([format!("--bus-path={address}").into()]);
        // Not as text: zbus takes what is escaped there as it is.
        let way = Transport::Unixexec(Unixexec::new("setpriv".into(), None, words.collect()));
        let builder = zbus::connection::Builder::address(Address::from(way));
        Self { connection: soon("connecting", builder.build()).await.unwrap() }
    }

    /// Calls a method.
    pub async fn call<B, R>(&self, path: &str, method: &str, body: &B) -> Result<R, Failure>
    where
        B: Serialize + DynamicType,
        R: DeserializeOwned + Type,
    {
        let (interface, method) = full(method);
        let call =
            self.connection.call_method(Some(NAME), path, Some(interface.as_str()), method.as_str(), body);
        match soon(&format!("{method} of {path}"), call).await {
            Ok(message) => Ok(message.body().deserialize().unwrap()),
            Err(zbus::Error::MethodError(name, text, _)) => {
                let name = name.as_str();
                let short = name.strip_prefix("org.virtsnap1.Error.").unwrap_or(name);
                Err((short.to_owned(), text.unwrap_or_default()))
            }
            Err(zbus::Error::FDO(e)) => Err((e.name().to_string(), e.to_string())),
            Err(e) => panic!("{interface}.{method} of {path}: {e}"),
        }
    }

    /// A property, or why there is none.
    pub async fn try_get<T: TryFrom<OwnedVariant>>(&self, path: &str, property: &str) -> Result<T, Failure> {
        let (interface, name) = full(property);
        let (value,): (OwnedVariant,) = self
            .call(path, "org.freedesktop.DBus.Properties.Get", &(interface.as_str(), name.as_str()))
            .await?;
        Ok(T::try_from(value).unwrap_or_else(|_| panic!("{property} of {path} has another type")))
    }

    /// A property.
    pub async fn get<T: TryFrom<OwnedVariant>>(&self, path: &str, property: &str) -> T {
        self.try_get(path, property).await.unwrap_or_else(|e| panic!("{property} of {path}: {e:?}"))
    }

    /// A property that is text.
    pub async fn text(&self, path: &str, property: &str) -> String {
        self.get(path, property).await
    }

    /// A property that is an object path.
    pub async fn object(&self, path: &str, property: &str) -> String {
        self.get::<OwnedObjectPath>(path, property).await.to_string()
    }

    /// A property that is a list of object paths.
    pub async fn objects(&self, path: &str, property: &str) -> Vec<String> {
        let paths: Vec<OwnedObjectPath> = self.get(path, property).await;
        paths.iter().map(ToString::to_string).collect()
    }

    /// Waits until a property is so; the object need not be there yet.
    pub async fn until<T: TryFrom<OwnedVariant>>(
        &self,
        path: &str,
        property: &str,
        wanted: impl Fn(&T) -> bool,
    ) -> T {
        let mut news = self.signals().await;
        soon(&format!("{property} of {path} as wanted"), async {
            loop {
                if let Ok(value) = self.try_get(path, property).await
                    && wanted(&value)
                {
                    return value;
                }
                news.next().await.expect("the bus goes on").unwrap();
            }
        })
        .await
    }

    /// Waits until there is such an object, or none.
    pub async fn until_there(&self, path: &str, there: bool) {
        let mut news = self.signals().await;
        soon(&format!("{path} there: {there}"), async {
            while self.managed().await.contains_key(path) != there {
                news.next().await.expect("the bus goes on").unwrap();
            }
        })
        .await;
    }

    /// Waits until somebody has the daemon's name, or nobody.
    pub async fn until_name_is(&self, owned: bool) {
        let bus = soon("the bus", DBusProxy::new(&self.connection)).await.unwrap();
        let mut changes = soon("the bus", bus.receive_name_owner_changed()).await.unwrap();
        soon(&format!("{NAME} owned: {owned}"), async {
            while bus.name_has_owner(NAME.try_into().unwrap()).await.unwrap() != owned {
                changes.next().await.expect("the bus goes on");
            }
        })
        .await;
    }

    /// All signals of the daemon from now on.
    pub async fn signals(&self) -> MessageStream {
        let rule = MatchRule::builder().msg_type(zbus::message::Type::Signal).sender(NAME).build();
        let rule = rule.unwrap();
        soon("a match", MessageStream::for_match_rule(rule, &self.connection, NonZero::new(QUEUE)))
            .await
            .unwrap()
    }

    /// So many things the daemon has the bus tell it of.
    pub async fn match_rules(&self) -> u32 {
        let (bus, stats) = ("org.freedesktop.DBus", "org.freedesktop.DBus.Debug.Stats");
        let (path, body) = ("/org/freedesktop/DBus", (NAME,));
        let call = self.connection.call_method(Some(bus), path, Some(stats), "GetConnectionStats", &body);
        let answer = soon("the bus's numbers", call).await.unwrap();
        let (numbers,): (HashMap<String, OwnedVariant>,) = answer.body().deserialize().unwrap();
        numbers["MatchRules"].clone().try_into().unwrap()
    }

    /// All objects with their own interfaces' properties.
    pub async fn managed(&self) -> Objects {
        let method = "org.freedesktop.DBus.ObjectManager.GetManagedObjects";
        let (objects,): (ManagedObjects,) = self.call(MANAGER, method, &()).await.unwrap();
        let ours = |(path, interfaces): (OwnedObjectPath, HashMap<_, _>)| {
            let interfaces =
                interfaces.into_iter().map(|(i, p)| (zbus::names::OwnedInterfaceName::to_string(&i), p));
            (path.to_string(), of_ours(interfaces))
        };
        // Those without any interface of ours are only on the way to others.
        objects.into_iter().map(ours).filter(|(_, interfaces)| !interfaces.is_empty()).collect()
    }

    /// The names of a VM's snapshots.
    pub async fn snapshots(&self, vm: VmId) -> Vec<String> {
        let below = format!("{}/snapshot/", vm_path(vm));
        let objects = self.managed().await;
        let mut snapshots: Vec<(u64, String)> = objects
            .iter()
            .filter(|(path, _)| path.starts_with(&below))
            .filter_map(|(_, interfaces)| {
                // One that goes at this moment may have no properties any more.
                let of = |p: &str| interfaces["org.virtsnap1.Snapshot"].get(p).cloned();
                Some((of("CreatedUSec")?.try_into().unwrap(), of("Name")?.try_into().unwrap()))
            })
            .collect();
        snapshots.sort();
        snapshots.into_iter().map(|(_, name)| name).collect()
    }

    /// Asks for a snapshot; the job.
    pub async fn ask_create(&self, vm: VmId, name: &str, options: Options) -> Result<String, Failure> {
        let (job,): (OwnedObjectPath,) =
            self.call(&vm_path(vm), "VM.CreateSnapshot", &(name, options)).await?;
        Ok(job.to_string())
    }

    /// Takes a snapshot; its object.
    pub async fn create(&self, vm: VmId, name: &str, options: Options) -> Result<String, Failure> {
        let job = self.ask_create(vm, name, options).await?;
        self.wait(&job).await
    }

    /// Waits for a job's end; the object that it made.
    pub async fn wait(&self, job: &str) -> Result<String, Failure> {
        let (result, object): (String, OwnedObjectPath) = self.call(job, "Job.Wait", &(none(),)).await?;
        assert_eq!(result, "done");
        Ok(object.to_string())
    }

    /// Calls a method whose only arguments are options and whose answer is a job, and waits for its end.
    pub async fn job(&self, path: &str, method: &str, options: Options) -> Result<String, Failure> {
        let (job,): (OwnedObjectPath,) = self.call(path, method, &(options,)).await?;
        self.wait(job.as_str()).await
    }

    /// Runs a policy; its jobs.
    pub async fn run(&self, policy: &str, options: Options) -> Result<Vec<String>, Failure> {
        let path = super::rig::policy_path(policy);
        let (jobs,): (Vec<OwnedObjectPath>,) = self.call(&path, "Policy.Run", &(options,)).await?;
        Ok(jobs.iter().map(ToString::to_string).collect())
    }

    /// Waits for the end of all jobs there are, those that come meanwhile too, and until all of it is seen.
    pub async fn until_idle(&self) {
        let mut waited = BTreeSet::new();
        loop {
            let jobs: Vec<String> =
                self.managed().await.into_keys().filter(|p| p.contains("/job/")).collect();
            let new: Vec<String> = jobs.into_iter().filter(|j| waited.insert(j.clone())).collect();
            if new.is_empty() {
                return;
            }
            for job in new {
                // How it ended is not the question here.
                let _ = self.wait(&job).await;
            }
        }
    }
}

/// Properties by interface.
pub type Interfaces = BTreeMap<String, BTreeMap<String, OwnedVariant>>;
/// Interfaces by path.
pub type Objects = BTreeMap<String, Interfaces>;

/// Only our own interfaces: those that every object has say nothing.
pub fn of_ours(interfaces: impl IntoIterator<Item = (String, HashMap<String, OwnedVariant>)>) -> Interfaces {
    interfaces
        .into_iter()
        .filter(|(name, _)| name.starts_with(NAME))
        .map(|(name, properties)| (name, properties.into_iter().collect()))
        .collect()
}

fn full(member: &str) -> (String, String) {
    let (interface, member) = member.rsplit_once('.').expect("an interface and a member");
    let interface =
        if interface.contains('.') { interface.to_owned() } else { format!("{NAME}.{interface}") };
    (interface, member.to_owned())
}
