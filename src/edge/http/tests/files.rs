//! Files: up, down, and what is not served.

use super::*;

#[tokio::test]
async fn a_file_comes_back_as_it_went_and_fenced_in() {
    let door = running(Limits::default()).await;
    let file = "x".repeat(300_000);
    let headers = "authorization: Bearer ana\r\ncontent-type: text/html\r\n";

    let up = door.ask(
        "POST /_matrix/media/v3/upload?filename=a%22b%20%C3%A4.html",
        headers,
        &file,
    );
    assert_eq!(up.await.body, r#"{"content_uri":"mxc://hub.example/0"}"#);
    let down = door
        .as_ana("GET /_matrix/client/v1/media/download/hub.example/0", "")
        .await;

    assert_eq!((down.status(), down.body.len()), (200, 300_000));
    assert_eq!(down.header("content-type"), Some("text/html"));
    let disposition = "attachment; filename*=utf-8''a%22b%20%c3%a4.html";
    assert_eq!(down.header("content-disposition"), Some(disposition));
    assert_eq!(down.header("x-content-type-options"), Some("nosniff"));
    assert!(
        down.header("content-security-policy")
            .unwrap()
            .starts_with("sandbox;")
    );
    assert_eq!(
        down.header("cross-origin-resource-policy"),
        Some("cross-origin")
    );
}

#[tokio::test]
async fn a_picture_may_be_shown_in_place_under_another_name() {
    let door = running(Limits::default()).await;
    let headers = "authorization: Bearer ana\r\ncontent-type: image/PNG; q=1\r\n";
    door.ask("POST /_matrix/media/r0/upload", headers, "png")
        .await;

    let path = "/_matrix/client/v1/media/download/hub.example/0/b.png";
    let got = door.as_ana(&format!("GET {path}"), "").await;
    let head = door.as_ana(&format!("HEAD {path}"), "").await;

    assert_eq!(
        got.header("content-disposition"),
        Some("inline; filename*=utf-8''b.png")
    );
    assert_eq!(
        (head.header("content-length"), &*head.body),
        (Some("3"), "")
    );
}

#[tokio::test]
async fn files_are_not_served_without_a_token_nor_at_the_frozen_paths() {
    let door = running(Limits::default()).await;
    door.as_ana("POST /_matrix/media/v3/upload", "x").await;

    let path = "GET /_matrix/client/v1/media/download/hub.example/0";
    assert_eq!(door.ask(path, "", "").await.status(), 401);
    let frozen = door
        .as_ana("GET /_matrix/media/v3/download/hub.example/0", "")
        .await;
    assert_eq!((frozen.status(), &*frozen.errcode()), (404, "M_NOT_FOUND"));
    let thumbnail = "GET /_matrix/client/v1/media/thumbnail/hub.example/0?width=1&height=1";
    assert_eq!(door.ask(thumbnail, "", "").await.status(), 401);
    assert_eq!(door.as_ana(thumbnail, "").await.status(), 200);
}

#[tokio::test]
async fn a_media_id_that_is_a_path_is_refused() {
    let door = running(Limits::default()).await;

    for id in ["..%2F..%2Fpasswd", "%2E%2E", "a%00", "", "a.b"] {
        let path = format!("GET /_matrix/client/v1/media/download/hub.example/{id}");
        assert_eq!(door.as_ana(&path, "").await.status(), 400, "{id}");
    }
}

#[tokio::test]
async fn a_fixed_part_of_a_path_is_not_served_encoded() {
    let door = running(Limits::default()).await;

    let upload = door.as_ana("POST /_matrix/media/v3/%75pload", "x").await;

    assert_eq!(
        (upload.status(), &*upload.errcode()),
        (404, "M_UNRECOGNIZED")
    );
}

#[tokio::test]
async fn a_file_is_given_one_name_or_none() {
    let door = running(Limits::default()).await;

    let twice = "POST /_matrix/media/v3/upload?filename=a&filename=b";
    let answer = door.as_ana(twice, "x").await;

    assert_eq!(&*answer.errcode(), "M_INVALID_PARAM");
    let said = "`filename` stands in the query 2 times";
    assert!(answer.body.contains(said), "{}", answer.body);
}
