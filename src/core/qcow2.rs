//! What a qcow2 image says of the snapshots inside it.
//!
//! The layout is QEMU's `docs/interop/qcow2.txt`: all numbers are big-endian; the header has the number of snapshots and
//! where their table is, and the table has one entry after the other, each a multiple of eight bytes long.

use jiff::Timestamp;

/// How much of an image's start tells where the table is, in bytes.
pub const HEADER_BYTES: u64 = 72;

/// So much of a table is read and no more, in bytes: enough for thousands.
const MOST_BYTES: u64 = 4 << 20;

/// So much an entry takes on average, at most, in bytes: QEMU writes 64 and two names.
const ENTRY_BYTES: u64 = 1024;

/// A snapshot inside an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inner {
    /// Its name.
    pub name: String,
    /// What is kept of the VM's memory in it, in bytes; 0 if nothing is.
    pub memory_bytes: u64,
    /// When it was taken.
    pub taken: Timestamp,
}

/// Where an image's table of snapshots is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// How many there are.
    pub count: u32,
    /// Where in the file it begins, in bytes.
    pub offset: u64,
}

impl Table {
    /// By the start of the image; `None` if it is no qcow2 image.
    pub fn of(header: &[u8]) -> Option<Self> {
        let mut header = Bytes(header);
        let magic = header.take(4)?;
        let version = header.number(4)?;
        header.take(52)?;
        let count = u32::try_from(header.number(4)?).ok()?;
        let offset = header.number(8)?;
        (magic == b"QFI\xfb" && (2..=3).contains(&version)).then_some(Self { count, offset })
    }

    /// How much of the file is to be read for it, in bytes.
    pub fn bytes(self) -> u64 {
        (u64::from(self.count) * ENTRY_BYTES).min(MOST_BYTES)
    }

    /// What it says, read from its place; `None` if that is no such table or there is more of it.
    pub fn read(self, bytes: &[u8]) -> Option<Vec<Inner>> {
        let mut bytes = Bytes(bytes);
        (0..self.count).map(|_| entry(&mut bytes)).collect()
    }
}

fn entry(bytes: &mut Bytes<'_>) -> Option<Inner> {
    // Where its own table of clusters is, and how long.
    bytes.take(12)?;
    let (id, name) = (bytes.length(2)?, bytes.length(2)?);
    let (seconds, nanoseconds) = (bytes.number(4)?, bytes.number(4)?);
    // How long the guest had been running.
    bytes.take(8)?;
    let short_size = bytes.number(4)?;
    let extra_length = bytes.length(4)?;
    let extra = bytes.take(extra_length)?;
    bytes.take(id)?;
    let text = bytes.take(name)?;
    let length = 40 + extra_length + id + name;
    // The last one may end with the file.
    bytes.skip(length.next_multiple_of(8) - length);
    let taken = Timestamp::new(i64::try_from(seconds).ok()?, i32::try_from(nanoseconds).ok()?).ok()?;
    Some(Inner {
        name: String::from_utf8_lossy(text).into_owned(),
        // More than 4 GiB stand there alone.
        memory_bytes: Bytes(extra).number(8).unwrap_or(short_size),
        taken,
    })
}

/// What is left to be read.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn skip(&mut self, length: usize) {
        self.0 = self.0.get(length..).unwrap_or_default();
    }

    fn number(&mut self, length: usize) -> Option<u64> {
        Some(self.take(length)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn length(&mut self, length: usize) -> Option<usize> {
        usize::try_from(self.number(length)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(magic: &[u8], version: u8, count: u8, offset: u64) -> Vec<u8> {
        let mut bytes = magic.to_vec();
        bytes.extend([0, 0, 0, version]);
        bytes.extend([0; 55]);
        bytes.push(count);
        bytes.extend(offset.to_be_bytes());
        bytes
    }

    fn written(id: &str, name: &str, memory: u64, seconds: u32) -> Vec<u8> {
        let mut bytes = vec![0; 12];
        for text in [id, name] {
            bytes.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
        }
        bytes.extend(seconds.to_be_bytes());
        bytes.extend([0; 12]);
        // As QEMU does it for old readers.
        bytes.extend(u32::try_from(memory).unwrap_or(0).to_be_bytes());
        bytes.extend([0, 0, 0, 16]);
        bytes.extend(memory.to_be_bytes());
        bytes.extend([0; 8]);
        bytes.extend(id.bytes().chain(name.bytes()));
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    #[test]
    fn the_header_says_where() {
        let at = |header: &[u8]| Table::of(header).map(|t| (t.count, t.offset, t.bytes()));
        assert_eq!(at(&header(b"QFI\xfb", 3, 2, 1 << 40)), Some((2, 1 << 40, 2048)));
        assert_eq!(at(&header(b"QFI\xfb", 2, 0, 0)), Some((0, 0, 0)));
        for other in [header(b"QFI\xfc", 3, 2, 0), header(b"QFI\xfb", 1, 2, 0), header(b"QFI\xfb", 4, 2, 0)] {
            assert_eq!(at(&other), None);
        }
        let whole = header(b"QFI\xfb", 3, 2, 7);
        assert_eq!(whole.len() as u64, HEADER_BYTES);
        assert_eq!(at(&whole[..71]), None);
    }

    #[test]
    fn each_entry_is_read_and_no_garbage() {
        let table = Table { count: 2, offset: 0 };
        let bytes = [written("1", "before the upgrade", 5 << 32, 1_700_000_000), written("22", "é", 7, 1)];
        let bytes = bytes.concat();
        let inner = |name: &str, memory_bytes, seconds| Inner {
            name: name.to_owned(),
            memory_bytes,
            taken: Timestamp::from_second(seconds).unwrap(),
        };
        let both = vec![inner("before the upgrade", 5 << 32, 1_700_000_000), inner("é", 7, 1)];
        assert_eq!(table.read(&bytes), Some(both));
        for length in 0..bytes.len() - 8 {
            assert_eq!(table.read(&bytes[..length]), None, "{length}");
        }
        assert_eq!(table.read(&[0xff; 4096]), None);
        assert_eq!(Table { count: 0, offset: 0 }.read(&[]), Some(vec![]));
    }

    #[test]
    fn one_without_anything_extra_has_what_the_old_place_says() {
        let mut bytes = written("1", "n", 9, 1);
        bytes[39] = 0;
        bytes.drain(40..56);
        let read = Table { count: 1, offset: 0 }.read(&bytes).unwrap();
        assert_eq!((read[0].name.as_str(), read[0].memory_bytes), ("n", 9));
    }
}
