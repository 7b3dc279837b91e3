-- Which claim a row of the inbox is of: a number that no other claim has.
ALTER TABLE micro_inbox ADD COLUMN claim_id INTEGER NOT NULL DEFAULT 0;
