//! A D-Bus client for tests, which block.

use std::time::Duration;

use zbus::{OwnedVariant, fdo::ObjectManagerProxy};

/// No call may take longer.
const DEADLINE: Duration = Duration::from_mins(2);

/// A connection to a bus.
#[derive(Debug)]
pub struct Bus {
    runtime: tokio::runtime::Runtime,
    connection: zbus::Connection,
}

impl Bus {
    /// Connects to the bus at this address.
    pub fn connect(address: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let connection = runtime.block_on(async {
            zbus::connection::Builder::address(address).build().await.expect("the bus can be reached")
        });
        Self { runtime, connection }
    }

    /// A property of virtsnapd.
    #[track_caller]
    pub fn get<T>(&self, path: &str, interface: &str, property: &str) -> T
    where
        T: TryFrom<OwnedVariant>,
    {
        let (value,): (OwnedVariant,) = self
            .call(path, "org.freedesktop.DBus.Properties", "Get", &(interface, property))
            .unwrap_or_else(|(name, text)| panic!("{interface}.{property} of {path}: {name}: {text}"));
        T::try_from(value).unwrap_or_else(|_| panic!("{interface}.{property} of {path} has another type"))
    }

    /// A property of an object of virtsnapd, unless that is gone.
    #[track_caller]
    pub fn try_get<T>(&self, path: &str, interface: &str, property: &str) -> Option<T>
    where
        T: TryFrom<OwnedVariant>,
    {
        let got = self.call(path, "org.freedesktop.DBus.Properties", "Get", &(interface, property));
        let (value,): (OwnedVariant,) = match got {
            Ok(value) => value,
            Err((name, _)) if name == "org.freedesktop.DBus.Error.UnknownObject" => return None,
            Err((name, text)) => panic!("{interface}.{property} of {path}: {name}: {text}"),
        };
        Some(
            T::try_from(value)
                .unwrap_or_else(|_| panic!("{interface}.{property} of {path} has another type")),
        )
    }

    /// Calls a method of virtsnapd; an error's name and text where it fails.
    #[track_caller]
    pub fn call<B, R>(
        &self,
        path: &str,
        interface: &str,
        method: &str,
        body: &B,
    ) -> Result<R, (String, String)>
    where
        B: serde::Serialize + zbus::DynamicType,
        R: serde::de::DeserializeOwned + zbus::Type,
    {
        let call = self.connection.call_method(Some("org.virtsnap1"), path, Some(interface), method, body);
        let reply = self.runtime.block_on(async { tokio::time::timeout(DEADLINE, call).await });
        match reply
            .unwrap_or_else(|_| panic!("{interface}.{method} of {path}: no answer within {DEADLINE:?}"))
        {
            Ok(message) => {
                Ok(message.body().deserialize().expect("the answer has the type that is asked for"))
            }
            Err(zbus::Error::MethodError(name, text, _)) => Err((name.to_string(), text.unwrap_or_default())),
            Err(zbus::Error::FDO(e)) if !matches!(*e, zbus::fdo::Error::ZBus(_)) => Err((
                zbus::DBusError::name(&*e).to_string(),
                zbus::DBusError::description(&*e).unwrap_or_default().to_owned(),
            )),
            Err(e) => panic!("{interface}.{method} of {path}: {e}"),
        }
    }

    /// All objects of virtsnapd, with the names of their interfaces.
    pub fn managed(&self) -> Vec<(String, Vec<String>)> {
        let objects = self.runtime.block_on(async {
            let proxy = ObjectManagerProxy::builder(&self.connection)
                .destination("org.virtsnap1")
                .path("/org/virtsnap1")
                .build()
                .await?;
            Ok::<_, zbus::Error>(proxy.get_managed_objects().await?)
        });
        objects
            .expect("GetManagedObjects answers")
            .into_iter()
            .map(|(path, interfaces)| {
                (path.to_string(), interfaces.keys().map(ToString::to_string).collect())
            })
            .collect()
    }

    /// The runtime and the connection, for what the above is not enough for.
    pub fn raw(&self) -> (&tokio::runtime::Runtime, &zbus::Connection) {
        (&self.runtime, &self.connection)
    }
}
