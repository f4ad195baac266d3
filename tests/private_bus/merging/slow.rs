//! A merge that takes long tells that it goes on, or it would be taken for one that hangs.

use std::{sync::mpsc, time::Duration};

use virtsnap::core::job::{Copied, Far};

use super::*;

#[test]
fn each_minute_in_which_something_is_copied_is_told() {
    const BLOCKS: u64 = 500;
    let world = World::new(VmState::Running, "keep-last = 2");
    world.take(&SnapshotName::existing("s5"));
    for block in 0..BLOCKS {
        assert!(world.sim.write(VM, "vda", 100 + block, 1));
    }
    let clock = Arc::clone(&world.clock);
    world.sim.before_each_call(move |asked| {
        if asked.op == Op::Commit {
            clock.pass(Duration::from_secs(61));
        }
        Ok(())
    });
    let (send, told) = mpsc::channel::<Progress>();
    let newest =
        Operation::Delete { name: SnapshotName::existing("s5"), pace: Pace::default(), foreign: false };
    let outcome = world.does(world.sim.clone(), newest, move |p| send.send(p).unwrap());
    assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
    let merging: Vec<Progress> = told.iter().filter(|p| p.phase.contains("vda")).collect();
    let times = merging.len();
    assert!(times as u64 >= BLOCKS, "told {times} times in {BLOCKS} minutes");
    assert_eq!(merging[0].far, Far { share: Some(0.0), copied: Copied::default() }, "known as it begins");
    let copied: Vec<u64> = merging.iter().map(|p| p.far.copied.done).collect();
    assert!(copied.is_sorted() && copied.last() > Some(&0), "{copied:?}");
    assert!(merging[1..].iter().all(|p| p.far.copied.total == copied[times - 1]), "{merging:?}");
}
