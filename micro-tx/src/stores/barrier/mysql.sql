CREATE TABLE IF NOT EXISTS {table} (
    id          BIGINT       NOT NULL AUTO_INCREMENT PRIMARY KEY,
    trans_type  VARCHAR(45)  NOT NULL DEFAULT '',
    gid         VARCHAR(128) NOT NULL DEFAULT '',
    branch_id   VARCHAR(128) NOT NULL DEFAULT '',
    op          VARCHAR(45)  NOT NULL DEFAULT '',
    barrier_id  VARCHAR(45)  NOT NULL DEFAULT '',
    -- The operation that added the row.
    reason      VARCHAR(45)  NOT NULL DEFAULT '',
    create_time DATETIME     NOT NULL DEFAULT now(),
    update_time DATETIME     NOT NULL DEFAULT now(),
    UNIQUE KEY uniq_barrier (gid, branch_id, op, barrier_id),
    KEY barrier_create_time (create_time)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
