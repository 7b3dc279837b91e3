-- By the key's hash: an entry of a B-tree has room for 2,704 bytes, a key may be longer.
DROP INDEX IF EXISTS micro_parked_queue;
CREATE INDEX micro_parked_queue ON micro_parked USING hash (message_key);
