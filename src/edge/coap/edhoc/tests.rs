//! A device, a table of one linked device, and the exchange between them.

use std::{collections::VecDeque, net::SocketAddr};

use async_trait::async_trait;
use rand::{SeedableRng, rngs::StdRng};

use super::*;
use crate::{
    api::{Deliver, Registration},
    base::Timestamp,
    session::{
        edhoc::{CONTENT_FORMAT_WITH_ID, Initiator, Kid, PATH, Third, combine},
        oscore::SecurityContext,
    },
    wire::coap::{Kind, Options, Token, options::number},
};

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        Timestamp(1_000_000)
    }
}

/// One linked device, or none, and what is stored of its contexts.
struct Table {
    linked: Mutex<Option<EdhocLink>>,
    stored: Mutex<Vec<OscoreLink>>,
    free: Mutex<VecDeque<Vec<u8>>>,
    fails: bool,
}

#[async_trait]
impl Links for Table {
    async fn oscore(&self, recipient_id: &[u8]) -> Result<Option<OscoreLink>, Refusal> {
        let stored = self.stored.lock().unwrap();
        let mut links = stored.iter();
        Ok(links
            .find(|link| link.recipient_id == recipient_id)
            .cloned())
    }

    async fn renew_oscore(&self, link: OscoreLink) -> Result<(), Refusal> {
        if self.fails {
            return Err(Refusal::internal());
        }
        self.stored.lock().unwrap().push(link);
        Ok(())
    }

    async fn free_recipient_id(&self) -> Result<Vec<u8>, Refusal> {
        let free = self.free.lock().unwrap().pop_front();
        free.ok_or_else(Refusal::internal)
    }

    async fn reserve(&self, _: &[u8], _: u64) -> Result<(), Refusal> {
        Ok(())
    }

    async fn edhoc(&self, kid: &[u8]) -> Result<Option<EdhocLink>, Refusal> {
        let linked = self.linked.lock().unwrap().clone();
        Ok(linked.filter(|link| link.kid == kid))
    }

    fn psk(&self, _: &[u8]) -> Option<(DeviceName, Secret)> {
        None
    }

    fn spki(&self, _: &[u8]) -> Option<DeviceName> {
        None
    }

    async fn registrations(&self) -> Result<Vec<Registration>, Refusal> {
        Ok(Vec::new())
    }

    async fn register(&self, _: Registration) -> Result<(), Refusal> {
        Ok(())
    }

    async fn deregister(&self, _: &[u8], _: &[u8]) -> Result<(), Refusal> {
        Ok(())
    }

    fn started_with_store(&self) -> bool {
        false
    }

    fn tell(&self, _: Arc<dyn Deliver>) {}
}

struct Scene {
    table: Arc<Table>,
    exchanges: Exchanges,
    hub: PublicKey,
    device: StaticKey,
    rng: StdRng,
}

const C_I: &[u8] = &[0x05];
const C_R: &[u8] = &[0x01, 0x02];

fn scene(fails: bool) -> Scene {
    let mut rng = StdRng::seed_from_u64(9668);
    let (hub, device) = (StaticKey::generate(&mut rng), StaticKey::generate(&mut rng));
    let linked = EdhocLink {
        device: DeviceName {
            user: "@ana:example.org".try_into().unwrap(),
            device: "RADIO".into(),
        },
        public_x: *device.public().x(),
        kid: vec![0x0a],
    };
    let table = Arc::new(Table {
        linked: Mutex::new(Some(linked)),
        stored: Mutex::default(),
        // the first is the device's own, and must be passed over
        free: Mutex::new([C_I.to_vec(), C_R.to_vec()].into()),
        fails,
    });
    let links: Arc<dyn Links> = Arc::clone(&table) as _;
    Scene {
        table,
        hub: hub.public(),
        exchanges: Exchanges::new(
            hub,
            links,
            Arc::new(Still),
            Box::new(StdRng::seed_from_u64(1)),
        ),
        device,
        rng,
    }
}

impl Scene {
    async fn post(&self, body: Vec<u8>) -> Response {
        let request = Request::new(Code::POST, &PATH)
            .option(
                number::CONTENT_FORMAT,
                [u8::try_from(CONTENT_FORMAT_WITH_ID).unwrap()],
            )
            .body(body);
        self.exchanges.answer(HERE, &request).await
    }

    async fn third(&mut self) -> Third {
        let kid = Kid::new(&[0x0a]).unwrap();
        let c_i = Id::new(C_I).unwrap();
        let own = self.device.clone();
        let (initiator, body) = Initiator::begin(&mut self.rng, own, kid, self.hub, c_i).unwrap();
        let response = self.post(body).await;
        assert_eq!(response.code, Code::CHANGED);
        assert_eq!(response.options.content_format(), Some(CONTENT_FORMAT));
        initiator
            .message_2(&mut self.rng, &response.payload)
            .unwrap()
    }

    fn combined(third: &Third) -> Message {
        let mut context = SecurityContext::new(&third.keying().parameters()).unwrap();
        context.reserved(10);
        let request = Message {
            kind: Kind::Con,
            code: Code::GET,
            id: 7,
            token: Token::new(&[1]).unwrap(),
            options: Options::new().with(number::URI_PATH, "r"),
            payload: Vec::new(),
        };
        combine(
            &context.protect_request(&request).unwrap().0,
            third.message_3(),
        )
    }

    fn stored(&self) -> usize {
        self.table.stored.lock().unwrap().len()
    }
}

#[tokio::test]
async fn a_device_gets_its_context_by_message_3_alone() {
    let mut scene = scene(false);
    let mut third = scene.third().await;
    assert_eq!(scene.stored(), 0);
    let response = scene.post(third.body_alone()).await;
    assert_eq!(response.code, Code::CHANGED);
    third.message_4(&mut scene.rng, &response.payload).unwrap();
    let stored = scene.table.stored.lock().unwrap().clone();
    let keying = third.keying();
    assert_eq!(stored[0].master_secret.0, keying.master_secret());
    assert_eq!(stored[0].master_salt, keying.master_salt());
    assert_eq!(stored[0].recipient_id, C_R);
    assert_eq!(stored[0].sender_id, C_I);
    assert_eq!(stored[0].device.device, "RADIO");
}

#[tokio::test]
async fn a_first_request_goes_on_when_its_context_is_stored() {
    let mut scene = scene(false);
    let third = scene.third().await;
    let request = Scene::combined(&third);
    let Combining::Onward(rest) = scene.exchanges.combined(HERE, &request).await else {
        panic!("it is refused");
    };
    assert_eq!(scene.stored(), 1);
    let (secret, c_i, c_r) = {
        let link = &scene.table.stored.lock().unwrap()[0];
        (
            link.clone(),
            Id::new(&link.sender_id).unwrap(),
            Id::new(&link.recipient_id).unwrap(),
        )
    };
    let mut parameters = crate::session::oscore::Parameters::new(&secret.master_secret.0, c_i, c_r);
    parameters.master_salt = &secret.master_salt;
    let mut context = SecurityContext::new(&parameters).unwrap();
    assert!(context.unprotect_request(&rest).is_ok());
}

#[tokio::test]
async fn the_same_request_sent_again_goes_on_too() {
    let mut scene = scene(false);
    let third = scene.third().await;
    let request = Scene::combined(&third);
    for _ in 0..2 {
        let combining = scene.exchanges.combined(HERE, &request).await;
        assert!(matches!(combining, Combining::Onward(_)));
    }
    assert_eq!(scene.stored(), 1);
}

#[tokio::test]
async fn a_revoked_device_is_refused_with_an_edhoc_error() {
    let mut scene = scene(false);
    let third = scene.third().await;
    *scene.table.linked.lock().unwrap() = None;
    let request = Scene::combined(&third);
    let Combining::Refused(response) = scene.exchanges.combined(HERE, &request).await else {
        panic!("it goes on");
    };
    assert_eq!(response.code, Code::BAD_REQUEST);
    assert_eq!(response.options.content_format(), Some(CONTENT_FORMAT));
    assert_eq!(response.payload.first(), Some(&1));
    assert_eq!(scene.stored(), 0);

    // it comes again, and there is still nothing
    let again = scene.exchanges.combined(HERE, &request).await;
    assert!(matches!(again, Combining::Refused(_)));
}

#[tokio::test]
async fn a_store_that_fails_is_not_the_devices_fault() {
    let mut scene = scene(true);
    let third = scene.third().await;
    let response = scene.post(third.body_alone()).await;
    assert_eq!(response.code, Code::UNAVAILABLE);
    assert!(scene.exchanges.state().under_way.is_empty());
}

#[tokio::test]
async fn nonsense_is_answered_with_an_error_and_only_post_is_read() {
    let scene = scene(false);
    for body in [
        &[][..],
        &[NEW_EXCHANGE],
        &[NEW_EXCHANGE, 3],
        &[0x01],
        &[0x58],
    ] {
        let response = scene.post(body.to_vec()).await;
        assert_ne!(response.code, Code::CHANGED, "{body:02x?}");
    }
    let get = Request::new(Code::GET, &PATH);
    let response = scene.exchanges.answer(HERE, &get).await;
    assert_eq!(response.code, Code::METHOD_NOT_ALLOWED);
}

#[test]
fn a_network_of_ipv6_is_one_site() {
    let site_of = |text: &str| site(text.parse::<SocketAddr>().unwrap().ip());
    assert_eq!(site_of("[2001:db8::1]:1"), site_of("[2001:db8::2:3:4:5]:1"));
    assert_ne!(site_of("[2001:db8::1]:1"), site_of("[2001:db8:0:1::1]:1"));
    assert_ne!(site_of("192.0.2.1:1"), site_of("192.0.2.2:1"));
}
