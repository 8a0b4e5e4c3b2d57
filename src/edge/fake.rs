//! A hub for the doors' tests: it answers a few commands and remembers who asked what.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use ruma::api::{
    client::{
        account::whoami, membership::join_room_by_id, message::send_message_event,
        state::get_state_event_for_key, sync::sync_events,
    },
    federation::query::get_profile_information,
};
use tokio::sync::Notify;

use crate::api::{
    Code, Command, Credentials, MediaObject, Origin, Refusal, Refused, Reply, Service, Upload,
};

/// A stored file.
pub(super) struct File {
    content_type: Option<String>,
    filename: Option<String>,
    bytes: Vec<u8>,
}

#[derive(Default)]
pub(super) struct Fake {
    /// What was asked, in order.
    pub(super) asked: Mutex<Vec<(Origin, Command)>>,
    /// Files by media id.
    pub(super) media: Mutex<Vec<File>>,
    /// What syncs wait for.
    pub(super) news: Notify,
    /// Told when a sync is no longer waited for, answered or not.
    pub(super) left: Notify,
    /// Endpoints of what is remembered as refused.
    pub(super) refused: Mutex<Vec<&'static str>>,
    /// The last one of these.
    pub(super) refusal: Mutex<Option<Refused>>,
    pub(super) draining: AtomicBool,
    pub(super) revoked: AtomicBool,
}

impl Fake {
    pub(super) fn last(&self) -> Command {
        self.asked
            .lock()
            .unwrap()
            .last()
            .expect("something was asked")
            .1
            .clone()
    }

    pub(super) fn last_origin(&self) -> Origin {
        self.asked
            .lock()
            .unwrap()
            .last()
            .expect("something was asked")
            .0
            .clone()
    }

    pub(super) fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    fn known(&self, origin: &Origin) -> Result<(), Refusal> {
        match &origin.credentials {
            Credentials::Token(token) if token == "ana" && !self.revoked.load(Ordering::SeqCst) => {
                tracing::Span::current().record("user", "@ana:hub.example"); // as the desk does
                Ok(())
            }
            Credentials::Nothing => Err(Refusal::new(Code::MissingToken, "no token")),
            _ => Err(Refusal::new(Code::UnknownToken, "unknown token")),
        }
    }

    async fn sync(&self, request: sync_events::v3::Request) -> Result<Reply, Refusal> {
        let next = match request.since.as_deref() {
            None => "s1".to_owned(),
            Some(since) => {
                let _left = Left(&self.left);
                self.news.notified().await;
                format!("{since}+")
            }
        };
        if self.revoked.load(Ordering::SeqCst) {
            return Err(Refusal::new(Code::UnknownToken, "unknown token"));
        }
        let mut reply = sync_events::v3::Response::new(next);
        reply
            .device_lists
            .changed
            .push(ruma::user_id!("@bob:hub.example").to_owned());
        Ok(Reply::Sync(Box::new(reply)))
    }
}

/// Says so when it goes.
struct Left<'a>(&'a Notify);

impl Drop for Left<'_> {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[async_trait]
impl Service for Fake {
    async fn ask(&self, origin: Origin, command: Command) -> Result<Reply, Refusal> {
        self.asked
            .lock()
            .unwrap()
            .push((origin.clone(), command.clone()));
        if let Command::Versions(_) = command {
            return Ok(Reply::Versions(Box::new(
                ruma::api::client::discovery::get_supported_versions::Response::new(vec![
                    "v1.19".to_owned(),
                ]),
            )));
        }
        if let Command::Peer(command) = command {
            let crate::api::PeerCommand::PeerProfile(asked) = *command else {
                return Err(Refusal::forbidden(command.name()));
            };
            let mut profile = get_profile_information::v1::Response::new();
            if asked.field.is_none() {
                profile.set("displayname".to_owned(), "Ana".into());
            }
            let reply = crate::api::PeerReply::PeerProfile(Box::new(profile));
            return Ok(Reply::Peer(Box::new(reply)));
        }
        self.known(&origin)?;
        Ok(match command {
            Command::Whoami(_) => Reply::Whoami(Box::new(whoami::v3::Response::new(
                ruma::user_id!("@ana:hub.example").to_owned(),
                false,
            ))),
            Command::Join(request) => Reply::Join(Box::new(join_room_by_id::v3::Response::new(
                request.room_id,
            ))),
            Command::Send(_) => Reply::Send(Box::new(send_message_event::v3::Response::new(
                ruma::event_id!("$sent").to_owned(),
            ))),
            Command::StateForKey(_) => {
                let content = serde_json::json!({ "body": "x".repeat(40_000) });
                let content = serde_json::value::to_raw_value(&content).unwrap();
                Reply::StateForKey(Box::new(get_state_event_for_key::v3::Response::new(
                    content,
                )))
            }
            Command::Sync(request) => self.sync(*request).await?,
            Command::LogoutAll(_) => panic!("a bug in the hub"),
            Command::Knock(_) => {
                return Err(Refusal::new(Code::LimitExceeded, "slow down")
                    .retry_after(std::time::Duration::from_millis(2500)));
            }
            other => return Err(Refusal::forbidden(other.name())),
        })
    }

    async fn upload(&self, origin: Origin, mut upload: Upload) -> Result<String, Refusal> {
        self.known(&origin)?;
        let mut bytes = Vec::new();
        while let Some(piece) = upload.body.next().await {
            bytes.extend(piece.map_err(|_| Refusal::bad_json("the upload broke off"))?);
        }
        let mut media = self.media.lock().unwrap();
        media.push(File {
            content_type: upload.content_type,
            filename: upload.filename,
            bytes,
        });
        Ok(format!("mxc://hub.example/{}", media.len() - 1))
    }

    async fn download(
        &self,
        origin: Origin,
        server: &str,
        media_id: &str,
    ) -> Result<MediaObject, Refusal> {
        self.known(&origin)?;
        let media = self.media.lock().unwrap();
        let index: usize = media_id
            .parse()
            .map_err(|_| Refusal::not_found("no such file"))?;
        let file = media
            .get(index)
            .filter(|_| server == "hub.example")
            .expect("tests ask for what is there");
        let pieces: Vec<_> = file
            .bytes
            .chunks(1000)
            .map(|piece| Ok(Bytes::copy_from_slice(piece)))
            .collect();
        Ok(MediaObject {
            content_type: file.content_type.clone(),
            filename: file.filename.clone(),
            length: u64::try_from(file.bytes.len()).unwrap(),
            body: Box::pin(stream::iter(pieces)),
        })
    }

    async fn thumbnail(
        &self,
        origin: Origin,
        server: &str,
        media_id: &str,
    ) -> Result<MediaObject, Refusal> {
        self.download(origin, server, media_id).await
    }

    fn ready(&self) -> bool {
        !self.draining.load(Ordering::SeqCst)
    }

    async fn asked_by(&self, origin: &Origin, refusal: Refusal) -> Refusal {
        match self.known(origin) {
            Ok(()) => refusal.known(|why| why.who = Some("@ana:hub.example".to_owned())),
            Err(_) => refusal,
        }
    }

    fn refused(&self, refused: Refused) {
        self.refused.lock().unwrap().push(refused.endpoint);
        *self.refusal.lock().unwrap() = Some(refused);
    }
}
