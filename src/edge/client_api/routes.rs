//! Which endpoint a path and a method name: a tree of path segments.
//!
//! A fixed segment wins over a variable one. An empty segment is never a variable: `//` in a path
//! is a path we do not have, and `/state/{type}/` is a fixed path of its own.

use std::collections::HashMap;

use http::Method;

use super::{
    endpoint::Endpoint,
    path::{Path, Segment},
};
use crate::api::{Code, Refusal};

/// Endpoints of one API by path and method.
pub(in crate::edge) struct Routes<E> {
    root: Node<E>,
}

struct Node<E> {
    fixed: HashMap<&'static str, Self>,
    variable: Option<Box<Self>>,
    endpoints: Vec<(Method, E)>,
}

/// The client API's.
pub(super) fn of_clients() -> Routes<Endpoint> {
    let mut routes = Routes::empty();
    for &endpoint in Endpoint::ALL {
        for path in endpoint.paths() {
            routes.insert(path, endpoint.method(), endpoint);
            for variant in variants(path) {
                routes.insert(variant, endpoint.method(), endpoint);
            }
        }
    }
    routes
}

impl<E: Copy> Routes<E> {
    /// None yet.
    pub(in crate::edge) fn empty() -> Self {
        Self {
            root: Node::empty(),
        }
    }

    /// Adds one, unless something is served there already. Variables of the path are in braces.
    pub(in crate::edge) fn insert(&mut self, path: &'static str, method: Method, endpoint: E) {
        self.root.insert(path, method, endpoint);
    }

    /// The endpoint that a path and a method name, and the path's variables in their order.
    pub(in crate::edge) fn find(
        &self,
        method: &Method,
        path: &Path<'_>,
    ) -> Result<(E, Vec<String>), Refusal> {
        let asked = if method == Method::HEAD {
            &Method::GET
        } else {
            method
        };
        let mut search = Search {
            method: asked,
            known: Vec::new(),
            arguments: Vec::new(),
        };
        match search.walk(&self.root, &path.segments) {
            Some(endpoint) => Ok((endpoint, search.arguments)),
            None if search.known.is_empty() => Err(unknown_path()),
            None => Err(Refusal::wrong_method(&allow(search.known))),
        }
    }
}

impl<E> Node<E> {
    fn empty() -> Self {
        Self {
            fixed: HashMap::new(),
            variable: None,
            endpoints: Vec::new(),
        }
    }

    fn insert(&mut self, path: &'static str, method: Method, endpoint: E) {
        let mut node = self;
        for segment in path.trim_start_matches('/').split('/') {
            node = if segment.starts_with('{') {
                node.variable.get_or_insert_with(|| Box::new(Self::empty()))
            } else {
                node.fixed.entry(segment).or_insert_with(Self::empty)
            };
        }
        if !node.endpoints.iter().any(|(known, _)| *known == method) {
            node.endpoints.push((method, endpoint));
        }
    }
}

/// Further spellings of a path.
///
/// The empty state key is most often left out, with or without its slash; and the slash at the end
/// of `/pushrules/` is as often forgotten.
// spec: client-server §API-Standards
fn variants(path: &'static str) -> Vec<&'static str> {
    let mut variants = Vec::new();
    if let Some(slashed) = path.strip_suffix("{state_key}") {
        variants.push(slashed);
        variants.extend(slashed.strip_suffix('/'));
    }
    variants.extend(path.strip_suffix('/'));
    variants
}

struct Search<'m> {
    method: &'m Method,
    /// The methods that the path is served by.
    known: Vec<Method>,
    arguments: Vec<String>,
}

impl Search<'_> {
    /// As deep as the path has segments, of which [`Path`] has a bounded number.
    fn walk<E: Copy>(&mut self, node: &Node<E>, rest: &[Segment<'_>]) -> Option<E> {
        let Some((segment, rest)) = rest.split_first() else {
            let known = node.endpoints.iter().map(|(method, _)| method.clone());
            self.known.extend(known);
            let mut endpoints = node.endpoints.iter();
            return endpoints
                .find(|(method, _)| method == self.method)
                .map(|(_, endpoint)| *endpoint);
        };
        if !segment.encoded
            && let Some(fixed) = node.fixed.get(segment.text.as_ref())
            && let Some(endpoint) = self.walk(fixed, rest)
        {
            return Some(endpoint);
        }
        let variable = node
            .variable
            .as_ref()
            .filter(|_| !segment.text.is_empty())?;
        self.arguments.push(segment.text.clone().into_owned());
        let found = self.walk(variable, rest);
        if found.is_none() {
            self.arguments.pop();
        }
        found
    }
}

// spec: client-server §Common-error-codes
pub(super) fn unknown_path() -> Refusal {
    Refusal::new(Code::Unrecognized, "nothing is served at this path")
}

/// Methods as the header `Allow` names them, with those that come with others.
pub(in crate::edge) fn allow(known: impl IntoIterator<Item = Method>) -> String {
    let mut all: Vec<String> = known.into_iter().map(|method| method.to_string()).collect();
    if all.iter().any(|method| method == Method::GET.as_str()) {
        all.push(Method::HEAD.to_string());
    }
    all.push(Method::OPTIONS.to_string()); // answered at any path
    all.sort_unstable();
    all.dedup();
    all.join(", ")
}
