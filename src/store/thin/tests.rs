//! Whatever names come up in whatever order: each device's numbers are a table of its own that only
//! grows, and it reads the same both ways.

use std::{collections::BTreeMap, sync::Arc};

use proptest::{collection::vec, prelude::*, sample::select};
use ruma::{OwnedUserId, user_id};
use tempfile::TempDir;

use super::first_alias;
use crate::{
    base::Timestamp,
    store::{
        Batch, Store, Write,
        memory::Memory,
        sqlite::{OpenOptions, Sqlite},
    },
    wire::thin::{Alias, NameKind},
};

const DEVICES: [&str; 2] = ["PHONE", "TRACKER"];
const KINDS: [NameKind; 3] = [NameKind::Room, NameKind::User, NameKind::EventType];

/// What one commit brings: for a device, names of some kinds, some of them again.
type Brought = (&'static str, Vec<(NameKind, String)>);

fn brought() -> impl Strategy<Value = Brought> {
    let name = (select(&KINDS[..]), "[a-c]{1,2}");
    (select(&DEVICES[..]), vec(name, 0..12))
}

/// What a device's numbers must be: as the names came up, one after the other.
#[derive(Default)]
struct Model(BTreeMap<(&'static str, NameKind), Vec<String>>);

impl Model {
    fn take(&mut self, (device, names): &Brought) {
        for (kind, name) in names {
            let of_kind = self.0.entry((*device, *kind)).or_default();
            if !of_kind.contains(name) {
                of_kind.push(name.clone());
            }
        }
    }

    /// Each kind, number and name of a device.
    fn of(&self, device: &str) -> Vec<(NameKind, Alias, String)> {
        let own = self.0.iter().filter(|((of, _), _)| *of == device);
        let own = own.flat_map(|((_, kind), names)| {
            let numbered = (first_alias(*kind)..).zip(names);
            numbered.map(|(alias, name)| (*kind, alias, name.clone()))
        });
        own.collect()
    }

    fn first_free(&self, device: &'static str, kind: NameKind) -> Alias {
        let names = self.0.get(&(device, kind)).map_or(0, Vec::len);
        first_alias(kind) + names as u64
    }
}

fn ana() -> OwnedUserId {
    user_id!("@ana:hub.example").to_owned()
}

async fn commit(store: &dyn Store, writes: Vec<Write>) {
    let batch = Batch {
        writes,
        may_conflict: false,
    };
    store.commit(&[batch]).await.unwrap();
}

async fn begin(store: &dyn Store) {
    let mut writes = vec![Write::NewUser {
        user: ana(),
        password: None,
        admin: false,
        at: Timestamp(5),
    }];
    writes.extend(
        DEVICES
            .iter()
            .zip(1..)
            .map(|(device, token)| Write::Session {
                user: ana(),
                device: (*device).into(),
                token: [token; 32],
                name: None,
                at: Timestamp(6),
            }),
    );
    commit(store, writes).await;
}

/// The table of each device is what it must be, from names to numbers and back.
async fn reads_the_same_both_ways(store: &dyn Store, model: &Model) {
    for device in DEVICES {
        let table = model.of(device);
        let names: Vec<_> = table
            .iter()
            .map(|(kind, _, name)| (*kind, name.clone()))
            .collect();
        let numbers = store.thin_aliases(&ana(), device, &names).await.unwrap();
        let wanted: Vec<_> = table.iter().map(|(_, alias, _)| Some(*alias)).collect();
        assert_eq!(numbers, wanted, "{device}");
        let numbers: Vec<_> = table
            .iter()
            .map(|(kind, alias, _)| (*kind, *alias))
            .collect();
        let found = store.thin_names(&ana(), device, &numbers).await.unwrap();
        let wanted: Vec<_> = names.into_iter().map(|(_, name)| Some(name)).collect();
        assert_eq!(found, wanted, "{device}");

        let free = KINDS.map(|kind| (kind, model.first_free(device, kind)));
        let beyond = store.thin_names(&ana(), device, &free).await.unwrap();
        assert_eq!(beyond, [None, None, None], "{device}");
        let strange = KINDS.map(|kind| (kind, "zz".to_owned()));
        let strange = store.thin_aliases(&ana(), device, &strange).await.unwrap();
        assert_eq!(strange, [None, None, None], "{device}");
    }
}

async fn holds(store: Arc<dyn Store>, all: &[Brought]) {
    begin(&*store).await;
    let mut model = Model::default();
    for one in all {
        model.take(one);
        let (device, names) = one.clone();
        let write = Write::ThinNames {
            user: ana(),
            device: device.into(),
            names,
        };
        commit(&*store, vec![write]).await;
        reads_the_same_both_ways(&*store, &model).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn a_number_stands_for_one_name_of_one_device_for_ever(all in vec(brought(), 1..6)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            holds(Arc::new(Memory::new()), &all).await;
            let dir = TempDir::new().unwrap();
            let file = dir.path().join("hub.db");
            let options = OpenOptions::new(file, "hub.example".try_into().unwrap());
            holds(Arc::new(Sqlite::open(options).await.unwrap()), &all).await;
        });
    }
}
