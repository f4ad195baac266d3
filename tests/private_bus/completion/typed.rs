//! Lines as people type them at a shell's prompt, and which words the shell makes of them after a tab.

use virtsnap::hypervisor::sim::VmSpec;

use super::super::{
    client::none,
    rig::{Rig, id},
    terminal::Terminal,
};

/// Of all that shells take for something else.
const HARD: &str = r#"so! "it's" $x:y \z `w`"#;

const VMS: [&str; 9] = ["db", "web", "my vm", "it's", "a\"b", "$cash", "far:away", "web@host", HARD];

/// Lines up to the cursor, and what the shell takes them for once they are completed.
const LINES: [(&str, &[&str]); 40] = [
    ("virtsnap time", &["time-travel"]),
    ("virtsnap list d", &["list", "db"]),
    ("virtsnap list nobody", &["list", "nobody"]),
    ("virtsnap run ni", &["run", "nightly"]),
    ("virtsnap create db --quiesce pre", &["create", "db", "--quiesce", "prefer"]),
    ("virtsnap create db --quiesce=pre", &["create", "db", "--quiesce=prefer"]),
    ("virtsnap revert db before:u", &["revert", "db", "before:upgrade"]),
    ("virtsnap list m", &["list", "my vm"]),
    (r"virtsnap list my\ ", &["list", "my vm"]),
    (r#"virtsnap list "my "#, &["list", "my vm"]),
    (r#"virtsnap list "my vm""#, &["list", "my vm"]),
    ("virtsnap list 'my v", &["list", "my vm"]),
    ("virtsnap list it", &["list", "it's"]),
    (r"virtsnap list it\'", &["list", "it's"]),
    (r#"virtsnap list "it'"#, &["list", "it's"]),
    ("virtsnap list 'it", &["list", "it's"]),
    ("virtsnap list a", &["list", "a\"b"]),
    (r#"virtsnap list a\""#, &["list", "a\"b"]),
    (r#"virtsnap list "a\""#, &["list", "a\"b"]),
    (r#"virtsnap list 'a""#, &["list", "a\"b"]),
    (r"virtsnap list \$c", &["list", "$cash"]),
    (r#"virtsnap list "\$c"#, &["list", "$cash"]),
    ("virtsnap list '$c", &["list", "$cash"]),
    ("virtsnap list far:", &["list", "far:away"]),
    (r"virtsnap list far\:a", &["list", "far:away"]),
    (r#"virtsnap list "far:"#, &["list", "far:away"]),
    ("virtsnap list 'far:a", &["list", "far:away"]),
    ("virtsnap list web@", &["list", "web@host"]),
    ("virtsnap list 'web@", &["list", "web@host"]),
    ("virtsnap list so", &["list", HARD]),
    (r#"virtsnap list "so"#, &["list", HARD]),
    ("virtsnap list 'so", &["list", HARD]),
    (r#"virtsnap revert "my vm" "#, &["revert", "my vm", "the \"first\""]),
    (r"virtsnap revert my\ vm t", &["revert", "my vm", "the \"first\""]),
    ("virtsnap revert 'my vm' 'the ", &["revert", "my vm", "the \"first\""]),
    (r#"virtsnap revert 'a"b' "#, &["revert", "a\"b", "it's $1:2"]),
    (r#"virtsnap revert a\"b "it's \$1:"#, &["revert", "a\"b", "it's $1:2"]),
    (r#"virtsnap revert a\"b it\'s\ \$1:"#, &["revert", "a\"b", "it's $1:2"]),
    ("virtsnap revert far:away ", &["revert", "far:away", "only:one"]),
    ("virtsnap check --config-dir all", &["check", "--config-dir", "all policies/"]),
];

/// A shell, how it is started, and what makes it ready: `words` is what shows the words that it is called with.
struct Shell {
    start: &'static [&'static str],
    ready: &'static str,
}

const BASH: Shell = Shell {
    start: &["bash", "--norc", "-i"],
    ready: "words() { printf '<%s>' \"$@\"; echo; echo end$((1 + 1)); }\r\
        eval \"$(virtsnap completion bash)\"; cd; echo ready$((1 + 1))\r",
};

const ZSH: Shell = Shell {
    start: &["zsh", "-f", "-i"],
    ready: "words() { printf '<%s>' \"$@\"; echo; echo end$((1 + 1)); }; bindkey -e\r\
        setopt no_auto_remove_slash; autoload -U compinit; compinit -u -D\r\
        eval \"$(virtsnap completion zsh)\"; cd; echo ready$((1 + 1))\r",
};

const FISH: Shell = Shell {
    start: &["fish", "--no-config", "-i"],
    ready: "function words; printf '<%s>' $argv; echo; echo end(math 1 + 1); end\r\
        virtsnap completion fish | source; cd; echo ready(math 1 + 1)\r",
};

async fn with_names() -> Rig {
    let rig = Rig::start("[policy.nightly]\nvms = [\"db\"]\nkeep-last = 3\n", |sim| {
        for (name, number) in VMS.iter().zip(1..) {
            sim.add_vm(VmSpec::new(name, number));
        }
        for (number, name) in [(3, "the \"first\""), (5, "it's $1:2"), (7, "only:one")] {
            sim.make_foreign_snapshot(id(number), name).unwrap();
        }
    })
    .await;
    for name in ["before:upgrade", "other"] {
        rig.client.create(id(1), name, none()).await.unwrap();
    }
    // Shells ask the program that is called so.
    let directory = rig.directory().join("bin");
    std::fs::create_dir(&directory).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_virtsnap"), directory.join("virtsnap")).unwrap();
    std::fs::create_dir(rig.directory().join("all policies")).unwrap();
    rig
}

async fn completes(shell: &Shell) {
    let rig = with_names().await;
    let (address, home) = (rig.address(), rig.directory().display().to_string());
    let path = format!("{home}/bin:{}", std::env::var("PATH").unwrap());
    let environment = [
        ("PATH", path.as_str()),
        ("VIRTSNAP_BUS_ADDRESS", &address),
        ("HOME", &home),
        ("ZDOTDIR", &home),
        ("HISTFILE", ""),
        ("TERM", "dumb"),
    ];
    let mut terminal = Terminal::start(shell.start, &environment);
    terminal.type_in(shell.ready);
    terminal.next("ready2\r\n");
    for (line, wanted) in LINES {
        // Completed, then given to what shows its words.
        terminal.type_in(&format!("{line}\t\u{1}words \r"));
        let shown = terminal.next("end2\r\n");
        let words = format!("<virtsnap><{}>", wanted.join("><"));
        let answer = shown.split(['\r', '\n']).find(|line| line.starts_with("<virtsnap>"));
        assert_eq!(answer, Some(words.as_str()), "{line:?}: {shown:?}");
    }
    terminal.type_in("exit\r");
    terminal.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bash_completes_what_is_typed_at_it() {
    completes(&BASH).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn zsh_completes_what_is_typed_at_it() {
    completes(&ZSH).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fish_completes_what_is_typed_at_it() {
    completes(&FISH).await;
}
