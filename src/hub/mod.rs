//! The service: desk (authorise, route), writer (room shards, one committer), fan-out.
