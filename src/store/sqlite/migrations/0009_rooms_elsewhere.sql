-- What users of this hub are to rooms that it is not in: invited, knocking, or out again. Nothing of
-- it is part of a room: the event and what the room shows of itself are what another server said.
-- Where a membership of the same user in the same room was stored later, that is what counts.
CREATE TABLE outside (
    user TEXT NOT NULL,
    room_id TEXT NOT NULL,
    membership INTEGER NOT NULL,
    version TEXT NOT NULL,
    -- The server through which the room is reached.
    via TEXT NOT NULL,
    -- The event that made it so, its exact bytes.
    event TEXT NOT NULL,
    -- A JSON array of stripped state.
    state TEXT NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (user, room_id)
) STRICT, WITHOUT ROWID;
