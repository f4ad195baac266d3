//! Completion in a real bash, zsh and fish, with the daemon on the bus and without one.

mod typed;

use std::process::Command;

use virtsnap::hypervisor::sim::VmSpec;

use super::{
    client::{none, options, soon},
    rig::{Rig, id, snapshot_path},
};

/// What bash would offer for a line that ends at the cursor: each candidate as it would be inserted.
async fn offered(address: &str, line: &str) -> Vec<String> {
    let client = env!("CARGO_BIN_EXE_virtsnap");
    // As readline does it: the line in words, broken as bash breaks them, and the cursor at its end.
    let script = r#"
        eval "$("$client" completion bash)"
        function virtsnap { "$client" "$@"; }
        COMP_LINE=$line COMP_POINT=${#line}
        eval "COMP_WORDS=($(sed 's/[:=]/ & /g' <<<"$line"))"
        [[ $line == *[[:space:]:=] ]] && COMP_WORDS+=("")
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        complete -p virtsnap >/dev/null || exit 1
        _virtsnap
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let mut command = Command::new("bash");
    command.args(["--norc", "-c", script]).env("client", client).env("line", line);
    command.env("VIRTSNAP_BUS_ADDRESS", address);
    let output = soon("bash", tokio::task::spawn_blocking(move || command.output())).await.unwrap().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && err.is_empty(), "{line:?}: {err}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn bash_completes_verbs_options_and_the_names_of_what_is_there() {
    let rig = Rig::start("[policy.nightly]\nvms = [\"web\"]\nkeep-last = 3\n", |sim| {
        sim.add_vm(VmSpec::new("web", 1));
        sim.add_vm(VmSpec::new("web two", 2));
        sim.add_vm(VmSpec::new("db", 3));
        sim.add_vm(VmSpec::new("escape\u{1b}", 4));
    })
    .await;
    for name in ["before:upgrade", "before:delete", "other"] {
        rig.client.create(id(1), name, none()).await.unwrap();
    }
    let tags = options([("tags", vec!["prod", "ticket:7"].into())]);
    rig.client.call::<_, ()>(&snapshot_path(id(1), "other"), "Snapshot.Update", &(tags,)).await.unwrap();
    let address = rig.address();
    for (line, wanted) in [
        ("virtsnap re", &["revert", "reload", "resume"][..]),
        ("virtsnap list ", &["db", "web", r"web\ two"]),
        ("virtsnap list w", &["web", r"web\ two"]),
        (r"virtsnap list web\ t", &[r"web\ two"]),
        ("virtsnap revert web o", &["other"]),
        ("virtsnap revert web --start ", &["before:upgrade", "before:delete", "other"]),
        // bash takes what follows the colon for a word of its own.
        ("virtsnap revert web before:d", &["delete"]),
        ("virtsnap revert nobody ", &[]),
        ("virtsnap run ", &["nightly"]),
        ("virtsnap run nightly --vm d", &["db"]),
        ("virtsnap resume ", &["nightly"]),
        ("virtsnap suspend nightly --vm d", &["db"]),
        ("virtsnap create web --qu", &["--quiesce"]),
        ("virtsnap create web --quiesce ", &["require", "prefer", "never"]),
        ("virtsnap create web --quiesce=n", &["never"]),
        ("virtsnap list --tr", &["--tree"]),
        ("virtsnap pin web o", &["other"]),
        ("virtsnap modify web other --untag ", &["prod", "ticket:7"]),
    ] {
        let mut offered = offered(&address, line).await;
        let mut wanted = wanted.to_vec();
        offered.sort();
        wanted.sort_unstable();
        assert_eq!(offered, wanted, "{line:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_another_machine_there_are_its_names_and_without_it_none() {
    let rig = Rig::start("", |sim| {
        sim.add_vm(VmSpec::new("web", 1));
        sim.add_vm(VmSpec::new("db", 2));
    })
    .await;
    rig.client.create(id(2), "other", none()).await.unwrap();
    std::fs::create_dir(rig.directory().join("bin")).unwrap();
    let path = format!("{}:{}", rig.directory().join("bin").display(), std::env::var("PATH").unwrap());
    let log = rig.directory().join("log");
    let script = format!(
        "#!/bin/sh\necho \"$@\" >>{}\n[ \"$7\" = far ] || exit 255\nexec systemd-stdio-bridge --bus-path={}\n",
        log.display(),
        rig.address()
    );
    let ssh = rig.directory().join("bin/ssh");
    std::fs::write(&ssh, script).unwrap();
    std::fs::set_permissions(&ssh, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    // A bus of this machine that has other names.
    let near = Rig::start("", |sim| {
        sim.add_vm(VmSpec::new("near", 3));
    })
    .await;
    let complete = async |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_virtsnap"));
        command.args(["complete", "--"]).args(words).env("PATH", &path);
        command.env("VIRTSNAP_BUS_ADDRESS", near.address());
        let run = tokio::task::spawn_blocking(move || command.output());
        let output = soon("virtsnap", run).await.unwrap().unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(complete(&["-H", "far", "list", ""]).await, ["db", "web"]);
    assert_eq!(complete(&["revert", "--host=far", "db", "o"]).await, ["other"]);
    let said = std::fs::read_to_string(&log).unwrap();
    let asked = "-xT -o BatchMode=yes -o ConnectTimeout=2 -- far systemd-stdio-bridge";
    assert!(said.lines().count() == 2 && said.lines().all(|line| line == asked), "{said}");
    assert_eq!(complete(&["-H", "away", "list", ""]).await, [] as [&str; 0]);
    assert_eq!(complete(&["-H", "far:ssh", "list", ""]).await, [] as [&str; 0]);
    assert_eq!(complete(&["list", ""]).await, ["near"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_daemon_there_are_no_names_and_no_complaints() {
    let rig = Rig::without_daemon("", |_| {}).await;
    for address in [rig.address().as_str(), "unix:path=/nonexistent"] {
        assert_eq!(offered(address, "virtsnap list ").await, [] as [&str; 0]);
        assert_eq!(offered(address, "virtsnap ex").await, ["explain"]);
    }
}

#[test]
fn a_directory_is_completed_by_the_shell_itself() {
    let run = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_virtsnap"));
        let output = command.args(["complete", "--"]).args(words).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(run(&["check", "--config-dir", "/et"]), ":files\n");
    assert!(run(&["l"]).starts_with("list\tList the VMs"));
    for (shell, line) in [
        ("bash", "complete -F _virtsnap virtsnap"),
        ("zsh", "#compdef virtsnap"),
        ("fish", "complete -c virtsnap"),
    ] {
        let script =
            Command::new(env!("CARGO_BIN_EXE_virtsnap")).args(["completion", shell]).output().unwrap();
        assert!(String::from_utf8(script.stdout).unwrap().contains(line), "{shell}");
    }
}
