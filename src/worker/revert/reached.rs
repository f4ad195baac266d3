//! How far a revert got, as it is stored.

/// The last step that was about to be done, or was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// Nothing is known to be made.
    Nothing,
    /// The new overlays are there.
    Prepared,
    /// The VM may be off. Its disks are whatever others made them.
    Stopped,
    /// It may be defined anew, and the firmware's variables may be the snapshot's.
    Defining,
    /// Metadata may be changed.
    Telling,
    /// It is started, as far as it is to be: what it is from now on is its owner's business.
    Started,
}

const WORDS: [(Step, &str); 6] = [
    (Step::Nothing, ""),
    (Step::Prepared, "prepared"),
    (Step::Stopped, "stopped"),
    (Step::Defining, "defining"),
    (Step::Telling, "telling"),
    (Step::Started, "started"),
];
const BACK: &str = "back from ";
const PUT_BACK: &str = "put back";

/// Where it is on its way, and which way that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reached {
    /// It is being done.
    On(Step),
    /// It is being taken back, from there.
    Back(Step),
    /// Definition and metadata are as they were; it may not be started yet, and the overlays may be there.
    PutBack,
}

impl Reached {
    /// From its word. One that nobody knows may be anything, so all is looked at.
    pub(super) fn read(word: &str) -> Self {
        let step =
            |word: &str| WORDS.iter().find(|(_, w)| *w == word).map_or(Step::Telling, |(step, _)| *step);
        match (word, word.strip_prefix(BACK)) {
            (PUT_BACK, _) => Self::PutBack,
            (_, Some(from)) => Self::Back(step(from)),
            (word, None) => Self::On(step(word)),
        }
    }

    /// Its word.
    pub(super) fn word(self) -> String {
        let of = |step| WORDS.iter().find(|(s, _)| *s == step).map_or("", |(_, word)| *word);
        match self {
            Self::On(step) => of(step).to_owned(),
            Self::Back(step) => format!("{BACK}{}", of(step)),
            Self::PutBack => PUT_BACK.to_owned(),
        }
    }

    /// The furthest step, whichever way it goes now.
    pub(super) fn step(self) -> Step {
        match self {
            Self::On(step) | Self::Back(step) => step,
            Self::PutBack => Step::Stopped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_word_of_its_own_and_is_read_back() {
        let steps = WORDS.map(|(step, _)| step);
        let on = steps.map(Reached::On);
        let back = steps.map(Reached::Back);
        for reached in on.into_iter().chain(back).chain([Reached::PutBack]) {
            assert_eq!(Reached::read(&reached.word()), reached);
        }
        assert_eq!(Reached::read("asleep"), Reached::On(Step::Telling), "so its disks tell");
        assert!(steps.is_sorted());
    }
}
