//! Messages of the queues into the journal.

mod confirm;
mod counter;
mod envelope;
pub mod events;
pub mod lookup;
mod message;
pub mod reader;

pub use reader::{InboxQueue, Ingest, NoReplies, ReplyTo, SUBMISSION_BYTES_MAX};
