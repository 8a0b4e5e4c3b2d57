//! Durable truth behind small traits. SQLite by default.
