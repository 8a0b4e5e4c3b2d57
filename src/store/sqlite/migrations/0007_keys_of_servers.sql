-- What is known of the keys of other servers, so that it outlives a restart, and servers that are
-- gone.
CREATE TABLE peer_keys (
    server          TEXT NOT NULL PRIMARY KEY,
    position        INTEGER NOT NULL,       -- when it was last learnt: the oldest give way
    json            TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX peer_keys_by_age ON peer_keys (position);
