//! `virtsnap-apparmor`: the one part of virtsnap with privileges. See [`virtsnap::apparmor`].
//!
//! Exit status: 0 done; 1 failed, and all is as it was; 2 wrong usage; 3 there is nothing that may be granted.

use std::{
    fmt,
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Parser;
use virtsnap::{
    apparmor::{self, Failure, Host},
    core::model::VmId,
    hypervisor::{Hypervisor, libvirt::Libvirt},
    systemd,
};

/// Lets a VM's AppArmor profile write the images that are that VM's alone, so that its snapshots can be merged.
///
/// Which images these are is asked of libvirt. virtsnapd starts this as virtsnap-apparmor@UUID.service; to forbid it,
/// mask that: `systemctl mask virtsnap-apparmor@.service`.
#[derive(Debug, Parser)]
#[command(name = "virtsnap-apparmor", version)]
struct Arguments {
    /// The running VM's UUID, as `virsh domuuid` prints it.
    #[arg(value_parser = uuid, required_unless_present = "tidy")]
    uuid: Option<VmId>,

    /// Take back what was written into the profiles of VMs that are undefined by now.
    #[arg(long, conflicts_with = "uuid")]
    tidy: bool,
}

fn uuid(text: &str) -> Result<VmId, &'static str> {
    apparmor::uuid(text).ok_or("not a VM's UUID: 32 lower-case hexadecimal digits in five groups")
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say(&failure);
            // Whoever started the unit reads it there.
            systemd::status(&failure.to_string());
            ExitCode::from(failure.status())
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let libvirt = Libvirt::new(apparmor::URI);
    libvirt
        .connect()
        .map_err(|e| Failure::Failed(format!("libvirt does not answer: {e}. Nothing was changed")))?;
    let (hypervisor, host): (&dyn Hypervisor, _) = (&libvirt, Host::system());
    let Some(vm) = arguments.uuid else {
        for vm in apparmor::tidy(hypervisor, &host)? {
            say(format_args!("the profile of VM {vm}, which is gone, is as libvirt made it"));
        }
        return Ok(());
    };
    let granted = apparmor::grant(hypervisor, &host, vm)?;
    for left_out in &granted.left_out {
        say(format_args!(
            "VM {vm} still may not write {}: {}. {}",
            left_out.path, left_out.why, left_out.way_out
        ));
    }
    let lasts = if granted.lasts { "from now on" } else { "until libvirt writes its profile anew" };
    say(format_args!("VM {vm} may write its {} images {lasts}", granted.images.len()));
    Ok(())
}

/// To standard error, and not to the journal's socket: this ends so soon after it that the journal would not know any more
/// which unit it came from.
fn say(what: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "{what}");
}
