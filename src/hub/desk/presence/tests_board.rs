//! The board, second by second.

use std::time::Duration;

use ruma::{OwnedUserId, device_id, presence::PresenceState, user_id};

use super::{
    board::{Candidates, Presences, Shown},
    *,
};

const START: Timestamp = Timestamp(1_700_000_000_000);

fn board() -> Presences {
    Presences::new(TypingBoard::from(START.0))
}

fn at(seconds: u64) -> Timestamp {
    START + Duration::from_secs(seconds)
}

fn state(board: &Presences, user: &UserId) -> PresenceState {
    board
        .shown(user)
        .map_or(PresenceState::Offline, |shown| shown.state)
}

fn online() -> Shown {
    Shown {
        state: PresenceState::Online,
        status: None,
        active: Some(START),
        currently: true,
    }
}

#[test]
fn who_syncs_is_there_idle_after_five_minutes_and_gone_soon_after_the_last_sync() {
    let (board, ana) = (board(), user_id!("@ana:hub.example"));
    let phone = (ana, device_id!("PHONE"));
    assert_eq!(board.sync_begins(phone, false, at(0)), Some(true));
    assert_eq!(state(&board, ana), PresenceState::Online);
    assert!(board.shown(ana).unwrap().currently);

    assert!(board.look(at(299)).changed.is_empty());
    assert_eq!(board.look(at(300)).changed, [ana]);
    assert_eq!(state(&board, ana), PresenceState::Unavailable);

    // That a client goes on asking shows nothing; that somebody says something does.
    board.sync_ends(ana, phone.1, at(301));
    assert_eq!(board.sync_begins(phone, false, at(302)), Some(false));
    assert_eq!(state(&board, ana), PresenceState::Unavailable);
    assert!(board.acts(ana, phone.1, at(303)));
    assert!(
        !board.acts(ana, phone.1, at(304)),
        "nobody sees a difference"
    );
    assert_eq!(board.shown(ana).unwrap().active, Some(at(304)));

    board.sync_ends(ana, phone.1, at(310));
    assert!(board.look(at(339)).changed.is_empty());
    assert_eq!(board.look(at(340)).changed, [ana]);
    assert_eq!(state(&board, ana), PresenceState::Offline);
    assert!(
        !board.acts(ana, phone.1, at(341)),
        "who is not there does not come by it"
    );

    board.look(at(340 + 3599));
    assert!(board.shown(ana).is_some());
    board.look(at(340 + 3600));
    assert!(board.shown(ana).is_none());
}

#[test]
fn a_device_that_is_idle_or_gone_does_not_hide_another() {
    let (board, ana) = (board(), user_id!("@ana:hub.example"));
    let (phone, laptop) = ((ana, device_id!("PHONE")), (ana, device_id!("LAPTOP")));
    board.sync_begins(laptop, true, at(0));
    assert_eq!(state(&board, ana), PresenceState::Unavailable);
    assert_eq!(board.sync_begins(phone, false, at(1)), Some(true));
    assert_eq!(state(&board, ana), PresenceState::Online);
    board.sync_ends(ana, laptop.1, at(2));
    assert_eq!(board.sync_begins(laptop, true, at(3)), Some(false));

    board.sync_ends(ana, phone.1, at(4));
    assert_eq!(board.look(at(34)).changed, [ana]);
    assert_eq!(state(&board, ana), PresenceState::Unavailable);
    assert_eq!(board.sync_begins(laptop, false, at(35)), Some(true));
    assert_eq!(state(&board, ana), PresenceState::Online);
}

#[test]
fn who_says_to_be_offline_is_until_a_device_says_otherwise() {
    let (board, ana) = (board(), user_id!("@ana:hub.example"));
    let phone = (ana, device_id!("PHONE"));
    board.sync_begins(phone, false, at(0));
    let lunch = Some("lunch".to_owned());
    let offline = PresenceState::Offline;
    let changed = board.says(phone, &offline, lunch.clone(), at(1));
    assert_eq!(changed, Some(true));
    assert!(!board.acts(ana, phone.1, at(2)));
    assert_eq!(state(&board, ana), offline);
    assert_eq!(board.shown(ana).unwrap().status, lunch);
    assert_eq!(board.says(phone, &offline, lunch, at(3)), Some(false));
    assert_eq!(board.sync_begins(phone, false, at(4)), Some(true));
    assert_eq!(state(&board, ana), PresenceState::Online);
}

#[test]
fn a_crowd_of_devices_has_its_oldest_forgotten_and_never_one_that_syncs() {
    let (board, ana) = (board(), user_id!("@ana:hub.example"));
    let names: Vec<OwnedDeviceId> = (0..17).map(|n| format!("D{n}").into()).collect();
    for name in &names[..16] {
        assert!(board.sync_begins((ana, name), false, at(0)).is_some());
    }
    assert_eq!(board.sync_begins((ana, &names[16]), false, at(1)), None);
    board.sync_ends(ana, &names[3], at(2));
    assert!(board.sync_begins((ana, &names[16]), false, at(3)).is_some());
    board.sync_ends(ana, &names[3], at(4)); // forgotten: nothing happens
    assert_eq!(state(&board, ana), PresenceState::Online);
}

#[test]
fn other_servers_are_told_of_a_user_with_ten_seconds_between_and_again_after_25_minutes() {
    let (board, ana) = (board(), user_id!("@ana:hub.example"));
    let phone = (ana, device_id!("PHONE"));
    let says = |state, second| board.says(phone, &state, None, at(second));
    let told = |second| {
        let tell = board.look(at(second)).tell.into_iter();
        tell.map(|(_, shown)| shown.state).collect::<Vec<_>>()
    };
    board.sync_begins(phone, false, at(0));
    assert_eq!(told(0), [PresenceState::Online]);
    says(PresenceState::Unavailable, 1);
    says(PresenceState::Online, 2);
    says(PresenceState::Unavailable, 3);
    assert_eq!(told(9), []);
    assert_eq!(told(10), [PresenceState::Unavailable]);
    assert_eq!(told(20), []);
    assert_eq!(told(10 + 25 * 60 - 1), []);
    assert_eq!(told(10 + 25 * 60), [PresenceState::Unavailable]);
    board.tell_again([ana.to_owned(), user_id!("@eve:hub.example").to_owned()].iter());
    assert_eq!(told(20 + 25 * 60), [PresenceState::Unavailable]);
}

#[test]
fn a_user_of_another_server_that_is_not_heard_of_for_half_an_hour_is_gone() {
    let (board, zed) = (board(), user_id!("@zed:far.example"));
    assert!(!board.is_no_news(zed, &online(), at(0)));
    assert!(board.hears(zed, online(), at(0)));
    assert!(board.is_no_news(zed, &online(), at(60)));
    assert!(board.look(at(60 + 1799)).changed.is_empty());
    let look = board.look(at(60 + 1800));
    assert_eq!(look.changed, [zed]);
    assert_eq!(look.tell, [], "its own server tells the others");
    assert_eq!(state(&board, zed), PresenceState::Offline);
    assert!(!board.shown(zed).unwrap().currently);
}

#[test]
fn one_server_does_not_fill_the_board() {
    let board = board();
    let user = |n: usize, server| OwnedUserId::try_from(format!("@u{n}:{server}")).unwrap();
    for n in 0..4096 {
        assert!(board.hears(&user(n, "far.example"), online(), at(0)));
    }
    assert!(!board.hears(&user(4096, "far.example"), online(), at(0)));
    assert!(
        board.hears(&user(7, "far.example"), online(), at(1)),
        "it is kept"
    );
    assert!(board.hears(&user(0, "west.example"), online(), at(0)));
    // Who is forgotten makes place.
    let offline = Shown {
        state: PresenceState::Offline,
        ..online()
    };
    assert!(board.hears(&user(0, "far.example"), offline, at(0)));
    board.look(at(3600));
    assert!(board.hears(&user(4096, "far.example"), online(), at(3600)));
}

#[test]
fn what_changed_is_found_by_version_and_a_version_of_another_run_finds_all_who_are_there() {
    let (board, ana) = (board(), user_id!("@ana:hub.example"));
    let zed = user_id!("@zed:far.example");
    board.sync_begins((ana, device_id!("PHONE")), false, at(0));
    board.hears(zed, online(), at(0));
    let first = START.0;
    let few = |users: &[&UserId]| {
        let users = users.iter().map(|user| (*user).to_owned());
        Candidates::Few(users.collect())
    };
    assert_eq!(
        board.candidates(Some(first), first + 2, 9),
        few(&[ana, zed])
    );
    assert_eq!(board.candidates(Some(first), first + 1, 9), few(&[ana]));
    assert_eq!(board.candidates(Some(first + 2), first + 2, 9), few(&[]));
    assert_eq!(
        board.candidates(Some(first), first + 2, 1),
        Candidates::Many
    );
    for other in [None, Some(7), Some(first + 3)] {
        assert_eq!(board.candidates(other, first + 2, 9), few(&[ana, zed]));
    }
    let all = [ana.to_owned(), zed.to_owned()];
    let among = |since| board.among(all.iter(), since, first + 2).len();
    assert_eq!(
        (among(Some(first + 1)), among(Some(7)), among(None)),
        (1, 2, 2)
    );
}
