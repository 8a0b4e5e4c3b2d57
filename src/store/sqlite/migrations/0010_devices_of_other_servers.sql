-- What other servers have said of the devices of their users, for as long as a room is shared with
-- one of ours: the device list, up to which of their changes, and which messages for devices of ours
-- have been taken already.

CREATE TABLE remote_users (
    user        TEXT PRIMARY KEY,
    stream      INTEGER NOT NULL,       -- the change of the list that was last heard of
    stale       INTEGER NOT NULL,       -- 1: a change was missed; what is below is not told
    asked       INTEGER NOT NULL,       -- the position at which the list was last asked for
    master_key  TEXT,
    self_signing_key TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE remote_devices (
    user        TEXT NOT NULL,
    device      TEXT NOT NULL,
    name        TEXT,
    keys        TEXT NOT NULL,
    PRIMARY KEY (user, device)
) STRICT, WITHOUT ROWID;

-- `number` counts up for each server, so that the oldest can go when there are too many.
CREATE TABLE remote_messages (
    origin      TEXT NOT NULL,
    message     TEXT NOT NULL,
    number      INTEGER NOT NULL,
    at          INTEGER NOT NULL,
    PRIMARY KEY (origin, message)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX remote_messages_by_number ON remote_messages (origin, number);
CREATE INDEX remote_messages_by_time ON remote_messages (at);

-- Other servers are told where a user's list stands.
CREATE INDEX device_changes_by_user ON device_changes (user, position);
