-- What the hand-written chain keeps in each database beside the business rows: the columns and keys
-- that micro-tx has, for the same work.
CREATE TABLE outbox (
  id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  shard SMALLINT NOT NULL,
  topic VARBINARY(255) NOT NULL,
  message_key BLOB,
  event_id TEXT,
  event_type TEXT,
  headers MEDIUMTEXT NOT NULL,
  body LONGBLOB NOT NULL,
  created_at BIGINT NOT NULL,
  parked_at BIGINT,
  parked_cause TEXT
);
CREATE TABLE inbox (
  consumer_group VARBINARY(255) NOT NULL,
  event_id VARBINARY(767) NOT NULL,
  claimed_at BIGINT NOT NULL,
  claim_id BIGINT NOT NULL,
  PRIMARY KEY (consumer_group, event_id),
  KEY inbox_claimed_at (claimed_at)
);
