//! `virtsnap branch`: a VM of its own on a snapshot.

use zbus::Connection;

use super::{
    args::Branch,
    console::Console,
    exit::{Exit, Failure},
    follow::{self, Ended, OneJob},
    inventory::Inventory,
    proxy::{Options, SnapshotProxy},
    render::{quoted, safe},
    view,
};

/// Makes a VM on a snapshot.
pub(super) async fn branch(
    args: &Branch,
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let all = Inventory::fetch(bus).await?;
    let vm = all.vm(&args.vm)?;
    let snapshot = all.snapshot(vm, &args.snapshot)?;
    let proxy = SnapshotProxy::new(bus, &snapshot.path).await?;
    let job = proxy.branch(&args.new_name, options(args)).await?;
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
    let (new, of) = (quoted(&args.new_name), quoted(&snapshot.name));
    if exit == Exit::Done && !console.json {
        console.line(&format!(
            "{}: {new} branched off snapshot {of}, which stays as long as that is there{}",
            safe(&vm.name),
            if args.start { "; it runs" } else { "" }
        ))?;
    }
    for ended in ended {
        ended.report(&format!("{new} was not branched off snapshot {of} of {}", quoted(&vm.name)), console);
    }
    Ok(exit)
}

fn options(args: &Branch) -> Options<'_> {
    let given = [("start", args.start), ("leave-out", args.leave_out)];
    given.into_iter().filter(|(_, wanted)| *wanted).map(|(key, _)| (key, true.into())).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use zbus::Variant;

    use super::*;
    use crate::cli::args::{Cli, Verb};

    fn parsed(args: &[&str]) -> Branch {
        match Cli::try_parse_from([&["virtsnap", "branch", "db", "s", "trial"], args].concat()).unwrap().verb
        {
            Verb::Branch(branch) => branch,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_what_was_given_is_sent() {
        assert!(options(&parsed(&[])).is_empty());
        let args = parsed(&["--start", "--leave-out"]);
        assert_eq!(options(&args)["start"], Variant::from(true));
        assert_eq!(options(&args)["leave-out"], Variant::from(true));
        assert!(Cli::try_parse_from(["virtsnap", "branch", "db", "s"]).is_err());
    }
}
