//! Keys of servers that are gone, from others.

use std::time::Duration;

use ruma::{CanonicalJsonObject, ServerName};

use super::{
    answers::{Then, canned, ok},
    event,
    world::{Hub, World},
};
use crate::{
    api::{Remote as _, Unverified},
    wire::{json, matrix::Version},
};

fn text(event: &CanonicalJsonObject) -> String {
    json::canonical(event)
}

/// Whether a hub believes an event that another server tells: alone, and among others.
async fn believes(hub: &Hub, teller: &ServerName, event: &CanonicalJsonObject) -> bool {
    let json = text(event);
    let remote = &hub.federation;
    let mut all = remote.verified_from(teller, &[&json], Version::V11).await;
    all.extend(
        remote
            .verified_from(teller, &[&json, &json], Version::V11)
            .await,
    );
    let believed: Vec<bool> = all.iter().map(Result::is_ok).collect();
    assert_eq!(believed, [believed[0]; 3]);
    let refused = |one: &Result<_, Unverified>| matches!(one, Err(Unverified::NoKey { .. }));
    assert!(believed[0] || all.iter().all(refused));
    believed[0]
}

/// A server that was there, and one that knew it then.
async fn gone(world: &World) -> (Hub, Hub, CanonicalJsonObject) {
    let gone = world.hub("gone.example").await;
    let witness = world.hub("witness.example").await;
    let said = event(&gone, world.now());
    assert!(believes(&witness, witness.name(), &said).await);
    world.forget("gone.example", 8448);
    (gone, witness, said)
}

#[tokio::test]
async fn a_notary_is_believed_about_a_server_that_is_gone() {
    let world = World::new();
    let (gone, witness, said) = gone(&world).await;
    let a = world.trusting("a.example", &[witness.name()]).await;
    let b = world.hub("b.example").await;

    assert!(believes(&a, b.name(), &said).await);
    assert!(!believes(&b, a.name(), &said).await, "b has no notary");
    // Its requests are another matter: who sends them can be asked.
    let id = gone.key.key_id();
    assert!(
        a.federation
            .keys
            .for_request(gone.name(), &id)
            .await
            .is_err()
    );
    // What the notary knows ends where the server's word did.
    world.pass(Duration::from_hours(30));
    let late = event(&gone, world.now());
    assert!(!believes(&a, b.name(), &late).await);
    assert!(believes(&a, b.name(), &said).await);
    // Long after, it is still told to who asks for that time.
    let c = world.trusting("c.example", &[witness.name()]).await;
    assert!(believes(&c, b.name(), &said).await);
}

#[tokio::test]
async fn who_tells_of_a_room_is_believed_about_unknown_servers_only_where_the_operator_says_so() {
    let world = World::new();
    let (_gone, witness, said) = gone(&world).await;
    let a = world.hub("a.example").await;
    let b = world.believing("b.example").await;

    assert!(!believes(&a, witness.name(), &said).await);
    assert!(believes(&b, witness.name(), &said).await);
}

#[tokio::test]
async fn who_tells_of_a_room_is_believed_where_the_server_has_signed_it_with_a_key_that_is_known() {
    let world = World::new();
    let gone = world.hub("gone.example").await;
    let witness = world.hub("witness.example").await;
    let a = world.hub("a.example").await;
    let said = event(&gone, world.now());
    assert!(believes(&a, witness.name(), &said).await);
    // A day later the witness hears from it again, and a does not.
    world.pass(Duration::from_hours(30));
    let later = event(&gone, world.now());
    assert!(believes(&witness, witness.name(), &later).await);
    world.forget("gone.example", 8448);

    assert!(believes(&a, witness.name(), &later).await);
}

#[tokio::test]
async fn a_key_that_somebody_made_up_is_not_taken_for_one_that_is_known() {
    let world = World::new();
    let gone = world.hub("gone.example").await;
    let a = world.hub("a.example").await;
    let b = world.believing("b.example").await;
    let said = event(&gone, world.now());
    for hub in [&a, &b] {
        assert!(believes(hub, a.name(), &said).await);
    }
    // Another one has the name for a while, and somebody who knows it as that.
    let posing = world.hub("gone.example").await;
    let liar = world.hub("liar.example").await;
    let forged = event(&posing, world.now());
    assert!(believes(&liar, liar.name(), &forged).await);
    world.forget("gone.example", 8448);

    let forged = text(&forged);
    for hub in [&a, &b] {
        let told = [forged.as_str()];
        let verdict = hub
            .federation
            .verified_from(liar.name(), &told, Version::V11);
        assert!(verdict.await.iter().all(Result::is_err));
    }
}

#[tokio::test]
async fn a_notary_that_has_not_signed_what_it_tells_is_not_believed() {
    let world = World::new();
    let (gone, _witness, said) = gone(&world).await;
    let ours = json::canonical(&gone.federation.keys.ours());
    let told = ok(&format!("{{\"server_keys\":[{{\"n\":0.5}},{ours}]}}"));
    let asked = canned(&world, "notary.example", 8448, told, Then::Close).await;
    let notary = ruma::server_name!("notary.example");
    let a = world.trusting("a.example", &[notary]).await;

    assert!(!believes(&a, a.name(), &said).await);
    assert_ne!(asked.load(std::sync::atomic::Ordering::SeqCst), 0);
}
