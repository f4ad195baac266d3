use std::{
    io::{Read as _, Write as _},
    sync::mpsc::Receiver,
};

use uuid::Uuid;

use super::*;
use crate::{
    clock::SystemClock,
    hypervisor::{
        Error, ErrorKind,
        sim::{Fault, Mishap, Op, Sim, VmSpec},
    },
};

const VM: VmId = VmId(Uuid::from_u128(1));
const DEADLINE: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_secs(3600);
const LIMIT: Duration = Duration::from_secs(1);

/// As long as it takes, and nothing in vain.
const SHORT: Pauses = Pauses {
    tries: (Duration::from_millis(1), Duration::from_millis(4)),
    settling: Duration::from_millis(1),
    patience: DEADLINE,
    idle: Duration::from_millis(5),
};

struct World {
    sim: Arc<Sim>,
    thawer: Arc<Thawer>,
}

/// The daemon's end of one.
struct Line {
    stream: UnixStream,
    ended: Receiver<io::Result<()>>,
}

impl World {
    fn new(pauses: Pauses) -> Self {
        let sim = Arc::new(Sim::new());
        sim.add_vm(VmSpec::new("web", 1).with_disks(&["vda", "vdb"]));
        let host = Arc::clone(&sim);
        let connect = move |uri: &str| match uri {
            "sim:" => Ok(Arc::clone(&host) as Arc<dyn Hypervisor>),
            _ => Err(Error::new(ErrorKind::Disconnected, format!("no answer\nfrom {uri}"))),
        };
        let thawer = Thawer::new(Box::new(connect), pauses, Arc::new(SystemClock::default()));
        Self { sim, thawer }
    }

    fn call(&self) -> Line {
        let (stream, its) = UnixStream::pair().unwrap();
        let (send, ended) = mpsc::channel();
        let thawer = Arc::clone(&self.thawer);
        std::thread::spawn(move || send.send(thawer.attend(&its)));
        Line { stream, ended }
    }

    /// A line on which the guest is watched.
    fn watched(&self) -> Line {
        let mut line = self.call();
        assert_eq!(line.watch("sim:"), Reply::Ready);
        line
    }

    /// A line on which it was said that the guest is frozen, and it is.
    fn frozen(&self) -> Line {
        let mut line = self.watched();
        line.say(&Word::Freezing(LONG));
        assert_eq!(self.sim.freeze(VM, None, LIMIT), Ok(2));
        line.say(&Word::Frozen(LONG));
        line
    }

    fn is_frozen(&self) -> bool {
        !self.sim.frozen(VM).unwrap().is_empty()
    }
}

impl Line {
    fn say(&mut self, word: &Word) {
        line::say(&mut self.stream, word).unwrap();
    }

    fn watch(&mut self, uri: &str) -> Reply {
        self.say(&Word::Watch { vm: VM, uri: uri.to_owned() });
        line::hear(&mut BufReader::new(&self.stream)).unwrap().unwrap()
    }

    /// Whoever was at the other end has gone.
    fn ended(&mut self) {
        self.ended.recv_timeout(DEADLINE).expect("it ends").expect("it ends well");
        assert_eq!(self.stream.read(&mut [0; 1]).unwrap(), 0, "the line is closed");
    }

    /// As if the daemon was killed.
    fn dies(mut self) {
        self.stream.shutdown(Shutdown::Both).unwrap();
        self.ended();
    }
}

#[test]
fn of_a_freeze_that_is_over_the_guest_hears_nothing() {
    let world = World::new(SHORT);
    let mut line = world.frozen();
    assert_eq!(world.sim.thaw(VM, LIMIT), Ok(2));
    world.sim.clear_calls();
    line.say(&Word::Over);
    line.ended();
    drop(line);
    assert_eq!(world.sim.calls(), []);
}

#[test]
fn a_line_that_breaks_before_a_freeze_begins_thaws_nobody() {
    let world = World::new(SHORT);
    world.sim.freeze_behind(VM).unwrap();
    world.watched().dies();
    assert!(world.is_frozen(), "by somebody else");
    assert_eq!(world.sim.calls(), []);
}

#[test]
fn a_guest_whose_thaw_takes_longer_than_it_may_is_believed_when_it_says_so() {
    let world = World::new(SHORT);
    let line = world.frozen();
    let late = Error::new(ErrorKind::AgentTimeout, "guest agent didn't respond");
    world.sim.inject(Fault::new(Op::Thaw, Mishap::Lose(late)).always());
    line.dies();
    assert!(!world.is_frozen());
}

#[test]
fn a_guest_whose_daemon_dies_is_thawed() {
    let world = World::new(SHORT);
    world.frozen().dies();
    assert!(!world.is_frozen());
    // Once more after a while, for what the dead daemon had still asked for.
    assert_eq!(world.sim.changes(), [Op::Freeze, Op::Thaw, Op::Thaw]);
}

#[test]
fn what_a_daemon_asked_for_before_it_died_is_thawed_though_it_is_carried_out_later() {
    let world = World::new(SHORT);
    world.sim.agent_sticks_at(VM, Op::Freeze).unwrap();
    let mut line = world.watched();
    line.say(&Word::Freezing(LONG));
    let gate = world.sim.gate(Op::Thaw);
    assert!(world.sim.freeze(VM, None, LIMIT).is_err(), "it times out");
    line.stream.shutdown(Shutdown::Both).unwrap();
    assert!(gate.wait_for_call(DEADLINE));
    world.sim.agent_stuck(VM, false).unwrap();
    assert!(world.is_frozen(), "late");
    gate.open();
    line.ended();
    assert!(!world.is_frozen());
}

#[test]
fn a_guest_whose_daemon_hangs_is_thawed_and_watched_on() {
    let world = World::new(SHORT);
    let mut line = world.watched();
    for word in [Word::Freezing(Duration::from_millis(5)), Word::Frozen(Duration::from_millis(5))] {
        // Beside the helper's questions, of which one may be on its way.
        world.sim.freeze_behind(VM).unwrap();
        let gate = world.sim.gate(Op::Thaw);
        line.say(&word);
        assert!(gate.wait_for_call(DEADLINE), "nobody says for too long that it is over");
        let proof = world.sim.gate(Op::FreezeStatus);
        gate.open();
        assert!(proof.wait_for_call(DEADLINE));
        assert!(!world.is_frozen(), "with the daemon still there");
    }
    // The daemon goes on where it stood, and dies.
    line.say(&Word::Freezing(LONG));
    world.sim.freeze_behind(VM).unwrap();
    line.dies();
    assert!(!world.is_frozen());
}

#[test]
fn a_thaw_that_fails_is_tried_until_it_succeeds() {
    let world = World::new(SHORT);
    let line = world.frozen();
    world.sim.thaw_fails(VM, 5).unwrap();
    line.dies();
    assert!(!world.is_frozen());
    assert_eq!(world.sim.changes().iter().filter(|op| **op == Op::Thaw).count(), 7);
}

#[test]
fn it_gives_up_only_if_the_guest_is_off_or_the_daemon_has_thawed_it() {
    let world = World::new(SHORT);
    let mut line = world.frozen();
    world.sim.thaw_fails(VM, u32::MAX).unwrap();
    let gate = world.sim.gate(Op::Thaw);
    line.stream.shutdown(Shutdown::Both).unwrap();
    assert!(gate.wait_for_call(DEADLINE));
    world.sim.stop(VM).unwrap();
    gate.open();
    line.ended();

    world.sim.start(VM).unwrap();
    let mut line = world.watched();
    world.sim.thaw_fails(VM, u32::MAX).unwrap();
    let gate = world.sim.gate(Op::Thaw);
    line.say(&Word::Frozen(Duration::ZERO));
    assert!(gate.wait_for_call(DEADLINE));
    gate.open();
    line.say(&Word::Over);
    line.ended();
}

#[test]
fn a_new_freeze_waits_for_the_end_of_an_old_one_and_is_never_thawed_by_it() {
    // Settled it would be in an hour; who needs the guest makes it now.
    let world = World::new(Pauses { settling: LONG, ..SHORT });
    let mut old = world.frozen();
    old.stream.shutdown(Shutdown::Both).unwrap();
    let mut new = world.watched();
    old.ended();
    assert!(!world.is_frozen());
    new.say(&Word::Freezing(LONG));
    assert_eq!(world.sim.freeze(VM, None, LIMIT), Ok(2));
    let thaws = world.sim.changes().iter().filter(|op| **op == Op::Thaw).count();
    assert_eq!(thaws, 2, "and none of them comes any more");
    assert!(world.is_frozen());
    new.say(&Word::Over);
    new.ended();
}

#[test]
fn while_an_old_freeze_cannot_be_ended_no_new_one_is_watched() {
    let world = World::new(Pauses { patience: Duration::from_millis(5), ..SHORT });
    let mut old = world.frozen();
    world.sim.thaw_fails(VM, u32::MAX).unwrap();
    old.stream.shutdown(Shutdown::Both).unwrap();
    let mut new = world.call();
    assert_eq!(new.watch("sim:"), Reply::Busy);
    new.ended();
    world.sim.thaw_fails(VM, 0).unwrap();
    old.ended();
    world.watched().dies();
}

#[test]
fn who_cannot_reach_libvirt_says_so_before_anything_is_frozen() {
    let world = World::new(SHORT);
    let mut line = world.call();
    let Reply::No(why) = line.watch("other:") else { panic!("it cannot") };
    assert!(why.contains("no answer from other:"), "{why}");
    line.ended();
}

#[test]
fn who_speaks_another_language_is_not_listened_to_and_frees_the_guest() {
    let world = World::new(SHORT);
    let mut line = world.call();
    line.stream.write_all(b"GET / HTTP/1.1\n").unwrap();
    line.ended.recv_timeout(DEADLINE).unwrap().unwrap_err();
    let mut line = world.frozen();
    line.stream.write_all(b"what?\n").unwrap();
    line.ended();
    assert!(!world.is_frozen());
}

#[test]
fn it_serves_a_socket_until_nobody_comes_any_more() {
    let world = World::new(SHORT);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let socket = UnixListener::bind(&path).unwrap();
    // Who comes before it is there is not lost.
    let mut waiting: Vec<UnixStream> = (0..2).map(|_| UnixStream::connect(&path).unwrap()).collect();
    let (send, ended) = mpsc::channel();
    let thawer = Arc::clone(&world.thawer);
    std::thread::spawn(move || send.send(thawer.listen(&socket)));
    world.sim.add_vm(VmSpec::new("db", 2));
    for (number, line) in waiting.iter_mut().enumerate() {
        let vm = VmId(Uuid::from_u128(number as u128 + 1));
        line::say(line, &Word::Watch { vm, uri: "sim:".into() }).unwrap();
        let reply: Option<Reply> = line::hear(&mut BufReader::new(&*line)).unwrap();
        assert_eq!(reply, Some(Reply::Ready));
    }
    assert_eq!(ended.try_recv().unwrap_err(), mpsc::TryRecvError::Empty, "two are watched");
    drop(waiting);
    ended.recv_timeout(DEADLINE).expect("it ends").unwrap();
}
