-- From which server a device's mail came, so that none of them has all the room there is for others,
-- and which entries were passed over for a server although they had been for it.

-- In the order in which it is read: behind a long `json`, `origin` would be a walk through all of it.
CREATE TABLE mail_counted (
    user        TEXT NOT NULL,
    device      TEXT NOT NULL,
    position    INTEGER NOT NULL,
    part        INTEGER NOT NULL,       -- its place among the mail of one commit
    origin      TEXT,                   -- none: this hub
    json        TEXT NOT NULL,
    PRIMARY KEY (user, device, position, part)
) STRICT, WITHOUT ROWID;
-- What lies there already counts as well: every sender was of the server that brought the message.
INSERT INTO mail_counted (user, device, position, part, origin, json)
    SELECT user, device, position, part,
        nullif(substr(sender, instr(sender, ':') + 1),
            (SELECT value FROM meta WHERE name = 'server_name')),
        json
    FROM (SELECT *, CASE WHEN json_valid(json) THEN json_extract(json, '$.sender') END AS sender
          FROM mail);
DROP TABLE mail;
ALTER TABLE mail_counted RENAME TO mail;

-- From the entry `seq` to `to_seq` of a room nothing was told to a server but ACLs, because the room
-- had come to keep it out when their turn came.
CREATE TABLE withheld (
    room        INTEGER NOT NULL,
    server      TEXT NOT NULL,
    seq         INTEGER NOT NULL,
    to_seq      INTEGER NOT NULL,
    at          INTEGER NOT NULL,
    PRIMARY KEY (room, server, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX withheld_by_time ON withheld (at);
