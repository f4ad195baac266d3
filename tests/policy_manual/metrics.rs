//! The metrics that the page names, against those that there are.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use virtsnap::core::view::{self, DaemonState, ManagerView, View};

use super::{
    Page,
    page::{self, Example},
};

/// All that there are, by the help that each has even where there is nothing to measure.
fn known() -> BTreeSet<String> {
    let manager = ManagerView {
        state: DaemonState::Running,
        hypervisor_uri: String::new(),
        hypervisor_version: String::new(),
        hypervisor_connected: true,
        next_run: None,
        clock_implausible: false,
        troubles: Arc::default(),
        warnings: Arc::new([]),
        inhibitors: Arc::default(),
    };
    let view = View {
        manager: Arc::new(manager),
        vms: BTreeMap::new(),
        policies: BTreeMap::new(),
        jobs: BTreeMap::new(),
        counts: Arc::default(),
    };
    let text = view::metrics(&view, "1", jiff::Timestamp::UNIX_EPOCH);
    let named = text.lines().filter_map(|l| l.strip_prefix("# HELP ")?.split(' ').next());
    named.map(str::to_owned).collect()
}

/// What alerts ask for is there.
pub fn alerts(_: &Page, example: &Example) -> String {
    let known = known();
    let words = example.text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let named: Vec<_> = words.filter(|w| w.starts_with("virtsnap_")).collect();
    assert!(!named.is_empty(), "line {}", example.line);
    for name in named {
        assert!(known.contains(name), "line {}: there is no {name}", example.line);
    }
    example.text.clone()
}

#[test]
fn each_metric_is_in_the_page_and_no_other() {
    let heads = page::SOURCE.lines().filter_map(|l| l.strip_prefix(".B virtsnap_")?.split(' ').next());
    let named: BTreeSet<String> = heads.map(|name| format!("virtsnap_{name}")).collect();
    assert_eq!(named, known());
}
