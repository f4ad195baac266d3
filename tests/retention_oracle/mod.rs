//! A room for each peer; what they share is in `history` (random times), `ours` (our verdict) and `dice`.

mod borg;
mod borg_differences;
mod borg_peer;
mod dice;
mod history;
mod ours;
mod proxmox;
mod restic;
mod restic_differences;
mod restic_peer;
mod restic_repository;

use tempfile::TempDir;

/// A directory in memory where there is one: repositories are synced to disk at every step, which costs most of
/// their time and proves nothing here.
fn scratch() -> TempDir {
    let memory = std::path::Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}
