//! Other servers as the hub sees them: what it asks goes out as a signed request and comes back as
//! ruma's answer, and what they sent is checked here before it is an event.
//!
//! When to ask again after a failure is the hub's business.

mod verify;

use std::time::Duration;

use async_trait::async_trait;
use ruma::ServerName;

pub(super) use self::verify::CHECKS_MAX;
use super::{
    Barred, Federation, endpoint,
    outgoing::{Ask, AskError, ConnectError},
};
use crate::{
    api::{PeerCommand, PeerReply, Remote, RemoteError, RemoteFile, Unverified, Why},
    wire::matrix::{Pdu, Version},
};

#[async_trait]
impl Remote for Federation {
    async fn ask(
        &self,
        server: &ServerName,
        command: PeerCommand,
        patience: Duration,
    ) -> Result<PeerReply, RemoteError> {
        let unreachable = |reason: String| RemoteError::Unreachable {
            server: server.to_string(),
            reason,
        };
        let (endpoint, request) = endpoint::request(command)
            .map_err(|error| unreachable(format!("the request cannot be written: {error}")))?;
        let ask = Ask::of(&request)
            .map_err(|error| unreachable(format!("the request cannot be written: {error}")))?
            .answer_bytes_max(endpoint.answer_bytes_max())
            .within(patience);
        drop(request); // `ask` has its text
        let told = self.outgoing.ask(server, &ask).await;
        let told = told.map_err(|error| failed(server, error))?;
        let body = told.success().map_err(|error| failed(server, error))?;
        endpoint
            .reply(body)
            .map_err(|error| unreachable(format!("its answer to {}: {error}", endpoint.name())))
    }

    async fn file(
        &self,
        server: &ServerName,
        media_id: &str,
        patience: Duration,
    ) -> Result<RemoteFile, RemoteError> {
        let file = self.outgoing.file(server, media_id, patience).await;
        file.map_err(|error| failed(server, error))
    }

    async fn verified(&self, json: &str, version: Version) -> Result<Pdu, Unverified> {
        verify::one(&self.keys, json, version, None).await
    }

    async fn verified_many(
        &self,
        events: &[&str],
        version: Version,
    ) -> Vec<Result<Pdu, Unverified>> {
        verify::many((&self.keys, &self.checks), events, version, None).await
    }

    async fn verified_from(
        &self,
        teller: &ServerName,
        events: &[&str],
        version: Version,
    ) -> Vec<Result<Pdu, Unverified>> {
        verify::many((&self.keys, &self.checks), events, version, Some(teller)).await
    }

    fn welcomes(&self, server: &ServerName) -> Result<(), Box<Why>> {
        let welcome = self.lists.check(server);
        welcome.map_err(|barred| Box::new(barred.why()))
    }
}

fn failed(server: &ServerName, error: AskError) -> RemoteError {
    let server = server.to_string();
    match error {
        AskError::Unwelcome {
            source: rule,
            version,
            ..
        } => RemoteError::NotAllowed {
            server,
            why: Box::new(Barred { rule, version }.why()),
        },
        AskError::Refused {
            status,
            errcode: code,
            error: message,
        } => RemoteError::Refused {
            server,
            status,
            code,
            message,
        },
        AskError::Connect(error) => RemoteError::Unconnected {
            server,
            code: unconnected(&error),
            reason: error.to_string(),
        },
        other => RemoteError::Unreachable {
            server,
            reason: other.to_string(),
        },
    }
}

/// Doctor's word for it.
const fn unconnected(error: &ConnectError) -> &'static str {
    match error {
        ConnectError::NoAddress { .. } => "PEER_DNS",
        ConnectError::Private { .. } => "PEER_PRIVATE_ADDRESS",
        ConnectError::Tls { .. } => "PEER_TLS",
        // told in the words for an address inside, which are not to be told from these
        ConnectError::Unreached { .. } | ConnectError::Proxy { .. } => "PEER_UNREACHABLE",
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_name_that_leads_inside_is_told_like_one_where_nobody_listens() {
        let server = ruma::server_name!("far.example");
        let inside = ConnectError::Private {
            host: "far.example".to_owned(),
            address: [10, 0, 0, 7].into(),
        };
        let closed = ConnectError::Unreached {
            to: "203.0.113.7:8448".to_owned(),
            source: io::ErrorKind::ConnectionRefused.into(),
        };

        let [inside, closed] = [inside, closed].map(|error| failed(server, error.into()));

        assert_eq!(inside.told(), closed.told());
        assert_eq!(
            [inside.code(), closed.code()],
            ["PEER_PRIVATE_ADDRESS", "PEER_UNREACHABLE"]
        );
    }
}
