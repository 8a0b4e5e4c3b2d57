//! What the outside may ask and be told. Types only.
