//! `virtsnap promote`: makes a branch independent of what it was branched off.

use zbus::Connection;

use super::{
    args::Promote,
    console::Console,
    exit::{Exit, Failure},
    follow,
    inventory::Inventory,
    pace,
    proxy::{Options, VMProxy},
    render::{quoted, safe},
};

/// Makes a VM stand alone.
pub(super) async fn promote(
    args: &Promote,
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let all = Inventory::about(&args.vm, bus).await?;
    let vm = all.vm(&args.vm)?;
    let options = pace::options(&args.pace, &console.watch, Options::new())?;
    let job = VMProxy::new(bus, &vm.path).await?.promote(options).await?;
    let done = format!("{}: its disks lie on no other VM's images", safe(&vm.name));
    let failed = format!("{} was not made independent", quoted(&vm.name));
    follow::told(&job, &args.wait, (&done, &failed), bus, console).await
}
