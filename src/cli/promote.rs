//! `virtsnap promote`: makes a branch independent of what it was branched off.

use zbus::Connection;

use super::{
    args::Promote,
    console::Console,
    exit::{Exit, Failure},
    follow::{self, Ended, OneJob},
    inventory::Inventory,
    pace,
    proxy::{Options, VMProxy},
    render::{quoted, safe},
    view,
};

/// Makes a VM stand alone.
pub(super) async fn promote(
    args: &Promote,
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let all = Inventory::fetch(bus).await?;
    let vm = all.vm(&args.vm)?;
    let options = pace::options(&args.pace, &console.watch, Options::new())?;
    let job = VMProxy::new(bus, &vm.path).await?.promote(options).await?;
    if args.wait.no_wait {
        return follow::started(&job, bus, console).await;
    }
    let Some(ended) = follow::wait_for(std::slice::from_ref(&job), bus, console).await? else {
        return Ok(Exit::Interrupted);
    };
    if console.json {
        let job = follow::read(&job, bus).await?;
        let shown = view::Job::new(&job, &console.watch);
        console.answer(&OneJob { job: Some(shown) })?;
    }
    let exit = ended.first().map_or(Exit::Done, Ended::exit);
    if exit == Exit::Done && !console.json {
        console.line(&format!("{}: its disks lie on no other VM's images", safe(&vm.name)))?;
    }
    for ended in ended {
        ended.report(&format!("{} was not made independent", quoted(&vm.name)), console);
    }
    Ok(exit)
}
