CREATE TABLE IF NOT EXISTS {table} (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    trans_type  VARCHAR(45)  NOT NULL DEFAULT '',
    gid         VARCHAR(128) NOT NULL DEFAULT '',
    branch_id   VARCHAR(128) NOT NULL DEFAULT '',
    op          VARCHAR(45)  NOT NULL DEFAULT '',
    barrier_id  VARCHAR(45)  NOT NULL DEFAULT '',
    -- The operation that added the row.
    reason      VARCHAR(45)  NOT NULL DEFAULT '',
    create_time DATETIME     NOT NULL DEFAULT CURRENT_TIMESTAMP,
    update_time DATETIME     NOT NULL DEFAULT CURRENT_TIMESTAMP,
    UNIQUE (gid, branch_id, op, barrier_id)
);
