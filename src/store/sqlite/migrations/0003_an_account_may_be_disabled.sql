-- The operator may disable an account: its name stays taken, and nobody logs in to it.
ALTER TABLE users ADD COLUMN disabled INTEGER NOT NULL DEFAULT 0;
