//! The operator's TCP listener: `/livez`, `/readyz`, `/metrics`, `/admin/v1/ledger` and
//! `/admin/v1/refusals`.
//!
//! Health is open, because probes cannot carry a token; it tells one bit. Everything else asks
//! for the token that `init` made.

use std::sync::{Arc, PoisonError};

use axum::{
    Router,
    extract::{Path as UrlPath, Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Value as Json, json};

use super::reload::SharedTokens;
use crate::{api::Refusals, base::Timestamp, edge::thin::Books};

/// What the listener tells about the hub.
#[derive(Clone)]
pub struct Health {
    /// Whether work is accepted.
    pub ready: Arc<dyn Fn() -> bool + Send + Sync>,
    /// What was counted.
    pub metrics: PrometheusHandle,
    /// What each linked device's traffic cost.
    pub books: Arc<Books>,
    /// What was refused lately.
    pub refusals: Arc<Refusals>,
    /// Since when that is counted: it is in memory only.
    pub since: Timestamp,
    /// Who may see it.
    pub tokens: SharedTokens,
}

/// The listener's routes.
pub fn router(health: Health) -> Router {
    // The fallback is inside as well: a stranger does not learn which paths exist.
    let guarded = Router::new()
        .route("/metrics", get(metrics))
        .route("/admin/v1/ledger", get(ledger))
        .route("/admin/v1/refusals", get(refusals))
        .route("/admin/v1/refusals/{id}", get(refusal))
        .fallback(nothing_here)
        .layer(middleware::from_fn_with_state(health.clone(), guard));
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .fallback_service(guarded.with_state(health.clone()))
        .with_state(health)
}

async fn readyz(State(health): State<Health>) -> Response {
    if (health.ready)() {
        (StatusCode::OK, "ready\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response()
    }
}

async fn metrics(State(health): State<Health>) -> Response {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], health.metrics.render()).into_response()
}

async fn ledger(State(health): State<Health>) -> Response {
    as_json(&health.books.json(health.since))
}

async fn refusals(State(health): State<Health>) -> Response {
    as_json(&health.refusals.recent())
}

async fn refusal(State(health): State<Health>, UrlPath(id): UrlPath<String>) -> Response {
    match health.refusals.explain(&id) {
        Ok(told) => as_json(&told),
        Err(refusal) => {
            let body = json!({"errcode": refusal.code.errcode(), "error": refusal.message});
            let status = StatusCode::from_u16(refusal.status);
            let status = status.unwrap_or(StatusCode::BAD_REQUEST);
            (status, as_json(&body)).into_response()
        }
    }
}

async fn nothing_here() -> Response {
    let body = json!({"errcode": "M_UNRECOGNIZED", "error": "no such path"});
    (StatusCode::NOT_FOUND, as_json(&body)).into_response()
}

fn as_json(body: &Json) -> Response {
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (kind, body.to_string()).into_response()
}

async fn guard(State(health): State<Health>, request: Request, next: Next) -> Response {
    let shown = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    let known = {
        let tokens = health.tokens.read().unwrap_or_else(PoisonError::into_inner);
        shown.is_some_and(|shown| {
            let token = tokens.admin.as_ref();
            token.is_some_and(|token| token.matches(shown))
        })
    };
    if known {
        return next.run(request).await;
    }
    let body = json!({
        "errcode": if shown.is_some() { "M_UNKNOWN_TOKEN" } else { "M_MISSING_TOKEN" },
        "error": "the admin listener asks for the token in admin.token_file",
    });
    let realm = [(header::WWW_AUTHENTICATE, "Bearer realm=\"tramline admin\"")];
    (StatusCode::UNAUTHORIZED, realm, as_json(&body)).into_response()
}

#[cfg(test)]
mod tests {
    use std::sync::{
        RwLock,
        atomic::{AtomicBool, Ordering},
    };

    use metrics_exporter_prometheus::PrometheusBuilder;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::app::{reload::Tokens, secrets::Secret};

    struct Hub {
        address: std::net::SocketAddr,
        ready: Arc<AtomicBool>,
    }

    async fn hub() -> Hub {
        let ready = Arc::new(AtomicBool::new(true));
        let seen = Arc::clone(&ready);
        let health = Health {
            ready: Arc::new(move || seen.load(Ordering::Relaxed)),
            metrics: PrometheusBuilder::new().build_recorder().handle(),
            books: Books::new(),
            refusals: Arc::new(Refusals::new(Timestamp(0))),
            since: Timestamp(0),
            tokens: Arc::new(RwLock::new(Tokens {
                admin: Some(Secret::new("t0ken")),
                ..Tokens::default()
            })),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router(health)).await });
        Hub { address, ready }
    }

    impl Hub {
        /// The status of `GET path`, with `token` if there is one.
        async fn get(&self, path: &str, token: Option<&str>) -> String {
            let token = token.map_or(String::new(), |t| format!("Authorization: Bearer {t}\r\n"));
            let request =
                format!("GET {path} HTTP/1.1\r\nHost: hub\r\n{token}Connection: close\r\n\r\n");
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer.split(' ').nth(1).unwrap().to_owned()
        }
    }

    #[tokio::test]
    async fn health_is_open_and_readiness_follows_the_hub() {
        let hub = hub().await;

        assert_eq!(hub.get("/livez", None).await, "200");
        assert_eq!(hub.get("/readyz", None).await, "200");
        hub.ready.store(false, Ordering::Relaxed);
        assert_eq!(hub.get("/readyz", None).await, "503");
        assert_eq!(hub.get("/livez", None).await, "200");
    }

    #[tokio::test]
    async fn everything_else_asks_for_the_token() {
        let hub = hub().await;

        for path in [
            "/metrics",
            "/admin/v1/ledger",
            "/admin/v1/refusals",
            "/nothing",
        ] {
            assert_eq!(hub.get(path, None).await, "401", "{path}");
            assert_eq!(hub.get(path, Some("t0keN")).await, "401", "{path}");
        }
        assert_eq!(hub.get("/metrics", Some("t0ken")).await, "200");
        assert_eq!(hub.get("/admin/v1/ledger", Some("t0ken")).await, "200");
        let refusals = hub.get("/admin/v1/refusals", Some("t0ken")).await;
        assert_eq!(refusals, "200");
        let unknown = hub.get("/admin/v1/refusals/2a", Some("t0ken")).await;
        assert_eq!(unknown, "404");
        assert_eq!(hub.get("/nothing", Some("t0ken")).await, "404");
    }
}
