//! A policy's `vms`: which VMs it is for.

use super::{
    diagnostic::{Diagnostic, Diagnostics, Place, quoted},
    item::Item,
    keys::Setting,
    values::ValueError,
};
use crate::core::policy::{Matcher, Selector};

/// Characters that make a pattern of a name.
pub(super) const PATTERN: &[char] = &['*', '?', '[', '{', '\\'];

const HELP: &str = "a list of selectors such as [\"web*\", \"tag:prod\", \"!*-scratch\"]";
const TAG: &str = "tag:";

/// Reads `vms`.
pub(super) fn vms(item: &Item<'_>, out: &mut Diagnostics) -> Option<Setting> {
    let read = |text: &str| {
        Selector::parse(text).map_err(|e| ValueError {
            message: e.message,
            span: Some(e.span),
            help: e.help.unwrap_or_default(),
        })
    };
    let selectors = item.text_or_texts(HELP, read, out)?;
    if !selectors.is_empty() && selectors.iter().all(|(selector, _)| selector.exclude) {
        out.push(
            item.error("`vms` only leaves VMs out, so that none is selected")
                .help("add \"*\" to select all others"),
        );
        return None;
    }
    for (selector, place) in &selectors {
        out.extend(hardly_meant(&selector.matcher, place));
    }
    Some(Setting::Vms(selectors))
}

/// What is a selector, and most likely another one than was meant.
fn hardly_meant(matcher: &Matcher, place: &Place) -> Option<Diagnostic> {
    match matcher {
        Matcher::Tag(tag) => tag.find(PATTERN).map(|at| {
            let sign = tag[at..].chars().next().unwrap_or_default();
            Diagnostic::warning(
                place,
                format!("tags are matched whole: `{sign}` is a part of the tag {} here", quoted(tag)),
            )
            .help("write a selector for each tag; only names can be matched by a pattern")
        }),
        Matcher::Name(name) => {
            let (prefix, tag) = name.split_at_checked(TAG.len())?;
            (prefix.eq_ignore_ascii_case(TAG)).then(|| {
                Diagnostic::warning(place, format!("{} is a VM's name, not a tag", quoted(name)))
                    .help(format!("write \"{TAG}{tag}\": `{TAG}` is lower-case"))
            })
        }
        Matcher::Uuid(_) => None,
    }
}
