//! A device that comes by new keys: EDHOC over the door, and its first request with message 3.

use ruma::{api::client::account::whoami, user_id};

use super::{
    linked::{Device, Door, Table, device_name, opened},
    *,
};
use crate::{
    api::{EdhocLink, Reply},
    session::{
        edhoc::{self, Initiator, Kid, Third, combine},
        oscore::{Id, RequestBinding, SecurityContext},
    },
};

const KID: [u8; 1] = [0x0a];

fn whoami_reply() -> Reply {
    let ana = user_id!("@ana:hub.example").to_owned();
    Reply::Whoami(Box::new(whoami::v3::Response::new(ana, false)))
}

fn whoami_options() -> Options {
    let path = WHOAMI.split('/').skip(1);
    path.fold(Options::new(), |options, segment| {
        options.with(number::URI_PATH, segment)
    })
}

/// Messages 1 and 2, without protection.
async fn third(table: &Table, door: &Door, device: &mut Device) -> Third {
    let mut rng = StdRng::seed_from_u64(5);
    let own = edhoc::StaticKey::generate(&mut rng);
    *table.edhoc.lock().unwrap() = Some(EdhocLink {
        device: device_name(),
        public_x: *own.public().x(),
        kid: KID.to_vec(),
    });
    let (kid, hub) = (Kid::new(&KID).unwrap(), table.hub_key.public());
    let c_i = Id::new(&[5]).unwrap();
    let (initiator, body) = Initiator::begin(&mut rng, own, kid, hub, c_i).unwrap();
    let mut options = Options::new();
    for segment in edhoc::PATH {
        options.push(number::URI_PATH, segment);
    }
    options.push_uint(
        number::CONTENT_FORMAT,
        u32::from(edhoc::CONTENT_FORMAT_WITH_ID),
    );
    let request = Message {
        kind: Kind::Con,
        code: Code::POST,
        id: 700,
        token: Token::EMPTY,
        options,
        payload: body,
    };
    let datagram = request.encode().unwrap();
    let sent = device.socket.send_to(&datagram, door.address).await;
    sent.unwrap();
    let answer = device.hears().await;
    assert_eq!(answer.code, Code::CHANGED);
    initiator.message_2(&mut rng, &answer.payload).unwrap()
}

/// The first request with the new keys, and message 3 in front.
fn combined(third: &Third) -> (SecurityContext, Message, RequestBinding) {
    let mut context = SecurityContext::new(&third.keying().parameters()).unwrap();
    context.reserved(1000);
    let request = Message {
        kind: Kind::Con,
        code: Code::GET,
        id: 701,
        token: Token::new(&[9]).unwrap(),
        options: whoami_options(),
        payload: Vec::new(),
    };
    let (outer, binding) = context.protect_request(&request).unwrap();
    (context, combine(&outer, third.message_3()), binding)
}

#[tokio::test]
async fn a_first_request_with_message_3_is_answered_and_what_the_device_had_before_ends() {
    let (table, mut old) = (Table::new(), Device::new().await);
    let door = opened(&table, vec![whoami_reply(), whoami_reply()]).await;
    let mut binding = old.sends(&door, Code::GET, whoami_options(), &[]).await;
    assert_eq!(old.reads(&mut binding).await.code, Code::CONTENT);
    let mut new = Device::new().await;
    let third = third(&table, &door, &mut new).await;

    let (context, request, mut binding) = combined(&third);
    new.context = context;
    let datagram = request.encode().unwrap();
    new.socket.send_to(&datagram, door.address).await.unwrap();

    assert_eq!(new.reads(&mut binding).await.code, Code::CONTENT);
    let origin = door.hub.asked.lock().unwrap()[1].0.clone();
    assert_eq!(origin.credentials, Credentials::Device(device_name()));
    old.sends(&door, Code::GET, whoami_options(), &[]).await;
    let refused = old.hears().await;
    assert_eq!(refused.code, Code::UNAUTHORIZED);
    assert!(!refused.options.has(number::OSCORE));
    // Sent again, because the answer might have been lost.
    new.socket.send_to(&datagram, door.address).await.unwrap();
    assert_eq!(new.hears().await.code, Code::CHANGED);
    assert_eq!(door.hub.asked.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_kid_that_nobody_has_is_refused_and_the_next_device_is_served() {
    let (table, mut next) = (Table::new(), Device::new().await);
    let door = opened(&table, vec![whoami_reply()]).await;
    let mut unknown = Device::new().await;
    let third = third(&table, &door, &mut unknown).await;
    *table.edhoc.lock().unwrap() = None;

    let (_, request, _) = combined(&third);
    let datagram = request.encode().unwrap();
    let sent = unknown.socket.send_to(&datagram, door.address).await;
    sent.unwrap();

    let refused = unknown.hears().await;
    assert_eq!((refused.code, refused.id), (Code::BAD_REQUEST, request.id));
    assert_eq!(refused.token, request.token);
    assert!(!refused.options.has(number::OSCORE));
    assert!(refused.encode().unwrap().len() <= datagram.len());
    let mut binding = next.sends(&door, Code::GET, whoami_options(), &[]).await;
    assert_eq!(next.reads(&mut binding).await.code, Code::CONTENT);
}
