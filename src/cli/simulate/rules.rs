//! Where the policies of `virtsnap simulate` come from: the input, options, or files.

use std::{collections::BTreeSet, sync::Arc};

use jiff::tz::TimeZone;
use uuid::Uuid;

use super::input::Input;
use crate::{
    cli::{
        args::Simulate,
        exit::Failure,
        render::{quoted, safe},
    },
    config::{self, ConfigRoots, Diagnostics, Environment, FileKind, Settings, SourceFile, Style},
    core::{
        model::{PolicyName, VmId},
        policy::Policy,
        select::VmFacts,
        settings::VmPlan,
    },
};

/// What a policy without a name is called.
const UNNAMED: &str = "simulated";

/// What holds for the VM that is tried.
#[derive(Debug)]
pub(super) struct Rules {
    pub plan: VmPlan,
    /// The daemon's, if files say it.
    pub max_chain: Option<u32>,
    /// There is one policy, and nobody gave it a name.
    pub unnamed: bool,
    /// `max-delete` is the daemon's brake; what nobody asked for does not stop the tryout.
    pub all: bool,
    /// What hardly was meant.
    pub warnings: Vec<String>,
}

/// Reads them. They come from one place only, so that it is plain what was tried.
pub(super) fn rules(args: &Simulate, input: &Input, zone: &TimeZone) -> Result<Rules, Failure> {
    let environment = Environment { timezone: zone.clone(), ..Environment::of_this_system() };
    let inline = args.rules.toml();
    let from_files = args.policy_file.is_some() || args.config_dir.is_some();
    let sources = [input.policy.is_some(), !input.policies.is_empty(), !inline.is_empty(), from_files];
    match sources.iter().filter(|there| **there).count() {
        1 => {}
        0 => {
            return Err(Failure::Usage(
                "no policy to try: give \"policy\" in the input, --policy-file FILE, or rules such as --keep-daily 7"
                    .to_owned(),
            ));
        }
        _ => {
            return Err(Failure::Usage(
                "the policy is given more than once: in the input, as options, or in files; one of them"
                    .to_owned(),
            ));
        }
    }
    let mut rules = if from_files {
        files(args, &environment)?
    } else {
        if !args.policies.is_empty() || args.vm.is_some() {
            return Err(Failure::Usage(
                "--policy and --vm choose from --policy-file or --config-dir".to_owned(),
            ));
        }
        let mut policies = Vec::new();
        let mut warnings = Vec::new();
        let mut all = true;
        let mut read = |name: PolicyName, path: &str, text: String| {
            all &= !text.lines().any(|line| line.starts_with("max-delete"));
            let file = SourceFile::new(path, text);
            let (policy, said) = config::parse_policy(name, &file, &environment).map_err(|e| broken(&e))?;
            warnings.extend(said.lines());
            policies.push(Arc::new(policy));
            Ok::<_, Failure>(())
        };
        let unnamed: PolicyName =
            UNNAMED.parse().map_err(|e: crate::core::model::NameError| Failure::Usage(e.to_string()))?;
        if let Some(keys) = &input.policy {
            read(unnamed, "policy", toml(keys)?)?;
        } else if !inline.is_empty() {
            read(unnamed, "options", inline)?;
        } else {
            for (name, keys) in &input.policies {
                read(name.clone(), &format!("policies.{name}"), toml(keys)?)?;
            }
        }
        let plan = VmPlan { policies, disks: None, max_size: None, why: Vec::new() };
        Rules { plan, max_chain: None, unnamed: input.policies.is_empty(), all, warnings }
    };
    if let Some(size) = &input.vm_max_size {
        rules.plan.max_size = Some(size.get()?);
    }
    rules.all |= args.all;
    Ok(rules)
}

/// Policies of files: those that were named, those for the VM that was named, or all of them.
fn files(args: &Simulate, environment: &Environment) -> Result<Rules, Failure> {
    let loaded = match (&args.policy_file, &args.config_dir) {
        (Some(path), _) => {
            // As the main file, it may have [daemon], too: its zone and its max-chain count.
            let file = config::read_file(path).map_err(|e| broken(&e))?;
            config::parse(&[(FileKind::Main, file)], environment)
        }
        (None, Some(directory)) => config::load(&ConfigRoots::new([directory])),
        (None, None) => config::load(&ConfigRoots::default()),
    }
    .map_err(|e| broken(&e))?;
    let settings = &loaded.settings;
    let mut plan = match &args.vm {
        Some(vm) => of_vm(vm, args, settings),
        None => VmPlan {
            policies: settings.policies.values().cloned().collect(),
            disks: None,
            max_size: None,
            why: Vec::new(),
        },
    };
    let known: Vec<&str> = plan.policies.iter().map(|p| p.name.as_str()).collect();
    if let Some(unknown) = args.policies.iter().find(|name| !known.contains(&name.as_str())) {
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        return Err(Failure::NotFound {
            what: format!("there is no policy {}; there is {known}", quoted(unknown)),
            look: ("check", "shows the policies of the files"),
        });
    }
    if !args.policies.is_empty() {
        plan.policies.retain(|p: &Arc<Policy>| args.policies.iter().any(|name| name == p.name.as_str()));
    }
    if plan.policies.is_empty() {
        return Err(Failure::NotFound {
            what: match &args.vm {
                Some(vm) => format!("no policy is for a VM named {}", quoted(vm)),
                None => "there is no policy in it".to_owned(),
            },
            look: ("check", "shows the policies and their VMs"),
        });
    }
    Ok(Rules {
        plan,
        max_chain: Some(settings.daemon.max_chain),
        unnamed: false,
        all: false,
        warnings: loaded.warnings.lines(),
    })
}

fn of_vm(vm: &str, args: &Simulate, settings: &Settings) -> VmPlan {
    let tags: BTreeSet<String> = args.tags.iter().cloned().collect();
    let id = Uuid::parse_str(vm).unwrap_or(Uuid::nil());
    settings.for_vm(&VmFacts { id: VmId(id), name: vm, tags: &tags })
}

/// Keys in JSON, as they would stand in a file: so there is one reader, one set of rules and of messages.
fn toml(keys: &serde_json::Map<String, serde_json::Value>) -> Result<String, Failure> {
    if let Some((key, _)) = keys.iter().find(|(_, value)| value.is_null()) {
        return Err(Failure::Usage(format!("{} of the policy is null; leave it out instead", quoted(key))));
    }
    toml::to_string(keys)
        .map_err(|e| Failure::Usage(format!("the policy holds what none can: {}", safe(&e.to_string()))))
}

fn broken(diagnostics: &Diagnostics) -> Failure {
    Failure::Usage(diagnostics.render(Style::Plain).trim_end().to_owned())
}
