//! Messages of the queues into the journal.

mod confirm;
pub mod events;
pub mod lookup;
pub mod reader;

pub use reader::{InboxQueue, Ingest, NoReplies, ReplyTo, SUBMISSION_BYTES_MAX};
