//! The strict CoAP message codec.
