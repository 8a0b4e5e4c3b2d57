-- What a device of the thin profile numbers rooms (0), users (1) and event types (2) with. The
-- counter outlives single names: a number is never given twice.
CREATE TABLE thin_names (
    user        TEXT NOT NULL,
    device      TEXT NOT NULL,
    kind        INTEGER NOT NULL,
    alias       INTEGER NOT NULL,
    name        TEXT NOT NULL,
    PRIMARY KEY (user, device, kind, alias)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX thin_names_by_name ON thin_names (user, device, kind, name);

CREATE TABLE thin_counters (
    user        TEXT NOT NULL,
    device      TEXT NOT NULL,
    kind        INTEGER NOT NULL,
    next        INTEGER NOT NULL,
    PRIMARY KEY (user, device, kind)
) STRICT, WITHOUT ROWID;

-- Another one after a restore, so that devices notice that their aliases are void.
INSERT INTO meta VALUES ('generation_id', lower(hex(randomblob(8))));
