//! Whether merges have room: each writes into its base, and what is merged goes only after the last of them.

use std::fmt;

/// What a merge does to the image that it writes to.
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
    /// What the images that are merged into it take, in bytes.
    pub comes: u64,
}

impl Growth {
    /// By how much it can grow, in bytes.
    fn most(&self) -> u64 {
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
    fn is(self, other: Self) -> bool {
        self.capacity == other.capacity && self.available.abs_diff(other.available) <= self.capacity / 64
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
}

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes.div_ceil(1024 * 1024);
        write!(
            f,
            "{} may grow by {} MiB, and {} MiB are free there",
            self.images.join(", "),
            mib(self.needed),
            self.available / (1024 * 1024)
        )
    }
}

/// Whether all these images can grow, one after the other, before anything is given back.
pub fn room_for<'a>(growths: impl IntoIterator<Item = (&'a Growth, Room)>) -> Result<(), NoRoom> {
    let mut systems: Vec<(Room, NoRoom)> = Vec::new();
    for (growth, room) in growths {
        let at = systems.iter().position(|(other, _)| other.is(room)).unwrap_or_else(|| {
            systems.push((room, NoRoom { images: Vec::new(), needed: 0, available: room.available }));
            systems.len() - 1
        });
        let system = &mut systems[at].1;
        system.images.push(growth.image.clone());
        system.needed = system.needed.saturating_add(growth.most());
        system.available = system.available.min(room.available);
    }
    match systems.into_iter().map(|(_, system)| system).find(|s| s.needed > s.available) {
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

    #[test]
    fn what_comes_must_fit_and_not_a_byte_more_is_asked_for() {
        let a = growth("/a", "qcow2", 30);
        assert_eq!(room_for([(&a, room(1000, 30))]), Ok(()));
        let lacking = room_for([(&a, room(1000, 29))]).unwrap_err();
        assert_eq!((lacking.needed, lacking.available), (30 * MIB, 29 * MIB));
        assert_eq!(lacking.to_string(), "/a may grow by 30 MiB, and 29 MiB are free there");
        assert_eq!(room_for([]), Ok(()));
    }

    #[test]
    fn a_raw_image_grows_to_its_disk_s_size_at_most() {
        assert_eq!(room_for([(&growth("/a", "raw", 30), room(1000, 10))]), Ok(()));
        assert!(room_for([(&growth("/a", "raw", 30), room(1000, 9))]).is_err());
    }

    #[test]
    fn disks_on_one_file_system_share_its_room_and_those_on_two_do_not() {
        let (a, b) = (growth("/a", "qcow2", 30), growth("/b", "qcow2", 30));
        let lacking = room_for([(&a, room(1000, 50)), (&b, room(1000, 49))]).unwrap_err();
        assert_eq!(lacking.images, ["/a", "/b"]);
        assert_eq!((lacking.needed, lacking.available), (60 * MIB, 49 * MIB));
        assert_eq!(room_for([(&a, room(1000, 50)), (&b, room(2000, 50))]), Ok(()));
        assert_eq!(room_for([(&a, room(1000, 50)), (&b, room(1000, 500))]), Ok(()));
    }

    #[test]
    fn numbers_that_cannot_be_do_not_wrap() {
        let vast = Growth { comes: u64::MAX, ..growth("/a", "qcow2", 0) };
        assert!(room_for([(&vast, room(1000, 50)), (&vast, room(1000, 50))]).is_err());
        let over = Growth { allocation: u64::MAX, ..growth("/a", "raw", 5) };
        assert_eq!(room_for([(&over, room(1000, 0))]), Ok(()));
    }
}
