-- Sagas of the embedded coordinator: a row from the commit of its transaction to some days after its end.
-- The prefix micro_ is replaced by the one configured. Times are milliseconds since the epoch, by the
-- database's own clock.
CREATE TABLE IF NOT EXISTS micro_sagas (
    gid         TEXT     COLLATE "C" NOT NULL PRIMARY KEY,
    is_finished SMALLINT NOT NULL,
    -- From when on it may be taken; of one that is finished, since when it is.
    due_at      BIGINT   NOT NULL,
    -- Under which lease it is held; null: given back.
    lease_id    BIGINT,
    -- Steps and options, as a protobuf message.
    saga        BYTEA    NOT NULL,
    -- What is known of its steps, as JSON; empty: nothing.
    progress    TEXT     NOT NULL,
    created_at  BIGINT   NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);

CREATE INDEX IF NOT EXISTS micro_sagas_due ON micro_sagas (is_finished, due_at);
