//! Giving a VM's profile the right, and taking it away from the profiles of VMs that are gone.

use super::{
    Answer, Failure, Host, LeftOut, VmId, files, host::Change, own, parser, profile, profile_name,
    without_ours,
};
use crate::hypervisor::Hypervisor;

/// So often it is tried again when libvirt writes at the same time.
const TRIES: u32 = 5;

/// What a VM may write now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// These images.
    pub images: Vec<String>,
    /// And not these of its images.
    pub left_out: Vec<LeftOut>,
    /// It stays so when libvirt writes the profile anew; else it holds for one commit.
    pub lasts: bool,
}

/// Lets a running VM's QEMU write the images that are its alone, and puts down which these are for who asked: whoever
/// begins a merge that writes one of the others would have it fail, or crash the VM.
pub fn grant(hypervisor: &dyn Hypervisor, host: &Host, vm: VmId) -> Result<Granted, Failure> {
    let loaded = host.loaded_profiles()?;
    if !parser::is_loaded(&loaded, vm) {
        return Err(Failure::Nothing(format!(
            "the profile {} is not loaded: VM {vm} does not run, or AppArmor does not confine it with a profile of its \
             own. Nothing was changed",
            profile_name(vm)
        )));
    }
    let lasts = host.parser_version()?.knows_priority();
    let own = own::own(hypervisor, host, vm).map_err(|e| {
        Failure::Failed(format!("what images VM {vm} has to itself cannot be told: {e}. Nothing was changed"))
    })?;
    if own.images.is_empty() {
        let reasons: Vec<_> =
            own.left_out.iter().map(|l| format!("{}: {}. {}", l.path, l.why, l.way_out)).collect();
        return Err(Failure::Nothing(format!(
            "no image is VM {vm}'s alone, so it may write none that it cannot write already. {}",
            reasons.join("; ")
        )));
    }
    let name = profile_name(vm);
    if lasts {
        let change = |text: &str| {
            profile::with_rules(text, vm, &own.images).map_err(|e| {
                Failure::Failed(format!("{}: {e}. Nothing was changed", host.path(&name).display()))
            })
        };
        load(host, vm, &host.change(&name, change)?)?;
    } else {
        let file = format!("{name}.files");
        let change = |text: &str| Ok(files::lifted(text, &own.images));
        let mut tries = 0;
        loop {
            let done = host.change(&file, change)?;
            load(host, vm, &done)?;
            // libvirt writes this file whenever it likes, and loads it: then ours is not what holds.
            if host.is_still(&done)? {
                break;
            }
            tries += 1;
            if tries == TRIES {
                return Err(Failure::Failed(format!(
                    "libvirt writes {} again and again; merge later",
                    host.path(&file).display()
                )));
            }
        }
    }
    let answer = Answer { may_write: own.named, left_out: own.left_out };
    host.answers().put(vm, &answer).map_err(|e| {
        Failure::Failed(format!("VM {vm} may write its images, but which ones cannot be told: {e}"))
    })?;
    Ok(Granted { images: own.images, left_out: answer.left_out, lasts })
}

/// Loads the VM's profile; if that fails, what was changed is put back.
fn load(host: &Host, vm: VmId, change: &Change) -> Result<(), Failure> {
    let Err(why) = host.load(&profile_name(vm)) else { return Ok(()) };
    let back = match host.put_back(change) {
        Ok(()) => "what was written is taken back, and the kernel has what it had".to_owned(),
        Err(e) => format!("and what was written cannot be taken back: {e}"),
    };
    Err(Failure::Failed(format!("AppArmor's parser refused VM {vm}'s profile: {why}; {back}")))
}

/// Takes our lines out of the profiles of VMs that libvirt does not know any more; says of which.
///
/// libvirt leaves the profile's file behind when a VM is undefined, and takes it up as it is should a VM of that UUID be
/// defined again. Such a profile is not loaded, so nothing has to be loaded anew.
pub fn tidy(hypervisor: &dyn Hypervisor, host: &Host) -> Result<Vec<VmId>, Failure> {
    let known = hypervisor.vms().map_err(|e| {
        Failure::Failed(format!("which VMs there are cannot be told: {e}. Nothing was changed"))
    })?;
    let mut tidied = Vec::new();
    for vm in host.vms_with_profile()?.into_iter().filter(|vm| !known.contains(vm)) {
        let change = host.change(&profile_name(vm), |text| Ok(without_ours(text)))?;
        if change.is_one() {
            tidied.push(vm);
        }
    }
    Ok(tidied)
}

#[cfg(test)]
mod tests;
