//! Linked devices, from the door's side.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use ruma::{
    OwnedDeviceId, UserId,
    api::client::{
        account::whoami,
        session::{logout, logout_all},
    },
};

use crate::{
    api::{
        Code, Command, Credentials, Deliver, DeviceCredentials, DeviceName, Door, Linked, Linking,
        Links, Origin, OscoreLink, Refusal, Registration, Reply, Secret,
    },
    base::Position,
    hub::{
        LinkWish,
        testing::{EDHOC_PUBLIC_X, Person, TestHub, ask, hub, hub_with, stranger},
    },
};

/// The x coordinate of P-256's base point.
const ON_CURVE: &str = "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296";

fn on_curve() -> [u8; 32] {
    hex::decode(ON_CURVE).unwrap().try_into().unwrap()
}

/// An Ed25519 key as `SubjectPublicKeyInfo`.
fn spki(of: u8) -> Vec<u8> {
    let mut spki = hex::decode("302a300506032b6570032100").unwrap();
    spki.extend([of; 32]);
    spki
}

async fn linking(hub: &TestHub, origin: &Origin, asked: Linking) -> Result<Linked, Refusal> {
    let reply = hub.ask(origin, Command::Linking(Box::new(asked))).await?;
    match reply {
        Reply::Linking(linked) => Ok(*linked),
        other => panic!("{other:?}"),
    }
}

async fn approved(hub: &TestHub, by: &Person, device: &str) -> Result<Secret, Refusal> {
    let device = device.into();
    match linking(hub, &by.origin, Linking::Approve { device }).await? {
        Linked::Approved { secret } => Ok(secret),
        Linked::Redeemed(_) => panic!("nothing was redeemed"),
    }
}

async fn redeemed(hub: &TestHub, secret: &Secret) -> Result<DeviceCredentials, Refusal> {
    let asked = Linking::Redeem {
        secret: secret.clone(),
        edhoc_public_x: Some(on_curve()),
        quic_spki: Some(spki(secret.0[0])),
    };
    match linking(hub, &stranger(), asked).await? {
        Linked::Redeemed(device) => Ok(*device),
        Linked::Approved { .. } => panic!("nothing was approved"),
    }
}

/// A device of `ana` that was linked by a code.
async fn linked(hub: &TestHub, ana: &Person, device: &str) -> DeviceCredentials {
    let secret = approved(hub, ana, device).await.unwrap();
    redeemed(hub, &secret).await.unwrap()
}

/// What comes over the device's own security context.
fn over_context(device: &DeviceName) -> Origin {
    Origin {
        door: Door::Oscore,
        credentials: Credentials::Device(device.clone()),
        ..stranger()
    }
}

async fn who(hub: &TestHub, origin: &Origin) -> Result<Option<OwnedDeviceId>, Refusal> {
    let reply = ask!(hub, origin.clone(), Whoami(whoami::v3::Request::new()));
    reply.map(|reply| reply.device_id)
}

fn token(device: &DeviceCredentials) -> String {
    String::from_utf8(device.access_token.0.clone()).unwrap()
}

#[tokio::test]
async fn a_code_links_a_device_that_is_then_its_keys_and_its_token() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let device = linked(&hub, &ana, "TRACKER").await;

    assert_eq!(device.device.user, ana.user);
    assert_eq!(device.hub_edhoc_public_x, EDHOC_PUBLIC_X);
    // tinydtls holds 16 bytes of a key, and coap-client takes it as a word of the command line
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/".contains(byte);
    assert!(device.psk.0.iter().all(is_plain));
    assert_eq!(device.psk.0.len(), 16);
    let by_context = who(&hub, &over_context(&device.device)).await.unwrap();
    assert_eq!(by_context, Some("TRACKER".into()));
    let by_token = who(&hub, &crate::hub::testing::bearer(&token(&device))).await;
    assert_eq!(by_token.unwrap(), Some("TRACKER".into()));

    let links: &dyn Links = &*hub.hub;
    let oscore = links.oscore(&device.sender_id).await.unwrap().unwrap();
    assert_eq!(*oscore.device, device.device);
    assert_eq!(oscore.master_secret, device.master_secret);
    assert_eq!(oscore.sender_id, device.recipient_id);
    let (name, psk) = links.psk(device.psk_identity.as_bytes()).unwrap();
    assert_eq!((name, psk), (device.device.clone(), device.psk.clone()));
    let edhoc = links.edhoc(&device.edhoc_kid).await.unwrap().unwrap();
    assert_eq!(edhoc.public_x, on_curve());
    assert!(links.started_with_store());
    assert!(links.oscore(&[0xff; 3]).await.unwrap().is_none());
}

#[tokio::test]
async fn a_linked_device_has_an_id_that_needs_no_quotes() {
    let hub = hub().await;
    let ana = hub.account("ana").await;

    for id in ["bad id!", "-rf", ".", "", "é", "a/b", "$(x)"] {
        assert!(approved(&hub, &ana, id).await.is_err(), "{id:?}");
        let wish = LinkWish {
            device: id.into(),
            edhoc_public_x: None,
            quic_spki: None,
            outer_observe_counted: false,
        };
        let refusal = hub.hub.link_device(&ana.user, wish).await.unwrap_err();
        assert_eq!(refusal.code, Code::InvalidParam, "{id:?}");
    }
    assert!(approved(&hub, &ana, "Tracker-2.b_1").await.is_ok());
}

#[tokio::test]
async fn a_code_is_worth_something_once_and_for_ten_minutes() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let secret = approved(&hub, &ana, "TRACKER").await.unwrap();
    redeemed(&hub, &secret).await.unwrap();
    let again = redeemed(&hub, &secret).await.unwrap_err();
    assert_eq!(again.code, Code::Forbidden);
    let there = approved(&hub, &ana, "TRACKER").await.unwrap_err();
    assert_eq!(there.code, Code::InvalidParam);

    let secret = approved(&hub, &ana, "SENSOR").await.unwrap();
    hub.clock.advance(Duration::from_mins(10));
    let late = redeemed(&hub, &secret).await.unwrap_err();
    assert_eq!(late.code, Code::Forbidden);
    let device = "X".into();
    let unsigned = linking(&hub, &stranger(), Linking::Approve { device }).await;
    assert_eq!(unsigned.unwrap_err().code, Code::MissingToken);
}

#[tokio::test]
async fn codes_are_few_and_go_with_the_device_that_asked_for_them() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let tablet = hub.device(&ana.user, "TABLET").await;
    let secret = approved(&hub, &tablet, "D0").await.unwrap();
    for n in 1..8 {
        approved(&hub, &ana, &format!("D{n}")).await.unwrap();
    }
    let ninth = approved(&hub, &ana, "D8").await.unwrap_err();
    assert_eq!(ninth.code, Code::LimitExceeded);

    ask!(hub, tablet.origin, Logout(logout::v3::Request::new())).unwrap();
    let refusal = redeemed(&hub, &secret).await.unwrap_err();
    assert_eq!(refusal.code, Code::Forbidden);
}

#[tokio::test]
async fn guessing_codes_is_limited_per_address() {
    let mut settings = crate::hub::Settings::default();
    settings.limits.login_per_address.burst = 3;
    let hub = hub_with(settings).await;
    let ana = hub.account("ana").await;
    let secret = approved(&hub, &ana, "TRACKER").await.unwrap();
    for n in 0..3 {
        let refusal = redeemed(&hub, &Secret(vec![n; 10])).await.unwrap_err();
        assert_eq!(refusal.code, Code::Forbidden);
    }
    let refusal = redeemed(&hub, &secret).await.unwrap_err();
    assert_eq!(refusal.code, Code::LimitExceeded);
}

#[tokio::test]
async fn keys_that_no_handshake_goes_through_with_are_refused_and_leave_the_code_valid() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let secret = approved(&hub, &ana, "TRACKER").await.unwrap();
    let mut point_at_nothing =
        hex::decode("3059301306072a8648ce3d020106082a8648ce3d030107034200").unwrap();
    point_at_nothing.push(4);
    point_at_nothing.extend([1; 64]);
    let mut short = spki(1);
    short.pop();
    for (x, spki) in [
        (Some([0xff; 32]), None),
        (None, Some(short)),
        (None, Some(point_at_nothing)),
        (None, Some(Vec::new())),
    ] {
        let asked = Linking::Redeem {
            secret: secret.clone(),
            edhoc_public_x: x,
            quic_spki: spki,
        };
        let refusal = linking(&hub, &stranger(), asked).await.unwrap_err();
        assert_eq!(refusal.code, Code::InvalidParam);
    }
    redeemed(&hub, &secret).await.unwrap();
    let wish = LinkWish {
        device: "OTHER".into(),
        edhoc_public_x: None,
        quic_spki: Some(spki(secret.0[0])),
        outer_observe_counted: true,
    };
    let taken = hub.hub.link_device(&ana.user, wish).await.unwrap_err();
    assert_eq!(taken.code, Code::InvalidParam);
}

#[tokio::test]
async fn a_token_of_another_device_than_the_context_is_refused() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let one = linked(&hub, &ana, "ONE").await;
    let two = linked(&hub, &ana, "TWO").await;
    let both = |token: String| Origin {
        credentials: Credentials::DeviceAndToken(one.device.clone(), token),
        ..over_context(&one.device)
    };
    assert_eq!(
        who(&hub, &both(token(&one))).await.unwrap(),
        Some("ONE".into())
    );
    let refusal = who(&hub, &both(token(&two))).await.unwrap_err();
    assert_eq!(refusal.code, Code::Forbidden);
    assert!(refusal.message.contains("another device"), "{refusal}");
    let phone = DeviceName {
        user: ana.user.clone(),
        device: "PHONE".into(),
    };
    let refusal = who(&hub, &over_context(&phone)).await.unwrap_err();
    assert_eq!(refusal.code, Code::UnknownToken, "it is not linked");
}

#[derive(Default)]
struct Ears(Mutex<Vec<String>>);

impl Deliver for Ears {
    fn news(&self, _: Position, _: &mut dyn Iterator<Item = &UserId>) {}

    fn news_for_all(&self, _: Position) {}

    fn revoked(&self, device: &DeviceName) {
        self.0.lock().unwrap().push(device.device.to_string());
    }
}

fn listening(hub: &TestHub) -> Arc<Ears> {
    let ears = Arc::new(Ears::default());
    hub.hub.tell(Arc::clone(&ears) as Arc<dyn Deliver>);
    ears
}

#[tokio::test]
async fn a_removed_device_is_ended_on_every_door_before_it_is_answered() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let one = linked(&hub, &ana, "ONE").await;
    let two = linked(&hub, &ana, "TWO").await;
    let ears = listening(&hub);
    let links: &dyn Links = &*hub.hub;
    who(&hub, &over_context(&one.device)).await.unwrap();
    links.oscore(&one.sender_id).await.unwrap().unwrap();

    hub.hub
        .remove_device(&ana.user, "ONE".into())
        .await
        .unwrap();

    assert_eq!(*ears.0.lock().unwrap(), ["ONE"]);
    let refusal = who(&hub, &over_context(&one.device)).await.unwrap_err();
    assert_eq!(refusal.code, Code::UnknownToken);
    assert!(links.oscore(&one.sender_id).await.unwrap().is_none());
    assert!(links.edhoc(&one.edhoc_kid).await.unwrap().is_none());
    assert!(links.psk(one.psk_identity.as_bytes()).is_none());
    assert!(links.psk(two.psk_identity.as_bytes()).is_some());
    let gone = hub.hub.remove_device(&ana.user, "ONE".into()).await;
    assert_eq!(gone.unwrap_err().code, Code::NotFound);

    ask!(
        hub,
        over_context(&two.device),
        LogoutAll(logout_all::v3::Request::new())
    )
    .unwrap();
    let mut told = ears.0.lock().unwrap().clone();
    told.sort();
    assert_eq!(told, ["ONE", "PHONE", "TWO"]);
}

#[tokio::test]
async fn a_disabled_account_is_linked_no_more_and_its_codes_are_void() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let one = linked(&hub, &ana, "ONE").await;
    let secret = approved(&hub, &ana, "TWO").await.unwrap();
    let ears = listening(&hub);

    hub.hub.disable_user(&ana.user).await.unwrap();

    assert!(ears.0.lock().unwrap().contains(&"ONE".to_owned()));
    assert!(who(&hub, &over_context(&one.device)).await.is_err());
    assert!(redeemed(&hub, &secret).await.is_err());
    let wish = LinkWish {
        device: "THREE".into(),
        edhoc_public_x: None,
        quic_spki: None,
        outer_observe_counted: false,
    };
    let refusal = hub.hub.link_device(&ana.user, wish).await.unwrap_err();
    assert_eq!(refusal.code, Code::UserDeactivated);
}

#[tokio::test]
async fn who_observes_is_known_while_linked_and_not_seen_by_that() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let one = linked(&hub, &ana, "ONE").await;
    let observing = Origin {
        credentials: Credentials::Observing(one.device.clone()),
        ..over_context(&one.device)
    };
    let seen = async || {
        // The write is not waited for; the next one stands behind it.
        hub.write(vec![]).await;
        let devices = hub.hub.store().devices(&ana.user).await.unwrap();
        let one = devices.iter().find(|record| record.device == "ONE");
        one.unwrap().seen
    };
    let before = seen().await;
    hub.clock.advance(Duration::from_hours(1));
    assert_eq!(who(&hub, &observing).await.unwrap(), Some("ONE".into()));
    assert_eq!(seen().await, before);
    assert!(who(&hub, &over_context(&one.device)).await.is_ok());
    assert_ne!(seen().await, before, "this time it spoke");

    hub.hub.disable_user(&ana.user).await.unwrap();
    assert!(who(&hub, &observing).await.is_err());
}

#[tokio::test]
async fn a_context_is_renewed_reserved_and_registered_for() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let one = linked(&hub, &ana, "ONE").await;
    let two = linked(&hub, &ana, "TWO").await;
    let links: &dyn Links = &*hub.hub;
    links.reserve(&one.sender_id, 64).await.unwrap();
    let context = links.oscore(&one.sender_id).await.unwrap().unwrap();
    assert_eq!(context.reserved_below, 64);
    links.reserve(&one.sender_id, 128).await.unwrap();
    let context = links.oscore(&one.sender_id).await.unwrap().unwrap();
    assert_eq!(context.reserved_below, 128);
    let registration = Registration {
        recipient_id: one.sender_id.clone(),
        token: vec![1],
        binding: vec![2],
        request: vec![3],
        address: "192.0.2.1:5683".parse().unwrap(),
    };
    links.register(registration.clone()).await.unwrap();
    let kept = links.registrations().await.unwrap();
    assert_eq!(kept, std::slice::from_ref(&registration));

    let id = links.free_recipient_id().await.unwrap();
    assert_ne!(id, links.free_recipient_id().await.unwrap());
    let renewed = OscoreLink {
        recipient_id: id.clone(),
        reserved_below: 0,
        ..context
    };
    links.renew_oscore(renewed.clone()).await.unwrap();
    assert_eq!(links.oscore(&id).await.unwrap(), Some(renewed.clone()));
    assert!(links.oscore(&one.sender_id).await.unwrap().is_none());
    assert!(links.registrations().await.unwrap().is_empty());
    assert!(links.register(registration).await.is_err());
    assert!(links.reserve(&one.sender_id, 9).await.is_err());

    let taken = OscoreLink {
        recipient_id: two.sender_id,
        ..renewed
    };
    let refusal = links.renew_oscore(taken).await.unwrap_err();
    assert_eq!(refusal.code, Code::Busy);
}
