-- What this hub decided on events of rooms that name it their policy server. Refused: why, with its
-- code in front; null: it was signed. The same event is answered alike however often it is asked about.
CREATE TABLE policy_decisions (
    event       BLOB PRIMARY KEY,       -- its reference hash
    refused     TEXT,
    at          INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
