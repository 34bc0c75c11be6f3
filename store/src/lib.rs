//! Perennial's store: the journal and the embedded queue, each one SQLite file.
//!
//! | module | what |
//! | --- | --- |
//! | [`journal`] | [`SqliteJournal`] for the engine, [`JournalReader`] for everybody else |
//! | [`verify`] | reads everything again and reports what is not as it was written |
//! | [`rebuild`] | makes the projections anew from the events |
//! | [`export`] | the journal as JSON Lines, and the check of such a file |
//! | [`backup`] | a copy while the engine writes |
//! | [`queue`] | [`EmbeddedQueue`], which several processes may use at once |
//! | [`conformance`] | what every adapter of the two ports must do, as functions |
//!
//! The store knows streams, rows and hashes; it does not know what an event means. Operations that need
//! the meaning (verifying or rebuilding projections) take a [`Projector`].

mod checkpoint;
mod file;
mod read;
mod writer;

pub mod backup;
pub mod conformance;
pub mod export;
pub mod journal;
pub mod private;
pub mod projector;
pub mod queue;
pub mod rebuild;
mod schema;
pub mod verify;

pub use file::OpenError;
pub use journal::{JournalReader, Options, SqliteJournal};
pub use projector::Projector;
pub use queue::{Durability, EmbeddedQueue, QueueSettings};
