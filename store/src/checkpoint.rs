//! Checkpoints off the writer's path.
//!
//! SQLite by default copies the WAL into the database on the thread whose commit made it long, which every
//! client of that commit sees as a tail of 4–10 ms. Here the writer never checkpoints by itself
//! (`wal_autocheckpoint = 0`): it tells this thread about how much it wrote, and this thread copies with its
//! own connection, in PASSIVE mode, which waits for no reader or writer and stops none.
//!
//! PASSIVE alone cannot bound the WAL: while it copies, the writer adds frames, and the WAL starts again from
//! its beginning only when every frame has been copied. So beyond [`RESTART_FRAMES`], this thread copies once
//! more (which leaves little) and asks the writer for a RESTART between two groups. When nothing is written
//! for [`IDLE`], the WAL is truncated.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use rusqlite::Connection;

/// A checkpoint is due after about so much was written. Small enough that one takes tens of milliseconds,
/// large enough that index pages touched again and again are copied once.
const WRITTEN_BYTES: u64 = 16 * 1024 * 1024;

/// The frames (pages of 4 KiB) beyond which the WAL has to start again: 16 MiB.
const RESTART_FRAMES: i64 = 4 * 1024;

/// After this long without a commit the WAL is truncated, so that a copied or inspected file is whole.
const IDLE: Duration = Duration::from_secs(2);

/// The writer's side.
#[derive(Debug)]
pub(crate) struct Meter {
    shared: Arc<Shared>,
    wake: SyncSender<()>,
    unreported: u64,
}

#[derive(Debug, Default)]
struct Shared {
    commits: AtomicU64,
    restart: AtomicBool,
}

impl Meter {
    /// Notes a commit of about so many bytes.
    pub(crate) fn committed(&mut self, bytes: u64) {
        self.shared.commits.fetch_add(1, Ordering::Relaxed);
        self.unreported += bytes;
        if self.unreported >= WRITTEN_BYTES {
            self.unreported = 0;
            // A full channel means that a checkpoint is due already.
            let _ = self.wake.try_send(());
        }
    }

    /// Restarts the WAL if the checkpoints ask for it. Called between two transactions, on the writer's
    /// connection.
    pub(crate) fn restart_if_asked(&self, conn: &Connection) {
        if self.shared.restart.swap(false, Ordering::Relaxed) {
            // Without waiting: a long reader (a backup, `verify`) delays the restart, not the writer.
            let restarted = conn
                .busy_timeout(Duration::ZERO)
                .and_then(|()| checkpoint(conn, "RESTART"))
                .and_then(|state| conn.busy_timeout(crate::file::BUSY_TIMEOUT).map(|()| state));
            if let Err(error) = restarted {
                tracing::warn!(%error, "the journal's WAL could not be restarted; it goes on growing for now");
            }
        }
    }
}

/// Starts the thread. It ends when the [`Meter`] is dropped.
pub(crate) fn start(conn: Connection) -> std::io::Result<(Meter, std::thread::JoinHandle<()>)> {
    let shared = Arc::new(Shared::default());
    let (wake, woken) = sync_channel(1);
    let meter = Meter { shared: Arc::clone(&shared), wake, unreported: 0 };
    let thread = std::thread::Builder::new()
        .name("journal-checkpoint".into())
        .spawn(move || run(&conn, &woken, &shared))?;
    Ok((meter, thread))
}

fn run(conn: &Connection, woken: &Receiver<()>, shared: &Shared) {
    let mut seen = 0;
    let mut truncated_at = u64::MAX;
    loop {
        let outcome = match woken.recv_timeout(IDLE) {
            Ok(()) => passive(conn, shared),
            Err(RecvTimeoutError::Timeout) => {
                let commits = shared.commits.load(Ordering::Relaxed);
                let idle = commits == seen && commits != truncated_at;
                seen = commits;
                if !idle {
                    continue;
                }
                checkpoint(conn, "TRUNCATE").map(|state| {
                    if !state.busy {
                        truncated_at = commits;
                    }
                })
            }
            Err(RecvTimeoutError::Disconnected) => return,
        };
        if let Err(error) = outcome {
            tracing::warn!(%error, "a checkpoint of the journal failed; it will be tried again");
        }
    }
}

fn passive(conn: &Connection, shared: &Shared) -> rusqlite::Result<()> {
    let state = checkpoint(conn, "PASSIVE")?;
    if state.frames > RESTART_FRAMES {
        checkpoint(conn, "PASSIVE")?;
        shared.restart.store(true, Ordering::Relaxed);
    }
    Ok(())
}

#[derive(Debug)]
struct State {
    busy: bool,
    frames: i64,
}

fn checkpoint(conn: &Connection, mode: &str) -> rusqlite::Result<State> {
    let mut statement = conn.prepare_cached(&format!("PRAGMA wal_checkpoint({mode})"))?;
    statement.query_row([], |row| Ok(State { busy: row.get::<_, i64>(0)? != 0, frames: row.get(1)? }))
}
