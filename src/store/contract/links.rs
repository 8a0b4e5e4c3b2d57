//! Promises about linked devices.

use ruma::OwnedUserId;

use super::{
    accounts::{new_user, session},
    commit,
    pen::user,
    try_commit,
};
use crate::{
    api::{DeviceName, OscoreLink, Registration, Secret},
    store::{LinkRecord, REGISTRATIONS_PER_CONTEXT_MAX, Store, Write},
    wire::thin::LinkProfile,
};

fn name(user: &OwnedUserId, device: &str) -> DeviceName {
    DeviceName {
        user: user.clone(),
        device: device.into(),
    }
}

/// The link of a device, all of whose keys are made of `key`.
fn link(device: DeviceName, key: u8) -> LinkRecord {
    LinkRecord {
        oscore: OscoreLink {
            device: device.into(),
            master_secret: Secret(vec![key; 16]),
            master_salt: vec![key; 8],
            id_context: Some(vec![key]),
            recipient_id: vec![key],
            sender_id: Vec::new(),
            reserved_below: 0,
            outer_observe_counted: true,
        },
        generation: 0,
        psk_identity: format!("identity{key}"),
        psk: Secret(vec![key; 32]),
        edhoc_kid: vec![key, key],
        edhoc_public_x: Some([key; 32]),
        quic_spki: Some(vec![key; 44]),
        profile: LinkProfile {
            class: 3,
            daily_kilobytes: 70_000,
        },
        wake_url: None,
    }
}

fn link_of(record: &LinkRecord) -> Write {
    Write::Link(Box::new(record.clone()))
}

fn registration(recipient_id: u8, token: u8) -> Registration {
    Registration {
        recipient_id: vec![recipient_id],
        token: vec![token],
        binding: vec![1, 2],
        request: vec![3],
        address: "[2001:db8::1]:61616".parse().expect("an address"),
    }
}

fn register(registration: &Registration) -> Write {
    Write::Register(Box::new(registration.clone()))
}

/// Ana with two devices, of which `PHONE` is linked by keys of ones.
async fn ana_with_a_linked_phone(store: &dyn Store) -> (OwnedUserId, LinkRecord) {
    let ana = user("ana");
    let phone = link(name(&ana, "PHONE"), 1);
    let writes = vec![
        new_user(&ana),
        session(&ana, "PHONE", 1, None),
        session(&ana, "TABLET", 2, None),
        link_of(&phone),
    ];
    assert!(try_commit(store, writes).await);
    (ana, phone)
}

pub(super) async fn a_link_is_found_by_each_of_its_keys(store: &dyn Store) {
    let (ana, mut phone) = ana_with_a_linked_phone(store).await;
    let found = store.link(&ana, "PHONE").await.expect("read");
    assert_eq!(found.as_ref(), Some(&phone));
    let found = store.link_by_recipient(&[1]).await.expect("read");
    assert_eq!(found.as_ref(), Some(&phone));
    let found = store.link_by_kid(&[1, 1]).await.expect("read");
    assert_eq!(found.as_ref(), Some(&phone));
    assert_eq!(store.link_by_recipient(&[]).await.expect("read"), None);
    assert_eq!(store.link(&ana, "TABLET").await.expect("read"), None);
    assert_eq!(store.restores().await.expect("read"), 0);

    let session = store.linked_session(&ana, "PHONE").await.expect("read");
    assert!(session.is_some_and(|session| session.device == "PHONE" && session.admin));
    let session = store.linked_session(&ana, "TABLET").await.expect("read");
    assert_eq!(session, None);

    let device = name(&ana, "PHONE");
    phone.profile = LinkProfile {
        class: 6,
        daily_kilobytes: 0,
    };
    phone.wake_url = Some("https://push.example/up".to_owned());
    let (profile, url) = (phone.profile, phone.wake_url.clone());
    commit(
        store,
        vec![
            Write::LinkProfile {
                device: device.clone(),
                profile,
            },
            Write::WakeUrl { device, url },
        ],
    )
    .await;
    let found = store.link(&ana, "PHONE").await.expect("read");
    assert_eq!(found, Some(phone));
}

pub(super) async fn a_key_links_one_device(store: &dyn Store) {
    let (ana, phone) = ana_with_a_linked_phone(store).await;
    let fresh = || link(name(&ana, "TABLET"), 2);
    let mut same = [fresh(), fresh(), fresh(), fresh()];
    same[0]
        .oscore
        .recipient_id
        .clone_from(&phone.oscore.recipient_id);
    same[1].psk_identity.clone_from(&phone.psk_identity);
    same[2].edhoc_kid.clone_from(&phone.edhoc_kid);
    same[3].quic_spki.clone_from(&phone.quic_spki);
    for same in same {
        assert!(!try_commit(store, vec![link_of(&same)]).await);
    }
    let mut tablet = fresh();
    tablet.quic_spki = None;
    assert!(try_commit(store, vec![link_of(&tablet)]).await);
    // The same device may be linked again, also by keys it has.
    assert!(try_commit(store, vec![link_of(&phone)]).await);

    let all = store.links(None, 10).await.expect("read");
    assert_eq!(all, [phone.clone(), tablet.clone()]);
    let after = &phone.oscore.device;
    let rest = store.links(Some(after), 10).await.expect("read");
    assert_eq!(rest, [tablet]);
    assert_eq!(store.links(None, 1).await.expect("read"), [phone]);
}

pub(super) async fn a_renewed_context_takes_the_place_of_the_old_one(store: &dyn Store) {
    let (ana, phone) = ana_with_a_linked_phone(store).await;
    commit(store, vec![register(&registration(1, 7))]).await;
    let mut renewed = phone.oscore.clone();
    renewed.recipient_id = vec![9, 9];
    renewed.id_context = None;
    renewed.reserved_below = 5;
    renewed.outer_observe_counted = false;
    let write = |oscore: &OscoreLink| Write::Oscore {
        link: Box::new(oscore.clone()),
        generation: 4,
    };
    assert!(try_commit(store, vec![write(&renewed)]).await);

    assert_eq!(store.link_by_recipient(&[1]).await.expect("read"), None);
    assert!(store.registrations().await.expect("read").is_empty());
    let found = store.link_by_recipient(&[9, 9]).await.expect("read");
    let found = found.expect("the context is renewed");
    assert_eq!(found.generation, 4);
    assert!(found.oscore.outer_observe_counted);
    assert_eq!(found.oscore.reserved_below, 5);
    assert_eq!(found.psk_identity, phone.psk_identity);

    assert!(try_commit(store, vec![link_of(&link(name(&ana, "TABLET"), 2))]).await);
    renewed.recipient_id = vec![2];
    assert!(!try_commit(store, vec![write(&renewed)]).await);
    renewed.device = name(&ana, "OTHER").into();
    renewed.recipient_id = vec![3];
    assert!(!try_commit(store, vec![write(&renewed)]).await);
}

pub(super) async fn reserved_numbers_never_fall(store: &dyn Store) {
    ana_with_a_linked_phone(store).await;
    let reserve = |recipient_id: u8, below| Write::Reserve {
        recipient_id: vec![recipient_id],
        below,
    };
    assert!(try_commit(store, vec![reserve(1, 64)]).await);
    assert!(try_commit(store, vec![reserve(1, 32)]).await);
    let found = store.link_by_recipient(&[1]).await.expect("read");
    assert_eq!(found.expect("it is linked").oscore.reserved_below, 64);
    assert!(!try_commit(store, vec![reserve(2, 32)]).await);
}

pub(super) async fn a_context_keeps_its_newest_registrations(store: &dyn Store) {
    ana_with_a_linked_phone(store).await;
    let first = registration(1, 100);
    assert!(try_commit(store, vec![register(&first)]).await);
    for token in 0..REGISTRATIONS_PER_CONTEXT_MAX {
        let token = u8::try_from(token).expect("few are kept");
        assert!(try_commit(store, vec![register(&registration(1, token))]).await);
    }
    let kept = store.registrations().await.expect("read");
    assert_eq!(kept.len(), REGISTRATIONS_PER_CONTEXT_MAX as usize);
    assert!(!kept.contains(&first), "the oldest gives way");

    let mut moved = registration(1, 3);
    moved.address = "192.0.2.7:5683".parse().expect("an address");
    let gone = Write::Deregister {
        recipient_id: vec![1],
        token: vec![4],
    };
    assert!(try_commit(store, vec![register(&moved), gone]).await);
    let kept = store.registrations().await.expect("read");
    assert_eq!(kept.len(), REGISTRATIONS_PER_CONTEXT_MAX as usize - 1);
    assert!(kept.contains(&moved));
    assert!(!try_commit(store, vec![register(&registration(2, 1))]).await);
}

pub(super) async fn a_removed_device_is_linked_no_more(store: &dyn Store) {
    let (ana, phone) = ana_with_a_linked_phone(store).await;
    commit(store, vec![register(&registration(1, 7))]).await;
    commit(
        store,
        vec![Write::Disabled {
            user: ana.clone(),
            disabled: true,
        }],
    )
    .await;
    let session = store.linked_session(&ana, "PHONE").await.expect("read");
    assert_eq!(session, None);
    commit(
        store,
        vec![Write::RemoveDevice {
            user: ana.clone(),
            device: "PHONE".into(),
        }],
    )
    .await;
    assert!(store.links(None, 10).await.expect("read").is_empty());
    assert!(store.registrations().await.expect("read").is_empty());
    // Its keys are free again.
    let tablet = LinkRecord {
        oscore: OscoreLink {
            device: name(&ana, "TABLET").into(),
            ..phone.oscore.clone()
        },
        ..phone
    };
    assert!(try_commit(store, vec![link_of(&tablet)]).await);
}
