-- By which keys users here vouch for their devices and for each other, and which of the changes that
-- device lists saw was about which device.

CREATE TABLE cross_signing_keys (
    user        TEXT NOT NULL,
    usage       INTEGER NOT NULL,       -- 0: master, 1: self-signing, 2: user-signing
    json        TEXT NOT NULL,
    PRIMARY KEY (user, usage)
) STRICT, WITHOUT ROWID;

-- Signatures that came after the keys they are on. `item` is a device's id, or a master key.
CREATE TABLE key_signatures (
    target      TEXT NOT NULL,          -- whose key is signed
    item        TEXT NOT NULL,
    signer      TEXT NOT NULL,          -- a user here
    key         TEXT NOT NULL,          -- the signer's key: `ed25519:` and a device's id or the key itself
    signature   TEXT NOT NULL,
    PRIMARY KEY (target, item, signer, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX key_signatures_by_signer ON key_signatures (signer, key);

-- A change is of the whole list (0), of one device (1), of the cross-signing keys (2), or seen by one
-- user only (3).
CREATE TABLE device_changes_told (
    position    INTEGER NOT NULL,
    user        TEXT NOT NULL,
    what        INTEGER NOT NULL,
    about       TEXT NOT NULL,          -- the device, or the user who sees it
    PRIMARY KEY (position, user, what, about)
) STRICT, WITHOUT ROWID;
-- The last change of a user says as much as all of them.
INSERT INTO device_changes_told
    SELECT max(position), user, 0, '' FROM device_changes GROUP BY user;
DROP TABLE device_changes;
ALTER TABLE device_changes_told RENAME TO device_changes;
CREATE INDEX device_changes_by_user ON device_changes (user, what, about, position);
