//! The daemon of another machine over ssh, and how a script learns what went wrong.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    process::{Command, Output},
};

use serde_json::Value;
use virtsnap::hypervisor::{
    Error, ErrorKind,
    sim::{Op, VmSpec},
};

use super::{
    client::{none, soon},
    rig::{Rig, id},
};

async fn web() -> Rig {
    let rig = Rig::start("", |sim| {
        sim.add_vm(VmSpec::new("web", 1));
    })
    .await;
    rig.client.create(id(1), "s1", none()).await.unwrap();
    rig
}

async fn output(mut command: Command) -> (Option<i32>, String, String) {
    command.env("TZ", "UTC").env_remove("VIRTSNAP_BUS_ADDRESS");
    let run = tokio::task::spawn_blocking(move || command.output());
    let Output { status, stdout, stderr } = soon("virtsnap", run).await.unwrap().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_machine_is_reached_over_ssh_as_systemctl_does_it() {
    let rig = web().await;
    let directory = rig.directory().join("bin");
    fs::create_dir(&directory).unwrap();
    let log = rig.directory().join("log");
    // An ssh that leads to this machine's bus, over the real bridge.
    let script = format!(
        "#!/bin/sh\necho \"$@\" >>{0}\n[ \"$5\" = root@far ] || exit 255\ngrep SigIgn: /proc/self/status >{0}.ignored\nexec \
         systemd-stdio-bridge --bus-path={1}\n",
        log.display(),
        rig.address()
    );
    fs::write(directory.join("ssh"), script).unwrap();
    fs::set_permissions(directory.join("ssh"), fs::Permissions::from_mode(0o755)).unwrap();
    let far = async |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_virtsnap"));
        let path = format!("{}:{}", directory.display(), std::env::var("PATH").unwrap());
        command.args(arguments).env("PATH", path);
        output(command).await
    };
    let (code, out, err) = far(&["-H", "root@far:2222", "list", "web"]).await;
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("s1"), "{out}");
    let (code, out, err) = far(&["create", "web", "--name", "s2", "--json", "--host=root@far:2222"]).await;
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["snapshot"]["name"], "s2");
    assert_eq!(rig.client.snapshots(id(1)).await, ["s1", "s2"]);
    let (code, _, err) = far(&["-H", "root@far:2222", "modify", "web", "s2", "--description", "d"]).await;
    assert_eq!(code, Some(0), "{err}");
    // With the way there its own way back would be gone: INT, HUP and QUIT.
    let guard =
        ["-H", "root@far:2222", "guard", "web", "--keep-for", "never", "--no-rollback", "--", "false"];
    let (code, _, err) = far(&guard).await;
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("`virtsnap -H root@far:2222 revert web "), "what is pasted acts there: {err}");
    let ignored = fs::read_to_string(log.with_extension("ignored")).unwrap();
    let mask = ignored.strip_prefix("SigIgn:").unwrap().trim();
    assert_eq!(u64::from_str_radix(mask, 16).unwrap() & 0b111, 0b111, "{ignored}");
    let (_, _, err) = far(&["-H", "root@far:2222", "show", "nobody"]).await;
    assert!(err.contains("hint: `virtsnap -H root@far:2222 list` shows"), "{err}");
    let said = fs::read_to_string(&log).unwrap();
    assert!(said.lines().all(|line| line == "-xT -p 2222 -- root@far systemd-stdio-bridge"), "{said}");

    let (code, _, err) = far(&["-H", "root@nowhere:22", "list"]).await;
    assert_eq!(code, Some(5), "{err}");
    assert!(
        err.contains("cannot reach D-Bus on \"root@nowhere:22\"")
            && err.contains("hint: does `ssh -p 22 root@nowhere systemd-stdio-bridge` work"),
        "{err}"
    );
    assert_eq!(far(&["-H", "far:ssh", "list"]).await.0, Some(2));
    // What asks no daemon would be about this machine.
    for verb in [&["check"][..], &["simulate"], &["completion", "bash"]] {
        let (code, out, err) = far(&[&["-H", "root@far:2222"], verb].concat()).await;
        assert_eq!((code, out.as_str()), (Some(2), ""), "{verb:?}: {err}");
        assert!(err.contains(&format!("`ssh -p 2222 root@far virtsnap {}`", verb[0])), "{err}");
    }
    assert_eq!(far(&["-H", "far", "--system", "list"]).await.0, Some(2));
}

/// An exit status; through which program, and with which verb, it is reached; the error's name; what is arranged before.
type Case<'a> = (u8, &'a [&'a str], &'a [&'a str], &'a str, &'a dyn Fn());

#[tokio::test(flavor = "multi_thread")]
async fn each_exit_status_is_reached_and_a_script_reads_why() {
    let rig = web().await;
    let address = rig.address();
    let run = async |through: &[&str], arguments: &[&str]| {
        let all = [through, &[env!("CARGO_BIN_EXE_virtsnap"), "--bus-address", &address], arguments].concat();
        let mut command = Command::new(all[0]);
        command.args(&all[1..]);
        output(command).await
    };
    let nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let no_room = || rig.sim.fail_next(Op::Create, Error::new(ErrorKind::NoSpace, "No space left on device"));
    let hide = || rig.sim.block_job(id(1), true).unwrap();
    let nothing = || {};
    let cases: [Case<'_>; 8] = [
        (0, &[], &["list"], "", &nothing),
        (1, &[], &["cancel", "1"], "org.virtsnap1.Error.NotCancelable", &nothing),
        (2, &[], &["revert", "web", "s1"], "", &nothing),
        (3, &[], &["show", "nobody"], "org.virtsnap1.Error.NoSuchVM", &nothing),
        (4, &nobody, &["create", "web"], "org.freedesktop.DBus.Error.AccessDenied", &nothing),
        (5, &[], &["list", "--bus-address=unix:path=/nonexistent"], "", &nothing),
        (6, &[], &["create", "web"], "org.virtsnap1.Error.NoSpace", &no_room),
        (75, &[], &["revert", "web", "s1", "--yes"], "org.virtsnap1.Error.Busy", &hide),
    ];
    for (wanted, through, verb, name, before) in cases {
        before();
        if wanted != 5 {
            let (code, _, err) = run(through, verb).await;
            assert_eq!(code, Some(wanted.into()), "{verb:?}: {err}");
            assert!(wanted == 0 || err.contains("error: "), "{verb:?}: {err}");
        }
        before();
        let verb = [verb, &["--json"]].concat();
        let (code, _, err) = if wanted == 5 {
            let mut command = Command::new(env!("CARGO_BIN_EXE_virtsnap"));
            command.args(&verb);
            output(command).await
        } else {
            run(through, &verb).await
        };
        assert_eq!(code, Some(wanted.into()), "{verb:?}: {err}");
        if wanted == 0 {
            assert_eq!(err, "");
            continue;
        }
        let error: Value = serde_json::from_str(&err).unwrap_or_else(|_| panic!("{verb:?}: {err:?}"));
        let error = &error["error"];
        assert!(!error["message"].as_str().unwrap().is_empty(), "{error}");
        assert_eq!(error["name"].as_str().unwrap_or_default(), name, "{error}");
        assert_eq!(error["exit_status"], wanted, "{error}");
    }
    // What cannot even be read as a command line.
    let (code, _, err) = run(&[], &["list", "--no-such-option", "--json"]).await;
    let error: Value = serde_json::from_str(&err).unwrap();
    assert_eq!((code, &error["error"]["exit_status"]), (Some(2), &2.into()), "{error}");
    assert_eq!(error["error"]["message"], "unexpected argument '--no-such-option' found");
    assert!(error["error"]["hint"].as_str().unwrap().contains("Usage: virtsnap list"), "{error}");
    let (_, _, err) = run(&[], &["show", "--json"]).await;
    let error: Value = serde_json::from_str(&err).unwrap();
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.ends_with("not provided:\n  <VM>") && !message.starts_with("error"), "{error}");
}
