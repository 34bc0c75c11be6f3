//! Messages of the queues into the journal.

pub(crate) mod confirm;
mod counter;
mod envelope;
pub mod events;
mod inbox_queue;
pub mod lookup;
mod message;
pub mod reader;

pub use inbox_queue::{InboxQueue, SUBMISSION_BYTES_MAX};
pub use reader::{Ingest, NoReplies, ReplyTo};
