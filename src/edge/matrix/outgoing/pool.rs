//! Connections that rest between two requests to the same server.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use ruma::{OwnedServerName, ServerName};

use super::exchange::Connection;
use crate::{
    base::{Clock, Timestamp},
    session::discovery::Route,
};

/// The connections that rest.
pub(super) struct Pool {
    clock: Arc<dyn Clock>,
    resting: Mutex<Resting>,
}

#[derive(Default)]
struct Resting {
    by_server: HashMap<OwnedServerName, Vec<Idle>>,
    count: usize,
    /// Whether a task looks after those that rest for too long.
    is_swept: bool,
}

struct Idle {
    connection: Connection,
    route: Route,
    since: Timestamp,
}

impl Idle {
    fn is_usable(&self, now: Timestamp) -> bool {
        now.since(self.since) < REST_MAX && self.connection.is_open()
    }
}

impl Pool {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            clock,
            resting: Mutex::default(),
        })
    }

    /// The connection that was used last, if it leads where the server is now.
    pub(super) fn take(&self, server: &ServerName, route: &Route) -> Option<Connection> {
        let now = self.clock.now();
        let mut resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut idle = resting.by_server.remove(server)?;
        resting.count -= idle.len();
        let mut found = None;
        while found.is_none()
            && let Some(last) = idle.pop()
        {
            let usable = last.route == *route && last.is_usable(now);
            found = usable.then_some(last.connection);
        }
        resting.count += idle.len();
        if !idle.is_empty() {
            resting.by_server.insert(server.to_owned(), idle);
        }
        found
    }

    /// Lets a connection rest; closed instead when there are enough.
    pub(super) fn put(self: &Arc<Self>, server: &ServerName, route: Route, connection: Connection) {
        let since = self.clock.now();
        let mut resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        if resting.count >= RESTING_MAX || !connection.is_open() {
            return;
        }
        let idle = resting.by_server.entry(server.to_owned()).or_default();
        if idle.len() >= RESTING_PER_SERVER_MAX {
            return;
        }
        idle.push(Idle {
            connection,
            route,
            since,
        });
        resting.count += 1;
        if !resting.is_swept {
            resting.is_swept = true;
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }

    /// Closes what rests for too long; false when nothing is left.
    fn close_old(&self) -> bool {
        let now = self.clock.now();
        let mut resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        resting.by_server.retain(|_, idle| {
            idle.retain(|one| one.is_usable(now));
            !idle.is_empty()
        });
        resting.count = resting.by_server.values().map(Vec::len).sum();
        resting.is_swept = resting.count > 0;
        resting.is_swept
    }
}

async fn sweep(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let Some(pool) = pool.upgrade() else { return };
        if !pool.close_old() {
            return;
        }
    }
}

/// Connections that rest, at some 30 kB each.
const RESTING_MAX: usize = 1000;

/// Of one server: a transaction and a question beside it.
const RESTING_PER_SERVER_MAX: usize = 2;

/// How long a connection rests; many servers close theirs after a minute or two.
const REST_MAX: Duration = Duration::from_secs(50);

/// How often it is looked.
const SWEEP: Duration = Duration::from_secs(10);
