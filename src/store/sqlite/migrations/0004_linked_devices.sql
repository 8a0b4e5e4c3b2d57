-- Linked devices: the keys they are recognised by, and what of their security layer survives a
-- restart. The file is its owner's alone (0600), so keys are stored as they are.
CREATE TABLE links (
    user            TEXT NOT NULL,
    device          TEXT NOT NULL,
    recipient_id    BLOB NOT NULL UNIQUE,   -- what the device puts into kid
    sender_id       BLOB NOT NULL,
    master_secret   BLOB NOT NULL,
    master_salt     BLOB NOT NULL,
    id_context      BLOB,
    reserved_below  INTEGER NOT NULL,       -- sequence numbers below it may have been used
    counted         INTEGER NOT NULL,       -- whether the outer Observe counts
    generation      INTEGER NOT NULL,       -- restores before the context was agreed
    psk_identity    TEXT NOT NULL UNIQUE,
    psk             BLOB NOT NULL,
    edhoc_kid       BLOB NOT NULL UNIQUE,
    edhoc_public_x  BLOB,
    quic_spki       BLOB UNIQUE,
    class           INTEGER NOT NULL,
    daily_kilobytes INTEGER NOT NULL,
    wake_url        TEXT,
    PRIMARY KEY (user, device)
) STRICT, WITHOUT ROWID;

CREATE TABLE registrations (
    recipient_id    BLOB NOT NULL,
    token           BLOB NOT NULL,
    position        INTEGER NOT NULL,       -- when it was made: the oldest give way
    binding         BLOB NOT NULL,
    request         BLOB NOT NULL,
    address         TEXT NOT NULL,
    PRIMARY KEY (recipient_id, token)
) STRICT, WITHOUT ROWID;
