-- What the hand-written chain keeps in each database beside the business rows.
CREATE TABLE outbox (
  id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  topic VARCHAR(249) NOT NULL,
  message_key VARBINARY(255) NOT NULL,
  headers TEXT NOT NULL,
  body MEDIUMBLOB NOT NULL,
  created_at BIGINT NOT NULL
);
CREATE TABLE inbox (
  consumer_group VARCHAR(255) NOT NULL,
  event_id VARCHAR(64) NOT NULL,
  claimed_at BIGINT NOT NULL,
  PRIMARY KEY (consumer_group, event_id)
) CHARACTER SET ascii COLLATE ascii_bin;
