//! A VM of its own for each case, and what must be true of it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Write as _,
    time::Duration,
};

use super::harness::{Bare, Daemon, Stopping, Testbed, quote, wait_for};

/// How long anything may take before it counts as never.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
pub(crate) const SNAPSHOT: &str = "org.virtsnap1.Snapshot";
pub(crate) const DISKS: [&str; 2] = ["vda", "vdb"];

/// Where all of it happens.
pub(crate) struct Lab<'a> {
    pub(crate) tb: &'a Testbed,
    pub(crate) daemon: Daemon<'a>,
    pub(crate) stops: Stopping<'a>,
}

/// Options of a call.
pub(crate) type Options = HashMap<&'static str, zbus::Variant<'static>>;

/// What was begun.
pub(crate) enum Begun {
    Job(String),
    /// A client that waits for the answer.
    Client,
    /// The daemon's own look.
    Look,
}

impl<'a> Lab<'a> {
    pub(crate) fn new(tb: &'a Testbed) -> Self {
        let stops = Stopping::install(tb);
        Self { tb, daemon: Daemon::running(tb, ""), stops }
    }

    /// Starts a job.
    pub(crate) fn ask<B>(&self, path: &str, interface: &str, method: &str, body: &B) -> Begun
    where
        B: serde::Serialize + zbus::DynamicType,
    {
        let interface = format!("org.virtsnap1.{interface}");
        let job = self.daemon.bus.call(path, &interface, method, body);
        let (job,): (zbus::OwnedObjectPath,) = job.unwrap_or_else(|e| panic!("{method}: {e:?}"));
        Begun::Job(job.to_string())
    }

    /// Starts a client, and does not wait for it.
    pub(crate) fn client(&self, arguments: &str) -> Begun {
        self.tb.ok(&format!("setsid virtsnap {arguments} >/var/tmp/client 2>&1 &"));
        Begun::Client
    }

    /// Waits for what was begun, and what else that begins; how it ended.
    pub(crate) fn wait(&self, begun: &Begun) -> Result<String, (String, String)> {
        let ended = match begun {
            Begun::Job(job) => self.daemon.wait(job),
            Begun::Look => Ok(String::new()),
            Begun::Client => {
                wait_for(DEADLINE, "the client ends", || {
                    (!self.tb.sh("pgrep -x virtsnap").success()).then_some(())
                });
                Ok(self.tb.ok("cat /var/tmp/client"))
            }
        };
        self.daemon.wait_idle();
        ended
    }

    pub(crate) fn policies(&self, toml: &str) {
        self.daemon.policies(toml);
        self.daemon.ok("reload");
    }

    /// A snapshot's path on the bus.
    pub(crate) fn snapshot(&self, vm: &str, name: &str) -> String {
        let all = self.daemon.snapshots(vm);
        all.into_iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("{vm} has no {name}")).1
    }
}

/// How a scene's snapshots are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    Disks,
    Memory,
    Policy,
    /// By others.
    Virsh,
    /// By others, inside the images.
    Inside,
}

/// Another VM, which lies on a snapshot of the one that it is about.
pub(crate) struct Other {
    pub(crate) name: String,
    pub(crate) holds: u8,
    /// It must be there, or only may.
    pub(crate) there: bool,
    /// It must lie on nothing.
    pub(crate) alone: bool,
}

/// What is done.
type Ask = Box<dyn Fn(&Lab<'_>, &Scene) -> Begun>;

/// A VM, what is done to it, and what may and must be true after it.
pub(crate) struct Scene {
    pub(crate) vm: Bare,
    pub(crate) other: Option<Other>,
    /// What each snapshot holds, on all disks.
    pub(crate) known: BTreeMap<String, u8>,
    /// Those of them that may be gone, or have failed: they are to go.
    pub(crate) doomed: BTreeSet<String>,
    /// Those that have lost their images.
    pub(crate) lost: BTreeSet<String>,
    /// What may be made, by the beginning of its name, and what it holds then.
    pub(crate) may: BTreeMap<&'static str, u8>,
    /// What the disks hold, or may hold after it.
    pub(crate) now: Vec<u8>,
    /// Whether it is on, before and after it.
    pub(crate) runs: bool,
    pub(crate) how: How,
    /// Whether the next operations are tried.
    pub(crate) goes_on: bool,
    /// Whose QEMU dies.
    pub(crate) dies: String,
    pub(crate) ask: Ask,
}

impl Scene {
    /// A VM with these snapshots, of which the first holds 1, the second 2 and so on; the disks hold one more.
    pub(crate) fn with(
        lab: &Lab<'_>,
        name: &str,
        runs: bool,
        how: How,
        snapshots: &[&str],
        ask: Ask,
    ) -> Self {
        let vm = Bare::define(lab.tb, name, DISKS.len());
        if runs {
            lab.tb.ok(&format!("virsh -q start {name}"));
        }
        wait_for(DEADLINE, "the daemon knows the VM", || {
            lab.daemon.client(&format!("list {name}")).success().then_some(())
        });
        let mut scene = Self {
            vm,
            other: None,
            known: BTreeMap::new(),
            doomed: BTreeSet::new(),
            lost: BTreeSet::new(),
            may: BTreeMap::new(),
            now: vec![1],
            runs,
            how,
            goes_on: true,
            dies: name.to_owned(),
            ask,
        };
        let mut script = "set -e\n".to_owned();
        for (value, snapshot) in (1..).zip(snapshots) {
            script += &scene.writes(value);
            let take = match how {
                How::Disks => format!("virtsnap create {name} --name {snapshot}"),
                How::Memory => format!("virtsnap create {name} --name {snapshot} --memory require"),
                How::Policy => format!("virtsnap run p --vm {name}"),
                How::Virsh => format!("virsh -q snapshot-create-as {name} {snapshot} --disk-only --atomic"),
                How::Inside => format!("virsh -q snapshot-create-as {name} {snapshot}"),
            };
            let _ = writeln!(script, "{take} >&2");
            // An image that is off is another one after each of them.
            if !runs {
                lab.tb.ok(&script);
                "set -e\n".clone_into(&mut script);
            }
            scene.known.insert((*snapshot).to_owned(), value);
            scene.now = vec![value + 1];
        }
        script += &scene.writes(scene.now[0]);
        lab.tb.ok(&script);
        // What others take has no event.
        if matches!(how, How::Virsh | How::Inside) {
            wait_for(DEADLINE, "the daemon knows its snapshots", || {
                lab.tb.ok(&format!("virsh -q desc {name} --title --live seen"));
                (lab.daemon.snapshots(name).len() == snapshots.len()).then_some(())
            });
        }
        scene
    }

    /// A script that writes this to all disks.
    pub(crate) fn writes(&self, value: u8) -> String {
        let write = format!("write -P {value} 0 64k");
        if self.runs {
            let tell = (0..DISKS.len()).flat_map(|number| {
                let device = format!("/machine/peripheral/virtio-disk{number}/virtio-backend");
                [format!("\"{write}\""), "flush".to_owned()].map(|what| {
                    format!("qemu-monitor-command {} --hmp 'qemu-io -d {device} {what}'", self.vm.uuid())
                })
            });
            return format!("virsh -q {} >&2\n", quote(&tell.collect::<Vec<_>>().join("; ")));
        }
        let each = |disk| format!("qemu-io -f qcow2 -c '{write}' {} >&2\n", self.vm.active(disk));
        DISKS.into_iter().map(each).collect()
    }

    /// These are to go.
    pub(crate) fn dooms(mut self, names: &[&str]) -> Self {
        self.doomed = names.iter().map(|name| (*name).to_owned()).collect();
        self
    }

    /// One whose name begins so may be made, and holds what the disks hold before.
    pub(crate) fn may_make(mut self, name: &'static str) -> Self {
        self.may.insert(name, self.now[0]);
        self
    }

    /// The disks may hold this after it.
    pub(crate) fn may_become(mut self, value: u8) -> Self {
        self.now.push(value);
        self
    }

    /// This one is, or may be, there as well.
    pub(crate) fn beside(mut self, other: Other) -> Self {
        self.other = Some(other);
        self
    }

    /// Takes all of it away.
    pub(crate) fn end(self, lab: &Lab<'_>) {
        let name = self.vm.name();
        let others = self.other.map(|other| other.name).unwrap_or_default();
        lab.tb.sh(&format!(
            "for vm in {others} {name}; do virsh -q destroy $vm; done; virsh -q undefine {others}"
        ));
        lab.tb.ok(&format!(
            "virsh -q undefine {name} --snapshots-metadata && rm -f /var/lib/libvirt/images/*{name}*"
        ));
    }
}
