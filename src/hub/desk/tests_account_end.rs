//! New passwords, ended accounts and what this hub does not have, from the door's side.

use ruma::{
    api::client::{
        account::{change_password, deactivate, whoami},
        presence::{get_presence, set_presence},
        profile::get_profile,
        session::login,
        thirdparty::get_protocols,
        uiaa::{AuthData, MatrixUserIdentifier, UserIdentifier},
    },
    presence::PresenceState,
};
use serde_json::json;

use crate::{
    api::{Code, Command, Refusal, Reply},
    hub::{
        desk::rooms::testing::wish,
        testing::{Person, TestHub, ask, hub, stranger},
    },
    store::Write,
};

fn password_of(user: &str, password: &str) -> AuthData {
    let shown = json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": user },
        "password": password,
    });
    serde_json::from_value(shown).unwrap()
}

async fn log_in(hub: &TestHub, name: &str, password: &str) -> Result<(), Refusal> {
    let who = UserIdentifier::Matrix(MatrixUserIdentifier::new(name.to_owned()));
    let shown = login::v3::Password::new(who, password.to_owned());
    let request = login::v3::Request::new(login::v3::LoginInfo::Password(shown));
    ask!(hub, stranger(), Login(request)).map(drop)
}

async fn is_known(hub: &TestHub, who: &Person) -> bool {
    ask!(hub, who.origin, Whoami(whoami::v3::Request::new())).is_ok()
}

#[tokio::test]
async fn a_new_password_needs_the_old_one_and_ends_the_other_sessions_unless_told_not_to() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    hub.password(&ana, "old").await;
    let tablet = hub.device(&ana.user, "TABLET").await;
    let mut request = change_password::v3::Request::new("new".to_owned());
    let asked = ask!(hub, ana.origin, ChangePassword(request.clone())).unwrap_err();
    assert_eq!(asked.status, 401);
    assert!(asked.body.unwrap().contains_key("flows"));
    request.auth = Some(password_of("ana", "wrong"));
    let wrong = ask!(hub, ana.origin, ChangePassword(request.clone())).unwrap_err();
    assert_eq!((wrong.status, wrong.code), (401, Code::Forbidden));
    log_in(&hub, "ana", "old").await.unwrap();

    request.auth = Some(password_of("ana", "old"));
    request.logout_devices = false;
    ask!(hub, ana.origin, ChangePassword(request)).unwrap();
    assert!(is_known(&hub, &tablet).await);
    assert_eq!(
        log_in(&hub, "ana", "old").await.unwrap_err().code,
        Code::Forbidden
    );
    let ticket = hub.hub.mint_login_token(&ana.user).await.unwrap();

    let mut request = change_password::v3::Request::new("newer".to_owned());
    request.auth = Some(password_of("ana", "new"));
    ask!(hub, ana.origin, ChangePassword(request)).unwrap();
    assert!(is_known(&hub, &ana).await);
    assert!(!is_known(&hub, &tablet).await);
    log_in(&hub, "ana", "newer").await.unwrap();
    let token = login::v3::LoginInfo::Token(login::v3::Token::new(ticket));
    let refusal = ask!(hub, stranger(), Login(login::v3::Request::new(token)));
    assert_eq!(refusal.unwrap_err().code, Code::Forbidden);

    let mut empty = change_password::v3::Request::new(String::new());
    empty.auth = Some(password_of("ana", "newer"));
    let refusal = ask!(hub, ana.origin, ChangePassword(empty)).unwrap_err();
    assert_eq!(refusal.code, Code::WeakPassword);
}

#[tokio::test]
async fn an_ended_account_is_in_no_room_says_nothing_of_itself_and_nobody_logs_in_to_it() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    hub.password(&bob, "s3cret").await;
    hub.write(vec![Write::Profile {
        user: bob.user.clone(),
        field: "displayname".to_owned(),
        json: Some("\"Bob\"".to_owned()),
    }])
    .await;
    let joined = hub.public_room(&ana, &[&bob]).await;
    let invited = hub.create(&ana, wish("private_chat", &json!([]))).await;
    let invited = invited.unwrap();
    hub.invite(&ana, &invited, &bob).await.unwrap();
    let mut request = deactivate::v3::Request::new();
    let asked = ask!(hub, bob.origin, Deactivate(request.clone())).unwrap_err();
    assert_eq!(asked.status, 401);
    assert!(is_known(&hub, &bob).await);

    request.auth = Some(password_of("bob", "s3cret"));
    ask!(hub, bob.origin, Deactivate(request)).unwrap();

    assert!(!is_known(&hub, &bob).await);
    for room in [&joined, &invited] {
        let nid = hub.hub.store.room(room).await.unwrap().unwrap().nid;
        let record = hub.hub.store.membership(&bob.user, nid).await.unwrap();
        assert_eq!(record.unwrap().membership, crate::room::Membership::Leave);
    }
    let refusal = log_in(&hub, "bob", "s3cret").await.unwrap_err();
    let nobody = log_in(&hub, "nobody", "s3cret").await.unwrap_err();
    assert_eq!(refusal, nobody, "an ended account and none look alike");
    let profile = get_profile::v3::Request::new(bob.user.clone());
    let profile = ask!(hub, ana.origin, Profile(profile)).unwrap();
    assert_eq!(profile.iter().count(), 0);
    let taken = crate::hub::AccountWish {
        localpart: "bob".to_owned(),
        password: None,
        admin: false,
    };
    let refusal = hub.hub.add_user(taken).await.unwrap_err();
    assert_eq!(refusal.code, Code::UserInUse);
}

#[tokio::test]
async fn presence_bridges_turn_servers_and_third_party_ids_are_not_there_and_no_error() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let online = set_presence::v3::Request::new(bob.user.clone(), PresenceState::Online);
    ask!(hub, bob.origin, SetPresence(online.clone())).unwrap();
    let refusal = ask!(hub, ana.origin, SetPresence(online)).unwrap_err();
    assert_eq!(refusal.code, Code::Forbidden);
    let asked = get_presence::v3::Request::new(bob.user.clone());
    let told = ask!(hub, ana.origin, Presence(asked)).unwrap();
    assert_eq!(told.presence, PresenceState::Offline);
    let unknown = get_presence::v3::Request::new("@eve:hub.example".try_into().unwrap());
    let refusal = ask!(hub, ana.origin, Presence(unknown)).unwrap_err();
    assert_eq!(refusal.code, Code::NotFound);
    let none = ask!(
        hub,
        ana.origin,
        Protocols(get_protocols::v3::Request::new())
    );
    assert!(none.unwrap().protocols.is_empty());

    for command in [Command::TurnServer, Command::ThirdPartyIds] {
        let refusal = hub.ask(&stranger(), command.clone()).await.unwrap_err();
        assert_eq!(refusal.code, Code::MissingToken);
        let name = command.name();
        let reply = hub.ask(&ana.origin, command).await.unwrap();
        assert!(matches!(reply, Reply::TurnServer | Reply::ThirdPartyIds));
        assert_eq!(format!("{reply:?}"), name);
    }
}
