//! One file as it is written: its tables, each key read, nothing put together yet.

use std::{
    collections::BTreeMap,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::Arc,
};

use toml::de::DeTable;

use super::{
    Environment,
    diagnostic::{Diagnostic, Diagnostics, Place, SourceFile, quoted},
    item::{Item, items},
    keys::{Given, Key, NAMES, Scope, refuse_per_vm, timezone},
    names,
    settings::{Daemon, MinFree, VmKey},
    values::{self, ValueError},
};
use crate::core::{model::PolicyName, policy::Source};

const TOP: &[&str] = &["daemon", "policy", "vm"];
pub(super) const DAEMON: &[&str] = &[
    "uri",
    "timezone",
    "max-jobs",
    "max-frozen",
    "min-free",
    "max-chain",
    "metrics-textfile",
    "hooks",
    "hooks-frozen",
];
const VM: &[&str] = &["disks", "max-size", "policy"];
/// More jobs than this are no help on any host.
const JOBS_MAX: u32 = 1024;
/// A base, one snapshot that stays and the next one; and what libvirt can start.
const CHAIN: RangeInclusive<u32> = 3..=25;

/// Keys by their name.
pub(super) type Keys = BTreeMap<&'static str, Given>;

/// A `[policy.NAME]`.
#[derive(Debug)]
pub(super) struct PolicyFragment {
    pub(super) name: PolicyName,
    pub(super) place: Place,
    pub(super) keys: Keys,
    /// True if a part of it could not be read: nothing is concluded from what is missing then.
    pub(super) broken: bool,
}

/// What a `[vm.KEY]` says, each with its place.
#[derive(Debug)]
pub(super) struct VmFragment {
    pub(super) key: VmKey,
    pub(super) place: Place,
    pub(super) disks: Option<(Vec<String>, Place)>,
    pub(super) max_size: Option<(u64, Place)>,
    /// By policy: where its name stands, and its exceptions.
    pub(super) exceptions: Vec<(PolicyName, Place, Keys)>,
}

/// A file.
#[derive(Debug, Default)]
pub(super) struct Fragment {
    /// `[daemon]`, and where it says what.
    pub(super) daemon: Option<Daemon>,
    pub(super) policies: Vec<PolicyFragment>,
    pub(super) vms: Vec<VmFragment>,
    /// True if policies may stand in it that could not be read.
    pub(super) broken: bool,
}

/// What kind of file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// `virtsnapd.toml`: may have `[daemon]`.
    Main,
    /// A file of `policies.d`.
    DropIn,
}

impl Fragment {
    /// Reads a file's text.
    pub(super) fn parse(
        file: &Arc<SourceFile>,
        kind: FileKind,
        environment: &Environment,
        out: &mut Diagnostics,
    ) -> Self {
        let mut fragment = Self::default();
        let Some(table) = document(file, out) else {
            // What was guessed of the rest would only bring follow-up errors.
            return Self { broken: true, ..fragment };
        };
        for item in items(file, &table) {
            match item.key() {
                "daemon" if kind == FileKind::DropIn => out.push(
                    Diagnostic::error(&item.key_place(), "[daemon] belongs in virtsnapd.toml")
                        .help("a file of policies.d may have [policy.*] and [vm.*]"),
                ),
                "daemon" => fragment.daemon = daemon(&item, environment, out),
                "policy" => fragment.policies(&item, environment, out),
                "vm" => fragment.vms(&item, environment, out),
                _ => item.unknown("a configuration file", TOP, out),
            }
        }
        fragment
    }

    fn policies(&mut self, item: &Item<'_>, environment: &Environment, out: &mut Diagnostics) {
        let Some(table) = item.table("tables [policy.NAME]", out) else {
            self.broken = true;
            return;
        };
        for item in items(item.file, table) {
            let before = out.errors();
            let Some(name) = policy_name(&item, out) else {
                self.broken = true;
                continue;
            };
            let Some(table) = item.table(&format!("a table [policy.{name}]"), out) else {
                self.broken = true;
                continue;
            };
            let what = format!("[policy.{name}]");
            let keys = policy_keys(item.file, table, &what, Scope { environment, exception: false }, out);
            let broken = out.errors() > before;
            self.policies.push(PolicyFragment { name, place: item.key_place(), keys, broken });
        }
    }

    fn vms(&mut self, item: &Item<'_>, environment: &Environment, out: &mut Diagnostics) {
        let Some(table) = item.table("tables [vm.NAME]", out) else { return };
        for item in items(item.file, table) {
            let place = item.key_place();
            if item.key().is_empty() {
                out.push(Diagnostic::error(&place, "no VM has an empty name"));
                continue;
            }
            let what = format!("[vm.{}]", place.text());
            let Some(table) = item.table(&format!("a table {what}"), out) else { continue };
            let mut vm = VmFragment {
                key: VmKey::new(item.key()),
                place,
                disks: None,
                max_size: None,
                exceptions: Vec::new(),
            };
            for item in items(item.file, table) {
                match item.key() {
                    "disks" => vm.disks = disks(&item, out).map(|list| (list, item.place())),
                    "max-size" => vm.max_size = item.size(out).map(|size| (size, item.place())),
                    "policy" => vm.exceptions = exceptions(&item, environment, out),
                    key if Key::find(key).is_some_and(|key| key.not_per_vm.is_none()) => out.push(
                        Diagnostic::error(&item.key_place(), format!("`{key}` is a policy's key"))
                            .help(format!("say of which policy: `policy.NAME.{key} = …`")),
                    ),
                    _ => item.unknown(&what, VM, out),
                }
            }
            self.vms.push(vm);
        }
    }
}

/// A file as TOML, if it is.
pub(super) fn document<'a>(file: &'a Arc<SourceFile>, out: &mut Diagnostics) -> Option<DeTable<'a>> {
    let (document, errors) = DeTable::parse_recoverable(&file.text);
    let mut errors: Vec<_> =
        errors.iter().map(|e| (Place::new(file, e.span().unwrap_or(0..0)), e.message())).collect();
    if errors.is_empty() {
        return Some(document.into_inner());
    }
    errors.sort_by_key(|(place, _)| place.span.start);
    let mut last = None;
    for (place, message) in errors {
        let line = file.line(place.span.start);
        // One missing bracket makes several of what follows it.
        if last.is_none_or(|last| line > last + 1) {
            out.push(Diagnostic::error(&place, message));
        }
        last = Some(line);
    }
    None
}

/// The keys of one policy, wherever they stand.
pub(super) fn policy_keys(
    file: &Arc<SourceFile>,
    table: &DeTable<'_>,
    what: &str,
    scope: Scope<'_>,
    out: &mut Diagnostics,
) -> Keys {
    let mut keys = Keys::new();
    for item in items(file, table) {
        match Key::find(item.key()) {
            Some(Key { not_per_vm: Some(why), .. }) if scope.exception => refuse_per_vm(&item, why, out),
            Some(key) => {
                if let Some(given) = key.read(&item, scope, out) {
                    keys.insert(key.name, given);
                }
            }
            None => item.unknown(what, NAMES, out),
        }
    }
    keys
}

fn policy_name(item: &Item<'_>, out: &mut Diagnostics) -> Option<PolicyName> {
    match item.key().parse() {
        Ok(name) => Some(name),
        Err(error) => {
            let mut diagnostic = Diagnostic::error(
                &item.key_place(),
                format!("{} cannot be a policy's name: {error}", quoted(item.key())),
            )
            .help("ASCII letters, digits, `-` and `_`, at most 64");
            if item.key().contains('.') {
                diagnostic = diagnostic.label("the dot is part of the name here");
            }
            out.push(diagnostic);
            None
        }
    }
}

fn exceptions(
    item: &Item<'_>,
    environment: &Environment,
    out: &mut Diagnostics,
) -> Vec<(PolicyName, Place, Keys)> {
    let Some(table) = item.table("`policy.NAME.KEY = …`", out) else { return Vec::new() };
    let mut all = Vec::new();
    for item in items(item.file, table) {
        let Some(name) = policy_name(&item, out) else { continue };
        let Some(table) = item.table("a table of keys: `policy.NAME.KEY = …`", out) else { continue };
        let what = format!("the exceptions to policy {name}");
        let keys = policy_keys(item.file, table, &what, Scope { environment, exception: true }, out);
        all.push((name, item.key_place(), keys));
    }
    all
}

fn disks(item: &Item<'_>, out: &mut Diagnostics) -> Option<Vec<String>> {
    let list = item.texts("a list of disk targets such as [\"vda\"]", names::disk, out)?;
    if list.is_empty() {
        out.push(item.error("`disks` names no disk").help("omit it for all writable disks"));
        return None;
    }
    Some(list.into_iter().map(|(disk, _)| disk).collect())
}

fn daemon(item: &Item<'_>, environment: &Environment, out: &mut Diagnostics) -> Option<Daemon> {
    let table = item.table("a table [daemon]", out)?;
    let mut daemon = Daemon::defaults(environment);
    for item in items(item.file, table) {
        match item.key() {
            "uri" => set(&mut daemon.uri, item.text("a libvirt URI such as \"qemu:///system\"", uri, out)),
            "timezone" => set(&mut daemon.timezone, timezone(&item, environment, out)),
            "max-jobs" => set(&mut daemon.max_jobs, item.number(1..=JOBS_MAX, None, out)),
            "max-frozen" if item.is_word("cores") => daemon.max_frozen = environment.cores.max(1),
            "max-frozen" => set(&mut daemon.max_frozen, item.number(1..=JOBS_MAX, None, out)),
            "min-free" => {
                set(&mut daemon.min_free, item.text("\"10%\" or a size such as \"5GiB\"", min_free, out));
            }
            "max-chain" => set(&mut daemon.max_chain, item.number(CHAIN, None, out)),
            "metrics-textfile" if item.is_word("off") => daemon.metrics_textfile = None,
            "metrics-textfile" => {
                let path = item.text("a path such as \"/run/virtsnap/virtsnap.prom\", or \"off\"", path, out);
                if let Some(path) = &path
                    && path.extension().is_none_or(|extension| extension != "prom")
                {
                    out.push(
                        Diagnostic::warning(
                            &item.place(),
                            "node_exporter only reads files that end in `.prom`",
                        )
                        .help("name it virtsnap.prom"),
                    );
                }
                set(&mut daemon.metrics_textfile, path.map(Some));
            }
            "hooks" => {
                set(&mut daemon.hooks, item.text("a directory such as \"/etc/virtsnap/hooks.d\"", path, out));
            }
            "hooks-frozen" => set(&mut daemon.hooks_frozen, item.bool(out)),
            _ => item.unknown("[daemon]", DAEMON, out),
        }
    }
    Some(daemon)
}

fn set<T>(slot: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *slot = value;
    }
}

fn uri(text: &str) -> Result<String, ValueError> {
    let scheme = text.split_once(':').map(|(scheme, _)| scheme.split('+').next().unwrap_or(scheme));
    match scheme {
        Some("qemu" | "test") if !text.contains(|c: char| c.is_control() || c == ' ') => Ok(text.to_owned()),
        _ => Err(ValueError {
            message: format!("{text:?} is not a URI of libvirt's QEMU driver"),
            span: None,
            help: "\"qemu:///system\", or a remote one such as \"qemu+ssh://host/system\"".to_owned(),
        }),
    }
}

fn min_free(text: &str) -> Result<MinFree, ValueError> {
    if text.ends_with('%') {
        return values::percent(text).map(MinFree::Percent);
    }
    values::size(text)
        .map(MinFree::Bytes)
        .map_err(|e| ValueError { help: format!("{}; or a percentage", e.help), ..e })
}

fn path(text: &str) -> Result<PathBuf, ValueError> {
    if Path::new(text).is_absolute() && !text.contains(char::is_control) {
        Ok(PathBuf::from(text))
    } else {
        Err(ValueError {
            message: format!("{text:?} is not an absolute path"),
            span: None,
            help: "a path starts with `/`: the daemon has no directory of its own".to_owned(),
        })
    }
}

impl PolicyFragment {
    /// The file and the line of its name.
    pub(super) fn source(&self) -> Source {
        self.place.source()
    }
}
