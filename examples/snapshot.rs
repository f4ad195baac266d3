//! Takes a snapshot of a VM over D-Bus, waits until it is there, and says what came of it:
//! `cargo run --example snapshot web1`. Of your own crate it needs `zbus` with its feature `tokio`, and `tokio`.
#![allow(clippy::print_stdout, reason = "to say so is what it is for")]

use std::collections::HashMap;

use zbus::{Connection, OwnedObjectPath, Proxy, Variant};

/// The last argument of whatever may grow: names and values; unknown ones are refused.
type Options<'a> = HashMap<&'a str, Variant<'a>>;

#[tokio::main]
async fn main() -> zbus::Result<()> {
    let vm = std::env::args().nth(1).unwrap_or_else(|| "web1".to_owned());
    let bus = Connection::system().await?;
    let object = async |path: OwnedObjectPath, interface: &'static str| {
        Proxy::new(&bus, "org.virtsnap1", path, interface).await
    };

    let manager = Proxy::new(&bus, "org.virtsnap1", "/org/virtsnap1", "org.virtsnap1.Manager").await?;
    let path: OwnedObjectPath = manager.call("LookupVM", &(vm.as_str(),)).await?;
    let options = Options::from([("quiesce", "prefer".into()), ("description", "of an example".into())]);
    // Without a name it gets one of the time.
    let job: OwnedObjectPath =
        object(path, "org.virtsnap1.VM").await?.call("CreateSnapshot", &("", options)).await?;
    // Answers once, whenever it has ended; if it failed, with the error.
    let (result, made): (String, OwnedObjectPath) =
        object(job, "org.virtsnap1.Job").await?.call("Wait", &(Options::new(),)).await?;

    let snapshot = object(made, "org.virtsnap1.Snapshot").await?;
    let name: String = snapshot.get_property("Name").await?;
    let consistency: String = snapshot.get_property("Consistency").await?;
    println!("{result}: snapshot {name} of {vm}, {consistency} consistent");
    Ok(())
}
