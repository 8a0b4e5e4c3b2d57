//! Content-addressed files (stub: comes with the store).

/// The files behind the media index.
#[derive(Debug)]
pub struct MediaFiles {}
