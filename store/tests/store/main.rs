//! The journal and the queue on SQLite: the conformance suites, and what only these two promise.

mod embedded_queue;
mod journal_conformance;
mod queue_conformance;
mod sqlite_journal;
