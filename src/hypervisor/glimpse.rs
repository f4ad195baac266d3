//! A VM's snapshots as one number, to tell by it that they are others.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// Another one if these are others, or another one is the current. In one life of the daemon alone.
pub fn glimpse<'a>(names: impl Iterator<Item = &'a str>, current: Option<&str>) -> u64 {
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    let mut hasher = DefaultHasher::new();
    (names, current).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_same_in_any_order_and_another_one_with_other_names_or_another_current() {
        let of = |names: &[&str], current| glimpse(names.iter().copied(), current);
        let first = of(&["a", "b"], Some("b"));
        assert_eq!(of(&["b", "a"], Some("b")), first);
        let others = [
            of(&["a", "b"], Some("a")),
            of(&["a", "b"], None),
            of(&["a"], Some("b")),
            of(&["ab"], Some("b")),
        ];
        assert!(others.iter().all(|other| *other != first));
    }
}
