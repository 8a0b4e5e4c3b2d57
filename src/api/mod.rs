//! What the outside may ask and be told. Types and async traits only; `hub` implements them,
//! `edge` calls them, and the two meet nowhere else.

mod advice;
mod caller;
mod command;
mod deliveries;
mod explain;
mod links;
mod parts;
mod peer_keys;
mod peers;
mod refusal;
mod service;
mod thin;

pub use advice::passes_when;
pub use caller::{Caller, Credentials, Door, Origin, RequestId};
pub(crate) use command::for_each_endpoint;
pub use command::{Command, Reply, SecretRegistration};
pub use deliveries::{Delivered, DeliveredTo, Deliveries, Delivery, HeldUp, Sent};
pub use explain::{REFUSALS_MAX, Refusals, Refused, Why};
pub use links::{
    Beside, Deliver, DeviceCredentials, DeviceName, EdhocLink, Linked, Linking, Links, OscoreLink,
    Registration, Secret,
};
pub use parts::{Became, List, Part, PartId, Transaction};
pub use peer_keys::PeerKeys;
pub(crate) use peers::for_each_peer_endpoint;
pub use peers::{
    Nobody, PeerCommand, PeerReply, Remote, RemoteError, RemoteFile, Unverified, federation_off,
    not_reached,
};
pub use refusal::{Code, Refusal};
pub use service::{ByteStream, MediaObject, Service, Upload};
pub use thin::{Thin, ThinReply};
