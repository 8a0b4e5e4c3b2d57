-- What other servers are told. Appending writes nothing here: a destination is a cursor over
-- positions, and rows follow only from who is in a room, and from what went wrong.

-- Which servers have users in a room, from the entry that brought the first to the one that took
-- the last; both are told to them. Of this hub itself nothing is noted.
CREATE TABLE residents (
    room        INTEGER NOT NULL,
    server      TEXT NOT NULL,
    since       INTEGER NOT NULL,
    until       INTEGER,
    PRIMARY KEY (room, server, since)
) STRICT, WITHOUT ROWID;
CREATE INDEX residents_by_server ON residents (server, room);

INSERT INTO residents (room, server, since)
    SELECT DISTINCT m.room, substr(m.user, instr(m.user, ':') + 1), r.seq
    FROM memberships m JOIN rooms r ON r.nid = m.room
    WHERE m.membership = 1 AND substr(m.user, instr(m.user, ':') + 1) NOT IN
        (SELECT value FROM meta WHERE name = 'server_name');

-- Entries of other servers' events that were made through this one: it tells the others.
CREATE TABLE relays (
    room        INTEGER NOT NULL,
    seq         INTEGER NOT NULL,
    PRIMARY KEY (room, seq)
) STRICT, WITHOUT ROWID;

-- How far each has been told: of the commit `position` up to the entry `seq` of `room`.
CREATE TABLE destinations (
    server      TEXT PRIMARY KEY,
    position    INTEGER NOT NULL,
    room        INTEGER NOT NULL,
    seq         INTEGER NOT NULL,
    beside      INTEGER NOT NULL,       -- receipts and changed devices: up to this commit
    failing     INTEGER                 -- since when it takes nothing
) STRICT, WITHOUT ROWID;

-- What is for one server and in no log, such as to-device messages; gone when it was told.
CREATE TABLE parcels (
    server      TEXT NOT NULL,
    position    INTEGER NOT NULL,
    part        INTEGER NOT NULL,       -- its place among the parcels of one commit
    at          INTEGER NOT NULL,
    edu         TEXT NOT NULL,
    PRIMARY KEY (server, position, part)
) STRICT, WITHOUT ROWID;

-- Entries that a server did not take, and why.
CREATE TABLE refusals (
    room        INTEGER NOT NULL,
    seq         INTEGER NOT NULL,
    server      TEXT NOT NULL,
    reason      TEXT NOT NULL,
    at          INTEGER NOT NULL,
    PRIMARY KEY (room, seq, server)
) STRICT, WITHOUT ROWID;
CREATE INDEX refusals_by_time ON refusals (at);

-- What was given up because a server was not reached for too long: after the first mark, up to the
-- second.
CREATE TABLE lapses (
    server      TEXT NOT NULL,
    position    INTEGER NOT NULL,
    room        INTEGER NOT NULL,
    seq         INTEGER NOT NULL,
    to_position INTEGER NOT NULL,
    to_room     INTEGER NOT NULL,
    to_seq      INTEGER NOT NULL,
    at          INTEGER NOT NULL,
    PRIMARY KEY (server, position, room, seq)
) STRICT, WITHOUT ROWID;
