//! What the end-to-end tests stand on: emulators that we did not write, the real binary as a process, and a region on the wire.

pub mod emulators;
pub mod installation;
pub mod rehearsal;

use std::path::{Path, PathBuf};

/// The directory that cargo builds into: where the running test binary lies.
pub(crate) fn target_directory() -> PathBuf {
    let beside_the_workspace = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    std::env::current_exe()
        .ok()
        .and_then(|binary| {
            let is_target = |directory: &&Path| directory.join("CACHEDIR.TAG").is_file();
            binary.ancestors().find(is_target).map(Path::to_path_buf)
        })
        .unwrap_or_else(beside_the_workspace)
}
