-- The tables of outbox, inbox, parked deliveries and dead letters.
-- The prefix micro_ is replaced by the one configured. Times are milliseconds since the epoch.
-- Names, ids and keys are bytes: texts would be compared without their case or trailing spaces.

-- Events written in business transactions. A connector that tails the database can read it too:
-- one row an event, inserted once, deleted once.
CREATE TABLE IF NOT EXISTS micro_outbox (
    id           BIGINT         NOT NULL AUTO_INCREMENT PRIMARY KEY,
    shard        SMALLINT       NOT NULL,
    topic        VARBINARY(255) NOT NULL,
    message_key  MEDIUMBLOB,
    event_id     TEXT,
    event_type   TEXT,
    headers      MEDIUMTEXT     NOT NULL,
    body         LONGBLOB       NOT NULL,
    created_at   BIGINT         NOT NULL,
    parked_at    BIGINT,
    parked_cause TEXT
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- The event ids that a group has handled. Ids begin with the time: the table grows at its end.
CREATE TABLE IF NOT EXISTS micro_inbox (
    consumer_group VARBINARY(255) NOT NULL,
    event_id       VARBINARY(767) NOT NULL,
    claimed_at     BIGINT         NOT NULL,
    -- Which claim it is of: a number that no other claim has.
    claim_id       BIGINT         NOT NULL,
    PRIMARY KEY (consumer_group, event_id),
    KEY micro_inbox_claimed_at (claimed_at)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- Deliveries whose handler failed, until they are due again; due_at is null while held.
CREATE TABLE IF NOT EXISTS micro_parked (
    id               BIGINT         NOT NULL AUTO_INCREMENT PRIMARY KEY,
    consumer_group   VARBINARY(255) NOT NULL,
    topic            VARBINARY(255) NOT NULL,
    message_key      MEDIUMBLOB,
    headers          MEDIUMTEXT     NOT NULL,
    body             LONGBLOB       NOT NULL,
    record_partition INT            NOT NULL,
    record_offset    BIGINT         NOT NULL,
    -- When the broker took it, in nanoseconds since the epoch: a delivery is kept as it was received.
    record_time_ns   BIGINT         NOT NULL,
    attempts         BIGINT         NOT NULL,
    cause            TEXT           NOT NULL,
    due_at           BIGINT,
    KEY micro_parked_queue (consumer_group, topic, message_key(255)),
    KEY micro_parked_due (consumer_group, due_at)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- Deliveries that will not be tried again, and why.
CREATE TABLE IF NOT EXISTS micro_dead_letters (
    id               BIGINT         NOT NULL AUTO_INCREMENT PRIMARY KEY,
    consumer_group   VARBINARY(255) NOT NULL,
    event_id         VARBINARY(767) NOT NULL,
    topic            VARBINARY(255) NOT NULL,
    message_key      MEDIUMBLOB,
    headers          MEDIUMTEXT     NOT NULL,
    body             LONGBLOB       NOT NULL,
    record_partition INT            NOT NULL,
    record_offset    BIGINT         NOT NULL,
    record_time_ns   BIGINT         NOT NULL,
    kind             VARCHAR(64)    NOT NULL,
    cause            TEXT           NOT NULL,
    attempts         BIGINT         NOT NULL,
    created_at       BIGINT         NOT NULL,
    UNIQUE KEY micro_dead_letters_event (consumer_group, event_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;
