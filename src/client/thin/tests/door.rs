//! The device on a real socket, against the small hub on loopback.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use rand::{SeedableRng as _, rngs::StdRng};
use tokio::{net::UdpSocket, task::JoinHandle};

use super::{
    super::{DoorChoice, StateDir, ThinDoor, ThinError},
    hub::{Hub, hub_key},
    *,
};
use crate::{
    base::{Clock, Timestamp},
    client::{EdhocKeys, World},
    session::{
        edhoc::StaticKey,
        lab::{Node as _, world::OPENS},
    },
};

const ROOM_ID: &str = "!room:hub.example";

/// Each run has chance of its own: with message ids as before, it would be taken for a copy.
static RUNS: AtomicU64 = AtomicU64::new(0);

/// A clock that goes as fast as the test's tasks wait.
struct TestClock(tokio::time::Instant);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        OPENS + self.0.elapsed()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the test's own clock, which it can stop"
)]
fn world() -> World {
    World {
        clock: Arc::new(TestClock(tokio::time::Instant::now())),
        rng: || Box::new(StdRng::seed_from_u64(RUNS.fetch_add(1, SeqCst))),
    }
}

async fn serve(hub: Arc<Mutex<Hub>>, world: &World) -> (String, JoinHandle<()>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let clock = Arc::clone(&world.clock);
    let task = tokio::spawn(async move {
        let mut buffer = [0; 2048];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let mut out = Vec::new();
            {
                let mut hub = hub.lock().unwrap();
                hub.handle(clock.now(), from, &buffer[..length]);
                out.extend(std::iter::from_fn(|| hub.poll_transmit()));
            }
            for (to, datagram) in out {
                socket.send_to(&datagram, to).await.unwrap();
            }
        }
    });
    (address, task)
}

async fn open(file: &Path, address: &str, world: &World) -> ThinDoor {
    let mut credentials = credentials();
    credentials.server.coap = Some(address.to_owned());
    opened(file, &credentials, world).await
}

async fn opened(file: &Path, credentials: &Credentials, world: &World) -> ThinDoor {
    let door = ThinDoor::open(file, credentials, world, DoorChoice::Auto);
    door.await.unwrap()
}

fn text(text: &str) -> Body {
    Body::Text(text.to_owned())
}

#[tokio::test]
async fn what_is_said_offline_is_kept_and_sent_once_by_the_next_run() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("k1.json");
    StateDir::begin(&file, &credentials()).unwrap();
    let world = world();
    let hub = Arc::new(Mutex::new(Hub::new(hub_context(), 0)));
    let nobody = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let closed = nobody.local_addr().unwrap().to_string();
    drop(nobody);

    let mut offline = open(&file, &closed, &world).await;
    offline.queue(ROOM_ID, text("one")).unwrap();
    tokio::time::pause(); // nobody answers: there is nothing to wait for in earnest
    let (flushed, ended) = offline.flush().await;
    tokio::time::resume();
    assert!(flushed.is_empty());
    let error = ended.unwrap_err();
    assert!(error.is_temporary(), "{error}");
    assert!(matches!(error, ThinError::Unreachable { .. }), "{error}");
    drop(offline);

    let (address, task) = serve(Arc::clone(&hub), &world).await;
    let mut online = open(&file, &address, &world).await;
    assert_eq!(online.waiting(), 1);
    online.queue(ROOM_ID, text("two")).unwrap();
    let (flushed, ended) = online.flush().await;
    ended.unwrap();
    let places: Vec<_> = flushed
        .iter()
        .map(|one| (one.counter, one.outcome.clone()))
        .collect();
    assert_eq!(places, [(1, Ok(1)), (2, Ok(2))]);
    assert_eq!(online.waiting(), 0);
    let lines = online.book();
    let sent = lines
        .lines()
        .find(|(_, name, _)| *name == "send")
        .unwrap()
        .2;
    assert_eq!(
        (sent.times, sent.datagrams_up, sent.datagrams_down),
        (2, 2, 2)
    );
    // PIV of one byte, kid of two, token of one, a text of three: DESIGN has 125 for 22 characters.
    assert!(sent.up + sent.down <= 2 * 106, "{sent:?}");
    drop(online);

    let mut again = open(&file, &address, &world).await;
    assert_eq!(again.news().await.unwrap(), []);
    again.keep_places().unwrap();
    hub.lock()
        .unwrap()
        .say(world.clock.now(), "three".to_owned());
    assert_eq!(again.news().await.unwrap().len(), 1);
    again.keep_places().unwrap();
    drop(again);
    let mut again = open(&file, &address, &world).await;
    assert_eq!(again.news().await.unwrap(), []);
    assert!(again.book().total().up > sent.up);
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn a_process_goes_on_with_message_ids_that_the_hub_does_not_know() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("k1.json");
    StateDir::begin(&file, &credentials()).unwrap();
    let world = World {
        rng: || Box::new(StdRng::seed_from_u64(7)), // the same chance for each process
        ..world()
    };
    let hub = Arc::new(Mutex::new(Hub::new(hub_context(), 0)));
    let (address, task) = serve(Arc::clone(&hub), &world).await;

    for seq in 1..=3 {
        let mut device = open(&file, &address, &world).await;
        device.queue(ROOM_ID, text("more")).unwrap();
        let (flushed, ended) = device.flush().await;
        ended.unwrap();
        assert_eq!(flushed[0].outcome, Ok(seq));
        let spent = device.spent();
        assert!(spent.datagrams_up <= 3, "{spent:?}"); // nothing was sent again
    }
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_seems_not_to_know_us_is_told_of_and_nothing_is_thrown_away() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("k1.json");
    StateDir::begin(&file, &credentials()).unwrap();
    let world = world();
    let hub = Arc::new(Mutex::new(Hub::new(hub_context(), 0)));
    hub.lock().unwrap().is_lost = true;
    let (address, task) = serve(Arc::clone(&hub), &world).await;

    let mut device = open(&file, &address, &world).await;
    device.queue(ROOM_ID, text("one")).unwrap();
    let lost = tokio::time::timeout(Duration::from_mins(5), device.flush());
    let (_, ended) = lost.await.unwrap();

    let error = ended.unwrap_err();
    assert!(matches!(error, ThinError::Stranger { .. }), "{error}");
    assert_eq!(device.waiting(), 1);
    drop(device);
    hub.lock().unwrap().is_lost = false;
    let mut device = open(&file, &address, &world).await;
    let (flushed, ended) = device.flush().await;
    ended.unwrap();
    assert_eq!(flushed.len(), 1);
    task.abort();
}

/// Credentials with which a fresh context can be agreed, and the hub that knows them.
fn linked(address: &str, hub: &Mutex<Hub>) -> Credentials {
    let own = StaticKey::generate(&mut StdRng::seed_from_u64(1));
    hub.lock().unwrap().device = Some(own.public());
    let mut credentials = credentials();
    credentials.server.coap = Some(address.to_owned());
    credentials.edhoc = Some(EdhocKeys {
        device_key: Some(hex::encode(own.secret())),
        hub_key: hex::encode(hub_key().public().x()),
        kid: "0a".to_owned(),
    });
    credentials
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_has_lost_the_context_is_given_a_fresh_one() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("k1.json");
    let world = world();
    let hub = Arc::new(Mutex::new(Hub::new(hub_context(), 0)));
    let (address, task) = serve(Arc::clone(&hub), &world).await;
    let credentials = linked(&address, &hub);
    StateDir::begin(&file, &credentials).unwrap();
    let open = async || opened(&file, &credentials, &world).await;
    let say = async |text: &str| {
        let mut device = open().await;
        device.queue(ROOM_ID, self::text(text)).unwrap();
        let (flushed, ended) = device.flush().await;
        ended.unwrap();
        flushed[0].outcome.clone()
    };
    assert_eq!(say("one").await, Ok(1));

    hub.lock().unwrap().is_lost = true;
    assert_eq!(say("two").await, Ok(2));
    assert_eq!(hub.lock().unwrap().contexts, 1);

    // It is the one on disk: nothing is agreed again.
    assert_eq!(say("three").await, Ok(3));
    assert_eq!(hub.lock().unwrap().contexts, 1);
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn a_device_that_was_unlinked_is_told_so_and_asks_no_more_for_a_while() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("k1.json");
    let world = world();
    let hub = Arc::new(Mutex::new(Hub::new(hub_context(), 0)));
    let (address, task) = serve(Arc::clone(&hub), &world).await;
    let credentials = linked(&address, &hub);
    StateDir::begin(&file, &credentials).unwrap();
    {
        let mut hub = hub.lock().unwrap();
        (hub.is_lost, hub.device) = (true, None);
    }
    let mut device = opened(&file, &credentials, &world).await;
    device.must_be_linked().unwrap();
    let counter = device.queue(ROOM_ID, text("one")).unwrap();
    let (_, ended) = device.flush().await;
    let error = ended.unwrap_err();
    assert!(matches!(error, ThinError::Unlinked { .. }), "{error}");
    device.take_back(counter).unwrap();
    assert_eq!(device.waiting(), 0);
    drop(device);

    let mut device = opened(&file, &credentials, &world).await;
    let error = device.must_be_linked().unwrap_err();
    assert!(matches!(error, ThinError::Unlinked { .. }), "{error}");
    let error = device.news().await.unwrap_err();
    assert!(matches!(error, ThinError::Unlinked { .. }), "{error}");
    assert_eq!(device.spent().datagrams_up, 0);
    // Nobody has shown who said so: it is not believed for ever.
    tokio::time::sleep(Duration::from_mins(11)).await;
    device.must_be_linked().unwrap();
    task.abort();
}

#[tokio::test]
async fn a_room_keeps_the_name_that_it_was_said_to_have_in_passing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("k1.json");
    StateDir::begin(&file, &credentials()).unwrap();
    let world = world();
    let mut device = open(&file, "127.0.0.1:1", &world).await;
    device
        .note_room("!tea", |noted| {
            "Tea".clone_into(&mut noted.name);
            "invite".clone_into(&mut noted.membership);
        })
        .unwrap();
    let joined = |noted: &mut crate::client::thin::NotedRoom| {
        "join".clone_into(&mut noted.membership);
    };
    device.note_room("!tea", joined).unwrap();
    device.note_room("!other", joined).unwrap();
    drop(device);

    let device = open(&file, "127.0.0.1:1", &world).await;
    let tea = Some(("Tea".to_owned(), String::new()));
    assert_eq!(device.called("!tea"), tea);
    assert!(
        device.noted_room("!other").is_none(),
        "nothing was said of it"
    );
}

#[tokio::test(start_paused = true)]
async fn a_device_whose_state_is_gone_sends_nothing_before_it_has_a_fresh_context() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("k1.json");
    let world = world();
    let hub = Arc::new(Mutex::new(Hub::new(hub_context(), 0)));
    let (address, task) = serve(Arc::clone(&hub), &world).await;
    let credentials = linked(&address, &hub);

    let mut device = opened(&file, &credentials, &world).await;
    device.queue(ROOM_ID, text("one")).unwrap();
    let (flushed, ended) = device.flush().await;

    ended.unwrap();
    assert_eq!(flushed[0].outcome, Ok(1));
    assert_eq!(hub.lock().unwrap().contexts, 1);
    let first = hub.lock().unwrap().numbers.first().copied();
    assert_eq!(first, Some(0));
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn an_impostor_gets_no_context_and_the_old_one_stays() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("k1.json");
    let world = world();
    let hub = Arc::new(Mutex::new(Hub::new(hub_context(), 0)));
    let (address, task) = serve(Arc::clone(&hub), &world).await;
    let mut credentials = linked(&address, &hub);
    let other = StaticKey::generate(&mut StdRng::seed_from_u64(2)).public();
    credentials.edhoc.as_mut().unwrap().hub_key = hex::encode(other.x());
    StateDir::begin(&file, &credentials).unwrap();
    hub.lock().unwrap().is_lost = true;
    let mut device = opened(&file, &credentials, &world).await;
    device.queue(ROOM_ID, text("one")).unwrap();

    let (_, ended) = device.flush().await;
    let error = ended.unwrap_err();
    assert!(matches!(error, ThinError::Agree(_)), "{error}");
    assert_eq!(hub.lock().unwrap().contexts, 0);

    hub.lock().unwrap().is_lost = false;
    let (flushed, ended) = device.flush().await;
    ended.unwrap();
    assert_eq!(flushed[0].outcome, Ok(1));
    task.abort();
}
