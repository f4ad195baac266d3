//! Whether what makes images grow has room: a merge writes into its base, and what is merged goes only after the last
//! disk. A guest whose disk finds none left stands still, so what is to stay free stays free.

use std::fmt;

use super::settings::MinFree;

/// By how much an image that is written to may grow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Growth {
    /// The image's path.
    pub image: String,
    /// Its format.
    pub format: String,
    /// The disk's size, in bytes: the largest of all images that take part.
    pub capacity: u64,
    /// What the image takes now, in bytes.
    pub allocation: u64,
    /// What may still come into it, in bytes: what the images take that are merged into it.
    pub comes: u64,
}

impl Growth {
    /// By how much it can grow, in bytes.
    pub fn most(&self) -> u64 {
        // A raw image is never larger than its disk. A qcow2 one can be: snapshots inside it keep their own clusters.
        match self.format.as_str() {
            "raw" => self.comes.min(self.capacity.saturating_sub(self.allocation)),
            _ => self.comes,
        }
    }
}

/// The room of the file system that an image is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// All of it, in bytes.
    pub capacity: u64,
    /// What is free, in bytes.
    pub available: u64,
}

impl Room {
    /// libvirt names no file systems. Of the same size, and nearly as full: that is taken for one, since two that are
    /// taken for one ask for too much at worst.
    pub fn is(self, other: Self) -> bool {
        self.capacity == other.capacity && self.available.abs_diff(other.available) <= self.capacity / 64
    }
}

/// What is to stay free of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Margin {
    min_free: MinFree,
    /// A tenth of that.
    tenth: bool,
}

impl Margin {
    /// For what gives back more than it takes when it is done: it is the way out of a file system that is nearly full,
    /// and would be closed where it is needed.
    pub fn tenth(min_free: MinFree) -> Self {
        Self { min_free, tenth: true }
    }

    fn of(self, capacity: u64) -> u64 {
        let all = self.min_free.bytes_of(capacity);
        if self.tenth { all.div_ceil(10) } else { all }
    }
}

impl From<MinFree> for Margin {
    fn from(min_free: MinFree) -> Self {
        Self { min_free, tenth: false }
    }
}

/// There is not enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoRoom {
    /// The images that would grow there.
    pub images: Vec<String>,
    /// What that needs at most, in bytes.
    pub needed: u64,
    /// What is free, in bytes.
    pub available: u64,
    /// What of it is to stay free, in bytes.
    pub least: u64,
    /// That is a tenth of `min-free`.
    pub tenth: bool,
    /// What of it others may still need who are at work there, in bytes.
    pub taken: u64,
}

impl NoRoom {
    fn is_true(&self) -> bool {
        let left = self.available.saturating_sub(self.taken).saturating_sub(self.least);
        // What grows by nothing takes nothing from anybody.
        self.needed > 0 && self.needed > left
    }
}

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes.div_ceil(1024 * 1024);
        let (images, needed, free) =
            (self.images.join(", "), mib(self.needed), self.available / (1024 * 1024));
        write!(f, "{images} may grow by {needed} MiB, and of the {free} MiB that are free there ")?;
        if self.taken > 0 {
            write!(f, "other jobs at work may need {} MiB, and ", mib(self.taken))?;
        }
        if self.tenth {
            return write!(f, "{} MiB, a tenth of min-free, are to stay free", mib(self.least));
        }
        write!(f, "min-free wants {} MiB to stay free", mib(self.least))
    }
}

/// Whether all these images can grow, one after the other, before anything is given back, beside what others who are at
/// work may need: where, and how many bytes.
pub fn room_for<'a>(
    growths: impl IntoIterator<Item = (&'a Growth, Room)>,
    others: &[(Room, u64)],
    margin: impl Into<Margin>,
) -> Result<(), NoRoom> {
    let margin = margin.into();
    let mut systems: Vec<(Room, NoRoom)> = Vec::new();
    for (growth, room) in growths {
        let at = systems.iter().position(|(other, _)| other.is(room)).unwrap_or_else(|| {
            let there = others.iter().filter(|(other, _)| other.is(room));
            let taken = there.fold(0_u64, |sum, (_, bytes)| sum.saturating_add(*bytes));
            let least = margin.of(room.capacity);
            let (available, tenth) = (room.available, margin.tenth);
            systems.push((room, NoRoom { images: Vec::new(), needed: 0, available, least, tenth, taken }));
            systems.len() - 1
        });
        let system = &mut systems[at].1;
        system.images.push(growth.image.clone());
        system.needed = system.needed.saturating_add(growth.most());
        system.available = system.available.min(room.available);
    }
    match systems.into_iter().map(|(_, system)| system).find(NoRoom::is_true) {
        Some(lacking) => Err(lacking),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn growth(image: &str, format: &str, comes: u64) -> Growth {
        let (image, format) = (image.to_owned(), format.to_owned());
        Growth { image, format, capacity: 100 * MIB, allocation: 90 * MIB, comes: comes * MIB }
    }

    fn room(capacity: u64, available: u64) -> Room {
        Room { capacity: capacity * MIB, available: available * MIB }
    }

    fn fits(growths: &[(&Growth, Room)]) -> Result<(), NoRoom> {
        room_for(growths.iter().copied(), &[], MinFree::Percent(0))
    }

    #[test]
    fn what_comes_must_fit_and_not_a_byte_more_is_asked_for() {
        let a = growth("/a", "qcow2", 30);
        assert_eq!(fits(&[(&a, room(1000, 30))]), Ok(()));
        let lacking = fits(&[(&a, room(1000, 29))]).unwrap_err();
        assert_eq!((lacking.needed, lacking.available), (30 * MIB, 29 * MIB));
        assert_eq!(fits(&[]), Ok(()));
    }

    #[test]
    fn what_is_to_stay_free_stays_free() {
        let a = growth("/a", "qcow2", 30);
        let with = |available, min_free| room_for([(&a, room(1000, available))], &[], min_free);
        assert_eq!(with(130, MinFree::Percent(10)), Ok(()));
        assert_eq!(with(40, MinFree::Bytes(10 * MIB)), Ok(()));
        let lacking = with(129, MinFree::Percent(10)).unwrap_err();
        assert_eq!(
            lacking.to_string(),
            "/a may grow by 30 MiB, and of the 129 MiB that are free there min-free wants 100 MiB to stay free"
        );
        assert_eq!(room_for([(&a, room(1000, 40))], &[], Margin::tenth(MinFree::Percent(10))), Ok(()));
        let lacking = room_for([(&a, room(1000, 39))], &[], Margin::tenth(MinFree::Percent(10))).unwrap_err();
        assert!(lacking.to_string().ends_with("10 MiB, a tenth of min-free, are to stay free"), "{lacking}");
        // Nothing is taken from anybody, however little is free.
        let nothing = growth("/a", "qcow2", 0);
        assert_eq!(room_for([(&nothing, room(1000, 1))], &[], MinFree::Percent(10)), Ok(()));
    }

    #[test]
    fn others_at_work_on_the_same_file_system_count_and_those_elsewhere_do_not() {
        let a = growth("/a", "qcow2", 30);
        let beside = |others: &[(Room, u64)]| room_for([(&a, room(1000, 150))], others, MinFree::Percent(10));
        let elsewhere = (room(2000, 150), 500 * MIB);
        assert_eq!(beside(&[(room(1000, 148), 10 * MIB), (room(1000, 150), 10 * MIB), elsewhere]), Ok(()));
        let lacking = beside(&[(room(1000, 148), 10 * MIB), (room(1000, 150), 11 * MIB)]).unwrap_err();
        assert_eq!(lacking.taken, 21 * MIB);
        assert!(lacking.to_string().contains("other jobs at work may need 21 MiB"), "{lacking}");
    }

    #[test]
    fn a_raw_image_grows_to_its_disk_s_size_at_most() {
        assert_eq!(fits(&[(&growth("/a", "raw", 30), room(1000, 10))]), Ok(()));
        assert!(fits(&[(&growth("/a", "raw", 30), room(1000, 9))]).is_err());
    }

    #[test]
    fn disks_on_one_file_system_share_its_room_and_those_on_two_do_not() {
        let (a, b) = (growth("/a", "qcow2", 30), growth("/b", "qcow2", 30));
        let lacking = fits(&[(&a, room(1000, 50)), (&b, room(1000, 49))]).unwrap_err();
        assert_eq!(lacking.images, ["/a", "/b"]);
        assert_eq!((lacking.needed, lacking.available), (60 * MIB, 49 * MIB));
        assert_eq!(fits(&[(&a, room(1000, 50)), (&b, room(2000, 50))]), Ok(()));
        assert_eq!(fits(&[(&a, room(1000, 50)), (&b, room(1000, 500))]), Ok(()));
    }

    #[test]
    fn numbers_that_cannot_be_do_not_wrap() {
        let vast = Growth { comes: u64::MAX, ..growth("/a", "qcow2", 0) };
        assert!(fits(&[(&vast, room(1000, 50)), (&vast, room(1000, 50))]).is_err());
        assert!(
            room_for([(&vast, room(1000, 50))], &[(room(1000, 50), u64::MAX)], MinFree::Percent(99)).is_err()
        );
        let over = Growth { allocation: u64::MAX, ..growth("/a", "raw", 5) };
        assert_eq!(fits(&[(&over, room(1000, 0))]), Ok(()));
    }
}
