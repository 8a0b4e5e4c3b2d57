//! CoAP reliability, block-wise transfer and Observe as a machine without I/O.
