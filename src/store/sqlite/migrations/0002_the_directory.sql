-- The rooms that everyone here may find. A table of its own, so that appending does not touch it.

CREATE TABLE directory (
    room        INTEGER PRIMARY KEY
) STRICT;
