-- The embedded queue, format 1. A released migration is never edited; the next one stands in a file of its own.

CREATE TABLE messages (
  id            INTEGER PRIMARY KEY AUTOINCREMENT,          -- never used again, so an old receipt never fits a new message
  queue         TEXT    NOT NULL,
  body          TEXT    NOT NULL,
  sent_at_ms    INTEGER NOT NULL,
  visible_at_ms INTEGER NOT NULL,
  receive_count INTEGER NOT NULL DEFAULT 0                  -- also the nonce of the newest receipt
) STRICT;

CREATE INDEX messages_by_visibility ON messages (queue, visible_at_ms, id);

CREATE TABLE dead_letters (
  id          INTEGER PRIMARY KEY,                          -- the message's
  queue       TEXT    NOT NULL,
  body        TEXT    NOT NULL,
  sent_at_ms  INTEGER NOT NULL,
  died_at_ms  INTEGER NOT NULL,
  reason      TEXT    NOT NULL
) STRICT;

CREATE INDEX dead_letters_by_queue ON dead_letters (queue, id);
