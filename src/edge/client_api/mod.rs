//! The Matrix client API without a transport: path, query and JSON body to a `Command`, and a
//! `Reply` or `Refusal` to a status and a JSON body. Every door uses this and nothing beside it,
//! so that none can serve what another does not.
//!
//! It authorises nobody; it only takes the access token out of where clients put it ([`token`]).

mod answer;
mod body;
mod endpoint;
mod meaning;
mod path;
mod place;
#[cfg(test)]
pub(super) mod plain;
pub(super) mod routes;
pub mod token;
mod unread;

#[cfg(test)]
mod tests;

use http::Method;
use ruma::api::error::FromHttpRequestError;

use crate::api::{Command, Refusal};

pub use answer::Answer;
pub(super) use body::{too_large as body_too_large, unreadable};
pub use endpoint::Endpoint;
pub use path::{Path, percent_decoded};
pub(super) use unread::Unread;

/// The routes of the client API, built once.
pub struct ClientApi {
    routes: routes::Routes<Endpoint>,
}

/// A request whose path and method name an endpoint; its query and body are unread.
#[derive(Debug)]
pub struct Match {
    /// What it asks for.
    pub endpoint: Endpoint,
    /// The path's variables, decoded, in the order of the path.
    arguments: Vec<String>,
}

impl ClientApi {
    /// The routes of everything in [`crate::api`]'s list, at all paths the list knows.
    pub fn new() -> Self {
        Self {
            routes: routes::of_clients(),
        }
    }

    /// The endpoint that `method` and `path` name.
    // spec: client-server §Common-error-codes
    pub fn find(&self, method: &Method, path: &Path<'_>) -> Result<Match, Refusal> {
        let (endpoint, arguments) = self.routes.find(method, path)?;
        Ok(Match {
            endpoint,
            arguments,
        })
    }
}

impl Default for ClientApi {
    fn default() -> Self {
        Self::new()
    }
}

impl Match {
    /// Reads the rest of the request. `query` is as it stood in a URL, without the token.
    pub fn command(&self, query: &str, body: &[u8]) -> Result<Command, Refusal> {
        let body = &*body::checked(self.endpoint, body)?;
        let request = self.request(query, body).map_err(|error| {
            Refusal::invalid_param(format!("the query is not valid in a URL: {error}"))
        })?;
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let read = self.endpoint.command(request, &arguments);
        read.map_err(|error| self.unread(&arguments, query, body, &error))
            .and_then(meaning::checked)
    }

    fn request<'a>(&self, query: &str, body: &'a [u8]) -> http::Result<http::Request<&'a [u8]>> {
        let request = http::Request::builder().method(self.endpoint.method());
        request.uri(format!("/?{query}")).body(body)
    }

    fn unread(
        &self,
        arguments: &[&str],
        query: &str,
        body: &[u8],
        error: &FromHttpRequestError,
    ) -> Refusal {
        let variables = |path: &&str| path.matches('{').count() == arguments.len();
        let unread = Unread {
            path: self
                .endpoint
                .paths()
                .into_iter()
                .find(variables)
                .unwrap_or_default(),
            arguments,
            query,
            body,
            read: &|query, body| {
                body::bearable_text(self.endpoint, body)?;
                match self.request(query, body) {
                    Ok(request) => self.endpoint.command(request, arguments).map(drop),
                    Err(_) => Ok(()),
                }
            },
        };
        unread.refusal(error)
    }
}
