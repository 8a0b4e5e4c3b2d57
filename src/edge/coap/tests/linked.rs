//! A linked device over OSCORE, against the door with a table of links that is a list.

use std::{collections::BTreeSet, sync::Mutex};

use async_trait::async_trait;
use ruma::{api::client::account::whoami, device_id, user_id};

use super::*;
use crate::{
    api::{
        Deliver, DeviceName, EdhocLink, Links, OscoreLink, Refusal, Registration, Reply, Secret,
        Service, ThinReply,
    },
    base::{Position, Seq},
    edge::thin::{Books, Reach, Thin, fake::Hub},
    session::{
        edhoc::StaticKey,
        oscore::{Id, Parameters, RequestBinding, SecurityContext},
    },
    wire::thin::{Body, Record, Shown, decode_records},
};

const SECRET: [u8; 16] = [7; 16];

/// The link of one device, until it is revoked.
pub(super) struct Table {
    pub(super) link: Mutex<Option<OscoreLink>>,
    /// What the device is recognised by in EDHOC, if it is.
    pub(super) edhoc: Mutex<Option<EdhocLink>>,
    pub(super) hub_key: StaticKey,
    registrations: Mutex<Vec<Registration>>,
    told: Mutex<Vec<Arc<dyn Deliver>>>,
}

pub(super) fn device_name() -> DeviceName {
    DeviceName {
        user: user_id!("@ana:hub.example").to_owned(),
        device: device_id!("RADIO").to_owned(),
    }
}

impl Table {
    pub(super) fn new() -> Arc<Self> {
        let link = OscoreLink {
            device: device_name().into(),
            master_secret: Secret(SECRET.to_vec()),
            master_salt: Vec::new(),
            id_context: None,
            recipient_id: b"d".to_vec(),
            sender_id: b"hub".to_vec(),
            reserved_below: 0,
            outer_observe_counted: false,
        };
        Arc::new(Self {
            link: Mutex::new(Some(link)),
            edhoc: Mutex::default(),
            hub_key: StaticKey::generate(&mut StdRng::seed_from_u64(3)),
            registrations: Mutex::default(),
            told: Mutex::default(),
        })
    }
}

#[async_trait]
impl Links for Table {
    async fn oscore(&self, id: &[u8]) -> Result<Option<OscoreLink>, Refusal> {
        let link = self.link.lock().unwrap().clone();
        Ok(link.filter(|link| link.recipient_id == id))
    }
    async fn renew_oscore(&self, link: OscoreLink) -> Result<(), Refusal> {
        *self.link.lock().unwrap() = Some(link);
        Ok(())
    }
    async fn free_recipient_id(&self) -> Result<Vec<u8>, Refusal> {
        Ok(b"e".to_vec())
    }
    async fn reserve(&self, _: &[u8], reserved_below: u64) -> Result<(), Refusal> {
        if let Some(link) = &mut *self.link.lock().unwrap() {
            link.reserved_below = reserved_below;
        }
        Ok(())
    }
    async fn edhoc(&self, kid: &[u8]) -> Result<Option<EdhocLink>, Refusal> {
        let link = self.edhoc.lock().unwrap().clone();
        Ok(link.filter(|link| link.kid == kid))
    }
    fn psk(&self, _: &[u8]) -> Option<(DeviceName, Secret)> {
        None
    }
    fn spki(&self, _: &[u8]) -> Option<DeviceName> {
        None
    }
    async fn registrations(&self) -> Result<Vec<Registration>, Refusal> {
        Ok(self.registrations.lock().unwrap().clone())
    }
    async fn register(&self, registration: Registration) -> Result<(), Refusal> {
        self.deregister(&registration.recipient_id, &registration.token)
            .await?;
        self.registrations.lock().unwrap().push(registration);
        Ok(())
    }
    async fn deregister(&self, id: &[u8], token: &[u8]) -> Result<(), Refusal> {
        let is_it = |one: &Registration| one.recipient_id == id && one.token == token;
        self.registrations.lock().unwrap().retain(|one| !is_it(one));
        Ok(())
    }
    fn started_with_store(&self) -> bool {
        true
    }
    fn tell(&self, listener: Arc<dyn Deliver>) {
        self.told.lock().unwrap().push(listener);
    }
}

/// A door, the hub behind it and the table, which outlives both.
pub(super) struct Door {
    pub(super) hub: Arc<Hub>,
    books: Arc<Books>,
    pub(super) address: SocketAddr,
    /// Its other address.
    second: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

pub(super) async fn opened(table: &Arc<Table>, answers: Vec<Reply>) -> Door {
    let hub = Arc::<Hub>::default();
    hub.answers
        .lock()
        .unwrap()
        .extend(answers.into_iter().map(Ok));
    let front = Front::new(Arc::clone(&hub) as Arc<dyn Service>);
    let links = Arc::clone(table) as Arc<dyn Links>;
    let books = Books::new();
    let thin = Thin::with_books(
        Arc::clone(&front),
        Arc::clone(&links),
        Arc::new(Wall),
        Reach::new(),
        Arc::clone(&books),
    );
    let socket = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = socket.local_addr().unwrap();
    let other = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let second = other.local_addr().unwrap();
    let (stop, stopped) = watch::channel(false);
    let exchanges = Exchanges::new(
        table.hub_key.clone(),
        Arc::clone(&links),
        Arc::new(Wall),
        Box::new(StdRng::seed_from_u64(4)),
    );
    let door = Coap {
        front,
        clock: Arc::new(Wall),
        rng: Box::new(StdRng::seed_from_u64(1)),
        timers: quick(),
        limits: Limits::default(),
        plainly: Plainly::Nobody,
        linked: Some(Linked { links, thin }),
        exchanges: Some(Arc::new(exchanges)),
    };
    let sockets = Sockets::new(vec![socket, other]).unwrap();
    let task = tokio::spawn(serve(sockets, door, stopped));
    Door {
        hub,
        books,
        address,
        second,
        stop,
        task,
    }
}

impl Door {
    fn questions(&self) -> Vec<String> {
        let asked = self.hub.asked.lock().unwrap();
        let question = |command: &Command| match command {
            Command::Thin(question) => format!("{question:?}"),
            other => other.name().to_owned(),
        };
        asked.iter().map(|(_, command)| question(command)).collect()
    }

    async fn closes(self) {
        self.stop.send(true).unwrap();
        self.task.await.unwrap();
    }
}

pub(super) struct Device {
    pub(super) socket: UdpSocket,
    pub(super) context: SecurityContext,
    pub(super) next_id: u16,
    /// How it sends requests.
    kind: Kind,
    /// The last datagram it sent.
    last: Vec<u8>,
    /// Bytes up and down, headers included, and datagrams.
    traffic: [u64; 4],
}

/// The bytes of a datagram with its IP and UDP headers.
fn on_the_wire(datagram: usize) -> u64 {
    u64::try_from(datagram).unwrap() + 28
}

impl Device {
    pub(super) async fn new() -> Self {
        let id = |id: &[u8]| Id::new(id).unwrap();
        let parameters = Parameters::new(&SECRET, id(b"d"), id(b"hub"));
        let mut context = SecurityContext::new(&parameters).unwrap();
        context.reserved(1000);
        Self {
            socket: UdpSocket::bind("127.0.0.1:0").await.unwrap(),
            context,
            next_id: 0,
            kind: Kind::Con,
            last: Vec::new(),
            traffic: [0; 4],
        }
    }

    pub(super) async fn sends(
        &mut self,
        door: &Door,
        code: Code,
        options: Options,
        body: &[u8],
    ) -> RequestBinding {
        self.next_id += 1;
        let request = Message {
            kind: self.kind,
            code,
            id: self.next_id,
            token: Token::new(&self.next_id.to_be_bytes()).unwrap(),
            options,
            payload: body.to_vec(),
        };
        let (outer, binding) = self.context.protect_request(&request).unwrap();
        let datagram = outer.encode().unwrap();
        self.last = datagram;
        self.sends_again(door).await;
        binding
    }

    async fn sends_again(&mut self, door: &Door) {
        self.socket.send_to(&self.last, door.address).await.unwrap();
        self.went(self.last.len());
    }

    fn went(&mut self, datagram: usize) {
        self.traffic[0] += on_the_wire(datagram);
        self.traffic[2] += 1;
    }

    /// The next message that is not Empty; acknowledged, if it wants that.
    pub(super) async fn hears(&mut self) -> Message {
        let mut buffer = vec![0; 2048];
        loop {
            let received = self.socket.recv_from(&mut buffer);
            let received = tokio::time::timeout(Duration::from_secs(20), received).await;
            let (size, from) = received.expect("something comes").unwrap();
            let message = Message::decode(&buffer[..size]).unwrap();
            self.traffic[1] += on_the_wire(size);
            self.traffic[3] += 1;
            if message.kind == Kind::Con {
                let ack = Message::empty(Kind::Ack, message.id).encode().unwrap();
                self.socket.send_to(&ack, from).await.unwrap();
                self.went(ack.len());
            }
            if message.code != Code::EMPTY {
                return message;
            }
        }
    }

    pub(super) async fn reads(&mut self, binding: &mut RequestBinding) -> Message {
        let outer = self.hears().await;
        self.context.unprotect_response(binding, &outer).unwrap()
    }
}

fn records(seq: u64, text: &str) -> Reply {
    let entry = Shown::Entry {
        seq,
        sender: 1,
        age: 0,
        target: None,
        counter: None,
        body: Body::Text(text.to_owned()),
    };
    let covered = Shown::Covered { seq, head: None };
    Reply::Thin(ThinReply::Records {
        records: [entry, covered]
            .map(|what| Record { room: None, what })
            .to_vec(),
        through: Some((64, Seq(seq))),
        more: false,
    })
}

fn observing() -> Options {
    Options::new()
        .with(number::OBSERVE, [])
        .with(number::URI_PATH, "BA")
}

fn said(message: &Message) -> String {
    format!("{:?}", decode_records(&message.payload).unwrap())
}

#[tokio::test]
async fn a_registration_outlives_the_hub_and_what_was_missed_is_pushed() {
    let (table, mut device) = (Table::new(), Device::new().await);
    let door = opened(&table, vec![records(7, "first")]).await;
    let mut binding = device.sends(&door, Code::FETCH, observing(), &[7]).await;
    let first = device.reads(&mut binding).await;
    assert_eq!(first.code, Code::CONTENT);
    assert!(first.options.has(number::OBSERVE));
    assert!(said(&first).contains("first"), "{}", said(&first));
    assert_eq!(table.registrations.lock().unwrap().len(), 1);
    door.hub
        .answers
        .lock()
        .unwrap()
        .push_back(Ok(records(8, "second")));
    let ana = user_id!("@ana:hub.example");
    let bell = Arc::clone(&table.told.lock().unwrap()[0]);
    bell.news(Position(1), &mut [ana].into_iter());
    let second = device.reads(&mut binding).await;
    assert!(said(&second).contains("second"), "{}", said(&second));
    let mut ask = device.sends(&door, Code::GET, Options::new(), &[]).await;
    device.reads(&mut ask).await; // whatever it says, the acknowledgement came before it
    door.closes().await;

    let door = opened(&table, vec![records(9, "third")]).await;
    let third = device.reads(&mut binding).await;

    assert!(said(&third).contains("third"), "{}", said(&third));
    let asked = door.questions()[0].clone();
    assert!(asked.contains("from: Seq(9)"), "{asked}");
}

#[tokio::test]
async fn a_device_goes_on_at_any_address_of_the_door_and_is_answered_from_there() {
    let (table, mut device) = (Table::new(), Device::new().await);
    let mut door = opened(&table, vec![records(7, "first")]).await;
    let mut binding = device.sends(&door, Code::FETCH, observing(), &[7]).await;
    device.reads(&mut binding).await;

    door.address = door.second;
    device.socket.connect(door.second).await.unwrap(); // hears of no other address from now on
    let mut hello = device.sends(&door, Code::GET, Options::new(), &[]).await;
    device.reads(&mut hello).await; // whatever it says
    let answers = &door.hub.answers;
    answers.lock().unwrap().push_back(Ok(records(8, "second")));
    let ana = user_id!("@ana:hub.example");
    let bell = Arc::clone(&table.told.lock().unwrap()[0]);
    bell.news(Position(1), &mut [ana].into_iter());

    let pushed = device.reads(&mut binding).await;
    assert!(said(&pushed).contains("second"), "{}", said(&pushed));
}

#[tokio::test]
async fn a_receipt_that_is_not_confirmable_is_taken() {
    let (table, mut device) = (Table::new(), Device::new().await);
    let done = Reply::Thin(ThinReply::Done);
    let door = opened(&table, vec![done]).await;
    let room = Options::new().with(number::URI_PATH, "BA");

    device.kind = Kind::Non;
    let mut binding = device.sends(&door, Code::PUT, room, &[7]).await;
    let answer = device.reads(&mut binding).await;

    assert_eq!((answer.kind, answer.code), (Kind::Non, Code::CHANGED));
    assert_eq!(door.questions(), ["Read { room: 64, seq: Seq(7) }"]);
}

#[tokio::test]
async fn a_device_is_its_context_also_where_it_asks_what_clients_ask() {
    let (table, mut device) = (Table::new(), Device::new().await);
    let whoami = whoami::v3::Response::new(user_id!("@ana:hub.example").to_owned(), false);
    let door = opened(&table, vec![Reply::Whoami(Box::new(whoami))]).await;
    let path = WHOAMI.split('/').skip(1);
    let options = path.fold(Options::new(), |options, segment| {
        options.with(number::URI_PATH, segment)
    });

    let mut binding = device.sends(&door, Code::GET, options.clone(), &[]).await;
    assert_eq!(device.reads(&mut binding).await.code, Code::CONTENT);
    let options = options.with(number::ACCESS_TOKEN, "other");
    let mut binding = device.sends(&door, Code::GET, options, &[]).await;
    device.reads(&mut binding).await;

    let asked = door.hub.asked.lock().unwrap();
    let credentials: Vec<_> = asked
        .iter()
        .map(|(origin, _)| origin.credentials.clone())
        .collect();
    let other = Credentials::DeviceAndToken(device_name(), "other".to_owned());
    assert_eq!(credentials, [Credentials::Device(device_name()), other]);
    assert_eq!(asked[0].0.door, crate::api::Door::Oscore);
}

#[tokio::test]
async fn a_revoked_device_is_told_nothing_more() {
    let (table, mut device) = (Table::new(), Device::new().await);
    let door = opened(&table, vec![records(7, "first")]).await;
    let mut binding = device.sends(&door, Code::FETCH, observing(), &[7]).await;
    device.reads(&mut binding).await;

    let of_news = |question: &String| question.contains("from: Seq(8)");
    let looks = || door.questions().iter().filter(|one| of_news(one)).count();
    while looks() == 0 {
        tokio::task::yield_now().await; // a new observation is looked at once
    }
    *table.link.lock().unwrap() = None;
    let bell = Arc::clone(&table.told.lock().unwrap()[0]);
    bell.revoked(&device_name());
    let ana = BTreeSet::from([user_id!("@ana:hub.example")]);
    bell.news(Position(1), &mut ana.into_iter());

    loop {
        device.sends(&door, Code::GET, Options::new(), &[]).await;
        let answer = device.hears().await;
        if !answer.options.has(number::OSCORE) {
            assert_eq!(answer.code, Code::UNAUTHORIZED);
            break; // before that, the door had not heard of it
        }
    }
    assert_eq!(looks(), 1);
}

#[tokio::test]
async fn the_ledger_has_every_datagram_of_an_exchange_sent_again_and_of_a_push() {
    let (table, mut device) = (Table::new(), Device::new().await);
    let door = opened(&table, vec![records(7, "first")]).await;
    let mut binding = device.sends(&door, Code::FETCH, observing(), &[7]).await;
    device.reads(&mut binding).await;
    device.sends_again(&door).await;
    device.hears().await; // the same answer again
    let asked = device.traffic;
    let answers = &door.hub.answers;
    answers.lock().unwrap().push_back(Ok(records(8, "second")));
    let ana = user_id!("@ana:hub.example");
    let bell = Arc::clone(&table.told.lock().unwrap()[0]);
    bell.news(Position(1), &mut [ana].into_iter());
    device.reads(&mut binding).await;
    let pushed: Vec<_> = device
        .traffic
        .iter()
        .zip(asked)
        .map(|(now, then)| now - then)
        .collect();
    // Whatever it says, the acknowledgement came before it.
    device.sends(&door, Code::GET, Options::new(), &[]).await;
    device.hears().await;

    let told = door.books.json(Timestamp(0));
    let operations = &told["devices"][0]["operations"];
    let figures = |[up, down, sent, received]: [u64; 4]| {
        json!({"times": 1, "bytes_up": up, "bytes_down": down, "datagrams_up": sent,
            "datagrams_down": received})
    };
    assert_eq!(operations["read"], figures(asked), "{operations}");
    let pushed: [u64; 4] = pushed.try_into().unwrap();
    assert_eq!(operations["push"], figures(pushed), "{operations}");
    assert_eq!(told["devices"][0]["total"]["wakeups"], 1, "one wake-up");
}
