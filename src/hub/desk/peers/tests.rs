//! Rooms of this hub with users of another server: the table plays that server.
