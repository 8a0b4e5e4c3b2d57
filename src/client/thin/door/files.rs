//! Files, up and down: over QUIC where that takes fewer bytes, else in blocks over OSCORE.
//!
//! spec: thin-profile §3

use std::{io, io::Write, ops::ControlFlow, path::Path};

use bytes::Bytes;
use tokio::{fs::File, io::AsyncReadExt as _};

use super::{
    super::ask::{Answer, Ask, AskError, refusal},
    QUIC_FROM_BYTES, QuicWay, ThinDoor, ThinError, Way,
    choice::{file_cost, is_quick},
    kept::Kept,
};
use crate::{
    base::limits::BODY_BYTES_MAX,
    client::{coap, quic::QuicError},
    session::{
        coap::{Progress, RESPONSE_BYTES_MAX, Request, Response},
        link::LinkClass,
    },
    wire::coap::{Code, options::number},
};

/// The ledger's lines.
const UPLOAD: &str = "upload";
const DOWNLOAD: &str = "download";

/// The first segment of every file's path.
const FILES: &str = "~m";

/// The longest refusal that is read, in bytes.
const REFUSAL_BYTES_MAX: usize = 4096;

/// A file to upload.
#[derive(Clone, Copy, Debug)]
pub struct FileToSend<'a> {
    /// Where it is.
    pub path: &'a Path,
    /// What it is: `image/jpeg`.
    pub media_type: Option<&'a str>,
    /// What others are to call it.
    pub name: Option<&'a str>,
}

/// How far a file has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transferred {
    /// Bytes that are there.
    pub done: u64,
    /// Bytes in all, once that is known.
    pub total: Option<u64>,
}

/// Who is told how far a file has got.
pub type Teller<'a> = &'a mut (dyn FnMut(Transferred) + Send);

impl ThinDoor {
    /// Uploads a file; gives its `mxc:` URI.
    pub async fn upload(
        &mut self,
        file: FileToSend<'_>,
        told: Teller<'_>,
    ) -> Result<String, ThinError> {
        self.meet().await?;
        let wrong = |source: io::Error| ThinError::File {
            path: file.path.display().to_string(),
            source,
        };
        let mut body = File::open(file.path).await.map_err(wrong)?;
        let bytes = body.metadata().await.map_err(wrong)?.len();
        let mut request = Request::new(Code::POST, &[FILES]);
        for (key, value) in [("t", file.media_type), ("n", file.name)] {
            if let Some(value) = value {
                request = request.option(number::URI_QUERY, format!("{key}={value}"));
            }
        }
        let fits = usize::try_from(bytes).is_ok_and(|bytes| bytes <= BODY_BYTES_MAX);
        let size = Size {
            bytes: Some(bytes),
            max: BODY_BYTES_MAX as u64,
        };
        self.must_fit(size, fits)?;
        self.must_be_left(bytes, fits)?;
        if !fits {
            self.must_be_taken(bytes).await?;
        }
        let response = match self.road(size, fits).await? {
            Road::Quic(mut way) => {
                let answer = way
                    .upload(&mut self.kept, request, (&mut body, bytes), told)
                    .await;
                way.close(&mut self.kept).await?;
                answer?
            }
            Road::TheWay => {
                let mut whole = Vec::new();
                if let Way::Oscore(_) = &self.way {
                    let bytes_max = BODY_BYTES_MAX as u64 + 1; // it may have grown
                    let read = (&mut body).take(bytes_max).read_to_end(&mut whole).await;
                    read.map_err(wrong)?;
                }
                self.upload_by_the_way(request, whole, (&mut body, bytes), told)
                    .await?
            }
        };
        if !response.code.is_success() {
            return Err(refusal(&response).into());
        }
        String::from_utf8(response.payload.into()).map_err(|_| ThinError::OtherAnswer)
    }

    /// Whether files that take more than is left of the daily limit are left alone; they are unless this is
    /// said.
    pub const fn keep_to_limit(&mut self, keeps: bool) {
        self.keeps_to_limit = keeps;
    }

    /// What is left of today's limit, where there is one that is to be kept: the limit, and the bytes.
    fn left(&self) -> Option<(u64, u64)> {
        let limit_kb = self.state().link().daily_kilobytes;
        let used = self.book().on(self.kept.now());
        let left = limit_kb.saturating_mul(1000).saturating_sub(used);
        (self.keeps_to_limit && limit_kb > 0).then_some((limit_kb, left))
    }

    /// Refuses a file, before it is paid for, that takes more than is left of today.
    fn must_be_left(&self, bytes: u64, fits: bool) -> Result<(), ThinError> {
        let Some((limit_kb, left)) = self.left() else {
            return Ok(());
        };
        let is_quic = matches!(self.way, Way::Quic(_))
            || (self.beside.is_some() && self.wants_quic(bytes, fits));
        let needs = file_cost(bytes, is_quic, self.block_bytes());
        if needs <= left {
            return Ok(());
        }
        Err(ThinError::BeyondLimit {
            needs,
            left,
            limit_kb,
        })
    }

    /// How many bytes a block of this link has.
    fn block_bytes(&self) -> u64 {
        LinkClass::of(self.state().link().class).block.bytes() as u64
    }

    fn wants_quic(&self, bytes: u64, fits: bool) -> bool {
        !fits || (bytes >= QUIC_FROM_BYTES && is_quick(self.state().link().class))
    }

    /// Asks, before a large file is paid for, whether the hub takes one of so many bytes. What it says to the
    /// file itself is said while a window of it is already on its way.
    async fn must_be_taken(&mut self, bytes: u64) -> Result<(), ThinError> {
        let path = ["~", "_matrix", "client", "v1", "media", "config"];
        let question = Ask::Other(Request::new(Code::GET, &path));
        let Answer::Whole(answer) = self.ask("media config", question).await? else {
            return Err(ThinError::OtherAnswer);
        };
        let config = coap::read(&answer).unwrap_or_default(); // then the file tells
        match config
            .get("m.upload.size")
            .and_then(serde_json::Value::as_u64)
        {
            Some(bytes_max) if bytes > bytes_max => {
                let errcode = "M_TOO_LARGE".to_owned();
                let text =
                    format!("a file has at most {bytes_max} bytes here, and this one has {bytes}");
                Err(ThinError::Ask(AskError::Refused {
                    code: Code::TOO_LARGE,
                    errcode,
                    text,
                    retry_after_s: None,
                }))
            }
            _ => Ok(()),
        }
    }

    async fn upload_by_the_way(
        &mut self,
        request: Request,
        whole: Vec<u8>,
        body: (&mut File, u64),
        told: Teller<'_>,
    ) -> Result<Response, ThinError> {
        let kept = &mut self.kept;
        let way = match &mut self.way {
            Way::Quic(way) => return way.upload(kept, request, body, told).await,
            Way::Oscore(way) => way,
        };
        let ask = Ask::Other(request.body(whole));
        let mut watcher = |progress: Progress| {
            told(progress.into());
            ControlFlow::Continue(())
        };
        match way.transfer(kept, UPLOAD, ask, &mut watcher).await? {
            Some(Answer::Whole(response)) => Ok(response),
            _ => Err(ThinError::OtherAnswer),
        }
    }

    /// Downloads `mxc://server/media_id` into `to`; gives its bytes. What was written when it fails is a
    /// part of it.
    pub async fn download(
        &mut self,
        (server, media_id): (&str, &str),
        to: &mut (dyn Write + Send),
        told: Teller<'_>,
    ) -> Result<u64, ThinError> {
        self.meet().await?;
        let request = Request::new(Code::GET, &[FILES, server, media_id]);
        let left = self.left();
        if let Way::Quic(way) = &mut self.way {
            return way
                .download(&mut self.kept, (&request, left), to, told)
                .await;
        }
        // How large it is, its first block tells.
        let mut large = None;
        let can_change = self.beside.is_some();
        let is_quick = is_quick(self.state().link().class);
        let mut is_beyond = None;
        let block = self.block_bytes();
        let mut watcher = |progress: Progress| {
            let progress = Transferred::from(progress);
            let goes_on = progress.total.filter(|total| progress.done < *total);
            is_beyond = goes_on.filter(|total| {
                let is_quic = can_change && is_quick && *total >= QUIC_FROM_BYTES;
                left.is_some_and(|(_, left)| file_cost(*total, is_quic, block) > left)
            });
            if is_beyond.is_some() {
                return ControlFlow::Break(());
            }
            let total = progress.total.filter(|_| can_change && is_quick);
            large = total.filter(|total| *total >= QUIC_FROM_BYTES);
            if large.is_some() {
                return ControlFlow::Break(());
            }
            told(progress);
            ControlFlow::Continue(())
        };
        let answer = self.in_blocks(&request, &mut watcher).await?;
        if let Some(bytes) = is_beyond {
            self.must_be_left(bytes, true)?;
        }
        let is_too_large = answer.as_ref().is_some_and(|it| it.code == Code::TOO_LARGE);
        let size = Size {
            bytes: large,
            max: RESPONSE_BYTES_MAX as u64,
        };
        let answer = match answer {
            Some(answer) if !(is_too_large && can_change) => Some(answer),
            _ => match self.road(size, !is_too_large).await? {
                Road::Quic(mut way) => {
                    let asked = (&request, left);
                    let came = way.download(&mut self.kept, asked, to, told).await;
                    way.close(&mut self.kept).await?;
                    return came;
                }
                Road::TheWay => {
                    let mut watcher = |progress: Progress| {
                        told(progress.into());
                        ControlFlow::Continue(())
                    };
                    self.in_blocks(&request, &mut watcher).await?
                }
            },
        };
        let answer = answer.ok_or(ThinError::OtherAnswer)?;
        if !answer.code.is_success() {
            return Err(refusal(&answer).into());
        }
        to.write_all(&answer.payload)
            .map_err(|error| ThinError::Quic(QuicError::File(error)))?;
        Ok(answer.payload.len() as u64)
    }

    async fn in_blocks(
        &mut self,
        request: &Request,
        watcher: super::oscore::Watcher<'_>,
    ) -> Result<Option<Response>, ThinError> {
        let Way::Oscore(way) = &mut self.way else {
            return Err(ThinError::OtherAnswer);
        };
        let ask = Ask::Other(request.clone().option(number::SIZE2, []));
        match way.transfer(&mut self.kept, DOWNLOAD, ask, watcher).await? {
            None => Ok(None),
            Some(Answer::Whole(response)) => Ok(Some(response)),
            Some(_) => Err(ThinError::OtherAnswer),
        }
    }

    /// How a file of so many bytes is to go. One that blocks do not carry (`!fits`) goes over QUIC or not
    /// at all.
    async fn road(&mut self, size: Size, fits: bool) -> Result<Road, ThinError> {
        let bytes = size.bytes.unwrap_or_else(|| size.max.saturating_add(1));
        if !self.wants_quic(bytes, fits) || matches!(self.way, Way::Quic(_)) {
            return Ok(Road::TheWay);
        }
        self.must_fit(size, fits)?;
        let why = match &self.beside {
            None => self.without_quic.to_owned(),
            Some(door) => {
                let mut way = QuicWay::open(&self.kept, door)?;
                match way.connected(&mut self.kept).await {
                    Ok(_) => return Ok(Road::Quic(Box::new(way))),
                    Err(error @ ThinError::Unlinked { .. }) => return Err(error),
                    Err(error) => format!("QUIC carries more, but {error}"),
                }
            }
        };
        if fits {
            tracing::info!(why, "no QUIC: in blocks over OSCORE");
            return Ok(Road::TheWay);
        }
        let Size { bytes, max } = size;
        Err(ThinError::NeedsQuic { bytes, max, why })
    }

    /// Refuses what blocks do not carry where there is nothing else, before it is paid for.
    fn must_fit(&self, Size { bytes, max }: Size, fits: bool) -> Result<(), ThinError> {
        if fits || self.beside.is_some() || matches!(self.way, Way::Quic(_)) {
            return Ok(());
        }
        let why = self.without_quic.to_owned();
        Err(ThinError::NeedsQuic { bytes, max, why })
    }
}

/// How large a file is, where that is known, and how large it may be in blocks.
#[derive(Clone, Copy)]
struct Size {
    bytes: Option<u64>,
    max: u64,
}

/// How a file goes.
enum Road {
    /// As everything else.
    TheWay,
    /// Over a connection of its own.
    Quic(Box<QuicWay>),
}

impl QuicWay {
    async fn upload(
        &mut self,
        kept: &mut Kept,
        request: Request,
        (body, bytes): (&mut File, u64),
        told: Teller<'_>,
    ) -> Result<Response, ThinError> {
        let session = self.connected(kept).await?;
        let before = session.cost().up;
        let mut request = request;
        if let Ok(bytes) = u32::try_from(bytes) {
            request.options.push_uint(number::SIZE1, bytes);
        }
        let work = session.upload(&request, body);
        let response = self
            .attend(kept, &session, work, |cost| {
                // Packets' headers are in it, so that it is never less than what has gone.
                let done = cost.up.saturating_sub(before).min(bytes);
                let total = Some(bytes);
                told(Transferred { done, total });
            })
            .await;
        self.over(kept, UPLOAD)?;
        response
    }

    async fn download(
        &mut self,
        kept: &mut Kept,
        (request, left): (&Request, Option<(u64, u64)>),
        to: &mut (dyn Write + Send),
        told: Teller<'_>,
    ) -> Result<u64, ThinError> {
        let session = self.connected(kept).await?;
        let (mut done, mut is_beyond) = (0, None);
        let mut refused = Vec::new();
        let mut keep = |head: &Response, piece: Bytes| {
            if !head.code.is_success() {
                let room = REFUSAL_BYTES_MAX.saturating_sub(refused.len());
                refused.extend(piece.iter().take(room));
                return Ok(());
            }
            if let (0, Some(bytes), Some((limit_kb, left))) = (done, size_of(head), left) {
                let needs = file_cost(bytes, true, 0);
                if needs > left {
                    is_beyond = Some(ThinError::BeyondLimit {
                        needs,
                        left,
                        limit_kb,
                    });
                    return Err(QuicError::File(io::Error::other("beyond the daily limit")));
                }
            }
            done += piece.len() as u64;
            to.write_all(&piece).map_err(QuicError::File)?;
            let total = size_of(head);
            told(Transferred { done, total });
            Ok(())
        };
        let work = session.receive(request, &mut keep);
        let head = self.attend(kept, &session, work, |_| ()).await;
        self.over(kept, DOWNLOAD)?;
        if let Some(beyond) = is_beyond {
            return Err(beyond);
        }
        let mut head = head?;
        if !head.code.is_success() {
            head.payload = refused.into();
            return Err(refusal(&head).into());
        }
        match size_of(&head) {
            Some(said) if said != done => Err(ThinError::BrokeOff { came: done, said }),
            _ => Ok(done),
        }
    }
}

/// What an answer says of its size. Above four gigabytes it cannot.
fn size_of(head: &Response) -> Option<u64> {
    let said = head.options.uint(number::SIZE2)?;
    (said < u32::MAX).then_some(said.into())
}

impl From<Progress> for Transferred {
    fn from(progress: Progress) -> Self {
        Self {
            done: progress.done as u64,
            total: progress.total.map(|total| total as u64),
        }
    }
}
