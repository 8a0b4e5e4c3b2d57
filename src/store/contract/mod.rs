//! What every backend promises, as one suite: `contract::run` on an empty store per promise.
//!
//! It speaks only the traits of [`store`](crate::store), so it is compiled always: another
//! backend, also one outside this crate, runs it from its own tests. It panics at the first
//! promise that is not kept.

mod accounts;
mod cross_signing;
mod graph;
mod links;
mod outbox;
mod outside;
mod pen;
mod remote;
mod rooms;
mod servers;
mod thin;

use std::{fmt::Write as _, sync::Arc};

pub use pen::Pen;

use crate::{
    base::Seq,
    store::{Batch, CommitError, Committed, Order, RoomNid, Store, StoreError, Write},
};

/// Runs every promise, each on a store of its own that `make` gives.
///
/// # Panics
/// When a promise is not kept.
pub async fn run(make: impl AsyncFn() -> Arc<dyn Store>) {
    rooms::a_log_is_read_back_in_order(&*make().await).await;
    rooms::positions_rise_by_one(&*make().await).await;
    rooms::seq_at_is_the_last_entry_of_a_position(&*make().await).await;
    rooms::a_conflict_leaves_no_trace(&*make().await).await;
    rooms::a_commit_that_contradicts_itself_stores_nothing(&*make().await).await;
    rooms::a_txn_gets_its_first_answer(&*make().await).await;
    rooms::redaction_keeps_the_hash(&*make().await).await;
    rooms::an_alias_names_one_room(&*make().await).await;
    rooms::the_directory_lists_large_rooms_first(&*make().await).await;
    rooms::a_receipt_replaces_its_elder(&*make().await).await;
    rooms::memberships_since_equal_a_model(&*make().await).await;
    rooms::the_first_decision_on_an_event_stays_until_it_is_old(&*make().await).await;
    rooms::sharing_a_room_makes_neighbours(&*make().await).await;
    graph::a_forked_graph_is_loaded(&*make().await).await;
    graph::states_equal_a_model(&*make().await, 1, 400).await;
    graph::one_room_does_not_read_anothers_state(&*make().await).await;
    accounts::an_account_is_made_once(&*make().await).await;
    accounts::accounts_are_listed_and_a_disabled_one_has_no_session(&*make().await).await;
    accounts::account_data_is_told_since(&*make().await).await;
    accounts::a_session_replaces_the_devices_token(&*make().await).await;
    accounts::a_removed_device_leaves_nothing(&*make().await).await;
    accounts::mail_waits_until_it_is_read(&*make().await).await;
    accounts::mail_is_counted_by_where_it_came_from(&*make().await).await;
    accounts::a_key_is_claimed_once(&*make().await).await;
    accounts::device_changes_reach_neighbours_only(&*make().await).await;
    accounts::media_is_counted(&*make().await).await;
    outside::what_a_user_is_outside_is_told_since(&*make().await).await;
    thin::a_device_numbers_names_as_they_come_up(&*make().await).await;
    thin::a_removed_device_leaves_no_numbers(&*make().await).await;
    thin::drafts_are_remembered_when_other_transactions_are_forgotten(&*make().await).await;
    remote::a_device_list_is_kept_whole(&*make().await).await;
    remote::a_message_of_another_server_is_taken_once(&*make().await).await;
    remote::being_in_touch_is_without_a_break(&*make().await).await;
    remote::what_changed_is_told_apart_and_forgotten_when_it_is_said_again(&*make().await).await;
    remote::who_shares_no_room_any_more_is_found_and_forgotten(&*make().await).await;
    cross_signing::who_vouches_is_kept_beside_the_keys(&*make().await).await;
    links::a_link_is_found_by_each_of_its_keys(&*make().await).await;
    links::a_key_links_one_device(&*make().await).await;
    links::a_renewed_context_takes_the_place_of_the_old_one(&*make().await).await;
    links::reserved_numbers_never_fall(&*make().await).await;
    links::a_context_keeps_its_newest_registrations(&*make().await).await;
    links::a_removed_device_is_linked_no_more(&*make().await).await;
    servers::the_keys_of_a_server_are_the_last_that_were_kept(&*make().await).await;
    outbox::a_server_resides_while_it_has_users(&*make().await).await;
    outbox::who_waited_outside_is_told_once(&*make().await).await;
    outbox::many_servers_come_at_once(&*make().await).await;
    outbox::a_mark_tells_what_was_told(&*make().await).await;
    outbox::parcels_wait_in_order(&*make().await).await;
    outbox::what_is_beside_the_logs_is_found(&*make().await).await;
}

/// A state that is changed at random equals a model of it.
///
/// # Panics
/// When it does not.
pub async fn states_equal_a_model(store: &dyn Store, seed: u64, steps: u32) {
    graph::states_equal_a_model(store, seed, steps).await;
}

/// Everything the rooms of a store tell, as text: two stores that tell the same give the same.
pub async fn describe(store: &dyn Store) -> Result<String, StoreError> {
    let mut out = format!(
        "{:?} {:?}\n",
        store.position().await?,
        store.totals().await?
    );
    let mut after = RoomNid(0);
    loop {
        let rooms = store.rooms(after, 100).await?;
        let Some(last) = rooms.last() else {
            return Ok(out);
        };
        after = last.nid;
        for room in &rooms {
            let log = store
                .log(
                    room.nid,
                    Seq::ZERO,
                    room.heads.seq,
                    Order::Forward,
                    u32::MAX,
                )
                .await?;
            let current = store.current_all(room.nid, None).await?;
            let state = store.state(room.state.nid).await?;
            let joined = store.joined(room.nid, None).await?;
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{room:?}\n{log:?}\n{current:?}\n{state:?}\n{joined:?}");
        }
    }
}

/// Commits one ordinary batch.
async fn commit(store: &dyn Store, writes: Vec<Write>) -> Committed {
    let batch = Batch {
        writes,
        may_conflict: false,
    };
    store
        .commit(&[batch])
        .await
        .expect("the commit is in order")
}

/// Commits one batch that may conflict; tells whether it did.
async fn try_commit(store: &dyn Store, writes: Vec<Write>) -> bool {
    let batch = Batch {
        writes,
        may_conflict: true,
    };
    let done = store
        .commit(&[batch])
        .await
        .expect("a conflict is no failure");
    done.outcomes.first().is_some_and(Result::is_ok)
}

/// Commits what must be refused as a contradiction.
async fn commit_wrong(store: &dyn Store, writes: Vec<Write>) {
    let before = describe(store).await.expect("the store can be read");
    let batch = Batch {
        writes,
        may_conflict: false,
    };
    let refused = store.commit(&[batch]).await;
    assert!(
        matches!(
            refused,
            Err(CommitError::Failed(StoreError::Damaged { .. }))
        ),
        "{refused:?}"
    );
    let after = describe(store).await.expect("the store can be read");
    assert_eq!(before, after, "a refused commit left a trace");
}
