//! Accounts, from the door's side.

use std::time::Duration;

use ruma::{
    OwnedUserId,
    api::client::{
        account::{get_username_availability, register, whoami},
        config::{get_global_account_data, set_global_account_data, set_room_account_data},
        discovery::{get_capabilities, get_supported_versions},
        filter::{FilterDefinition, create_filter, get_filter},
        profile::{delete_profile_field, get_profile, get_profile_field, set_profile_field},
        push::get_pushrules_all,
        session::{get_login_types, login, logout, logout_all},
        uiaa::{AuthData, MatrixUserIdentifier, UserIdentifier},
    },
    profile::{ProfileFieldName, ProfileFieldValue},
    serde::Raw,
};
use serde_json::{Value, json};
use tracing::Instrument as _;

use crate::{
    api::{Code, Command, Credentials, Refusal, Reply, SecretRegistration, Service},
    base::test_log::Log,
    hub::{
        AccountWish, Quota, RegistrationRules, Settings,
        testing::{Person, SERVER, TestHub, ask, bearer, hub, hub_with, stranger},
    },
};

fn whoami() -> whoami::v3::Request {
    whoami::v3::Request::new()
}

fn by_name(name: &str, password: &str) -> login::v3::Request {
    let who = UserIdentifier::Matrix(MatrixUserIdentifier::new(name.to_owned()));
    let shown = login::v3::Password::new(who, password.to_owned());
    login::v3::Request::new(login::v3::LoginInfo::Password(shown))
}

async fn log_in(hub: &TestHub, request: login::v3::Request) -> Result<Person, Refusal> {
    let reply = ask!(hub, stranger(), Login(request))?;
    Ok(Person {
        user: reply.user_id,
        device: reply.device_id,
        origin: bearer(&reply.access_token),
    })
}

/// A hub with an account `ana` whose password is `s3cret`.
async fn hub_of_ana() -> TestHub {
    let hub = hub().await;
    let wish = AccountWish {
        localpart: "ana".to_owned(),
        password: Some("s3cret".to_owned()),
        admin: false,
    };
    hub.hub.add_user(wish).await.unwrap();
    hub
}

async fn open_hub() -> TestHub {
    hub_with(Settings {
        registration: RegistrationRules {
            token: Some("letmein".to_owned()),
            shared_secret: Some("shared".to_owned()),
        },
        ..Settings::default()
    })
    .await
}

fn registration(username: &str, auth: Option<Value>) -> register::v3::Request {
    let mut request = register::v3::Request::new();
    request.username = Some(username.to_owned());
    request.password = Some("s3cret".to_owned());
    request.auth = auth.map(|auth| serde_json::from_value::<AuthData>(auth).unwrap());
    request
}

fn token(token: &str) -> Value {
    json!({ "type": "m.login.registration_token", "token": token, "session": "S" })
}

#[tokio::test]
async fn one_logs_in_by_localpart_by_full_id_and_in_the_old_way() {
    let hub = hub_of_ana().await;
    let mut old = by_name("", "s3cret");
    #[expect(deprecated, reason = "the old way")]
    if let login::v3::LoginInfo::Password(shown) = &mut old.login_info {
        shown.identifier = None;
        shown.user = Some("ana".to_owned());
    }
    for request in [
        by_name("ana", "s3cret"),
        by_name(&format!("@ana:{SERVER}"), "s3cret"),
        old,
    ] {
        let ana = log_in(&hub, request).await.unwrap();
        let told = ask!(hub, ana.origin, Whoami(whoami())).unwrap();
        assert_eq!(told.user_id, "@ana:hub.example");
        assert_eq!(told.device_id, Some(ana.device));
    }
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_user_have_one_answer() {
    let hub = hub_of_ana().await;
    let wrong = log_in(&hub, by_name("ana", "guess")).await.err().unwrap();
    assert_eq!((wrong.code, wrong.status), (Code::Forbidden, 403));
    for nobody in ["bob", "@ana:elsewhere.example", "@@", "", "a b"] {
        let refusal = log_in(&hub, by_name(nobody, "guess")).await.err().unwrap();
        assert_eq!(refusal, wrong, "{nobody}");
    }
    // The operator alone is told for which account it was.
    let passes = wrong.why.unwrap().passes.unwrap();
    assert_eq!(passes, "the password fits @ana:hub.example");
}

#[tokio::test]
async fn whose_token_came_with_what_cannot_be_read_is_known() {
    let hub = hub_of_ana().await;
    let ana = log_in(&hub, by_name("ana", "s3cret")).await.ok().unwrap();
    let refusal = || Refusal::bad_json("no");
    let service: &dyn Service = &*hub.hub;

    let nobody = service.asked_by(&stranger(), refusal()).await;
    let hers = service.asked_by(&ana.origin, refusal()).await;

    assert_eq!(nobody.why, None);
    assert_eq!(hers.why.unwrap().who.as_deref(), Some("@ana:hub.example"));
}

#[tokio::test]
async fn logins_are_limited_per_address_and_per_account() {
    let mut settings = Settings::default();
    settings.limits.login_per_address = Quota {
        per_second: 1.0,
        burst: 3,
    };
    settings.limits.login_per_account = Quota {
        per_second: 0.5,
        burst: 2,
    };
    let hub = hub_with(settings).await;
    for _ in 0..2 {
        log_in(&hub, by_name("ana", "x")).await.err().unwrap();
    }
    let per_account = log_in(&hub, by_name("ana", "x")).await.err().unwrap();
    assert_eq!(
        (per_account.code, per_account.status),
        (Code::LimitExceeded, 429)
    );
    assert_eq!(per_account.retry_after, Some(Duration::from_secs(2)));
    let per_address = log_in(&hub, by_name("bob", "x")).await.err().unwrap();
    assert_eq!(per_address.code, Code::LimitExceeded);
    hub.clock.advance(Duration::from_secs(2));
    let wrong = log_in(&hub, by_name("ana", "x")).await.err().unwrap();
    assert_eq!(wrong.code, Code::Forbidden);
}

#[tokio::test]
async fn requests_and_events_of_one_account_have_their_budgets() {
    let mut settings = Settings::default();
    settings.limits.requests_per_account = Quota {
        per_second: 1.0,
        burst: 2,
    };
    let hub = hub_with(settings).await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    ask!(hub, ana.origin, Whoami(whoami())).unwrap();
    ask!(hub, ana.origin, Whoami(whoami())).unwrap();
    let refusal = ask!(hub, ana.origin, Whoami(whoami())).unwrap_err();
    assert_eq!(refusal.code, Code::LimitExceeded);
    ask!(hub, bob.origin, Whoami(whoami())).unwrap();
}

#[tokio::test]
async fn without_a_token_and_with_a_wrong_one_are_told_apart() {
    let hub = hub().await;
    let missing = ask!(hub, stranger(), Whoami(whoami())).unwrap_err();
    assert_eq!((missing.code, missing.status), (Code::MissingToken, 401));
    let unknown = ask!(hub, bearer("tl_guess"), Whoami(whoami())).unwrap_err();
    assert_eq!((unknown.code, unknown.status), (Code::UnknownToken, 401));
}

#[tokio::test]
async fn a_session_ends_at_once_also_when_it_was_just_used() {
    let hub = hub_of_ana().await;
    let phone = log_in(&hub, by_name("ana", "s3cret")).await.unwrap();
    let tablet = log_in(&hub, by_name("ana", "s3cret")).await.unwrap();
    ask!(hub, phone.origin, Whoami(whoami())).unwrap();
    ask!(hub, tablet.origin, Whoami(whoami())).unwrap();

    ask!(hub, phone.origin, Logout(logout::v3::Request::new())).unwrap();
    let refusal = ask!(hub, phone.origin, Whoami(whoami())).unwrap_err();
    assert_eq!(refusal.code, Code::UnknownToken);
    ask!(hub, tablet.origin, Whoami(whoami())).unwrap();

    ask!(
        hub,
        tablet.origin,
        LogoutAll(logout_all::v3::Request::new())
    )
    .unwrap();
    ask!(hub, tablet.origin, Whoami(whoami())).unwrap_err();
}

#[tokio::test]
async fn logging_in_again_as_a_device_replaces_its_token() {
    let hub = hub_of_ana().await;
    let mut request = by_name("ana", "s3cret");
    request.device_id = Some("PHONE".into());
    request.initial_device_display_name = Some("my phone".to_owned());
    let first = log_in(&hub, request.clone()).await.unwrap();
    ask!(hub, first.origin, Whoami(whoami())).unwrap();

    request.initial_device_display_name = Some("another name".to_owned());
    let second = log_in(&hub, request).await.unwrap();

    assert_eq!(second.device, "PHONE");
    ask!(hub, first.origin, Whoami(whoami())).unwrap_err();
    ask!(hub, second.origin, Whoami(whoami())).unwrap();
    let devices = hub.hub.store().devices(&second.user).await.unwrap();
    assert_eq!(devices.len(), 1);
    assert_eq!(devices[0].name.as_deref(), Some("my phone"));
}

#[tokio::test]
async fn a_device_id_that_would_mean_something_else_is_refused() {
    let hub = hub_of_ana().await;
    for bad in ["*", "", "a\nb", &"x".repeat(256)] {
        let mut request = by_name("ana", "s3cret");
        request.device_id = Some(bad.into());
        let refusal = log_in(&hub, request).await.err().unwrap();
        assert_eq!(refusal.code, Code::InvalidParam, "{bad}");
        hub.clock.advance(Duration::from_mins(1));
    }
}

#[tokio::test]
async fn a_login_token_works_once_and_for_two_minutes() {
    let hub = hub_of_ana().await;
    let ana = OwnedUserId::try_from("@ana:hub.example").unwrap();
    let by_token = |token: &str| {
        let shown = login::v3::Token::new(token.to_owned());
        login::v3::Request::new(login::v3::LoginInfo::Token(shown))
    };
    let token = hub.hub.mint_login_token(&ana).await.unwrap();
    let session = log_in(&hub, by_token(&token)).await.unwrap();
    assert_eq!(session.user, ana);
    log_in(&hub, by_token(&token)).await.err().unwrap();

    let token = hub.hub.mint_login_token(&ana).await.unwrap();
    hub.clock.advance(Duration::from_mins(2));
    let late = log_in(&hub, by_token(&token)).await.err().unwrap();
    assert_eq!(late.code, Code::Forbidden);

    let nobody = OwnedUserId::try_from("@bob:hub.example").unwrap();
    let refusal = hub.hub.mint_login_token(&nobody).await.unwrap_err();
    assert_eq!(refusal.code, Code::NotFound);
}

#[tokio::test]
async fn another_password_ends_all_sessions() {
    let hub = hub_of_ana().await;
    let ana = log_in(&hub, by_name("ana", "s3cret")).await.unwrap();
    ask!(hub, ana.origin, Whoami(whoami())).unwrap();

    hub.hub.set_password(&ana.user, "n3w").await.unwrap();

    ask!(hub, ana.origin, Whoami(whoami())).unwrap_err();
    log_in(&hub, by_name("ana", "s3cret")).await.err().unwrap();
    log_in(&hub, by_name("ana", "n3w")).await.unwrap();
}

#[tokio::test]
async fn a_disabled_account_has_no_sessions_keeps_its_name_and_can_be_enabled() {
    let hub = hub_of_ana().await;
    let ana = log_in(&hub, by_name("ana", "s3cret")).await.unwrap();
    let token = hub.hub.mint_login_token(&ana.user).await.unwrap();

    assert_eq!(hub.hub.disable_user(&ana.user).await.unwrap(), 1);

    let refusal = ask!(hub, ana.origin, Whoami(whoami())).unwrap_err();
    assert_eq!(refusal.code, Code::UnknownToken);
    let refusal = log_in(&hub, by_name("ana", "s3cret")).await.err().unwrap();
    assert_eq!((refusal.code, refusal.status), (Code::UserDeactivated, 403));
    let shown = login::v3::LoginInfo::Token(login::v3::Token::new(token));
    let refusal = log_in(&hub, login::v3::Request::new(shown)).await;
    assert_eq!(refusal.err().unwrap().code, Code::Forbidden, "it is void");
    let wish = AccountWish {
        localpart: "ana".to_owned(),
        password: Some("mine now".to_owned()),
        admin: false,
    };
    let refusal = hub.hub.add_user(wish).await.unwrap_err();
    assert_eq!(refusal.code, Code::UserInUse);

    hub.hub.enable_user(&ana.user).await.unwrap();
    log_in(&hub, by_name("ana", "s3cret")).await.unwrap();
    ask!(hub, ana.origin, Whoami(whoami())).unwrap_err();
}

#[tokio::test]
async fn who_does_not_know_the_password_does_not_learn_that_an_account_is_disabled() {
    let hub = hub_of_ana().await;
    let ana = OwnedUserId::try_from("@ana:hub.example").unwrap();
    let before = log_in(&hub, by_name("ana", "guess")).await.err().unwrap();

    hub.hub.disable_user(&ana).await.unwrap();

    let after = log_in(&hub, by_name("ana", "guess")).await.err().unwrap();
    assert_eq!(before, after);
}

#[tokio::test]
async fn a_login_that_was_under_way_gives_no_session_on_a_disabled_account() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    hub.hub.disable_user(&ana.user).await.unwrap();
    let late = hub.device(&ana.user, "LATE").await; // stored after the account was disabled

    ask!(hub, late.origin, Whoami(whoami())).unwrap_err();
    hub.hub.enable_user(&ana.user).await.unwrap();
    ask!(hub, late.origin, Whoami(whoami())).unwrap_err();
}

#[tokio::test]
async fn the_login_types_are_those_that_work() {
    let hub = hub().await;
    let types = ask!(
        hub,
        stranger(),
        LoginTypes(get_login_types::v3::Request::new())
    )
    .unwrap();
    let names: Vec<_> = types
        .flows
        .iter()
        .map(get_login_types::v3::LoginType::login_type)
        .collect();
    assert_eq!(names, ["m.login.password", "m.login.token"]);
}

#[tokio::test]
async fn registration_is_closed_unless_the_operator_opens_it() {
    let hub = hub().await;
    let refusal = ask!(
        hub,
        stranger(),
        Register(registration("ana", Some(token("x"))))
    )
    .unwrap_err();
    assert_eq!((refusal.code, refusal.status), (Code::Forbidden, 403));
    assert!(refusal.body.is_none());
    let question = get_username_availability::v3::Request::new("ana".to_owned());
    let refusal = ask!(hub, stranger(), UsernameAvailable(question)).unwrap_err();
    assert_eq!(refusal.code, Code::Forbidden);
    let refusal = hub.ask(&stranger(), Command::RegisterNonce).await;
    assert_eq!(refusal.unwrap_err().code, Code::Forbidden);
}

#[tokio::test]
async fn registration_asks_for_the_token_and_then_makes_a_session() {
    let hub = open_hub().await;
    let asked = ask!(hub, stranger(), Register(registration("ana", None))).unwrap_err();
    assert_eq!(asked.status, 401);
    let body = asked.body.unwrap();
    assert_eq!(
        body["flows"],
        json!([{ "stages": ["m.login.registration_token"] }])
    );
    assert!(body["session"].is_string());

    let wrong = registration("ana", Some(token("guess")));
    let wrong = ask!(hub, stranger(), Register(wrong)).unwrap_err();
    assert_eq!(wrong.status, 401);
    assert_eq!(wrong.body.unwrap()["session"], "S");

    let made = registration("ana", Some(token("letmein")));
    let made = ask!(hub, stranger(), Register(made)).unwrap();
    assert_eq!(made.user_id, "@ana:hub.example");
    let ana = bearer(&made.access_token.unwrap());
    let told = ask!(hub, ana, Whoami(whoami())).unwrap();
    assert_eq!(told.device_id, made.device_id);
    log_in(&hub, by_name("ana", "s3cret")).await.unwrap();
}

#[tokio::test]
async fn who_has_shown_the_token_may_try_another_name_without_it() {
    let hub = open_hub().await;
    hub.account("ana").await;
    let refusal = ask!(
        hub,
        stranger(),
        Register(registration("ana", Some(token("letmein"))))
    );
    assert_eq!(refusal.unwrap_err().code, Code::UserInUse);
    let passed = || Some(json!({ "session": "S" }));
    let refusal = ask!(hub, stranger(), Register(registration("Ana", passed())));
    assert_eq!(refusal.unwrap_err().code, Code::InvalidUsername);
    let mut request = registration("anna", passed());
    request.inhibit_login = true;
    let made = ask!(hub, stranger(), Register(request)).unwrap();
    assert_eq!((made.access_token, made.device_id), (None, None));

    // The session is used up.
    let refusal = ask!(hub, stranger(), Register(registration("eva", passed()))).unwrap_err();
    assert_eq!(refusal.status, 401);
}

#[tokio::test]
async fn a_taken_name_is_told_to_who_may_register() {
    let hub = open_hub().await;
    hub.account("ana").await;
    let ask_for = |name: &str| get_username_availability::v3::Request::new(name.to_owned());
    let taken = ask!(hub, stranger(), UsernameAvailable(ask_for("ana"))).unwrap_err();
    assert_eq!((taken.code, taken.status), (Code::UserInUse, 400));
    let free = ask!(hub, stranger(), UsernameAvailable(ask_for("bob"))).unwrap();
    assert!(free.available);
}

#[tokio::test]
async fn an_empty_password_and_a_guest_are_refused() {
    let hub = open_hub().await;
    let mut request = registration("ana", Some(token("letmein")));
    request.password = Some(String::new());
    let refusal = ask!(hub, stranger(), Register(request)).unwrap_err();
    assert_eq!(refusal.code, Code::WeakPassword);
    let mut request = registration("ana", Some(token("letmein")));
    request.kind = register::RegistrationKind::Guest;
    let refusal = ask!(hub, stranger(), Register(request)).unwrap_err();
    assert_eq!(refusal.code, Code::GuestAccessForbidden);
}

#[tokio::test]
async fn the_shared_secret_makes_an_operator_with_a_fresh_nonce_only() {
    let hub = open_hub().await;
    let nonce = async || match hub.ask(&stranger(), Command::RegisterNonce).await {
        Ok(Reply::RegisterNonce { nonce }) => nonce,
        other => panic!("{other:?}"),
    };
    let request = |nonce: &str, name: &str| SecretRegistration {
        nonce: nonce.to_owned(),
        username: name.to_owned(),
        password: "s3cret".to_owned(),
        admin: true,
        mac: super::secret_registration::mac("shared", &[nonce, name, "s3cret", "admin"]),
    };
    let first = nonce().await;
    let made = ask!(hub, stranger(), RegisterWithSecret(request(&first, "root"))).unwrap();
    let root = hub.hub.store().user(&made.user_id).await.unwrap().unwrap();
    assert!(root.admin);

    let again = ask!(hub, stranger(), RegisterWithSecret(request(&first, "eve"))).unwrap_err();
    assert_eq!((again.code, again.status), (Code::Unknown, 400));
    let late = nonce().await;
    hub.clock.advance(Duration::from_mins(1));
    ask!(hub, stranger(), RegisterWithSecret(request(&late, "eve"))).unwrap_err();
    let mut forged = request(&nonce().await, "eve");
    forged.username = "eva".to_owned();
    let refusal = ask!(hub, stranger(), RegisterWithSecret(forged)).unwrap_err();
    assert_eq!(refusal.code, Code::Forbidden);
}

#[tokio::test]
async fn no_secret_shows_where_a_command_or_its_answer_is_printed() {
    let hub = hub_of_ana().await;
    let asked = Command::Login(Box::new(by_name("ana", "s3cret")));
    let shown = format!(
        "{asked:?} {:?}",
        Command::Register(Box::new(registration("x", Some(token("letmein")))))
    );
    let answer = hub.ask(&stranger(), asked).await.unwrap();
    let Reply::Login(reply) = &answer else {
        panic!()
    };
    let told = format!("{shown} {answer:?} {:?}", bearer(&reply.access_token));
    for secret in ["s3cret", "letmein", reply.access_token.as_str()] {
        assert!(!told.contains(secret), "{told}");
    }
}

#[tokio::test]
async fn a_profile_is_ones_own_to_change_and_anyones_to_read() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let name = |name: &str| ProfileFieldValue::DisplayName(name.to_owned());
    let set = |value| set_profile_field::v3::Request::new(ana.user.clone(), value);
    ask!(hub, ana.origin, SetProfileField(set(name("Ana")))).unwrap();
    let mood = ProfileFieldValue::new("org.example.mood", json!({ "is": "fine" })).unwrap();
    ask!(hub, ana.origin, SetProfileField(set(mood))).unwrap();
    let refusal = ask!(hub, bob.origin, SetProfileField(set(name("Bob")))).unwrap_err();
    assert_eq!(refusal.code, Code::Forbidden);

    let all = get_profile::v3::Request::new(ana.user.clone());
    let all = ask!(hub, stranger(), Profile(all)).unwrap();
    assert_eq!(all.get("displayname"), Some(&json!("Ana")));
    assert_eq!(all.get("org.example.mood"), Some(&json!({ "is": "fine" })));

    let field = ProfileFieldName::DisplayName;
    let gone = delete_profile_field::v3::Request::new(ana.user.clone(), field.clone());
    ask!(hub, ana.origin, DeleteProfileField(gone)).unwrap();
    let read = get_profile_field::v3::Request::new(ana.user.clone(), field);
    let refusal = ask!(hub, stranger(), ProfileField(read)).unwrap_err();
    assert_eq!(refusal.code, Code::NotFound);
    let nobody = get_profile::v3::Request::new("@eve:hub.example".try_into().unwrap());
    let refusal = ask!(hub, stranger(), Profile(nobody)).unwrap_err();
    assert_eq!(refusal.code, Code::NotFound);
}

#[tokio::test]
async fn a_profile_has_64_kib_at_most() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let set = |field: &str, bytes: usize| {
        let value = ProfileFieldValue::new(field, json!("x".repeat(bytes))).unwrap();
        set_profile_field::v3::Request::new(ana.user.clone(), value)
    };
    ask!(hub, ana.origin, SetProfileField(set("a.a", 40_000))).unwrap();
    let refusal = ask!(hub, ana.origin, SetProfileField(set("a.b", 40_000))).unwrap_err();
    assert_eq!((refusal.code, refusal.status), (Code::TooLarge, 400));
    ask!(hub, ana.origin, SetProfileField(set("a.a", 100))).unwrap();
    ask!(hub, ana.origin, SetProfileField(set("a.b", 40_000))).unwrap();
}

#[tokio::test]
async fn account_data_is_kept_and_what_the_server_keeps_is_not_overwritten() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let set = |kind: &str, content: &str| {
        let data = Raw::from_json_string(content.to_owned()).unwrap();
        set_global_account_data::v3::Request::new_raw(ana.user.clone(), kind.into(), data)
    };
    let get = |kind: &str| get_global_account_data::v3::Request::new(ana.user.clone(), kind.into());
    ask!(
        hub,
        ana.origin,
        SetAccountData(set("org.x", r#"{"a":1.5}"#))
    )
    .unwrap();
    let kept = ask!(hub, ana.origin, AccountData(get("org.x"))).unwrap();
    assert_eq!(kept.account_data.json().get(), r#"{"a":1.5}"#);
    let refusal = ask!(hub, bob.origin, AccountData(get("org.x"))).unwrap_err();
    assert_eq!(refusal.code, Code::Forbidden);
    let refusal = ask!(hub, ana.origin, AccountData(get("org.y"))).unwrap_err();
    assert_eq!(refusal.code, Code::NotFound);
    for kind in ["m.fully_read", "m.push_rules"] {
        let refusal = ask!(hub, ana.origin, SetAccountData(set(kind, "{}"))).unwrap_err();
        assert_eq!((refusal.code, refusal.status), (Code::BadJson, 405));
    }
    let refusal = ask!(hub, ana.origin, SetAccountData(set("org.x", "[]"))).unwrap_err();
    assert_eq!(refusal.code, Code::BadJson);
    let rules = ask!(hub, ana.origin, AccountData(get("m.push_rules"))).unwrap();
    assert!(rules.account_data.json().get().contains(".m.rule.master"));
}

#[tokio::test]
async fn account_data_of_a_room_one_has_nothing_to_do_with_is_refused() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let request = set_room_account_data::v3::Request::new_raw(
        ana.user.clone(),
        "!elsewhere:hub.example".try_into().unwrap(),
        "m.tag".into(),
        Raw::from_json_string("{}".to_owned()).unwrap(),
    );
    let refusal = ask!(hub, ana.origin, SetRoomAccountData(request)).unwrap_err();
    assert_eq!(refusal.code, Code::Forbidden);
}

#[tokio::test]
async fn a_filter_uploaded_twice_has_one_number() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let create = |filter| create_filter::v3::Request::new(ana.user.clone(), filter);
    let lazy = FilterDefinition::with_lazy_loading;
    let first = ask!(hub, ana.origin, CreateFilter(create(lazy()))).unwrap();
    let again = ask!(hub, ana.origin, CreateFilter(create(lazy()))).unwrap();
    assert_eq!(first.filter_id, again.filter_id);
    let other = create(FilterDefinition::ignore_all());
    let other = ask!(hub, ana.origin, CreateFilter(other)).unwrap();
    assert_ne!(first.filter_id, other.filter_id);

    let get = |id: &str| get_filter::v3::Request::new(ana.user.clone(), id.to_owned());
    let kept = ask!(hub, ana.origin, Filter(get(&first.filter_id))).unwrap();
    assert!(!kept.filter.room.state.lazy_load_options.is_disabled());
    let refusal = ask!(hub, bob.origin, Filter(get(&first.filter_id))).unwrap_err();
    assert_eq!(refusal.code, Code::Forbidden);
    for unknown in ["999999", "x", "", "-1"] {
        let refusal = ask!(hub, ana.origin, Filter(get(unknown))).unwrap_err();
        assert_eq!(refusal.code, Code::NotFound);
    }
}

#[tokio::test]
async fn an_account_has_a_bounded_number_of_filters() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let mut refused = None;
    for n in 0..300 {
        hub.clock.advance(Duration::from_secs(1));
        let mut filter = FilterDefinition::empty();
        filter.event_fields = Some(vec![n.to_string()]);
        let request = create_filter::v3::Request::new(ana.user.clone(), filter);
        if let Err(refusal) = ask!(hub, ana.origin, CreateFilter(request)) {
            refused = Some((n, refusal.code));
            break;
        }
    }
    let (n, code) = refused.unwrap();
    assert_eq!(code, Code::ResourceLimitExceeded);
    assert!((100..=256).contains(&n), "{n}");
}

#[tokio::test]
async fn push_rules_are_the_default_ones() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let rules = ask!(
        hub,
        ana.origin,
        PushRules(get_pushrules_all::v3::Request::new())
    )
    .unwrap();
    assert!(rules.global.override_.contains(".m.rule.master"));
}

#[tokio::test]
async fn the_hub_says_what_it_can_do() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let versions = get_supported_versions::Request::new();
    let versions = ask!(hub, stranger(), Versions(versions)).unwrap();
    assert_eq!(versions.versions.last().unwrap(), "v1.11");
    let request = get_capabilities::v3::Request::new();
    let told = ask!(hub, ana.origin, Capabilities(request)).unwrap();
    let told = serde_json::to_value(&told.capabilities).unwrap();
    assert_eq!(
        told["m.room_versions"],
        json!({ "default": "12", "available": { "10": "stable", "11": "stable", "12": "stable" } })
    );
    assert_eq!(told.get("m.change_password"), None); // it can be
}

/// A log that is kept in memory, for the test that looks for secrets in it.
#[tokio::test]
async fn no_secret_is_logged_at_any_level() {
    Log::begin();
    tracing::info!("the log is on");

    let hub = open_hub().await;
    let made = registration("ana", Some(token("letmein")));
    let made = ask!(hub, stranger(), Register(made)).unwrap();
    ask!(
        hub,
        stranger(),
        Register(registration("ana", Some(token("planted-guess"))))
    )
    .unwrap_err();
    let span = tracing::error_span!("request", user = tracing::field::Empty);
    let ana = log_in(&hub, by_name("ana", "s3cret"));
    let ana = ana.instrument(span.clone()).await.unwrap();
    span.in_scope(|| tracing::info!("whose it was"));
    log_in(&hub, by_name("ana", "planted-wrong"))
        .await
        .err()
        .unwrap();
    let login_token = hub.hub.mint_login_token(&ana.user).await.unwrap();
    hub.hub
        .set_password(&ana.user, "planted-new")
        .await
        .unwrap();
    ask!(hub, ana.origin, Whoami(whoami())).unwrap_err();

    let Credentials::Token(session) = ana.origin.credentials else {
        panic!()
    };
    let text = Log::text();
    let named = format!("request{{user=\"{}\"}}", ana.user);
    let line = text.lines().find(|line| line.contains("whose it was"));
    assert!(line.unwrap().contains(&named), "{text}");
    assert!(text.contains("the log is on"));
    let made = made.access_token.unwrap();
    for secret in [
        "s3cret",
        "letmein",
        "planted",
        "argon2",
        &made,
        &session,
        &login_token,
    ] {
        assert!(!text.contains(secret), "{secret} is in {text}");
    }
}
