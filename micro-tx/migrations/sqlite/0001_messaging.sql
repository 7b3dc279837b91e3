-- The tables of outbox, inbox, parked deliveries and dead letters.
-- The prefix micro_ is replaced by the one configured. Times are milliseconds since the epoch.

-- Events written in business transactions. A connector that tails the database can read it too:
-- one row an event, inserted once, deleted once.
CREATE TABLE micro_outbox (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    shard        INTEGER NOT NULL,
    topic        TEXT    NOT NULL,
    message_key  BLOB,
    event_id     TEXT,
    event_type   TEXT,
    headers      TEXT    NOT NULL,
    body         BLOB    NOT NULL,
    created_at   INTEGER NOT NULL,
    parked_at    INTEGER,
    parked_cause TEXT
);

CREATE INDEX micro_outbox_unsent ON micro_outbox (shard, id) WHERE parked_at IS NULL;
CREATE INDEX micro_outbox_parked ON micro_outbox (parked_at) WHERE parked_at IS NOT NULL;

-- The event ids that a group has handled.
CREATE TABLE micro_inbox (
    consumer_group TEXT    NOT NULL,
    event_id       TEXT    NOT NULL,
    claimed_at     INTEGER NOT NULL,
    PRIMARY KEY (consumer_group, event_id)
) WITHOUT ROWID;

CREATE INDEX micro_inbox_claimed_at ON micro_inbox (claimed_at);

-- Deliveries whose handler failed, until they are due again; due_at is null while held.
CREATE TABLE micro_parked (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,
    consumer_group   TEXT    NOT NULL,
    topic            TEXT    NOT NULL,
    message_key      BLOB,
    headers          TEXT    NOT NULL,
    body             BLOB    NOT NULL,
    record_partition INTEGER NOT NULL,
    record_offset    INTEGER NOT NULL,
    -- When the broker took it, in nanoseconds since the epoch: a delivery is kept as it was received.
    record_time_ns   INTEGER NOT NULL,
    attempts         INTEGER NOT NULL,
    cause            TEXT    NOT NULL,
    due_at           INTEGER
);

CREATE INDEX micro_parked_queue ON micro_parked (consumer_group, topic, message_key, id);
CREATE INDEX micro_parked_due ON micro_parked (consumer_group, due_at, id);

-- Deliveries that will not be tried again, and why.
CREATE TABLE micro_dead_letters (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,
    consumer_group   TEXT    NOT NULL,
    event_id         TEXT    NOT NULL,
    topic            TEXT    NOT NULL,
    message_key      BLOB,
    headers          TEXT    NOT NULL,
    body             BLOB    NOT NULL,
    record_partition INTEGER NOT NULL,
    record_offset    INTEGER NOT NULL,
    record_time_ns   INTEGER NOT NULL,
    kind             TEXT    NOT NULL,
    cause            TEXT    NOT NULL,
    attempts         INTEGER NOT NULL,
    created_at       INTEGER NOT NULL,
    UNIQUE (consumer_group, event_id)
);
