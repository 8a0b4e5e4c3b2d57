//! Connection machines without I/O: `handle_*` for what came in, `poll_*` for what to do now,
//! `now` always given. Look in [`coap`] for reliability, block-wise transfer and Observe, in
//! [`dtls`] for DTLS connections, in [`oscore`] for messages protected end to end, in [`edhoc`] for how
//! two ends come by the keys for that, in [`framed`] for messages on reliable transports, in [`lab`] for a bad link to try them on.
//! Between servers: [`discovery`] finds where one is, [`keyring`] knows its keys, [`server_list`] whether we speak with it.
//! [`link`] has what a class of link means, [`budget`] what a day's allowance leaves out, [`ledger`] what
//! it all cost.

pub mod budget;
pub mod coap;
pub mod discovery;
pub mod dtls;
pub mod edhoc;
pub mod framed;
pub mod keyring;
pub mod lab;
pub mod ledger;
pub mod link;
pub mod oscore;
pub mod server_list;
