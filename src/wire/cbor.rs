//! CBOR bodies of the low-bandwidth profile.
