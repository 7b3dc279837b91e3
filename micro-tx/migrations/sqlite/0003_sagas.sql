-- Sagas of the embedded coordinator: a row from the commit of its transaction to some days after its end.
-- The prefix micro_ is replaced by the one configured. Times are milliseconds since the epoch.
CREATE TABLE micro_sagas (
    gid         TEXT    NOT NULL PRIMARY KEY,
    is_finished INTEGER NOT NULL,
    -- From when on it may be taken; of one that is finished, since when it is.
    due_at      INTEGER NOT NULL,
    -- Under which lease it is held; null: given back.
    lease_id    INTEGER,
    -- Steps and options, as a protobuf message.
    saga        BLOB    NOT NULL,
    -- What is known of its steps, as JSON; empty: nothing.
    progress    TEXT    NOT NULL,
    created_at  INTEGER NOT NULL
);

CREATE INDEX micro_sagas_due ON micro_sagas (is_finished, due_at);
