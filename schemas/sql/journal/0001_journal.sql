-- The journal, format 1. A released migration is never edited; the next one stands in a file of its own.

-- The truth: every event in the order in which it was acknowledged.
CREATE TABLE events (
  position        INTEGER PRIMARY KEY,                      -- global, dense from 1
  stream          TEXT    NOT NULL,
  seq             INTEGER NOT NULL,                         -- within the stream, dense from 1
  kind            TEXT    NOT NULL,
  version         INTEGER NOT NULL,
  body            TEXT    NOT NULL,                         -- a JSON object, as it was hashed
  recorded_at_ms  INTEGER NOT NULL,
  idempotency_key TEXT,                                     -- of the batch, on its first event
  hash            BLOB    NOT NULL CHECK (length(hash) = 32), -- BLAKE3 over the previous hash and this row
  origin          INTEGER NOT NULL                          -- the position of the stream's first event
) STRICT;

-- A stream is found by its name once and read by its origin. Origins grow with time, so the streams in work stand side by side
-- in this index whatever their names are: a commit of many streams writes few pages of it, however long the journal is.
CREATE UNIQUE INDEX events_by_origin ON events (origin, seq);
CREATE UNIQUE INDEX events_first ON events (stream) WHERE seq = 1;
CREATE UNIQUE INDEX events_by_key ON events (idempotency_key) WHERE idempotency_key IS NOT NULL;

CREATE TRIGGER events_are_never_updated BEFORE UPDATE ON events
BEGIN SELECT RAISE(ABORT, 'the journal is append-only: an event is never changed'); END;
CREATE TRIGGER events_are_never_deleted BEFORE DELETE ON events
BEGIN SELECT RAISE(ABORT, 'the journal is append-only: an event is never deleted'); END;

-- Projections: written in the transaction of the events they follow from, and rebuilt by `perennial journal rebuild`.
-- A time at or beyond 9223372036854775807 means never.
CREATE TABLE open_steps (
  stream      TEXT    NOT NULL,
  token       INTEGER NOT NULL,
  step        TEXT    NOT NULL,
  due_ms      INTEGER NOT NULL,
  deadline_ms INTEGER NOT NULL,
  priority    INTEGER NOT NULL,
  PRIMARY KEY (stream, token)
) STRICT, WITHOUT ROWID;

-- Commands to come. Read in the order in which they are due.
CREATE TABLE timers (
  stream TEXT    NOT NULL,
  name   TEXT    NOT NULL,
  due_ms INTEGER NOT NULL,                                  -- 0 means at once
  PRIMARY KEY (stream, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX timers_by_due ON timers (due_ms, stream, name);

CREATE TABLE lookup (
  key    TEXT NOT NULL,
  stream TEXT NOT NULL,
  PRIMARY KEY (key, stream)
) STRICT, WITHOUT ROWID;

CREATE TABLE summaries (
  stream        TEXT    NOT NULL UNIQUE,
  open          INTEGER NOT NULL CHECK (open IN (0, 1)),
  body          TEXT    NOT NULL,
  updated_at_ms INTEGER NOT NULL
) STRICT;

-- Only open work is indexed for listing: finished work must not slow it down.
CREATE INDEX summaries_open ON summaries (stream) WHERE open = 1;

CREATE TABLE meta (
  name  TEXT PRIMARY KEY,
  value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Counts the commits that failed and were sealed afterwards (store/src/writer.rs).
INSERT INTO meta VALUES ('failed_commits', 0);
