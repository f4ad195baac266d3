//! The hand on snapshots inside images, and on layers without metadata.

use virtsnap::core::model::VmId;

use super::RealRig;
use crate::{
    contract::{internal::Inside, layers::Layers},
    harness::quote,
};

impl Inside for RealRig {
    fn internal_snapshot(&mut self, vm: VmId, name: &str) {
        self.tb().ok(&format!("virsh -q snapshot-create-as {} {}", vm.0, quote(name)));
    }

    fn inside(&self, vm: VmId, target: &str) -> Vec<String> {
        let image = self.vms[&vm].as_ref().unwrap().active(target);
        let listed = self.tb().ok(&format!("qemu-img snapshot -U -l {}", quote(&image)));
        let rows = listed.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            words.next()?.parse::<u32>().ok()?;
            words.next().map(str::to_owned)
        });
        rows.collect()
    }
}

impl Layers for RealRig {
    fn put_on_top(&mut self, vm: VmId, disks: &[&str]) {
        let number = self.number();
        let all = self.vms[&vm].as_ref().unwrap().disks().to_vec();
        let specs = all.iter().map(|target| {
            let part = if disks.contains(&target.as_str()) { "" } else { ",snapshot=no" };
            format!("--diskspec {target}{part}")
        });
        self.tb().ok(&format!(
            "virsh -q snapshot-create-as {} layer{number} --disk-only --atomic --no-metadata {}",
            vm.0,
            specs.collect::<Vec<_>>().join(" ")
        ));
    }
}
