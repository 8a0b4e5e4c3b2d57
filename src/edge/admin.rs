//! The operator's listener: whether the hub lives, whether it takes work, and its metrics.
//!
//! Plain HTTP/1.1, meant for loopback or a private network. `/livez` and `/readyz` are open, for
//! probes that cannot hold secrets; all else needs the token that `init` made.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::get,
};
use http::{StatusCode, header};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use sha2::{Digest as _, Sha256};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
};

use super::client_api::{Answer, token};
use crate::api::{Code, Credentials, Refusal, Service};

/// What the listener needs to be opened.
#[derive(Clone)]
pub struct Admin {
    /// The hub, for its readiness.
    pub service: Arc<dyn Service>,
    /// The text of `/metrics`.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// The token that all but the probes must show.
    pub token: Arc<str>,
    /// Further routes, for `/admin/v1`; they are behind the token too.
    pub more: Router,
}

/// Serves until `shutdown` becomes true (or its sender is gone).
pub async fn serve(listener: TcpListener, admin: Admin, mut shutdown: watch::Receiver<bool>) {
    let router = router(admin);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            _ = shutdown.wait_for(|over| *over) => break,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, peer)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            continue; // closes it: an operator's tools are few
        };
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIME)
            .serve_connection(
                TokioIo::new(stream),
                TowerToHyperService::new(router.clone()),
            );
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug_end(peer, &error);
            }
            drop(place);
        });
    }
    let _ = tokio::time::timeout(DRAIN_TIME, graceful.shutdown()).await; // probes can wait
}

fn debug_end(peer: SocketAddr, error: &hyper::Error) {
    tracing::debug!(%peer, %error, "admin connection ended");
}

fn router(admin: Admin) -> Router {
    let token = Arc::clone(&admin.token);
    let guarded = Router::new()
        .route("/metrics", get(metrics))
        .with_state(admin.clone())
        .merge(admin.more.clone())
        .fallback(|| async { refused(Refusal::new(Code::Unrecognized, "nothing is served here")) })
        .layer(middleware::from_fn_with_state(token, guard));
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(admin)
        .fallback_service(guarded)
}

async fn ready(State(admin): State<Admin>) -> Response {
    if admin.service.ready() {
        "ok\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response()
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let text = (admin.metrics)();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

async fn guard(State(token): State<Arc<str>>, request: Request, next: Next) -> Response {
    let shown = request.headers().get_all(header::AUTHORIZATION);
    let credentials = token::credentials(shown.iter().map(http::HeaderValue::as_bytes), "");
    match credentials {
        Ok((Credentials::Token(shown), _)) if same(&shown, &token) => next.run(request).await,
        Ok((Credentials::Token(_), _)) => refused(Refusal::new(
            Code::UnknownToken,
            "this is not the admin token",
        )),
        Ok((Credentials::Nothing, _)) => refused(Refusal::new(
            Code::MissingToken,
            "the admin token is needed",
        )),
        Err(refusal) => refused(refusal),
    }
}

/// Compares hashes: how long it takes says nothing about the token.
fn same(shown: &str, token: &str) -> bool {
    !token.is_empty() && Sha256::digest(shown) == Sha256::digest(token)
}

fn refused(refusal: Refusal) -> Response {
    let answer = Answer::of_refusal(refusal);
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (
        status,
        [(header::CONTENT_TYPE, "application/json")],
        Body::from(answer.body),
    )
        .into_response()
}

/// Connections at a time: a few probes, a scraper, a person.
const CONNECTIONS_MAX: usize = 64;
/// Time for the headers of a request.
const HEADER_TIME: Duration = Duration::from_secs(10);
/// Time that answers under way get at shutdown.
const DRAIN_TIME: Duration = Duration::from_secs(2);
/// How long to wait after accept failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::edge::fake::Fake;

    /// Asks one path and gives the whole answer as text.
    async fn ask(hub: &Arc<Fake>, path: &str, authorization: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_running, shutdown) = watch::channel(false);
        let admin = Admin {
            service: hub.clone(),
            metrics: Arc::new(|| "tramline_up 1\n".to_owned()),
            token: "s3cret".into(),
            more: Router::new().route("/admin/v1/more", get(|| async { "more" })),
        };
        tokio::spawn(serve(listener, admin, shutdown));
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{authorization}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn probes_need_no_token_and_tell_readiness() {
        let hub = Arc::new(Fake::default());
        assert!(ask(&hub, "/livez", "").await.starts_with("HTTP/1.1 200"));
        assert!(ask(&hub, "/readyz", "").await.starts_with("HTTP/1.1 200"));

        hub.draining.store(true, Ordering::SeqCst);

        assert!(ask(&hub, "/livez", "").await.starts_with("HTTP/1.1 200"));
        assert!(ask(&hub, "/readyz", "").await.starts_with("HTTP/1.1 503"));
    }

    #[tokio::test]
    async fn all_else_needs_the_token() {
        let hub = Arc::new(Fake::default());
        for path in ["/metrics", "/admin/v1/more", "/admin/v1/none"] {
            assert!(
                ask(&hub, path, "").await.starts_with("HTTP/1.1 401"),
                "{path}"
            );
            let wrong = ask(&hub, path, "authorization: Bearer s3cre\r\n").await;
            assert!(wrong.starts_with("HTTP/1.1 401"), "{path}");
        }
        let right = "authorization: Bearer s3cret\r\n";
        assert!(
            ask(&hub, "/metrics", right)
                .await
                .ends_with("tramline_up 1\n")
        );
        assert!(ask(&hub, "/admin/v1/more", right).await.ends_with("more"));
        assert!(
            ask(&hub, "/admin/v1/none", right)
                .await
                .starts_with("HTTP/1.1 404")
        );
    }
}
