//! The room that jobs at work may still need: two that start at once must not both count on the same free bytes.
//!
//! Each writes its need down *before* it looks at what is free, and counts those that were there before it. So of any
//! two that do not fit together one is refused, however their looks fall; and as what is written meanwhile is still
//! counted as needed, what is asked for is too much at worst.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    core::room::{Growth, Margin, Room, room_for},
    hypervisor::{Error, ErrorKind, Hypervisor, Result},
};

/// What the jobs of one daemon have reserved.
#[derive(Debug, Default)]
pub struct Rooms(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    last: u64,
    /// By the number of the reservation: the images, and what each may still grow by, in bytes.
    by_number: BTreeMap<u64, Vec<(String, u64)>>,
}

/// One job's. Given back when it is dropped, however the job ends.
#[derive(Debug)]
pub struct Reserved {
    rooms: Arc<Rooms>,
    number: u64,
}

impl Rooms {
    /// Reserves what these may grow by, if that leaves the margin of each file system free beside what others have
    /// reserved; else [`ErrorKind::NoSpace`].
    pub fn reserve(
        self: &Arc<Self>,
        hypervisor: &dyn Hypervisor,
        growths: &[Growth],
        margin: impl Into<Margin>,
    ) -> Result<Reserved> {
        let (reserved, before) = self.write_down(growths);
        let room_of = |image: &str| {
            let space = hypervisor.space(image).map_err(|e| {
                e.context(format_args!("whether there is room for what {image} grows by cannot be told"))
            })?;
            Ok::<_, Error>(Room { capacity: space.capacity, available: space.available })
        };
        let mut own = Vec::new();
        for growth in growths {
            own.push((growth, room_of(&growth.image)?));
        }
        let mut others = Vec::new();
        for (image, bytes) in before {
            match room_of(&image) {
                Ok(room) => others.push((room, bytes)),
                // It may be anywhere.
                Err(_) => others.extend(own.iter().map(|(_, room)| (*room, bytes))),
            }
        }
        room_for(own, &others, margin).map_err(|e| Error::new(ErrorKind::NoSpace, e.to_string()))?;
        Ok(reserved)
    }

    /// The reservation, and those that were there before it.
    fn write_down(self: &Arc<Self>, growths: &[Growth]) -> (Reserved, Vec<(String, u64)>) {
        let mut held = self.held();
        held.last += 1;
        let number = held.last;
        let before = held.by_number.values().flatten().cloned().collect();
        let needs = growths.iter().map(|growth| (growth.image.clone(), growth.most()));
        held.by_number.insert(number, needs.filter(|(_, bytes)| *bytes > 0).collect());
        (Reserved { rooms: Arc::clone(self), number }, before)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reserved {
    /// This image grows no more. What was reserved for it is told.
    pub fn written(&self, image: &str) -> u64 {
        let mut held = self.rooms.held();
        let Some(needs) = held.by_number.get_mut(&self.number) else { return 0 };
        let its = needs.extract_if(.., |(other, _)| other == image);
        its.fold(0, |sum, (_, bytes)| sum.saturating_add(bytes))
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.rooms.held().by_number.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{core::settings::MinFree, hypervisor::sim::Sim};

    const MIB: u64 = 1024 * 1024;

    fn grows(image: &str, mib: u64) -> Vec<Growth> {
        let (image, format) = (image.to_owned(), "qcow2".to_owned());
        vec![Growth { image, format, capacity: 1 << 40, allocation: 0, comes: mib * MIB }]
    }

    #[test]
    fn what_one_job_reserved_no_other_counts_on_until_it_is_given_back() {
        let (sim, rooms) = (Sim::new(), Arc::new(Rooms::default()));
        sim.set_capacity(1000 * MIB);
        let reserve = |image: &str, mib| rooms.reserve(&sim, &grows(image, mib), MinFree::Percent(10));
        let first = reserve("/images/a", 500).unwrap();
        let refused = reserve("/images/b", 401).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::NoSpace);
        assert!(refused.message.contains("may need 500 MiB"), "{refused}");
        // What was refused holds nothing.
        let second = reserve("/images/b", 400).unwrap();
        reserve("/images/c", 1).unwrap_err();
        first.written("/images/other");
        reserve("/images/c", 1).unwrap_err();
        first.written("/images/a");
        drop(reserve("/images/c", 500).unwrap());
        drop(second);
        let all = reserve("/images/c", 900).unwrap();
        drop((first, all));
        assert!(rooms.held().by_number.is_empty());
    }
}
