-- The longest time for which a timer is ever set; one that is due later than that was set by a clock that has
-- been set back since. 9223372036854775807 means that this is not known.
ALTER TABLE timers ADD COLUMN wait_max_ms INTEGER NOT NULL DEFAULT 9223372036854775807;
