//! The kinds of what the daemon tells the journal: for each, the fixed `MESSAGE_ID` that programs can watch for.
//!
//! `systemd/virtsnap.catalog` explains each one to people; a test holds the two together. An id is never given to another
//! kind and never taken away: somebody may wait for it.

macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident = $id:literal;)*) => {
        $($(#[$doc])* pub const $name: &str = $id;)*

        /// All of them: the name here, and the id, 32 lower-case hexadecimal digits.
        pub const ALL: &[(&str, &str)] = &[$((stringify!($name), $id)),*];
    };
}

messages! {
    /// The daemon serves.
    STARTED = "fdb25076de3a4717af43b51ac24f0675";
    /// The daemon could not begin or go on.
    ENDED = "53a4404507cc4b6398296baa1144407d";
    /// The configuration is broken: nothing is run by it.
    CONFIGURATION_BROKEN = "77c27abc0cb04a4aa05e5c459f1d60f9";
    /// The configuration says something that hardly was meant, or that has no effect.
    CONFIGURATION_WARNING = "7a98848219bc47279b09d7e1f5192ef3";
    /// A connection to libvirt stands.
    CONNECTED = "0cf50ee52b6c468282be03eb1da94da2";
    /// There is no connection to libvirt.
    DISCONNECTED = "c3444bcd053944d0bd17e0de436c8a1e";
    /// A snapshot was taken.
    SNAPSHOT_TAKEN = "79881b1e8f19454988a531286297823b";
    /// A snapshot was deleted.
    SNAPSHOT_DELETED = "f02c76acc5b346bb8b20d6e3f3de8ab8";
    /// A snapshot was pinned or unpinned, or has other tags or another expiry.
    SNAPSHOT_LABELLED = "9a2e4e9226a44c16a2a32f1adfb1bb26";
    /// A VM was put back to a snapshot.
    REVERTED = "88287a4f3b5e4498a39ffd520c2ffb50";
    /// Something of a VM is not put back by a revert.
    REVERTED_IN_PART = "d3b62c9f70a14e5c8e1f94a7256db803";
    /// A job failed.
    JOB_FAILED = "cbcc2d3ee5454c63837276a72ce56d53";
    /// A job was stopped.
    JOB_CANCELLED = "ba52dac21e0747759b2b3f845d0ccb2e";
    /// Nothing is heard of a job any more: libvirt does not answer it.
    JOB_STUCK = "2c4d7be1a06f4f5c9d13e8a47b90f6d5";
    /// A job that was stuck goes on, or has ended.
    JOB_GOES_ON = "d61f3a0c85e24b7796ab20fd3c4e18b7";
    /// What was begun on a VM is not settled, as libvirt does not answer of it.
    VM_STUCK = "42664bab1ae447ef92042c081afb6128";
    /// A policy's time passed without a run.
    RUN_MISSED = "301e46f3bf004b2da41ac1d864c56342";
    /// A policy's schedule does not run it any more, on a VM or at all.
    POLICY_SUSPENDED = "6c1e0f4b9a524d7d8f3b2a90c5e71d48";
    /// It does so again.
    POLICY_RESUMED = "e27b5d8834f14c0aa6c9d1f70b3e5a92";
    /// Somebody has all that is scheduled wait.
    INHIBITED = "39ce52000c684fb7bba5dac46491684e";
    /// Somebody does so since long ago.
    HELD_LONG = "7be1f20c95d84a36b1c47e03a8d25f69";
    /// Somebody does so no more.
    RELEASED = "2b67b9544c8d4b48984ebdb2a9e3092f";
    /// A policy's newest good snapshot of a VM is too old.
    SNAPSHOTS_STALE = "93f5a1d26c0e4b8eb7d4e60c28f1a957";
    /// It is not any more.
    SNAPSHOTS_FRESH = "b0d7c46e19a8437f8a52f3e9d6410c8b";
    /// The clock shows what cannot be, or was set back: policies wait.
    CLOCK_WRONG = "7713126e4d334e49a532a8f15d31869e";
    /// Policies want more layers than there may be.
    CHAIN_FULL = "bdbc08afc4bb491795d852c7ff06cdec";
    /// More is to be deleted than may be at once.
    PRUNE_HELD_BACK = "705dd04c763148788f31f647c84ea29d";
    /// A guest may be frozen, and could not be thawed yet.
    GUEST_FROZEN = "f952552d916f4bdaa222db80d599fb13";
    /// A guest that was frozen for longer than it should have been is thawed.
    GUEST_THAWED = "479a8386fd2e41e0a037f6df6c6c53d2";
    /// Nobody outside the daemon watches a freeze.
    UNWATCHED = "b1a9d2c84f6e4d0d8f7b35c06e92a417";
    /// An operation had been cut short; the text says what became of it.
    INTERRUPTED = "4241520b076141bca58066b90c78c8a4";
    /// Something could not be cleared up, and stays for now.
    LEFT_BEHIND = "87b431e258aa422ca5682ce345d87db7";
    /// The state database cannot be read or written.
    STORE_FAILED = "18fd23c19deb442aa5831cb9f922f72b";
    /// The state database can be written to again.
    STORE_WORKS = "4e0b7f9d52c84a1e9a6d3cf08b71e265";
    /// The state database was damaged or lost, and a new one begins.
    STORE_RENEWED = "a3f5c0d6b1e84e7f9c2a6d8840b7e519";
    /// Something is wrong with a VM's disks or snapshots.
    VM_UNHEALTHY = "6041d80813cc4f1cbfd6d6467a884205";
    /// Nothing is wrong with them any more.
    VM_HEALTHY = "c1e932936e2747be89732c4800e8bf99";
    /// What was wrong with a VM's metadata was put right.
    METADATA_REPAIRED = "19fd74cd6c614a02b5876908fb14b2f1";
    /// What libvirt knows of a VM or of all cannot be read.
    UNREADABLE = "df5c18c8953a4152995216eb470d6261";
    /// A file that was nobody's was removed.
    ORPHAN_REMOVED = "37aef947281f44259a85dce2f68b285a";
    /// The file of metrics cannot be written.
    METRICS_FAILED = "8f7a9e8cb431420bb0384257a5ab0c94";
    /// A hook failed, and the job goes on or has ended.
    HOOK_FAILED = "5d0a8f1e6a3b4b0c9be0a4d1c7f2963e";
    /// Somebody may not do what they asked for.
    NOT_AUTHORISED = "e84d0b7a5c2f4f0f9b6a13d79c0e52a8";
    /// Whether somebody may do what they asked for cannot be asked of polkit: so they may not.
    POLKIT_UNAVAILABLE = "3c9f15e6d8b24a77a0e25b8146fd09c3";
    /// A bug, or the system denies what everything depends on.
    INTERNAL_ERROR = "516d1f191b39442aa5ba4e102d9fe801";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_is_32_hexadecimal_digits_and_stands_for_one_kind() {
        let ids: BTreeSet<_> = ALL.iter().map(|(_, id)| *id).collect();
        assert_eq!(ids.len(), ALL.len());
        for (name, id) in ALL {
            let hex = id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            assert!(id.len() == 32 && hex, "{name}");
        }
    }
}
