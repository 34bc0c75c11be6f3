//! The journal's suite on every adapter of this workspace.

use std::sync::Arc;

use perennial_engine::journal::Journal;
use perennial_engine::memory::MemoryJournal;
use perennial_store::conformance::journal as suite;
use perennial_store::{Options, SqliteJournal};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_journal_in_memory_keeps_every_promise() {
    suite::all(async || Arc::new(MemoryJournal::new()) as Arc<dyn Journal>).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_journal_on_sqlite_keeps_every_promise() {
    let dir = tempfile::tempdir().unwrap();
    let count = std::sync::atomic::AtomicU32::new(0);
    suite::all(async || {
        let n = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = dir.path().join(format!("{n}.sqlite"));
        Arc::new(SqliteJournal::open(&path, Options::default()).unwrap()) as Arc<dyn Journal>
    })
    .await;
}

#[tokio::test]
async fn the_journal_on_sqlite_keeps_everything_when_reopened() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.sqlite");
    suite::reopening_keeps_everything(async || {
        Arc::new(SqliteJournal::open(&path, Options::default()).unwrap()) as Arc<dyn Journal>
    })
    .await;
}
