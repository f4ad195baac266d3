//! A confined VM's right to write its images, asked of a made-up systemd.

use std::{
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use tempfile::TempDir;
use virtsnap::{
    access::{self, Access, Systemd},
    apparmor::{Answer, Answers, LeftOut},
    core::model::VmId,
    daemon::Bus,
    hypervisor::{ErrorKind, Result},
};
use zbus::{ObjectPath, OwnedObjectPath, interface, object_server::SignalEmitter};

use super::rig::id;

const UNIT: &str = "/org/freedesktop/systemd1/unit/it";
const NAME: &str = "virtsnap-apparmor@00000000-0000-0000-0000-000000000001.service";

/// What it says.
#[derive(Debug, Clone)]
struct Says {
    load_state: &'static str,
    /// The name and the text of `StartUnit`'s error.
    refuses: Option<(&'static str, &'static str)>,
    /// What becomes of the job.
    result: &'static str,
    status: &'static str,
    /// What the unit puts down.
    answer: Option<&'static str>,
}

impl Default for Says {
    fn default() -> Self {
        let answer =
            Some(r#"{"may_write":["/i/a"],"left_out":[{"path":"/i/b","why":"odd","way_out":"Mend it"}]}"#);
        Self { load_state: "loaded", refuses: None, result: "done", status: "", answer }
    }
}

#[derive(Debug, zbus::DBusError)]
#[zbus(prefix = "org.freedesktop")]
enum Refusal {
    #[zbus(name = "systemd1.UnitMasked")]
    UnitMasked(String),
    #[zbus(name = "systemd1.NoSuchUnit")]
    NoSuchUnit(String),
    #[zbus(name = "DBus.Error.AccessDenied")]
    AccessDenied(String),
}

struct Manager {
    says: Says,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Manager {
    fn note(&self, what: String) {
        self.asked.lock().unwrap().push(what);
    }
}

#[interface(name = "org.freedesktop.systemd1.Manager")]
impl Manager {
    fn subscribe(&self) {
        self.note("Subscribe".to_owned());
    }

    fn load_unit(&self, name: &str) -> OwnedObjectPath {
        self.note(format!("LoadUnit {name}"));
        ObjectPath::try_from(UNIT).unwrap().into()
    }

    async fn start_unit(
        &self,
        name: &str,
        mode: &str,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> std::result::Result<OwnedObjectPath, Refusal> {
        self.note(format!("StartUnit {name} {mode}"));
        match self.says.refuses {
            Some(("UnitMasked", text)) => return Err(Refusal::UnitMasked(text.to_owned())),
            Some(("NoSuchUnit", text)) => return Err(Refusal::NoSuchUnit(text.to_owned())),
            Some((_, text)) => return Err(Refusal::AccessDenied(text.to_owned())),
            None => {}
        }
        let job = |n: u32| ObjectPath::try_from(format!("/org/freedesktop/systemd1/job/{n}")).unwrap();
        // Other people's jobs end as well, and ours may before its number is known.
        emitter.job_removed(6, job(6), "other.service", "failed").await.unwrap();
        emitter.job_removed(7, job(7), name, self.says.result).await.unwrap();
        Ok(job(7).into())
    }

    #[zbus(signal)]
    async fn job_removed(
        emitter: &SignalEmitter<'_>,
        id: u32,
        job: ObjectPath<'_>,
        unit: &str,
        result: &str,
    ) -> zbus::Result<()>;
}

struct Unit(&'static str);

#[interface(name = "org.freedesktop.systemd1.Unit")]
impl Unit {
    #[zbus(property)]
    fn load_state(&self) -> &str {
        self.0
    }
}

struct Service(&'static str);

#[interface(name = "org.freedesktop.systemd1.Service")]
impl Service {
    #[zbus(property)]
    fn status_text(&self) -> &str {
        self.0
    }
}

/// A bus on which anybody may be anything.
struct OpenBus {
    child: Child,
    directory: TempDir,
}

impl OpenBus {
    fn start() -> Self {
        use std::io::{BufRead as _, BufReader};
        let directory = tempfile::tempdir().unwrap();
        let config = format!(
            r#"<busconfig><type>session</type><listen>unix:path={}/bus</listen><auth>EXTERNAL</auth>
            <policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/>
            <allow receive_sender="*"/></policy></busconfig>"#,
            directory.path().display()
        );
        let file = directory.path().join("bus.conf");
        std::fs::write(&file, config).unwrap();
        let mut child = Command::new("dbus-daemon")
            .args(["--nofork", "--nopidfile", "--print-address"])
            .arg(format!("--config-file={}", file.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("dbus-daemon is installed");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("unix:"), "dbus-daemon did not start");
        Self { child, directory }
    }

    fn address(&self) -> String {
        format!("unix:path={}/bus", self.directory.path().display())
    }
}

impl Drop for OpenBus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// On a bus that is not there.
fn nowhere(apparmor: bool) -> Systemd {
    let bus = Bus::Address("unix:path=/nonexistent/bus".to_owned());
    Systemd::new(bus, Answers::at("/nonexistent"), apparmor)
}

/// Asks once; what came of it, and what the made-up systemd was asked.
async fn ask<T: Send + 'static>(
    says: Says,
    question: fn(&Systemd, VmId) -> Result<T>,
) -> (Result<T>, Vec<String>) {
    let bus = tokio::task::spawn_blocking(OpenBus::start).await.unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let manager = Manager { says: says.clone(), asked: Arc::clone(&asked) };
    let _systemd = zbus::connection::Builder::address(bus.address().as_str())
        .serve_at("/org/freedesktop/systemd1", manager)
        .serve_at(UNIT, Unit(says.load_state))
        .serve_at(UNIT, Service(says.status))
        .name("org.freedesktop.systemd1")
        .build()
        .await
        .unwrap();
    if let Some(answer) = says.answer {
        let path = bus.directory.path().join("00000000-0000-0000-0000-000000000001.json");
        std::fs::write(path, answer).unwrap();
    }
    let answers = Answers::at(bus.directory.path());
    let access = Systemd::new(Bus::Address(bus.address()), answers, true);
    let result = tokio::task::spawn_blocking(move || question(&access, id(1))).await.unwrap();
    let asked = asked.lock().unwrap().clone();
    (result, asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_is_there_when_its_unit_has_ended_well() {
    let (result, asked) = ask(Says::default(), Access::grant).await;
    let left_out = LeftOut { path: "/i/b".to_owned(), why: "odd".to_owned(), way_out: "Mend it".to_owned() };
    let granted = Answer { may_write: ["/i/a".to_owned()].into(), left_out: vec![left_out] };
    assert_eq!(result.unwrap(), granted);
    assert_eq!(asked, ["Subscribe".to_owned(), format!("StartUnit {NAME} replace")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_that_does_not_say_what_it_has_granted_gives_no_right() {
    for answer in [None, Some("{\"may_write\":["), Some("{\"may_write\":[]}")] {
        let error = ask(Says { answer, ..Says::default() }, Access::grant).await.0.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Denied);
        assert!(error.message.contains("cannot be read") && error.message.contains(NAME), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_out_forbids_who_writes_it_and_nobody_else() {
    let granted = ask(Says::default(), Access::grant).await.0.unwrap();
    let images = |paths: &[&str]| paths.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>();
    access::check(&granted, &images(&["/i/a"])).unwrap();
    access::check(&granted, &[]).unwrap();
    let error = access::check(&granted, &images(&["/i/a", "/i/b"])).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported, "nothing is touched by then");
    assert!(error.message.ends_with("cannot allow /i/b: odd. Mend it"), "{error}");
    // Of which nothing is said.
    assert!(access::check(&granted, &images(&["/i/c"])).unwrap_err().message.contains("/i/c"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_that_fails_gives_no_right_and_its_reason_is_told() {
    let says = Says { result: "failed", status: "no image is VM 1's alone", ..Says::default() };
    let error = ask(says, Access::grant).await.0.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied);
    assert!(error.message.contains("failed: no image is VM 1's alone"), "{error}");
    assert!(error.message.contains(&format!("journalctl -u {NAME}")), "{error}");
    for result in ["timeout", "canceled", "dependency", "skipped"] {
        let says = Says { result, ..Says::default() };
        let error = ask(says, Access::grant).await.0.unwrap_err();
        assert!(error.message.contains(result), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_masked_unit_is_seen_before_anything_is_begun_and_the_way_out_is_told() {
    let (result, asked) = ask(Says::default(), Access::possible).await;
    result.unwrap();
    assert_eq!(asked, [format!("LoadUnit {NAME}")], "nothing is started");
    for (load_state, says_so) in
        [("masked", "systemctl unmask virtsnap-apparmor@.service"), ("not-found", "not-found")]
    {
        let says = Says { load_state, ..Says::default() };
        let error = ask(says, Access::possible).await.0.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsupported);
        assert!(error.message.contains(says_so) && error.message.contains("Nothing was touched"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_systemd_refuses_is_told_with_what_to_do() {
    for (name, kind, says_so) in [
        ("UnitMasked", ErrorKind::Unsupported, "systemctl unmask"),
        ("NoSuchUnit", ErrorKind::Unsupported, "virtsnap's package has it"),
        ("AccessDenied", ErrorKind::Denied, "60-virtsnap.rules"),
    ] {
        let says = Says { refuses: Some((name, "no")), ..Says::default() };
        let error = ask(says, Access::grant).await.0.unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.message.contains(says_so), "{error}");
    }
    let access = nowhere(true);
    let error = tokio::task::spawn_blocking(move || access.grant(id(1))).await.unwrap().unwrap_err();
    assert_eq!(error.kind, ErrorKind::Failed, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_tidied_where_there_is_apparmor() {
    let (result, asked) = ask(Says::default(), |access, _| access.tidy()).await;
    result.unwrap();
    assert_eq!(asked, ["StartUnit virtsnap-apparmor-tidy.service replace"]);
    // Elsewhere nobody is asked: there is no such bus.
    let access = nowhere(false);
    tokio::task::spawn_blocking(move || access.tidy()).await.unwrap().unwrap();
}
