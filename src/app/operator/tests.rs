use std::{os::unix::fs::PermissionsExt as _, sync::Arc};

use proptest::prelude::*;
use serde_json::json;
use tokio::{io::BufReader, net::UnixStream, task::JoinHandle};

use super::*;
use crate::api::{Code, Refusal};

/// Adds anyone but bob, and tells three steps on the way to its status.
struct Desk;

#[async_trait]
impl Operator for Desk {
    async fn ask(&self, request: Request, progress: Progress) -> Result<Json, Refusal> {
        match request {
            Request::AddUser { localpart, .. } if localpart == "bob" => {
                Err(Refusal::new(Code::UserInUse, "bob is taken"))
            }
            Request::ListUsers { .. } => Ok(json!({"users": [], "next": null})),
            Request::ListDevices { .. } => Ok(json!({"devices": []})),
            Request::ListPeers { .. } => Ok(json!({"peers": []})),
            Request::ListGaps => Ok(json!({"gaps": [], "more": 0})),
            Request::Settings { .. } => Ok(json!({"settings": []})),
            Request::Explain { .. } | Request::RecentRefusals => Ok(json!({"refusals": []})),
            Request::AddUser { localpart, .. }
            | Request::SetPassword { localpart, .. }
            | Request::DisableUser { localpart }
            | Request::LinkDevice { localpart, .. }
            | Request::RemoveDevice { localpart, .. }
            | Request::EnableUser { localpart } => Ok(json!({"user": localpart})),
            Request::Status => {
                for step in 1..=3 {
                    progress.tell(json!({"rooms": step}));
                }
                Ok(json!({"ready": true}))
            }
        }
    }
}

async fn hub(path: &Path) -> JoinHandle<()> {
    let server = Server::bind(path).await.unwrap();
    tokio::spawn(server.run(Arc::new(Desk)))
}

fn add(localpart: &str) -> Request {
    Request::AddUser {
        localpart: localpart.to_owned(),
        password: Secret::new("planted-secret"),
        admin: false,
    }
}

#[tokio::test]
async fn a_request_comes_back_answered_and_the_next_one_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/operator.sock");
    let _hub = hub(&path).await;
    let mut client = Client::connect(&path).await.unwrap().unwrap();

    let added = client.ask(&add("ana"), |_| {}).await.unwrap();
    let refused = client.ask(&add("bob"), |_| {}).await.unwrap_err();

    assert_eq!(added, json!({"user": "ana"}));
    let ClientError::Refused { code, message } = refused else {
        panic!("{refused}")
    };
    assert_eq!(
        (code.as_str(), message.as_str()),
        ("M_USER_IN_USE", "bob is taken")
    );
}

#[tokio::test]
async fn progress_arrives_before_the_result() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("operator.sock");
    let _hub = hub(&path).await;
    let mut client = Client::connect(&path).await.unwrap().unwrap();
    let mut steps = Vec::new();

    let result = client
        .ask(&Request::Status, |step| steps.push(step))
        .await
        .unwrap();

    assert_eq!(result, json!({"ready": true}));
    assert_eq!(
        steps,
        [
            json!({"rooms": 1}),
            json!({"rooms": 2}),
            json!({"rooms": 3})
        ]
    );
}

#[tokio::test]
async fn idle_connections_do_not_lock_the_operator_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("operator.sock");
    let _hub = hub(&path).await;
    let mut busy = Client::connect(&path).await.unwrap().unwrap();
    let mut idle = Vec::new();
    for _ in 0..300 {
        idle.push(UnixStream::connect(&path).await.unwrap());
    }
    let mut late = Client::connect(&path).await.unwrap().unwrap();

    assert!(late.ask(&Request::Status, |_| {}).await.is_ok());

    // The oldest went: those who came last still have their places.
    assert!(matches!(
        busy.ask(&Request::Status, |_| {}).await,
        Err(ClientError::Io(_))
    ));
    let (mut oldest, newest) = (idle.swap_remove(0), idle.pop().unwrap());
    assert_eq!(oldest.read(&mut [0]).await.unwrap(), 0);
    let (reader, mut writer) = newest.into_split();
    let request = Request::ListUsers { after: None };
    write_line(&mut writer, &request).await.unwrap();
    let answer = read_line(&mut BufReader::new(reader)).await.unwrap();
    assert!(answer.unwrap().starts_with(b"{\"done\""));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_asks_nothing_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("operator.sock");
    let _hub = hub(&path).await;
    let mut silent = UnixStream::connect(&path).await.unwrap();
    let few_seconds = std::time::Duration::from_secs(10);
    let read = tokio::time::timeout(few_seconds, silent.read(&mut [0])).await;

    assert_eq!(read.unwrap().unwrap(), 0);
}

#[tokio::test]
async fn an_oversized_line_is_refused_and_harms_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("operator.sock");
    let _hub = hub(&path).await;
    let (reader, mut writer) = UnixStream::connect(&path).await.unwrap().into_split();
    let mut reader = BufReader::new(reader);

    // The hub may hang up before it has all of it.
    let _ = writer
        .write_all(&vec![b'x'; usize::try_from(LINE_BYTES_MAX).unwrap()])
        .await;
    let answer = read_line(&mut reader).await.unwrap().unwrap();

    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.contains("OPERATOR_REQUEST"), "{answer}");
    assert!(answer.contains("65536"), "{answer}");
    assert!(matches!(read_line(&mut reader).await, Ok(None) | Err(_)));
    let mut other = Client::connect(&path).await.unwrap().unwrap();
    assert!(other.ask(&Request::Status, |_| {}).await.is_ok());
}

#[tokio::test]
async fn a_line_that_is_no_request_is_answered_without_repeating_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("operator.sock");
    let _hub = hub(&path).await;
    for line in [
        r#"{"verb":"add_user","localpart":"ana","password":["planted-secret"],"admin":false}"#,
        r#"{"verb":"planted-secret"}"#,
        "planted-secret",
        "",
        "\u{0}",
    ] {
        let (reader, mut writer) = UnixStream::connect(&path).await.unwrap().into_split();
        writer
            .write_all(format!("{line}\n").as_bytes())
            .await
            .unwrap();
        let answer = read_line(&mut BufReader::new(reader)).await.unwrap();

        let answer = String::from_utf8(answer.unwrap()).unwrap();
        assert!(answer.contains("OPERATOR_REQUEST"), "{answer}");
        assert!(!answer.contains("planted-secret"), "{answer}");
    }
}

#[tokio::test]
async fn the_socket_and_its_directory_are_the_owners_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/operator.sock");
    let _hub = hub(&path).await;

    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
}

#[tokio::test]
async fn a_directory_that_others_may_write_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let open = dir.path().join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();

    let error = Server::bind(&open.join("operator.sock")).await.unwrap_err();

    assert!(error.to_string().contains("chmod go-w"), "{error}");
}

#[tokio::test]
async fn a_socket_left_by_a_killed_hub_is_replaced_and_a_living_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("operator.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());

    let hub = hub(&path).await;
    let second = Server::bind(&path).await.unwrap_err();

    assert!(matches!(second, ServerError::Answered { .. }), "{second}");
    assert!(Client::connect(&path).await.unwrap().is_some());
    hub.abort();
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("operator.sock");
    std::fs::write(&path, "mine").unwrap();

    let error = Server::bind(&path).await.unwrap_err();

    assert!(matches!(error, ServerError::NotASocket { .. }), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
}

#[tokio::test]
async fn a_directory_too_deep_for_a_socket_name_still_works() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d".repeat(150)).join("operator.sock");
    let _hub = hub(&path).await;

    let mut client = Client::connect(&path).await.unwrap().unwrap();

    assert!(client.ask(&Request::Status, |_| {}).await.is_ok());
}

#[tokio::test]
async fn no_hub_is_no_error() {
    let dir = tempfile::tempdir().unwrap();

    let nobody = Client::connect(&dir.path().join("none/operator.sock")).await;

    assert!(nobody.unwrap().is_none());
}

#[test]
fn a_request_does_not_show_its_password() {
    assert!(!format!("{:?}", add("ana")).contains("planted-secret"));
}

/// The lines that are read from `bytes`, and whether reading ended with an error.
fn lines_of(bytes: &[u8]) -> (Vec<Vec<u8>>, bool) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut reader = bytes;
        let mut lines = Vec::new();
        loop {
            match read_line(&mut reader).await {
                Ok(Some(line)) => lines.push(line),
                Ok(None) => return (lines, false),
                Err(_) => return (lines, true),
            }
        }
    })
}

proptest! {
    #[test]
    fn any_bytes_are_lines_and_requests_or_are_refused(
        bytes in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'{'), any::<u8>()], 0..80)
    ) {
        let (lines, broken) = lines_of(&bytes);

        let whole = bytes.split(|byte| *byte == b'\n').count() - 1;
        prop_assert_eq!(lines.len(), whole);
        prop_assert_eq!(broken, bytes.last().is_some_and(|last| *last != b'\n'));
        for line in lines {
            let _ = serde_json::from_slice::<Request>(&line);
        }
    }

    #[test]
    fn a_request_with_anything_in_it_is_read_or_refused(
        verb in "status|add_user|\\PC{0,4}", key in "localpart|password|admin|\\PC{0,4}", value in "\\PC{0,8}",
    ) {
        let line = serde_json::to_vec(&json!({"verb": verb, key: value})).unwrap();
        let _ = serde_json::from_slice::<Request>(&line);
    }
}
