//! The client on a terminal: what a person sees, types and interrupts. The terminal is a real one, of the kernel's.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, channel},
    },
};

use nix::pty::{Winsize, openpty};
use virtsnap::hypervisor::{
    Hypervisor as _,
    sim::{Op, VmSpec},
};

use super::{
    client::{none, soon},
    rig::{DEADLINE, Rig, held, id, snapshot_path, vm_path},
    screens::failing,
};

/// A terminal with a program on it.
pub struct Terminal {
    child: Child,
    keys: File,
    screen: Receiver<String>,
    seen: String,
}

impl Terminal {
    /// Runs the client there.
    fn run(rig: &Rig, environment: &[(&str, &str)], arguments: &[&str]) -> Self {
        Self::run_as(&[], rig, environment, arguments)
    }

    /// The same, through another program.
    fn run_as(through: &[&str], rig: &Rig, environment: &[(&str, &str)], arguments: &[&str]) -> Self {
        let address = rig.address();
        let client = [env!("CARGO_BIN_EXE_virtsnap"), "--bus-address", &address];
        Self::start(&[through, &client, arguments].concat(), environment)
    }

    /// Runs a program there, as what has this terminal.
    pub fn start(words: &[&str], environment: &[(&str, &str)]) -> Self {
        let size = Winsize { ws_row: 25, ws_col: 200, ws_xpixel: 0, ws_ypixel: 0 };
        let ends = openpty(&size, None).unwrap();
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait"]).args(words);
        command
            .env("TZ", "UTC")
            .env("TERM", "xterm")
            .env_remove("NO_COLOR")
            .envs(environment.iter().copied());
        let end = || Stdio::from(ends.slave.try_clone().unwrap());
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        // So that it ends when the program has.
        drop((command, ends.slave));
        let keys = File::from(ends.master);
        let mut master = keys.try_clone().unwrap();
        let (send, screen) = channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // When nobody has the other end any more, that is an error.
            while let Ok(n @ 1..) = master.read(&mut bytes) {
                let _ = send.send(String::from_utf8_lossy(&bytes[..n]).into_owned());
            }
        });
        Self { child, keys, screen, seen: String::new() }
    }

    /// Reads until it shows this; what it showed until now does not count any more.
    pub fn next(&mut self, text: &str) -> String {
        self.until(text);
        std::mem::take(&mut self.seen)
    }

    /// Reads until it shows this.
    pub fn until(&mut self, text: &str) {
        tokio::task::block_in_place(|| {
            while !self.seen.contains(text) {
                let more = self.screen.recv_timeout(DEADLINE);
                self.seen += &more.unwrap_or_else(|_| panic!("no {text:?} in {:?}", self.seen));
            }
        });
    }

    /// As a person does it.
    pub fn type_in(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// The exit status, and all that was on the screen.
    pub async fn ended(mut self) -> (Option<i32>, String) {
        let ended = tokio::task::spawn_blocking(move || {
            let status = self.child.wait().unwrap();
            while let Ok(more) = self.screen.recv_timeout(DEADLINE) {
                self.seen += &more;
            }
            (status.code(), self.seen)
        });
        soon("the client's end", ended).await.unwrap()
    }
}

async fn web() -> Rig {
    let rig = Rig::start("", |sim| {
        sim.add_vm(VmSpec::new("web", 1));
    })
    .await;
    for (name, value) in [("s1", 1), ("s2", 2)] {
        assert!((0..4).all(|block| rig.sim.write(id(1), "vda", block, value)));
        rig.client.create(id(1), name, none()).await.unwrap();
    }
    assert!((0..4).all(|block| rig.sim.write(id(1), "vda", block, 3)));
    rig
}

const CLEAR: &str = "\r\u{1b}[2K";

#[tokio::test(flavor = "multi_thread")]
async fn what_discards_something_is_done_when_a_person_types_yes() {
    let rig = web().await;
    for (keys, code, left) in [("n\r", 1, 2), ("\r", 1, 2), ("\u{4}", 1, 2), ("y\r", 0, 1)] {
        let mut terminal = Terminal::run(&rig, &[], &["delete", "web", "s1"]);
        terminal.until("Delete snapshot \"s1\" of \"web\", taken ");
        terminal.until("? [y/N] ");
        terminal.type_in(keys);
        let (ended, seen) = terminal.ended().await;
        assert_eq!(ended, Some(code), "{keys:?}: {seen}");
        assert_eq!(rig.client.snapshots(id(1)).await.len(), left, "{keys:?}: {seen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_one_line_that_leaves_nothing_behind_with_colours_or_without() {
    for no_color in ["", "1"] {
        let rig = web().await;
        let gate = rig.sim.gate(Op::Commit);
        let mut terminal = Terminal::run(&rig, &[("NO_COLOR", no_color)], &["delete", "web", "s1", "--yes"]);
        held(&gate);
        terminal.until(" %  merging vda (1/1)");
        gate.open();
        let (code, seen) = terminal.ended().await;
        assert_eq!(code, Some(0), "{seen:?}");
        assert!(seen.ends_with(&format!("{CLEAR}web: snapshot \"s1\" deleted\r\n")), "{seen:?}");
        assert_eq!(seen.matches('\n').count(), 1, "{seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_coloured_and_no_color_takes_that_away() {
    let rig = failing().await;
    for no_color in ["", "1"] {
        let (code, seen) = Terminal::run(&rig, &[("NO_COLOR", no_color)], &["status"]).ended().await;
        assert_eq!(code, Some(1), "{seen:?}");
        assert!(seen.contains("ok, FAILING"), "{seen:?}");
        assert_eq!(seen.contains("\u{1b}[31m"), no_color.is_empty(), "{seen:?}");
        assert_eq!(seen.contains('\u{1b}'), no_color.is_empty(), "{seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn how_much_is_copied_is_shown_and_on_the_bus() {
    let rig = web().await;
    let (go, wait) = channel::<()>();
    let (asked_for, wait) = (AtomicUsize::new(0), Mutex::new(wait));
    rig.sim.before_each_call(move |asked| {
        // Before the merge itself and before each of its blocks; that before the fourth one waits for the test's end.
        if asked.op == Op::Commit && asked_for.fetch_add(1, Ordering::SeqCst) == 4 {
            let _ = wait.lock().unwrap().recv();
        }
        Ok(())
    });
    let mut terminal = Terminal::run(&rig, &[], &["delete", "web", "s1", "--yes"]);
    terminal.until("]  50 %  merging vda (1/1), 128 KiB of 256 KiB");
    let jobs = rig.client.managed().await;
    let job = jobs.keys().filter(|path| path.contains("/job/")).max().unwrap().clone();
    let bytes = async |name: &str| rig.client.get::<u64>(&job, &format!("Job.{name}")).await;
    assert_eq!((bytes("BytesDone").await, bytes("BytesTotal").await), (128 << 10, 256 << 10));
    drop(go);
    let (code, seen) = terminal.ended().await;
    assert_eq!(code, Some(0), "{seen:?}");
    assert_eq!((bytes("BytesDone").await, bytes("BytesTotal").await), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_locale_has_no_utf_8_all_that_is_shown_is_ascii() {
    let rig = web().await;
    rig.client.create(id(1), "größer", none()).await.unwrap();
    let escapes = ("gr\\u{f6}\\u{df}er", "gr\\u00f6\\u00dfer");
    for (locale, (text, json)) in [("C", escapes), ("C.UTF-8", ("größer", "größer"))] {
        for (verb, name) in [
            (&["list", "web"][..], text),
            (&["list", "web", "--tree"], text),
            (&["list", "web", "--json"], json),
            (&["show", "web", "größer"], text),
        ] {
            let terminal = Terminal::run(&rig, &[("LC_ALL", locale)], verb);
            let (code, seen) = terminal.ended().await;
            assert_eq!((code, seen.is_ascii()), (Some(0), locale == "C"), "{verb:?}, {locale}: {seen:?}");
            assert!(seen.contains(name), "{verb:?}, {locale}: no {name} in {seen:?}");
        }
    }
    let mut script = Command::new(env!("CARGO_BIN_EXE_virtsnap"));
    script.args(["--bus-address", &rig.address(), "list", "web"]).env("LC_ALL", "C");
    let out = soon("virtsnap", tokio::task::spawn_blocking(move || script.output())).await.unwrap().unwrap();
    assert!(String::from_utf8(out.stdout).unwrap().contains("größer"), "a script wants the name");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dumb_terminal_gets_lines_and_nothing_else() {
    let rig = web().await;
    let gate = rig.sim.gate(Op::Commit);
    let mut terminal = Terminal::run(&rig, &[("TERM", "dumb")], &["delete", "web", "s1", "--yes"]);
    held(&gate);
    // With `, 0 %` where that was known already; if it comes only then, it is worth no other line.
    terminal.until(" (delete): merging vda (1/1)");
    gate.open();
    let (code, seen) = terminal.ended().await;
    assert_eq!(code, Some(0), "{seen:?}");
    assert!(!seen.contains('\u{1b}') && !seen.replace("\r\n", "").contains('\r'), "{seen:?}");
    assert!(seen.ends_with("web: snapshot \"s1\" deleted\r\n"), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_leaves_the_job_to_the_daemon_and_says_how_to_follow_and_stop_it() {
    let rig = web().await;
    let gate = rig.sim.gate(Op::Commit);
    let mut terminal = Terminal::run(&rig, &[], &["delete", "web", "s1", "--yes"]);
    held(&gate);
    terminal.until("merging vda");
    terminal.type_in("\u{3}");
    let (code, seen) = terminal.ended().await;
    assert_eq!(code, Some(130), "{seen:?}");
    let jobs = rig.client.managed().await;
    let job = jobs.keys().filter_map(|path| path.strip_prefix("/org/virtsnap1/job/")).max().unwrap();
    for words in [
        format!("{CLEAR}error: interrupted; the daemon goes on with job {job} (delete) of \"web\"\r\n"),
        format!("`virtsnap wait {job}` follows it, `virtsnap cancel {job}` stops it"),
    ] {
        assert!(seen.contains(&words), "{words:?}: {seen:?}");
    }
    // As it says: the same job, followed again.
    let mut terminal = Terminal::run(&rig, &[], &["wait", job]);
    terminal.until("merging vda");
    gate.open();
    let (code, seen) = terminal.ended().await;
    assert_eq!(code, Some(0), "{seen:?}");
    assert!(seen.ends_with(&format!("{CLEAR}web: job {job} (delete) done\r\n")), "{seen:?}");
    rig.client.until_there(&snapshot_path(id(1), "s1"), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_during_a_run_says_of_each_job_how_to_follow_and_to_stop_it() {
    let rig = Rig::start("[policy.all]\nvms = [\"*\"]\nkeep-last = 3\n", |sim| {
        sim.add_vm(VmSpec::new("web", 1));
        sim.add_vm(VmSpec::new("db", 2));
    })
    .await;
    let gate = rig.sim.gate(Op::Create);
    let mut terminal = Terminal::run(&rig, &[], &["run", "all"]);
    held(&gate);
    terminal.until("0 of 2 done");
    terminal.type_in("\u{3}");
    let (code, seen) = terminal.ended().await;
    assert_eq!(code, Some(130), "{seen:?}");
    assert!(seen.contains("error: interrupted; the daemon goes on with 2 jobs"), "{seen:?}");
    let jobs = rig.client.managed().await;
    let mut jobs: Vec<_> = jobs.keys().filter_map(|path| path.strip_prefix("/org/virtsnap1/job/")).collect();
    jobs.sort_unstable();
    for job in &jobs {
        let commands = format!(": `virtsnap wait {job}`, `virtsnap cancel {job}`\r\n");
        assert!(seen.contains(&commands), "{seen:?}");
    }
    assert!(seen.ends_with(&format!("`virtsnap wait {}` follows them all\r\n", jobs.join(" "))), "{seen:?}");
    gate.open();
    let (code, seen) = Terminal::run(&rig, &[], &[&["wait"], &jobs[..]].concat()).ended().await;
    assert_eq!(code, Some(0), "{seen:?}");
    assert_eq!(seen.matches(" taken, ").count(), 2, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_at_a_question_ends_it_with_nothing_changed() {
    let rig = web().await;
    let base = rig.sim.vm(id(1)).unwrap().disks[0].chain[0].path.clone();
    rig.sim.make_image("/images/left-over.qcow2", &base).unwrap();
    // The second asks when it has waited for the daemon's look.
    for (verb, question) in [
        (&["delete", "web", "s1"][..], "Delete snapshot \"s1\""),
        (&["adopt", "web", "--orphans"], "Put 1 file in quarantine?"),
    ] {
        let mut terminal = Terminal::run_as(&["env", "--default-signal"], &rig, &[], verb);
        terminal.until(question);
        terminal.until("? [y/N] ");
        terminal.type_in("\u{3}");
        let (code, seen) = terminal.ended().await;
        assert_eq!(code, Some(130), "{verb:?}: {seen:?}");
        assert!(seen.ends_with("\r\nerror: interrupted; nothing was changed\r\n"), "{verb:?}: {seen:?}");
    }
    assert_eq!(rig.client.snapshots(id(1)).await, ["s1", "s2"]);
    let orphans: Vec<(String, u64, u64)> = rig.client.get(&vm_path(id(1)), "VM.Orphans").await;
    assert_eq!(orphans[0].2, 0, "it is not in quarantine");
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_among_several_deletions_says_which_goes_on_and_how_many_are_left() {
    let rig = web().await;
    rig.client.create(id(1), "s3", none()).await.unwrap();
    let gate = rig.sim.gate(Op::Commit);
    let mut terminal = Terminal::run(&rig, &[], &["delete", "web", "s1", "--recursive", "--yes"]);
    held(&gate);
    terminal.until("merging vda");
    terminal.type_in("\u{3}");
    let (code, seen) = terminal.ended().await;
    assert_eq!(code, Some(130), "{seen:?}");
    let left = "snapshot \"s1\" is being deleted; 2 snapshots of \"web\" left as they are\r\n";
    assert!(seen.ends_with(left), "{seen:?}");
    gate.open();
    rig.client.until_there(&snapshot_path(id(1), "s1"), false).await;
    assert_eq!(rig.client.snapshots(id(1)).await, ["s2", "s3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_reaches_what_is_guarded_once_and_the_vm_is_put_back() {
    let rig = web().await;
    let script = "trap 'echo got' INT; echo up; read line; echo read; exit 5";
    let guard = ["guard", "web", "--keep-for", "never", "--", "sh", "-c", script];
    let mut terminal = Terminal::run_as(&["env", "--default-signal"], &rig, &[], &guard);
    terminal.until("up\r\n");
    assert!((0..4).all(|block| rig.sim.write(id(1), "vda", block, 9)));
    terminal.type_in("\u{3}");
    terminal.until("got\r\n");
    // A shell may have been told before it came to read, and waits for a line then.
    terminal.type_in("\r");
    let (code, seen) = terminal.ended().await;
    assert_eq!(seen.matches("got\r\n").count(), 1, "{seen:?}");
    assert_eq!(code, Some(5), "{seen:?}");
    assert!(seen.contains("ended with exit status 5; \"web\" was put back to snapshot"), "{seen:?}");
    assert!(rig.sim.read(id(1), "vda").unwrap().values().all(|value| *value == 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn polkit_s_agent_is_there_for_whom_a_password_may_be_asked_of_and_for_nobody_else() {
    let rig = web().await;
    let directory = rig.directory().join("bin");
    std::fs::create_dir(&directory).unwrap();
    let log = rig.directory().join("log");
    std::fs::write(&log, "").unwrap();
    let agent = directory.join("pkttyagent");
    // Registered at once; the descriptor that it closes says so.
    let script = format!(
        "#!/bin/sh\necho \"$@\" >>{0}\ntrap 'echo ended >>{0}; kill $!; exit' TERM\ntail -f /dev/null >/dev/null &\nexec \
         >/dev/null\nwait\n",
        log.display()
    );
    std::fs::write(&agent, script).unwrap();
    for (path, mode) in [(&agent, 0o755), (&log, 0o666)] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    }
    let path = format!("{}:{}", directory.display(), std::env::var("PATH").unwrap());
    let nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let said = async |through: &[&str], verb: &[&str]| {
        let terminal = Terminal::run_as(through, &rig, &[("PATH", &path)], verb);
        let (code, seen) = terminal.ended().await;
        let said = std::fs::read_to_string(&log).unwrap();
        std::fs::write(&log, "").unwrap();
        (code, said, seen)
    };
    let create = ["create", "web", "--name", "mine"];
    let (code, log, seen) = said(&nobody, &create).await;
    assert_eq!(code, Some(4), "there is no polkit on this bus: {seen}");
    let lines: Vec<&str> = log.lines().collect();
    assert!(lines[0].starts_with("--process ") && lines[0].ends_with(" --notify-fd 1 --fallback"), "{log:?}");
    assert_eq!(lines[1..], ["ended"], "{log:?}");

    let (code, log, seen) = said(&nobody, &["list"]).await;
    assert_eq!((code, log.as_str()), (Some(0), ""), "to look wants nothing: {seen}");
    let (_, log, _) = said(&nobody, &[&create[..], &["--no-ask-password"]].concat()).await;
    assert_eq!(log, "");
    let (code, log, seen) = said(&[], &create).await;
    assert_eq!((code, log.as_str()), (Some(0), ""), "root is asked nothing: {seen}");
}
