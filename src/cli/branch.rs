//! `virtsnap branch`: a VM of its own on a snapshot.

use zbus::Connection;

use super::{
    args::Branch,
    console::Console,
    exit::{Exit, Failure},
    follow,
    inventory::Inventory,
    proxy::{Options, SnapshotProxy},
    render::{quoted, safe},
};

/// Makes a VM on a snapshot.
pub(super) async fn branch(
    args: &Branch,
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let all = Inventory::about(&args.vm, bus).await?;
    let vm = all.vm(&args.vm)?;
    let snapshot = all.snapshot(vm, &args.snapshot)?;
    let proxy = SnapshotProxy::new(bus, &snapshot.path).await?;
    let job = proxy.branch(&args.new_name, options(args)).await?;
    let (new, of) = (quoted(&args.new_name), quoted(&snapshot.name));
    let done = format!(
        "{}: {new} branched off snapshot {of}, which stays as long as that is there{}",
        safe(&vm.name),
        if args.start { "; it runs" } else { "" }
    );
    let failed = format!("{new} was not branched off snapshot {of} of {}", quoted(&vm.name));
    follow::told(&job, &args.wait, (&done, &failed), bus, console).await
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
