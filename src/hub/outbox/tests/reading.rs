//! What a page for a destination costs to find.

use std::{collections::BTreeMap, sync::Arc};

use ruma::server_name;

use super::world::World;
use crate::{
    base::Seq,
    hub::outbox::read::{Reader, Rooms, Start},
    store::{Mark, SharedStore, faulty::Faulty, hash_of},
};

#[tokio::test]
async fn a_message_of_ours_is_found_for_a_server_with_three_questions() {
    let world = World::with(&["far.example"]).await;
    let earlier = world.store.position().await.unwrap();
    let event = world.say("hello").await;
    let position = world.store.position().await.unwrap();
    let record = world.store.event(hash_of(&event).unwrap()).await;
    let record = record.unwrap().unwrap();
    let faulty = Arc::new(Faulty::new(Arc::clone(&world.store)));
    let store: SharedStore = Arc::clone(&faulty) as _;
    let reader = Reader {
        store: &store,
        ours: server_name!("hub.example"),
        server: server_name!("far.example"),
        mark: Mark::after(earlier),
        upto: position,
        items_max: 50,
    };
    // The log, when the server was in the room, the ACL; where the entry is not known, a search.
    for (entry, questions) in [(record.seq, 3), (None, 4)] {
        let start = Start { position, entry };
        let before = faulty.operations();
        let rooms = Rooms::These(BTreeMap::from([(record.room, start)]));
        let page = reader.page(rooms).await.unwrap();
        let found: Vec<_> = page.items.iter().map(|item| item.at.seq).collect();
        assert_eq!(found, Vec::<Seq>::from_iter(record.seq));
        assert_eq!(faulty.operations() - before, questions);
    }
}
