//! Files that only their owner may read: the journal, the queues and their copies hold user data and the
//! output of hooks. The modes are set when a file is created: no umask and no moment in between opens it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::path::Path;

/// Read and write, for the owner alone.
#[cfg(unix)]
const FILE: u32 = 0o600;

/// Everything, for the owner alone.
#[cfg(unix)]
const DIRECTORY: u32 = 0o700;

/// Creates a file that must not exist yet.
///
/// # Errors
/// As of the operating system; [`io::ErrorKind::AlreadyExists`] when there is one.
pub fn create_new(path: &Path) -> io::Result<File> {
    options().write(true).create_new(true).open(path)
}

/// Creates a file when there is none, and closes an existing one to others.
///
/// An existing file is not opened: closing a descriptor of a file would drop the locks that SQLite holds on
/// it in this process (SQLite, "How To Corrupt An SQLite Database File", 2.2).
///
/// # Errors
/// As of the operating system.
pub fn ensure(path: &Path) -> io::Result<()> {
    match create_new(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => narrow(path),
        Err(error) => Err(error),
    }
}

/// Closes an existing file to others, without opening it.
///
/// # Errors
/// As of the operating system.
#[cfg(unix)]
pub fn narrow(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let mut permissions = std::fs::metadata(path)?.permissions();
    if permissions.mode() & 0o077 != 0 {
        permissions.set_mode(FILE);
        std::fs::set_permissions(path, permissions)?;
    }
    Ok(())
}

/// Closes an existing file to others, without opening it.
///
/// # Errors
/// None here: this system has no such modes.
#[cfg(not(unix))]
pub fn narrow(_path: &Path) -> io::Result<()> {
    Ok(())
}

/// Creates a directory and those above it. One that exists keeps its mode: it may be shared on purpose, and
/// the files in it are private by themselves.
///
/// # Errors
/// As of the operating system.
pub fn create_directory(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, DIRECTORY);
    builder.create(path)
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, FILE);
    options
}
