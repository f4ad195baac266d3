//! What the configuration may say and this version does not do: told at start, at a reload and by `--check`, so that
//! nobody relies on it. The format is whole from the first version on, so that no file has to change later.

use super::{
    diagnostic::{Diagnostic, Diagnostics, Place},
    keys::{Given, Setting},
    settings::Settings,
};

/// One warning for each such key, at its place.
pub(super) fn warnings(settings: &Settings) -> Diagnostics {
    let mut out = Diagnostics::default();
    for (name, detail) in &settings.details {
        policy(&format!("policy {name}"), detail.keys.values(), &mut out);
    }
    for (vm, entry) in &settings.vms {
        for (name, (_, keys)) in &entry.exceptions {
            policy(&format!("policy {name} for VM {vm}"), keys.values(), &mut out);
        }
    }
    out
}

fn policy<'a>(whose: &str, keys: impl Iterator<Item = &'a Given>, out: &mut Diagnostics) {
    for given in keys {
        let what = match &given.setting {
            Setting::SkipUnchanged(true) => {
                "`skip-unchanged` has no effect in this version: each run takes a snapshot"
            }
            _ => continue,
        };
        let place = Place::new(&given.place.file, given.key_place.span.start..given.place.span.end);
        out.push(Diagnostic::warning(&place, format!("{whose}: {what}")));
    }
}
