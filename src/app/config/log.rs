//! `[log]`: what is logged, and how. Logs go to stderr.

use super::{
    key::section,
    value::{LogFilter, LogFormat},
};

section! {
    /// Logs, on stderr.
    "log." Log {
        /// error, warn, info, debug or trace; or directives like `info,tramline::edge=debug`.
        level: LogFilter = "info", Live;
        /// "text" for people, "json" for one object per line.
        format: LogFormat = "text", Restart;
    }
}
