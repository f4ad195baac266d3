//! The client's verbs on a real guest, in one pass: what each says and its exit status, and what virsh and the guest say
//! of it.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod harness;

use std::time::Duration;

use harness::{Daemon, Guest, GuestSpec, Output, Testbed, wait_for};
use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(60);

struct Scene<'a> {
    tb: &'a Testbed,
    guest: &'a Guest,
    daemon: &'a Daemon<'a>,
}

impl Scene<'_> {
    /// What the client says; it must succeed.
    fn ok(&self, verb: &str) -> String {
        self.daemon.ok(verb)
    }

    /// What the client says; it must end so, and say this.
    fn fails(&self, verb: &str, (status, words): (i32, &str)) {
        let out = self.daemon.client(verb);
        assert_eq!(out.status, status, "virtsnap {verb}: {out}");
        assert!(
            format!("{}{}", out.stdout, out.stderr).contains(words),
            "virtsnap {verb}: no {words:?}: {out}"
        );
    }

    /// The names of the snapshots that virsh shows, the oldest first.
    fn snapshots(&self) -> Vec<String> {
        let list = self.tb.ok("virsh snapshot-list web1 --name --topological");
        list.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    /// What the client knows of a snapshot.
    fn snapshot(&self, name: &str) -> Value {
        let all = self.daemon.json("list web1");
        let all = all["snapshots"].as_array().unwrap();
        all.iter().find(|s| s["name"] == name).unwrap_or_else(|| panic!("no {name} in {all:?}")).clone()
    }

    /// The guest writes this.
    fn mark(&self, text: &str) {
        self.guest.exec(&format!("echo {text} >/mnt/vda/mark; sync"));
    }

    /// Guards a command during which the guest writes this, and which ends with this status.
    fn guarded(&self, text: &str, status: u8) -> Output {
        self.tb.ok("rm -f /var/tmp/begun /var/tmp/written");
        let command =
            format!("touch /var/tmp/begun; until [ -e /var/tmp/written ]; do sleep 0.1; done; exit {status}");
        let guard = format!("virtsnap guard web1 --operation upgrade -- sh -c '{command}'");
        std::thread::scope(|scope| {
            let guarded = scope.spawn(|| self.tb.sh_within(2 * DEADLINE, &guard));
            wait_for(DEADLINE, "the command is run", || {
                self.tb.sh("test -e /var/tmp/begun").success().then_some(())
            });
            self.mark(text);
            self.tb.ok("touch /var/tmp/written");
            guarded.join().unwrap()
        })
    }

    /// What the guest reads, which may boot.
    fn marked(&self) -> String {
        self.guest.wait_counting("vda", 1);
        self.guest.exec("cat /mnt/vda/mark")
    }
}

fn shows_what_there_is(s: &Scene<'_>) {
    for (verb, words) in [
        ("list", "web1"),
        ("status", "web1"),
        ("policies", "hand"),
        ("explain web1", "hand"),
        ("check", "hand"),
        ("show web1", s.guest.uuid()),
    ] {
        let said = s.ok(verb);
        assert!(said.contains(words), "{verb}: {said}");
    }
    s.fails("show web1 nothing-of-that-name", (3, "nothing-of-that-name"));
    s.fails("list nobody", (3, "nobody"));
}

fn takes(s: &Scene<'_>) {
    s.mark("one");
    s.ok("create web1 --name s1 --description first --tag t1 --expires 30d --quiesce require");
    let s1 = s.snapshot("s1");
    assert_eq!((&s1["consistency"], &s1["description"]), (&"filesystem".into(), &"first".into()), "{s1}");
    assert_eq!(s1["tags"], serde_json::json!(["t1"]), "{s1}");
    assert!(s1["expires"].is_string() && s1["frozen_usec"].as_u64() > Some(0), "{s1}");
    for (name, text) in [("s2", "two"), ("s3", "three")] {
        s.mark(text);
        s.ok(&format!("create web1 --name {name}"));
    }
    s.fails("create web1 --name s3", (1, "s3"));
    assert_eq!(s.snapshots(), ["theirs", "s1", "s2", "s3"]);
    let tree = s.ok("list web1 --tree");
    let places: Vec<_> = ["theirs", "s1", "s2", "s3"].map(|name| tree.find(name)).into();
    assert!(places.is_sorted() && places[0].is_some(), "{tree}");
    let timeline = s.ok("list web1 --timeline");
    let places: Vec<_> = ["s3", "s2", "s1", "theirs"].map(|name| timeline.find(name)).into();
    assert!(places.is_sorted() && places[0].is_some(), "{timeline}");
    assert_eq!(s.daemon.json("list web1")["snapshots"].as_array().unwrap().len(), 4);
}

fn labels(s: &Scene<'_>) {
    s.ok("modify web1 s1 --description again --tag t2 --untag t1 --expires never");
    let s1 = s.snapshot("s1");
    assert_eq!((&s1["description"], &s1["expires"]), (&"again".into(), &Value::Null), "{s1}");
    assert_eq!(s1["tags"], serde_json::json!(["t2"]), "{s1}");
    assert!(s.tb.ok("virsh snapshot-dumpxml web1 s1").contains("<description>again"));
    s.ok("pin web1 s2 --reason 'the audit'");
    assert!(s.ok("list web1 --pinned").contains("s2"));
    s.fails("delete web1 s2 --yes", (1, "the audit"));
    s.ok("unpin web1 s2");
    s.ok("delete web1 s2 --yes");
    assert_eq!(
        (s.snapshots(), s.marked()),
        (["theirs", "s1", "s3"].map(str::to_owned).to_vec(), "three".into())
    );
}

fn prunes(s: &Scene<'_>) {
    s.fails("delete web1 theirs --yes", (1, "adopt"));
    let run = s.daemon.json("run hand");
    assert_eq!(run["jobs"][0]["result"], "done", "{run}");
    s.ok("adopt web1 theirs --policy hand --yes");
    assert_eq!(s.snapshot("theirs")["managed"], true);
    let plan = s.ok("plan web1");
    let goes = plan.lines().find(|line| line.contains("theirs")).unwrap();
    assert!(goes.starts_with("delete"), "{plan}");
    assert!(s.ok("plan --policy hand").contains("web1"));
    s.ok("prune web1 --yes");
    let left = s.snapshots();
    assert_eq!(
        (left.len(), &left[..2]),
        (3, &["s1", "s3"].map(str::to_owned)[..]),
        "what the plan said: {plan}"
    );
    s.ok("delete web1 s3 --recursive --yes");
    assert_eq!((s.snapshots(), s.marked()), (vec!["s1".to_owned()], "three".into()));

    s.ok("suspend hand --reason 'the move'");
    assert_eq!(s.daemon.json("policies")["policies"][0]["suspended_reason"], "the move");
    s.ok("resume hand");
    assert_eq!(s.daemon.json("policies")["policies"][0]["suspended"], false);
}

fn branches(s: &Scene<'_>) {
    s.ok("branch web1 s1 trial");
    assert_eq!(s.tb.ok("virsh domstate trial").trim(), "shut off");
    let lies_on = || {
        let image = s.tb.ok("virsh -q domblklist trial | awk '{print $2}'");
        s.tb.ok(&format!("qemu-img info -U --backing-chain {image} | grep -c ^image:")).trim().to_owned()
    };
    assert_ne!(lies_on(), "1");
    s.fails("delete web1 s1 --yes", (6, "trial"));

    // So slow that it never ends by itself.
    let job = s.daemon.json("promote trial --bandwidth 1KiB --no-wait")["job"]["id"].as_u64().unwrap();
    wait_for(DEADLINE, "it copies", || s.ok("jobs").contains("copying vda").then_some(()));
    assert!(s.ok(&format!("cancel {job} --yes")).contains("cancelled"));
    let jobs = s.daemon.json("jobs");
    let cancelled = jobs["jobs"].as_array().unwrap().iter().find(|j| j["id"] == job).unwrap();
    assert_eq!(cancelled["result"], "cancelled", "{cancelled}");
    s.ok("promote trial");
    assert_eq!(lies_on(), "1");
    s.tb.ok("virsh -q undefine trial");
}

fn goes_back(s: &Scene<'_>) {
    s.fails("revert web1 s1", (2, "--yes"));
    let back = s.ok("revert web1 s1 --start --yes");
    let safety = s.snapshots().into_iter().find(|name| name != "s1").unwrap();
    assert!(back.contains(&safety), "the way back is named: {back}");
    assert_eq!((s.guest.state().as_str(), s.marked().as_str()), ("running", "one"));

    s.guest.wait_agent();
    let well = s.guarded("upgraded", 0);
    assert_eq!(well.status, 0, "{well}");
    assert_eq!(s.marked(), "upgraded");
    let broken = s.guarded("broken", 7);
    assert!(broken.status == 7 && broken.stderr.contains("put back"), "{broken}");
    assert_eq!((s.guest.state().as_str(), s.marked().as_str()), ("running", "upgraded"));

    let then = s.snapshot("s1")["created"].as_str().unwrap().to_owned();
    let there = s.ok(&format!("time-travel web1 --to {then} --off --yes"));
    assert!(there.contains("s1"), "{there}");
    assert_eq!(s.guest.state(), "shut off");
    let image = s.guest.image("vda");
    let copy = "/var/tmp/travelled.raw";
    s.tb.ok(&format!("qemu-img convert -q -O raw {image} {copy}"));
    assert_eq!(s.tb.ok(&format!("debugfs -R 'cat /mark' {copy}")).trim(), "one");
    s.ok("revert web1 s1 --paused --no-safety --yes");
    assert_eq!(s.guest.state(), "paused");
}

/// A machine that is reached over ssh, which is this one.
fn reaches_over_ssh(s: &Scene<'_>) {
    s.tb.ok("mkdir -p /run/sshd && install -d -m 700 /root/.ssh && cd /root/.ssh && ssh-keygen -q -t ed25519 -N '' -f id_ed25519 \
         && cp id_ed25519.pub authorized_keys && systemd-run -q --unit far /usr/sbin/sshd -D -p 2222 -o ListenAddress=127.0.0.1");
    wait_for(DEADLINE, "sshd answers", || {
        s.tb.sh("ssh-keyscan -p 2222 127.0.0.1 >/root/.ssh/known_hosts 2>/dev/null && test -s /root/.ssh/known_hosts").success().then_some(())
    });
    let far = "-H root@127.0.0.1:2222";
    assert!(s.ok(&format!("{far} list web1")).contains("s1"));
    s.ok(&format!("{far} create web1 --name from-afar --quiesce never"));
    s.ok(&format!("{far} delete web1 from-afar --yes"));
    s.fails(&format!("{far} show web1 from-afar"), (3, "from-afar"));
    s.fails("-H nobody-there@127.0.0.1:2222 list", (5, "nobody-there"));
    s.tb.ok("systemctl stop far");
}

/// What libvirt has written of the memory. It is as good as done at once, so its helper that writes is held meanwhile.
fn says_how_much_of_a_memory_is_written(s: &Scene<'_>) {
    let hold = "until pkill -STOP -x libvirt_iohelpe; do :; done";
    s.tb.ok(&format!("setsid timeout 60 sh -c '{hold}' >/dev/null 2>&1 &"));
    let job =
        s.daemon.json("create web1 --name full --memory require --no-wait")["job"]["id"].as_u64().unwrap();
    let now = || {
        let jobs = s.daemon.json("jobs");
        jobs["jobs"].as_array().unwrap().iter().find(|j| j["id"] == job).unwrap().clone()
    };
    let told = wait_for(DEADLINE, "how much there is to write is told", || {
        let job = now();
        (job["bytes_total"].as_u64() > Some(0)).then_some(job)
    });
    assert_eq!((&told["phase"], &told["state"]), (&"saving the memory".into(), &"running".into()), "{told}");
    assert!(told["bytes_done"].as_u64() < told["bytes_total"].as_u64(), "{told}");
    s.tb.ok("pkill -CONT -x libvirt_iohelpe");
    let done = wait_for(DEADLINE, "it goes on", || (now()["state"] == "done").then(now));
    assert_eq!(done["result"], "done", "{done}");
    let full = s.snapshot("full");
    assert_eq!((&full["content"], &full["consistency"]), (&"full".into(), &"memory".into()), "{full}");
}

harness::on_both! {
    /// See the module.
    fn each_verb_does_what_it_says(tb) {
        let guest = tb.guest(GuestSpec::named("web1"));
        guest.wait_agent();
        guest.virsh("snapshot-create-as {} theirs --disk-only --atomic");
        let daemon = Daemon::running(tb, "
            [policy.hand]
            vms = [\"web*\"]
            schedule = \"0 0 1 1 *\"
            before = \"upgrade\"
            keep-last = 1
        ");
        let scene = Scene { tb, guest: &guest, daemon: &daemon };
        tb.ok("systemd-run -q --unit watching sh -c 'exec virtsnap watch web1 --json >/var/tmp/seen'");
        shows_what_there_is(&scene);
        takes(&scene);
        labels(&scene);
        prunes(&scene);
        branches(&scene);
        goes_back(&scene);
        reaches_over_ssh(&scene);
        // Whenever it began to listen: it does by now.
        wait_for(DEADLINE, "what happens is shown", || {
            scene.ok("pin web1 s1 --reason 'to be seen' && virtsnap unpin web1 s1");
            tb.ok("cat /var/tmp/seen").contains("to be seen").then_some(())
        });
        tb.ok("systemctl kill -s INT watching && while systemctl is-active -q watching; do :; done");
        assert!(!tb.sh("systemctl is-failed -q watching").success(), "an end that a person wants is no failure");
        assert_eq!(scene.daemon.client("status").status, 0, "all is well at the end");
    }

    /// libvirt tells only who asks while it writes.
    fn how_much_of_a_memory_is_written_is_told(tb) {
        let guest = tb.guest(GuestSpec::named("web1"));
        guest.wait_agent();
        let daemon = Daemon::running(tb, "");
        says_how_much_of_a_memory_is_written(&Scene { tb, guest: &guest, daemon: &daemon });
    }
}
