//! What stands behind the doors here: devices by key, answers that tell what was asked, files.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use ruma::{device_id, user_id};
use tokio::sync::{Notify, mpsc};

use crate::{
    api::{
        Command, Credentials, Deliver, DeviceName, EdhocLink, Links, MediaObject, Origin,
        OscoreLink, Refusal, Registration, Reply, Secret, Service, Upload,
    },
    edge::linked::{Answered, Answering, Watching, Who},
    session::{
        coap::{Request, Response},
        ledger::Traffic,
    },
    wire::coap::Code,
};

pub(super) fn ana() -> DeviceName {
    DeviceName {
        user: user_id!("@ana:hub.example").to_owned(),
        device: device_id!("PHONE").to_owned(),
    }
}

#[derive(Default)]
pub(super) struct Hub {
    /// Devices by key.
    pub(super) keys: Mutex<HashMap<Vec<u8>, DeviceName>>,
    pub(super) listeners: Mutex<Vec<Arc<dyn Deliver>>>,
    /// What was asked, by method and path.
    pub(super) asked: Mutex<Vec<String>>,
    pub(super) files: Mutex<Vec<Vec<u8>>>,
    /// What the next observation tells.
    pub(super) news: Mutex<Option<mpsc::Receiver<Response>>>,
    /// Told when an observation ends.
    pub(super) unwatched: Arc<Notify>,
    /// What devices have cost, up and down.
    pub(super) counted: Mutex<HashMap<String, (Traffic, Traffic)>>,
}

impl Hub {
    pub(super) fn revoke(&self, device: &DeviceName) {
        self.keys.lock().unwrap().retain(|_, owner| owner != device);
        for listener in self.listeners.lock().unwrap().iter() {
            listener.revoked(device);
        }
    }

    pub(super) fn count(&self, what: &str) -> usize {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|asked| *asked == what).count()
    }
}

#[async_trait]
impl Answering for Hub {
    /// The body comes back, behind the device.
    async fn answer(&self, who: &Who, request: &Request) -> Answered {
        let path: Vec<&str> = request.options.path().collect();
        let what = format!("{} {}", request.method, path.join("/"));
        self.asked.lock().unwrap().push(what);
        let mut response = Response::new(Code::CONTENT);
        response.payload = match path.as_slice() {
            ["who"] => who.device.device.to_string().into(),
            _ => request.payload.clone(),
        };
        let news = self.news.lock().unwrap().take().filter(|_| request.observe);
        let watching = news.map(|news| {
            let unwatched = Arc::clone(&self.unwatched);
            Box::new(Told { news, unwatched }) as Box<dyn Watching>
        });
        Answered {
            response,
            watching,
            operation: "Test",
        }
    }

    fn count(&self, device: &Arc<DeviceName>, _: &'static str, up: Traffic, down: Traffic) {
        let mut counted = self.counted.lock().unwrap();
        let counted = counted.entry(device.device.to_string()).or_default();
        counted.0 += up;
        counted.1 += down;
    }
}

struct Told {
    news: mpsc::Receiver<Response>,
    unwatched: Arc<Notify>,
}

#[async_trait]
impl Watching for Told {
    async fn next(&mut self) -> Option<Response> {
        self.news.recv().await
    }

    fn gave_up(&mut self) {}
}

impl Drop for Told {
    fn drop(&mut self) {
        self.unwatched.notify_one();
    }
}

#[async_trait]
impl Service for Hub {
    async fn ask(&self, origin: Origin, command: Command) -> Result<Reply, Refusal> {
        match (command, origin.credentials) {
            (Command::Whoami(_), Credentials::Token(token)) if token == "ana" => {
                let mut reply =
                    ruma::api::client::account::whoami::v3::Response::new(ana().user, false);
                reply.device_id = Some(ana().device);
                Ok(Reply::Whoami(Box::new(reply)))
            }
            (command, _) => Err(Refusal::forbidden(command.name())),
        }
    }

    async fn upload(&self, origin: Origin, mut upload: Upload) -> Result<String, Refusal> {
        assert_eq!(origin.credentials, Credentials::Device(ana()));
        let mut bytes = Vec::new();
        while let Some(piece) = upload.body.next().await {
            bytes.extend(piece.map_err(|_| Refusal::bad_json("the upload broke off"))?);
        }
        let mut files = self.files.lock().unwrap();
        files.push(bytes);
        Ok(format!("mxc://hub.example/{}", files.len() - 1))
    }

    async fn download(&self, _: Origin, _: &str, media_id: &str) -> Result<MediaObject, Refusal> {
        let files = self.files.lock().unwrap();
        let index: Option<usize> = media_id.parse().ok();
        let file = index.and_then(|index| files.get(index));
        let file = file.ok_or_else(|| Refusal::not_found("no such file"))?;
        let pieces: Vec<_> = file
            .chunks(10_000)
            .map(|piece| Ok(Bytes::copy_from_slice(piece)))
            .collect();
        Ok(MediaObject {
            content_type: None,
            filename: None,
            length: u64::try_from(file.len()).unwrap(),
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
        true
    }
}

#[async_trait]
impl Links for Hub {
    async fn oscore(&self, _: &[u8]) -> Result<Option<OscoreLink>, Refusal> {
        Ok(None)
    }

    async fn renew_oscore(&self, _: OscoreLink) -> Result<(), Refusal> {
        Err(Refusal::internal())
    }

    async fn free_recipient_id(&self) -> Result<Vec<u8>, Refusal> {
        Err(Refusal::internal())
    }

    async fn reserve(&self, _: &[u8], _: u64) -> Result<(), Refusal> {
        Err(Refusal::internal())
    }

    async fn edhoc(&self, _: &[u8]) -> Result<Option<EdhocLink>, Refusal> {
        Ok(None)
    }

    fn psk(&self, _: &[u8]) -> Option<(DeviceName, Secret)> {
        None
    }

    fn spki(&self, spki: &[u8]) -> Option<DeviceName> {
        self.keys.lock().unwrap().get(spki).cloned()
    }

    async fn registrations(&self) -> Result<Vec<Registration>, Refusal> {
        Ok(Vec::new())
    }

    async fn register(&self, _: Registration) -> Result<(), Refusal> {
        Err(Refusal::internal())
    }

    async fn deregister(&self, _: &[u8], _: &[u8]) -> Result<(), Refusal> {
        Err(Refusal::internal())
    }

    fn started_with_store(&self) -> bool {
        true
    }

    fn tell(&self, listener: Arc<dyn Deliver>) {
        self.listeners.lock().unwrap().push(listener);
    }
}
