//! Observed syncs.

use super::*;

#[tokio::test]
async fn an_observed_sync_pushes_each_step_once_and_in_order() {
    let door = running().await;
    let mut client = Client::of(&door).await;
    let sync = as_ana(Request::new(Code::GET, &["7"]))
        .option(number::ACCEPT, [60])
        .observing();

    let first = client.ask(sync).await;
    assert!(first.observing);
    assert_eq!(json_of(&first)["next_batch"], "s1");

    for step in ["s1+", "s1++", "s1+++"] {
        door.hub.news.notify_one();
        let push = client.answer().await;
        assert_eq!(push.code, Code::CONTENT);
        assert_eq!(json_of(&push)["next_batch"], step);
    }
    let Command::Sync(asked) = door.hub.last() else {
        panic!("another command")
    };
    assert!(asked.since.unwrap().starts_with("s1+"));
    assert_eq!(
        door.hub.last_origin().credentials,
        Credentials::Token("ana".to_owned())
    );
}

#[tokio::test]
async fn an_observation_ends_when_its_token_is_revoked() {
    let door = running().await;
    let mut client = Client::of(&door).await;
    let sync = as_ana(Request::new(Code::GET, &["7"])).observing();
    assert!(client.ask(sync).await.observing);

    door.hub.revoked.store(true, Ordering::SeqCst);
    door.hub.news.notify_one();

    let last = client.answer().await;
    assert_eq!((last.code, last.observing), (Code::UNAUTHORIZED, false));
    assert_eq!(json_of(&last)["errcode"], "M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn what_is_not_a_sync_is_answered_but_not_observed() {
    let door = running().await;

    let response = Client::of(&door)
        .await
        .ask(as_ana(get(WHOAMI)).observing())
        .await;

    assert_eq!((response.code, response.observing), (Code::CONTENT, false));
}

#[tokio::test]
async fn shutting_down_answers_what_is_under_way_and_tells_observers() {
    let door = running().await;
    let (mut observer, mut poller) = (Client::of(&door).await, Client::of(&door).await);
    let sync = as_ana(Request::new(Code::GET, &["7"]));
    assert!(observer.ask(sync.clone().observing()).await.observing);
    poller.begin(sync.option(number::URI_QUERY, "since=s1"));
    tokio::select! {
        event = poller.event() => panic!("{event:?}"),
        () = async { while door.hub.count() < 3 { tokio::task::yield_now().await; } } => {}
    }

    door.stop.send(true).unwrap();

    assert_eq!(observer.answer().await.code, Code::UNAVAILABLE);
    door.hub.news.notify_waiters();
    assert_eq!(poller.answer().await.code, Code::CONTENT);
    door.task.await.unwrap();
}

#[tokio::test]
async fn taking_back_an_observation_before_its_answer_leaves_nobody_observing() {
    let door = running_with(Limits {
        observers_max: 1,
        ..Limits::default()
    })
    .await;
    let raw = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let sync = |id: u16, observe: &[u8]| {
        Message {
            kind: Kind::Con,
            code: Code::GET,
            id,
            token: Token::new(b"t").unwrap(),
            options: Options::new()
                .with(number::OBSERVE, observe)
                .with(number::URI_PATH, "7")
                .with(number::ACCESS_TOKEN, "ana"),
            payload: Vec::new(),
        }
        .encode()
        .unwrap()
    };
    raw.send_to(&sync(1, &[]), door.address).await.unwrap();
    raw.send_to(&sync(2, &[1]), door.address).await.unwrap();
    let mut buffer = [0; 2048];
    raw.recv(&mut buffer).await.unwrap();
    raw.recv(&mut buffer).await.unwrap();

    let sync = as_ana(Request::new(Code::GET, &["7"])).observing();

    assert!(
        Client::of(&door).await.ask(sync).await.observing,
        "the one place is free"
    );
}
