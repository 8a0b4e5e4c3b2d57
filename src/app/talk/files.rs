//! A linked device's files: up, down, and how far they have got.

use std::{
    io::{self, Write as _},
    path::Path,
    time::Duration,
};

use serde_json::json;

use super::{Said, shapes, thin::wrong};
use crate::{
    app::{
        clock::SystemClock,
        failure::Failure,
        output::{self, Format, visible},
    },
    base::{Clock as _, Timestamp},
    client::{
        plain,
        thin::{FileToSend, ThinDoor, Transferred},
    },
};

/// How often a person is told, and the first time: what is over sooner needs no word.
const TELL_EVERY: Duration = Duration::from_secs(2);

/// Uploads a file and prints its address.
pub(super) async fn upload(
    door: &mut ThinDoor,
    file: FileToSend<'_>,
    format: Format,
) -> Result<Said, Failure> {
    let mut progress = Progress::begin("sent", format);
    let uri = door.upload(file, &mut |at| progress.tell(at)).await;
    let uri = uri.map_err(wrong)?;
    Ok(Said::one(visible(&uri), json!({ "content_uri": uri })))
}

/// Downloads a file, which is there whole or not at all.
pub(super) async fn download(
    door: &mut ThinDoor,
    uri: &str,
    out: &Path,
    format: Format,
) -> Result<Said, Failure> {
    let place = shapes::file(uri)?;
    let failed = |error: &dyn std::fmt::Display| {
        Failure::failed("FILE", format!("{}: {error}", out.display()))
    };
    if out.symlink_metadata().is_ok() {
        return Err(failed(&"it is there already; choose another name"));
    }
    let dir = out.parent().filter(|dir| !dir.as_os_str().is_empty());
    let dir = dir.unwrap_or_else(|| Path::new("."));
    let mut part = tempfile::NamedTempFile::new_in(dir).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => failed(&format!("there is no directory {}", dir.display())),
        _ => failed(&plain::io(&error)),
    })?;
    let mut progress = Progress::begin("received", format);
    let came = door
        .download(place, &mut part, &mut |at| progress.tell(at))
        .await;
    let bytes = came.map_err(wrong)?;
    part.flush()
        .and_then(|()| part.as_file().sync_all())
        .map_err(|error| failed(&plain::io(&error)))?;
    part.persist_noclobber(out)
        .map_err(|error| failed(&plain::io(&error.error)))?;
    let path = out.display().to_string();
    Ok(Said::one(
        format!("{bytes} bytes in {path}"),
        json!({"file": path, "bytes": bytes}),
    ))
}

/// Tells a person, now and then, how far it has got. Programs see the end.
struct Progress {
    done: &'static str,
    clock: SystemClock,
    told: Timestamp,
    is_wanted: bool,
}

impl Progress {
    fn begin(done: &'static str, format: Format) -> Self {
        let clock = SystemClock::new();
        Self {
            done,
            told: clock.now(),
            clock,
            is_wanted: format == Format::Text,
        }
    }

    fn tell(&mut self, at: Transferred) {
        let now = self.clock.now();
        if self.is_wanted && now.since(self.told) >= TELL_EVERY {
            self.told = now;
            output::note(&line(self.done, at));
        }
    }
}

fn line(done: &str, at: Transferred) -> String {
    match at.total {
        Some(total) if total > 0 => {
            let percent = at.done.saturating_mul(100) / total;
            format!("-- {done} {} of {total} bytes ({percent} %)", at.done)
        }
        _ => format!("-- {done} {} bytes", at.done),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_said_with_the_whole_where_that_is_known() {
        let (done, total) = (5000, Some(20_000));
        let known = line("sent", Transferred { done, total });
        assert_eq!(known, "-- sent 5000 of 20000 bytes (25 %)");
        let unknown = line("received", Transferred { done, total: None });
        assert_eq!(unknown, "-- received 5000 bytes");
    }
}
