//! A tiny guest with a real agent and a writer on each disk, and how it is made to misbehave.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::command::{Output, quote};
use super::container::Testbed;
use super::side_channel::SideChannel;
use super::wait_for;

/// How long a request may take where nothing else is said. Guests are emulated, and slow when the
/// machine is busy.
const DEFAULT_DEADLINE: Duration = Duration::from_mins(1);

/// What a guest shall be.
#[derive(Debug, Clone)]
pub struct GuestSpec {
    /// Anything that libvirt takes as a name.
    pub name: String,
    /// How many disks: `vda`, `vdb`, …, each of 64 MiB with a file system and a writer.
    pub disks: u32,
    /// Its memory; 96 MiB is enough.
    pub memory_mib: u32,
    /// `qcow2` or `raw`.
    pub disk_format: String,
    /// Larger disks, with a file system of 64 MiB all the same.
    pub disk_mib: Option<u32>,
    /// Where the images are; by default `/var/lib/libvirt/images`.
    pub disk_dir: Option<String>,
    /// Whether the agent runs.
    pub agent: bool,
    /// Whether the XML has the agent's channel.
    pub channel: bool,
    /// Whether the writers run.
    pub writers: bool,
}

impl GuestSpec {
    /// A guest with one disk, an agent and a writer.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            disks: 1,
            memory_mib: 96,
            disk_format: "qcow2".to_owned(),
            disk_mib: None,
            disk_dir: None,
            agent: true,
            channel: true,
            writers: true,
        }
    }
}

/// One write of a guest's writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Write {
    /// What it wrote.
    pub counter: u64,
    /// When it began, in ms since the guest's boot.
    pub began_ms: u64,
    /// When it was on the disk.
    pub done_ms: u64,
}

/// The longest time without a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The last write before it.
    pub before: Write,
    /// The first write after it.
    pub after: Write,
}

impl Gap {
    /// From one write's end to the next one's: at least as long as a freeze was, and longer by the
    /// writer's period of 100 ms at most (when the machine is not busy).
    pub fn ms(&self) -> u64 {
        self.after.done_ms - self.before.done_ms
    }

    /// How long the write after it was held up: at most as long as a freeze was, plus the little
    /// that a write takes.
    pub fn blocked_ms(&self) -> u64 {
        self.after.done_ms - self.after.began_ms
    }
}

/// A guest. Dropping it leaves it running: it goes with its container.
pub struct Guest {
    testbed: Testbed,
    name: String,
    uuid: String,
    side_channel: Mutex<Option<SideChannel>>,
}

impl fmt::Debug for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guest").field("name", &self.name).field("uuid", &self.uuid).finish_non_exhaustive()
    }
}

impl Guest {
    pub(super) fn start_new(testbed: Testbed, spec: GuestSpec) -> Self {
        let mut command = vec![
            "/src/tests/testbed/make-vm.sh".to_owned(),
            quote(&spec.name),
            format!(
                "--memory {} --disks {} --format {}",
                spec.memory_mib,
                spec.disks,
                quote(&spec.disk_format)
            ),
        ];
        command.extend(spec.disk_mib.map(|size| format!("--size {size}")));
        command.extend(spec.disk_dir.map(|dir| format!("--dir {}", quote(&dir))));
        command.extend((!spec.channel).then(|| "--no-channel".to_owned()));
        let words = [(!spec.agent, "noagent"), (!spec.writers, "nowriter")];
        let words: Vec<&str> = words.iter().filter(|(add, _)| *add).map(|(_, word)| *word).collect();
        command.push(format!("--append {}", quote(&words.join(" "))));
        let uuid = testbed.ok(&command.join(" "));
        let guest = Self { testbed, name: spec.name, uuid, side_channel: Mutex::new(None) };
        guest.start();
        guest
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its UUID: the better handle on a command line, as a name may hold anything.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// The image that a disk writes to now, as libvirt says.
    pub fn image(&self, disk: &str) -> String {
        self.testbed.ok(&format!(
            "virsh -q domblklist {} | awk '$1 == \"{disk}\" {{sub(/^ *[^ ]+ +/, \"\"); print}}'",
            self.uuid
        ))
    }

    /// Runs a virsh command; `{}` in it stands for the VM.
    #[track_caller]
    pub fn virsh(&self, command: &str) -> String {
        self.testbed.ok(&format!("virsh -q {}", command.replace("{}", &self.uuid)))
    }

    // ---- Its life

    /// Starts it; it boots in some seconds.
    pub fn start(&self) {
        self.hang_up();
        self.virsh("start {}");
    }

    /// Lets the agent shut it down, and waits until it is off. Its file systems are clean then.
    pub fn shutdown(&self) {
        // After a start the agent may not be there yet, which is no reason to fail.
        self.wait_agent();
        wait_for(DEFAULT_DEADLINE, "the agent takes the shutdown", || {
            let asked = self.testbed.sh(&format!("virsh -q shutdown {} --mode agent", self.uuid));
            (asked.success() || self.state() == "shut off").then_some(())
        });
        wait_for(DEFAULT_DEADLINE, "the guest shuts down", || (self.state() == "shut off").then_some(()));
        self.hang_up();
    }

    /// Pulls its plug.
    pub fn destroy(&self) {
        self.virsh("destroy {}");
        self.hang_up();
    }

    /// Undefines it, with the metadata of its snapshots. Files stay.
    pub fn undefine(&self) {
        self.virsh("undefine {} --snapshots-metadata --managed-save");
    }

    /// Its state in virsh's words: `running`, `shut off`, `paused` …
    pub fn state(&self) -> String {
        self.virsh("domstate {}").trim().to_owned()
    }

    // ---- Looking into it, past the agent

    /// Runs a shell script (busybox) as root in the guest, and returns its stdout and stderr without
    /// the last newline. Panics if it fails.
    ///
    /// This does not go through the agent: it works also when that is stuck, or the file systems of
    /// the disks are frozen (as long as the script doesn't write there). It waits for the boot.
    #[track_caller]
    pub fn exec(&self, script: &str) -> String {
        match self.try_exec(script, DEFAULT_DEADLINE) {
            Ok((0, output)) => output.strip_suffix('\n').unwrap_or(&output).to_owned(),
            other => panic!("in the guest {:?}: {script}: {other:?}", self.name),
        }
    }

    /// Like [`Self::exec`], but returns the exit status and the output, or why there is none.
    pub fn try_exec(&self, script: &str, within: Duration) -> std::io::Result<(i32, String)> {
        let mut slot = self.side_channel.lock().unwrap_or_else(PoisonError::into_inner);
        let mut channel = match slot.take() {
            Some(open) => open,
            None => {
                SideChannel::connect(&self.testbed.path(format!("/run/virtsnap-guest/{}.sock", self.uuid)))?
            }
        };
        let result = channel.run(script, within);
        // One that failed may be in the middle of a line; the next request makes a new one.
        if result.is_ok() {
            *slot = Some(channel);
        }
        result
    }

    fn hang_up(&self) {
        self.side_channel.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// The time in ms since its boot: a mark for [`Self::frozen_gap`].
    #[track_caller]
    pub fn uptime_ms(&self) -> u64 {
        let uptime = self.exec("cut -d' ' -f1 /proc/uptime");
        // The kernel writes hundredths: "12.34".
        uptime.replace('.', "").parse::<u64>().expect("an uptime") * 10
    }

    /// What the writer last wrote on a disk. Panics as long as the disk isn't mounted; to wait for
    /// the boot, see [`Self::wait_counting`].
    #[track_caller]
    pub fn counter(&self, disk: &str) -> u64 {
        let text = self.exec(&format!("cat /mnt/{disk}/counter"));
        text.parse().unwrap_or_else(|e| panic!("{disk}: {e}: {text}"))
    }

    /// Waits until the writer on a disk has gone on by `writes`, and returns the newest counter that is
    /// on the disk. (The file may already show the next one, whose write is still on the way.)
    #[track_caller]
    pub fn wait_counting(&self, disk: &str, writes: u64) -> u64 {
        let mut first = None;
        wait_for(DEFAULT_DEADLINE, "the guest's writer writes", || {
            let newest = format!("tail -n 1 /run/writer-{disk}.log");
            let (status, text) = self.try_exec(&newest, DEFAULT_DEADLINE).ok()?;
            // A line that is being written may be cut off.
            let [counter, _, _] = text.strip_suffix('\n')?.split(' ').collect::<Vec<_>>()[..] else {
                return None;
            };
            let counter: u64 = if status == 0 { counter.parse().ok()? } else { return None };
            (counter >= *first.get_or_insert(counter) + writes).then_some(counter)
        })
    }

    /// What the writer has written on a disk since the guest's boot.
    #[track_caller]
    pub fn writes(&self, disk: &str) -> Vec<Write> {
        let log = self.exec(&format!("cat /run/writer-{disk}.log"));
        let number = |text: Option<&str>| text.and_then(|t| t.parse().ok());
        let write = |line: &str| {
            let mut words = line.split(' ');
            Some(Write {
                counter: number(words.next())?,
                began_ms: number(words.next())?,
                done_ms: number(words.next())?,
            })
        };
        // A line that is being written may be cut off.
        log.lines().filter_map(write).collect()
    }

    /// The longest time without a write on a disk that ended after a mark. Call it once writes go on
    /// again.
    #[track_caller]
    pub fn frozen_gap(&self, disk: &str, mark_ms: u64) -> Gap {
        // The last write before a freeze may also be the last one before the mark.
        let writes = self.writes(disk);
        let gaps = writes.windows(2).map(|pair| Gap { before: pair[0], after: pair[1] });
        gaps.filter(|gap| gap.after.done_ms >= mark_ms)
            .max_by_key(Gap::ms)
            .unwrap_or_else(|| panic!("{disk}: no write after another since {mark_ms} ms: {writes:?}"))
    }

    /// [`Gap::ms`] of [`Self::frozen_gap`].
    #[track_caller]
    pub fn frozen_gap_ms(&self, disk: &str, mark_ms: u64) -> u64 {
        self.frozen_gap(disk, mark_ms).ms()
    }

    /// Panics if the writer of a disk ever lost a write since the guest's boot: each counter must be
    /// one more than that before. Returns how many there were.
    #[track_caller]
    pub fn assert_no_write_lost(&self, disk: &str) -> usize {
        let writes = self.writes(disk);
        for pair in writes.windows(2) {
            assert_eq!(pair[0].counter + 1, pair[1].counter, "{disk}: a write was lost: {pair:?}");
        }
        writes.len()
    }

    // ---- Its agent

    /// Sends a command to the agent, JSON as in QEMU's reference, with a timeout of 5 s.
    pub fn agent(&self, command: &str) -> Output {
        self.testbed.sh(&format!("virsh -q qemu-agent-command {} --timeout 5 {}", self.uuid, quote(command)))
    }

    /// Waits until the agent answers.
    #[track_caller]
    pub fn wait_agent(&self) {
        // The side channel waits for the boot without asking again and again, which would take the
        // processor from the guest. Whether the agent then answers is asked below.
        let _ = self.try_exec("until pidof qemu-ga; do sleep 0.1; done", DEFAULT_DEADLINE);
        wait_for(DEFAULT_DEADLINE, "the guest's agent answers", || {
            self.agent(r#"{"execute":"guest-ping"}"#).success().then_some(())
        });
    }

    /// What the agent says of the file systems: `frozen` or `thawed`. The writer's blocked write
    /// shows it too, without the agent.
    #[track_caller]
    pub fn freeze_status(&self) -> String {
        let output = self.agent(r#"{"execute":"guest-fsfreeze-status"}"#);
        assert!(output.success(), "guest-fsfreeze-status: {output}");
        let answer: serde_json::Value = serde_json::from_str(&output.stdout).expect("JSON of the agent");
        answer["return"].as_str().expect("a status").to_owned()
    }

    /// Stops the agent as SIGSTOP does: it stays connected and no longer answers.
    pub fn agent_stop(&self) {
        self.exec("kill -STOP $(pidof qemu-ga)");
    }

    /// Lets a stopped agent go on.
    pub fn agent_cont(&self) {
        self.exec("kill -CONT $(pidof qemu-ga)");
    }

    /// Kills the agent and keeps it away: libvirt sees it disconnect.
    pub fn agent_kill(&self) {
        self.exec("touch /run/agent-off; kill -KILL $(pidof qemu-ga)");
    }

    /// Lets a killed agent come back, and waits for it.
    pub fn agent_start(&self) {
        self.exec("rm -f /run/agent-off");
        self.wait_agent();
    }

    /// Whether the agent's freeze hook fails from now on, and every freeze with it.
    pub fn hook_fail(&self, fails: bool) {
        self.exec(if fails { "touch /run/hook-fail" } else { "rm -f /run/hook-fail" });
    }

    /// How long the hook takes at a freeze from now on.
    pub fn hook_sleep_freeze(&self, seconds: u32) {
        self.exec(&format!("echo {seconds} >/run/hook-sleep-freeze"));
    }

    /// How long the hook takes at a thaw from now on.
    pub fn hook_sleep_thaw(&self, seconds: u32) {
        self.exec(&format!("echo {seconds} >/run/hook-sleep-thaw"));
    }
}
