//! An empty repository for restic that opens at once; the benchmark uses it, too.

use std::{fs, path::Path};

/// Its password.
pub(super) const PASSWORD: &str = "oracle";

/// What `restic init` made, but for the key file, which was rewritten to ask for next to no work from the password's
/// hash: with the half second that restic spends on it by default, a test could ask a few dozen questions only. The key
/// protects nothing.
const KEY_NAME: &str = "14a6c46319cb727a7d22cfce3c5affa7dde1f1df2a0a0e7cc166daaacdc859fc";
const KEY: &str = "\
    {\"created\":\"2026-01-01T00:00:00Z\",\"username\":\"oracle\",\"hostname\":\"oracle\",\"kdf\":\"\
    scrypt\",\"N\":2,\"r\":1,\"p\":1,\"salt\":\"dmlydHNuYXB2aXJ0c25hcHZpcnRzbmFwdmlydHNuYXB2aXJ0c25h\
    cHZpcnRzbmFwdmlydHNuYXB2aXJ0c25hcA==\",\"data\":\"WaGVcjWnOHTXOJSN76pzaVzMdcLuZeskwnR9zCzBy4ARqY\
    X3epvKbagdc6PBbbhgOP64qQCEgCjrjw3psdEfbgyTJkF2dbvI/h797JbsDNA2Xc8dCxvhu+m5/bBOldpQ57gTV6Biu66wsm\
    EbIzrMOXEICIA2HDfKuH+J6bKGOC4KCKdckL1hDF4GxkaxI4eFMResxUa7Ey7sXjTChMjSHA==\"}";
const CONFIG: &str = "\
    e8b77b55ced09e6fd673fa2f59c2c9bfe188a95d63ae6f472a3fc5ac15347205c965dfc26303e888ba160bc52b5d2cb9\
    773f1c77e5d76db6ff706f9268072bcb0a1b3dac191f4d8c92041b897c73a28b0483cee9e90a098c43f2878c6cf92184\
    753da122f19c45a124a04e20dbc947a072f254f2dc38e577f0116845844b45001eeacbe3121921c581e40a5a8be55d4b\
    f0109238dee7273999a87f";

/// Directories of a repository.
pub(super) const ROOMS: [&str; 5] = ["data", "index", "keys", "locks", "snapshots"];

/// Makes it.
pub(super) fn make(repository: &Path) {
    for room in ROOMS {
        fs::create_dir_all(repository.join(room)).unwrap();
    }
    fs::write(repository.join("keys").join(KEY_NAME), KEY).unwrap();
    let byte = |i| u8::from_str_radix(&CONFIG[i..i + 2], 16).unwrap();
    let config: Vec<u8> = (0..CONFIG.len()).step_by(2).map(byte).collect();
    fs::write(repository.join("config"), config).unwrap();
}

/// Moves all files, those of directories below too: all repositories made here have one key, so that what two of them
/// hold is a repository, too.
pub(super) fn move_files(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            move_files(&entry.path(), &target);
        } else {
            fs::rename(entry.path(), target).unwrap();
        }
    }
}
