//! The guest agent: what it freezes, and how it misbehaves.
//!
//! ```text
//!            freeze (≥ 1 file system)
//!   Thawed ───────────────────────────▶ Frozen    answers only status and thaw
//!      ▲                                   │
//!      └──────────────── thaw ─────────────┘      "0" when nothing was frozen
//! ```
//!
//! A *stuck* agent answers nothing, and each call times out at once. The command that found it stuck is in
//! its queue, and is carried out when it moves again: a freeze that "timed out" freezes the guest later.
//! Commands after that one never reach it, since libvirt first tries to get in step with it again, and fails.
//!
//! Windows ends a freeze by itself after ten seconds. The agent says "frozen" all the same; the thaw is an error then, and
//! after that it says "thawed".

use std::{collections::BTreeSet, time::Duration};

use super::{Sim, State, op::Op};
use crate::{
    core::model::{VmId, VmState},
    hypervisor::{Agent, Error, ErrorKind, Event, FreezeStatus, GuestFileSystem, GuestSystem, Result},
};

#[expect(clippy::struct_excessive_bools, reason = "each is a misbehaviour of its own")]
#[derive(Debug, Clone)]
pub(super) struct GuestAgent {
    pub(super) mode: Agent,
    /// A call is under way and held at a gate.
    pub(super) taken: bool,
    file_systems: Vec<GuestFileSystem>,
    /// What the agent believes; somebody may have thawed behind its back.
    says_frozen: bool,
    /// The mount points that really are frozen.
    frozen: BTreeSet<String>,
    pace: Pace,
    sticks_at: Option<Op>,
    queue: Vec<Command>,
    hook_fails: bool,
    thaw_failures: u32,
    thawed_behind: u32,
    system: GuestSystem,
    /// The next freeze takes too long for Windows.
    lets_go: bool,
    /// One has.
    has_let_go: bool,
}

/// How the agent's process gets on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// It answers.
    Answers,
    /// It is stuck, and nobody has noticed yet.
    Stuck,
    /// It is stuck, and libvirt waits to get in step with it again.
    OutOfStep,
}

#[derive(Debug, Clone)]
enum Command {
    FileSystems,
    System,
    Status,
    Freeze(Option<Vec<String>>),
    Thaw,
}

impl Command {
    const fn op(&self) -> Op {
        match self {
            Self::FileSystems => Op::FileSystems,
            Self::System => Op::GuestSystem,
            Self::Status => Op::FreezeStatus,
            Self::Freeze(_) => Op::Freeze,
            Self::Thaw => Op::Thaw,
        }
    }
}

impl GuestAgent {
    pub(super) fn new(mode: Agent, file_systems: Vec<GuestFileSystem>) -> Self {
        Self {
            mode,
            taken: false,
            file_systems,
            says_frozen: false,
            frozen: BTreeSet::new(),
            pace: Pace::Answers,
            sticks_at: None,
            queue: Vec::new(),
            hook_fails: false,
            thaw_failures: 0,
            thawed_behind: 0,
            system: GuestSystem::Other,
            lets_go: false,
            has_let_go: false,
        }
    }

    /// As after the guest's next boot.
    pub(super) fn reboot(&mut self) {
        let system = self.system;
        *self = Self { system, ..Self::new(self.mode, std::mem::take(&mut self.file_systems)) };
    }

    /// Whether a write to this disk would wait.
    pub(super) fn holds(&self, target: &str) -> bool {
        self.file_systems
            .iter()
            .any(|f| self.frozen.contains(&f.mountpoint) && f.disks.iter().any(|d| d == target))
    }

    fn freeze(&mut self, mountpoints: Option<&[String]>) -> Result<u32> {
        if self.hook_fails {
            return Err(failed("child process has failed to execute fsfreeze hook: exit status 1"));
        }
        let asked = |f: &&GuestFileSystem| mountpoints.is_none_or(|list| list.contains(&f.mountpoint));
        self.frozen = self.file_systems.iter().filter(asked).map(|f| f.mountpoint.clone()).collect();
        let count = self.frozen_now();
        self.says_frozen = count > 0;
        for _ in 0..std::mem::take(&mut self.thawed_behind) {
            self.frozen.pop_first();
        }
        if std::mem::take(&mut self.lets_go) && count > 0 {
            self.frozen.clear();
            self.has_let_go = true;
        }
        Ok(count)
    }

    fn thaw(&mut self) -> Result<u32> {
        if self.thaw_failures > 0 {
            self.thaw_failures -= 1;
            return Err(failed("guest-fsfreeze-thaw: failed to open a mount point"));
        }
        let count = self.frozen_now();
        self.frozen.clear();
        self.says_frozen = false;
        if std::mem::take(&mut self.has_let_go) {
            let text = "unable to execute QEMU agent command 'guest-fsfreeze-thaw': couldn't hold writes: fsfreeze is limited up to 10 seconds: ";
            return Err(Error::new(ErrorKind::LetGo, text));
        }
        Ok(count)
    }

    fn frozen_now(&self) -> u32 {
        u32::try_from(self.frozen.len()).unwrap_or(u32::MAX)
    }

    /// While frozen, the agent has disabled whatever might write.
    fn allow(&self, command: &str) -> Result<()> {
        if self.says_frozen {
            let text = format!("Command {command} has been disabled: the command is not allowed");
            return Err(Error { kind: ErrorKind::Refused, ..failed(&text) });
        }
        Ok(())
    }

    fn obey(&mut self, command: &Command) -> Result<u32> {
        match command {
            Command::FileSystems => self.allow("guest-get-fsinfo").map(|()| 0),
            Command::System => self.allow("guest-get-osinfo").map(|()| 0),
            Command::Status => Ok(0),
            Command::Freeze(list) => {
                self.allow("guest-fsfreeze-freeze")?;
                self.freeze(list.as_deref())
            }
            Command::Thaw => self.thaw(),
        }
    }

    fn stick(&mut self) {
        if self.pace == Pace::Answers {
            self.pace = Pace::Stuck;
        }
    }

    fn unstick(&mut self) {
        self.pace = Pace::Answers;
        for command in std::mem::take(&mut self.queue) {
            // Nobody waits for the answer any more.
            let _late = self.obey(&command);
        }
    }
}

fn failed(text: &str) -> Error {
    Error::new(ErrorKind::AgentFailed, format!("unable to execute QEMU agent command: {text}"))
}

impl State {
    pub(super) fn file_systems(&mut self, vm: VmId, timeout: Duration) -> Result<Vec<GuestFileSystem>> {
        self.ask(vm, &Command::FileSystems, timeout)?;
        Ok(self.machine(vm)?.agent.file_systems.clone())
    }

    pub(super) fn guest_system(&mut self, vm: VmId, timeout: Duration) -> Result<GuestSystem> {
        self.ask(vm, &Command::System, timeout)?;
        Ok(self.machine(vm)?.agent.system)
    }

    pub(super) fn freeze_status(&mut self, vm: VmId, timeout: Duration) -> Result<FreezeStatus> {
        self.ask(vm, &Command::Status, timeout)?;
        Ok(if self.machine(vm)?.agent.says_frozen { FreezeStatus::Frozen } else { FreezeStatus::Thawed })
    }

    pub(super) fn freeze(&mut self, vm: VmId, list: Option<&[String]>, timeout: Duration) -> Result<u32> {
        self.ask(vm, &Command::Freeze(list.map(<[String]>::to_vec)), timeout)
    }

    pub(super) fn thaw(&mut self, vm: VmId, timeout: Duration) -> Result<u32> {
        self.ask(vm, &Command::Thaw, timeout)
    }

    fn ask(&mut self, vm: VmId, command: &Command, timeout: Duration) -> Result<u32> {
        let machine = self.machine(vm)?;
        let unavailable = |text: &str| Err(Error::new(ErrorKind::AgentUnavailable, text));
        if machine.state != VmState::Running {
            return unavailable("Requested operation is not valid: domain is not running");
        }
        let agent = &mut machine.agent;
        match agent.mode {
            Agent::Absent => return unavailable("argument unsupported: QEMU guest agent is not configured"),
            Agent::Disconnected => {
                return unavailable("Guest agent is not responding: QEMU guest agent is not connected");
            }
            Agent::Connected => {}
        }
        if agent.sticks_at == Some(command.op()) {
            agent.sticks_at = None;
            agent.stick();
        }
        let what = match agent.pace {
            Pace::Answers => return agent.obey(command),
            Pace::Stuck => {
                agent.queue.push(command.clone());
                agent.pace = Pace::OutOfStep;
                "command"
            }
            Pace::OutOfStep => "synchronization",
        };
        let text = format!("guest agent didn't respond to {what} within '{}' seconds", timeout.as_secs());
        Err(Error::new(ErrorKind::AgentTimeout, text))
    }
}

/// The guest agent's behaviour.
impl Sim {
    /// Stops the agent's process, or lets it go on and do what it was asked meanwhile.
    pub fn agent_stuck(&self, vm: VmId, stuck: bool) -> Result<()> {
        self.with_agent(vm, |a| if stuck { a.stick() } else { a.unstick() })
    }

    /// The agent gets stuck at the next command of this kind, having been asked it.
    pub fn agent_sticks_at(&self, vm: VmId, op: Op) -> Result<()> {
        self.with_agent(vm, |a| a.sticks_at = Some(op))
    }

    /// The guest's freeze hook fails from now on, or no longer.
    pub fn hook_fails(&self, vm: VmId, fails: bool) -> Result<()> {
        self.with_agent(vm, |a| a.hook_fails = fails)
    }

    /// The next so many thaws fail, and thaw nothing.
    pub fn thaw_fails(&self, vm: VmId, times: u32) -> Result<()> {
        self.with_agent(vm, |a| a.thaw_failures = times)
    }

    /// Right after the next freeze somebody in the guest thaws so many of its file systems, and the agent
    /// does not know: the status stays `Frozen`, writes go through, and the thaw counts fewer than the
    /// freeze.
    pub fn thaw_behind(&self, vm: VmId, count: u32) -> Result<()> {
        self.with_agent(vm, |a| a.thawed_behind = count)
    }

    /// Windows is installed in it.
    pub fn runs_windows(&self, vm: VmId) -> Result<()> {
        self.with_agent(vm, |a| a.system = GuestSystem::Windows)
    }

    /// The next freeze lasts for longer than Windows holds it.
    pub fn lets_go(&self, vm: VmId) -> Result<()> {
        self.with_agent(vm, |a| a.lets_go = true)
    }

    /// Somebody else freezes all the guest's file systems, by another connection.
    pub fn freeze_behind(&self, vm: VmId) -> Result<u32> {
        self.with_agent(vm, |a| a.freeze(None))?
    }

    /// Ends the agent's process or starts it again; what is frozen stays so. Changed.
    pub fn agent_connected(&self, vm: VmId, connected: bool) -> Result<()> {
        self.with(|s| {
            let agent = &mut s.machine(vm)?.agent;
            if agent.mode != Agent::Absent {
                agent.mode = if connected { Agent::Connected } else { Agent::Disconnected };
                agent.pace = Pace::Answers;
                agent.queue.clear();
                s.tell(Event::Changed(vm));
            }
            Ok(())
        })
    }

    /// The mount points that are frozen at this moment, whatever the agent says.
    pub fn frozen(&self, vm: VmId) -> Result<BTreeSet<String>> {
        self.with_agent(vm, |a| a.frozen.clone())
    }

    fn with_agent<T>(&self, vm: VmId, act: impl FnOnce(&mut GuestAgent) -> T) -> Result<T> {
        self.with(|s| Ok(act(&mut s.machine(vm)?.agent)))
    }
}
