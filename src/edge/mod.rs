//! The ways in and out: sockets and tasks around the session machines. Knows no rules.
