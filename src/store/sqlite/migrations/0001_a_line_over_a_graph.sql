-- A line over a graph: events by id, a log per room that maps seq to an event or a marker,
-- delta-coded states, and one hub-wide position per commit.
--
-- Appending a message must stay cheap: it writes an event (one row, one index entry), a log row
-- and a transaction row; the room's row is updated once per room and commit. Think twice before
-- adding an index to `events`, `log` or `txns`.

PRAGMA application_id = 0x54524d4c; -- "TRML": refused as foreign when it is something else

-- One row: the last position and the totals, counted as they grow.
CREATE TABLE hub (
    only        INTEGER PRIMARY KEY CHECK (only = 1),
    position    INTEGER NOT NULL,
    rooms       INTEGER NOT NULL,
    events      INTEGER NOT NULL,
    users       INTEGER NOT NULL
) STRICT;
INSERT INTO hub VALUES (1, 0, 0, 0, 0);

CREATE TABLE meta (
    name        TEXT PRIMARY KEY,
    value       TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE rooms (
    nid             INTEGER PRIMARY KEY,
    room_id         TEXT NOT NULL UNIQUE,
    version         TEXT NOT NULL,
    seq             INTEGER NOT NULL,
    chain           BLOB NOT NULL,
    tips            BLOB NOT NULL,
    state           INTEGER NOT NULL,
    state_size      INTEGER NOT NULL,
    state_deltas    INTEGER NOT NULL,
    position        INTEGER NOT NULL
) STRICT;
CREATE INDEX rooms_by_position ON rooms (position);

CREATE TABLE events (
    nid             INTEGER PRIMARY KEY,
    hash            BLOB NOT NULL UNIQUE,
    room            INTEGER NOT NULL,
    seq             INTEGER,            -- null: soft-failed, backfilled, outlier or rejected
    kind            TEXT NOT NULL,
    state_key       TEXT,
    depth           INTEGER NOT NULL,
    status          INTEGER NOT NULL,   -- 0 accepted, 1 outlier, 2 rejected
    soft_failed     INTEGER NOT NULL,
    state_after     INTEGER NOT NULL,
    prev            BLOB NOT NULL,      -- hashes, one after the other
    auth            BLOB NOT NULL,
    redacted_because INTEGER,
    sent_device     TEXT,
    sent_txn        TEXT,
    json            TEXT NOT NULL
) STRICT;
CREATE INDEX events_by_key ON events (room, kind, state_key) WHERE state_key IS NOT NULL;

CREATE TABLE log (
    room        INTEGER NOT NULL,
    seq         INTEGER NOT NULL,
    position    INTEGER NOT NULL,
    chain       BLOB NOT NULL,
    event       INTEGER,
    marker      BLOB,
    PRIMARY KEY (room, seq),
    CHECK ((event IS NULL) <> (marker IS NULL))
) STRICT, WITHOUT ROWID;

CREATE TABLE states (
    nid         INTEGER PRIMARY KEY,
    room        INTEGER NOT NULL,
    parent      INTEGER NOT NULL,       -- 0: the empty state; always smaller than nid
    deltas      BLOB NOT NULL,          -- varints: how many added, those, the removed
    snapshot    BLOB                    -- varints: the whole state, ascending, as gaps
) STRICT;

CREATE TABLE current (
    room        INTEGER NOT NULL,
    kind        TEXT NOT NULL,
    key         TEXT NOT NULL,
    event       INTEGER NOT NULL,
    PRIMARY KEY (room, kind, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE places (
    room        INTEGER NOT NULL,
    anchor      INTEGER NOT NULL,
    depth       INTEGER NOT NULL,
    event       INTEGER NOT NULL,
    PRIMARY KEY (room, anchor, depth, event)
) STRICT, WITHOUT ROWID;

CREATE TABLE memberships (
    user        TEXT NOT NULL,
    room        INTEGER NOT NULL,
    membership  INTEGER NOT NULL,       -- 0 leave, 1 join, 2 invite, 3 ban, 4 knock
    event       INTEGER NOT NULL,
    position    INTEGER NOT NULL,
    forgotten   INTEGER NOT NULL,
    PRIMARY KEY (user, room)
) STRICT, WITHOUT ROWID;
CREATE INDEX memberships_by_room ON memberships (room, membership, user);
CREATE INDEX memberships_by_position ON memberships (user, position);

CREATE TABLE txns (
    user        TEXT NOT NULL,
    device      TEXT NOT NULL,
    endpoint    TEXT NOT NULL,
    txn         TEXT NOT NULL,
    answer      TEXT,                   -- the event id; null: done, nothing to tell
    at          INTEGER NOT NULL,
    PRIMARY KEY (user, device, endpoint, txn)
) STRICT, WITHOUT ROWID;

CREATE TABLE aliases (
    alias       TEXT PRIMARY KEY,
    room        INTEGER NOT NULL,
    creator     TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX aliases_by_room ON aliases (room, alias);

CREATE TABLE receipts (
    room        INTEGER NOT NULL,
    user        TEXT NOT NULL,
    kind        TEXT NOT NULL,
    thread      TEXT NOT NULL,
    event       TEXT NOT NULL,
    at          INTEGER NOT NULL,
    position    INTEGER NOT NULL,
    PRIMARY KEY (room, user, kind, thread)
) STRICT, WITHOUT ROWID;
CREATE INDEX receipts_by_position ON receipts (room, position);

CREATE TABLE users (
    user        TEXT PRIMARY KEY,
    password    TEXT,
    admin       INTEGER NOT NULL,
    created     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE profiles (
    user        TEXT NOT NULL,
    field       TEXT NOT NULL,
    json        TEXT NOT NULL,
    PRIMARY KEY (user, field)
) STRICT, WITHOUT ROWID;

CREATE TABLE account_data (
    user        TEXT NOT NULL,
    room        TEXT NOT NULL,          -- empty: global
    kind        TEXT NOT NULL,
    json        TEXT NOT NULL,
    position    INTEGER NOT NULL,
    PRIMARY KEY (user, room, kind)
) STRICT, WITHOUT ROWID;
CREATE INDEX account_data_by_position ON account_data (user, position);

CREATE TABLE filters (
    user        TEXT NOT NULL,
    id          INTEGER NOT NULL,
    json        TEXT NOT NULL,
    PRIMARY KEY (user, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE devices (
    user        TEXT NOT NULL,
    device      TEXT NOT NULL,
    token       BLOB NOT NULL UNIQUE,   -- SHA-256 of the access token
    name        TEXT,
    seen        INTEGER,
    seen_at     TEXT,
    created     INTEGER NOT NULL,
    PRIMARY KEY (user, device)
) STRICT, WITHOUT ROWID;

CREATE TABLE device_keys (
    user        TEXT NOT NULL,
    device      TEXT NOT NULL,
    json        TEXT NOT NULL,
    PRIMARY KEY (user, device)
) STRICT, WITHOUT ROWID;

CREATE TABLE one_time_keys (
    user        TEXT NOT NULL,
    device      TEXT NOT NULL,
    algorithm   TEXT NOT NULL,
    key_id      TEXT NOT NULL,          -- with the algorithm: `algorithm:id`
    json        TEXT NOT NULL,
    PRIMARY KEY (user, device, algorithm, key_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE fallback_keys (
    user        TEXT NOT NULL,
    device      TEXT NOT NULL,
    algorithm   TEXT NOT NULL,
    key_id      TEXT NOT NULL,
    json        TEXT NOT NULL,
    used        INTEGER NOT NULL,
    PRIMARY KEY (user, device, algorithm)
) STRICT, WITHOUT ROWID;

CREATE TABLE device_changes (
    position    INTEGER NOT NULL,
    user        TEXT NOT NULL,
    PRIMARY KEY (position, user)
) STRICT, WITHOUT ROWID;

CREATE TABLE mail (
    user        TEXT NOT NULL,
    device      TEXT NOT NULL,
    position    INTEGER NOT NULL,
    part        INTEGER NOT NULL,       -- its place among the mail of one commit
    json        TEXT NOT NULL,
    PRIMARY KEY (user, device, position, part)
) STRICT, WITHOUT ROWID;

CREATE TABLE media (
    id          TEXT PRIMARY KEY,
    user        TEXT NOT NULL,
    hash        BLOB NOT NULL,
    size        INTEGER NOT NULL,
    content_type TEXT,
    filename    TEXT,
    created     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX media_by_user ON media (user, size);
