//! The body in which servers give each other files: `multipart/mixed` of two parts, what is known of
//! the file as JSON and then the file, or where it is. Written as [`head`] and [`tail`] around the
//! bytes, read piece by piece by [`Parts`], which holds no more than the heads of parts.
//!
//! Only what this exchange needs: no nesting, no encodings.

use thiserror::Error;

/// What stands before a file's bytes.
///
/// `boundary` must be one that nobody who wrote the file could know.
// spec: server-server §Content-Repository
pub fn head(boundary: &str, content_type: &str, disposition: &str) -> Vec<u8> {
    format!(
        "--{boundary}\r\nContent-Type: application/json\r\n\r\n{{}}\r\n--{boundary}\r\n\
         Content-Type: {content_type}\r\nContent-Disposition: {disposition}\r\n\r\n"
    )
    .into_bytes()
}

/// What stands after them.
pub fn tail(boundary: &str) -> Vec<u8> {
    format!("\r\n--{boundary}--\r\n").into_bytes()
}

/// The boundary that a `Content-Type` of `multipart/mixed` names.
pub fn boundary(content_type: &str) -> Option<&str> {
    let mut pieces = content_type.split(';');
    let essence = pieces.next()?.trim();
    if !essence.eq_ignore_ascii_case("multipart/mixed") {
        return None;
    }
    let (_, value) = pieces
        .filter_map(|piece| piece.trim().split_once('='))
        .find(|(name, _)| name.eq_ignore_ascii_case("boundary"))?;
    let value = value.trim();
    let value = value
        .strip_prefix('"')
        .and_then(|value| value.strip_suffix('"'))
        .unwrap_or(value);
    let is_plain = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
    let fits = (1..=BOUNDARY_BYTES_MAX).contains(&value.len());
    (fits && value.bytes().all(is_plain)).then_some(value)
}

/// The longest boundary, in bytes: rfc2046 has it so.
const BOUNDARY_BYTES_MAX: usize = 70;

/// The largest head of a part, in bytes, and what may stand before the first.
const HEAD_BYTES_MAX: usize = 8 * 1024;

/// The most bytes that are said of a file beside it.
const ABOUT_BYTES_MAX: usize = 64 * 1024;

/// What is known of the file: the head of its part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileHead {
    /// Its media type.
    pub content_type: Option<String>,
    /// How it is to be shown, and its name.
    pub disposition: Option<String>,
    /// Where it is, when it is not here.
    pub location: Option<String>,
}

/// A body that is not one of two parts.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum MultipartError {
    /// More than is read.
    #[error("{part} has more than {max} bytes")]
    TooLarge {
        /// Of what.
        part: &'static str,
        /// The ceiling.
        max: usize,
    },
    /// No head of a part, or none in UTF-8.
    #[error("the head of a part cannot be read")]
    Head,
    /// It ended too early.
    #[error("the body ended before its last boundary")]
    Cut,
}

/// What came of some bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// The head of the file; comes once, first.
    Head(FileHead),
    /// Bytes of the file, in order.
    Bytes(Vec<u8>),
    /// The file is whole.
    End,
}

/// Reads a body as it comes.
#[derive(Debug)]
pub struct Parts {
    /// A line end, two dashes and the boundary.
    delimiter: Vec<u8>,
    /// What is not decided yet.
    held: Vec<u8>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the first boundary.
    Before,
    /// Right after a boundary, before the line ends; the number of the part that begins.
    Line(u8),
    Head(u8),
    /// What is known of the file: this many bytes so far.
    About(usize),
    File,
    Done,
}

impl Parts {
    /// Nothing has come yet.
    pub fn new(boundary: &str) -> Self {
        Self {
            delimiter: format!("\r\n--{boundary}").into_bytes(),
            // The first boundary may stand at the very beginning.
            held: b"\r\n".to_vec(),
            state: State::Before,
        }
    }

    /// Takes bytes, and gives what they bring. `Piece::End` is the last; what comes after it says
    /// nothing.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Vec<Piece>, MultipartError> {
        let mut pieces = Vec::new();
        if self.state == State::Done {
            return Ok(pieces);
        }
        self.held.extend_from_slice(bytes);
        while self.step(&mut pieces)? {}
        Ok(pieces)
    }

    /// Nothing more comes.
    pub fn end(&self) -> Result<(), MultipartError> {
        if self.state == State::Done {
            return Ok(());
        }
        Err(MultipartError::Cut)
    }

    /// One step; false when more bytes are needed.
    fn step(&mut self, pieces: &mut Vec<Piece>) -> Result<bool, MultipartError> {
        match self.state {
            State::Before => {
                let found = self.skip_to_delimiter();
                if found.is_none() {
                    at_most("what is before the parts", self.held.len(), HEAD_BYTES_MAX)?;
                    return Ok(false);
                }
                self.state = State::Line(0);
            }
            State::Line(part) => return self.line(part, pieces),
            State::Head(part) => return self.head(part, pieces),
            State::About(before) => {
                let found = self.skip_to_delimiter();
                let about = before + found.unwrap_or(0);
                let held = if found.is_none() { self.held.len() } else { 0 };
                at_most("what is said of the file", about + held, ABOUT_BYTES_MAX)?;
                if found.is_none() {
                    return Ok(false);
                }
                self.state = State::Line(1);
            }
            State::File => return Ok(self.file(pieces)),
            State::Done => return Ok(false),
        }
        Ok(true)
    }

    /// After a boundary: two dashes end the body, blanks and a line end begin a part.
    fn line(&mut self, part: u8, pieces: &mut Vec<Piece>) -> Result<bool, MultipartError> {
        if self.held.starts_with(b"--") {
            // A file is the second part; fewer parts have none.
            if part < 2 {
                return Err(MultipartError::Cut);
            }
            return Ok(self.done(pieces));
        }
        let Some(at) = find(&self.held, b"\r\n") else {
            at_most("a boundary's line", self.held.len(), BOUNDARY_BYTES_MAX)?;
            return Ok(false);
        };
        let line = self.held.get(..at).unwrap_or_default();
        if !line.iter().all(|byte| matches!(byte, b' ' | b'\t')) {
            return Err(MultipartError::Head);
        }
        if part >= 2 {
            return Ok(self.done(pieces)); // a third part is not looked at
        }
        // The line end stays: a head may be empty, and then its end follows at once.
        self.held.drain(..at);
        self.state = State::Head(part);
        Ok(true)
    }

    fn done(&mut self, pieces: &mut Vec<Piece>) -> bool {
        self.held = Vec::new();
        self.state = State::Done;
        pieces.push(Piece::End);
        false
    }

    fn head(&mut self, part: u8, pieces: &mut Vec<Piece>) -> Result<bool, MultipartError> {
        let Some(at) = find(&self.held, b"\r\n\r\n") else {
            at_most("the head of a part", self.held.len(), HEAD_BYTES_MAX)?;
            return Ok(false);
        };
        at_most("the head of a part", at, HEAD_BYTES_MAX)?;
        let text = self.held.get(..at).unwrap_or_default();
        let text = std::str::from_utf8(text).map_err(|_| MultipartError::Head)?;
        if part == 1 {
            pieces.push(Piece::Head(file_head(text)?));
        }
        self.held.drain(..at + 4);
        self.state = if part == 0 {
            State::About(0)
        } else {
            State::File
        };
        Ok(true)
    }

    fn file(&mut self, pieces: &mut Vec<Piece>) -> bool {
        if let Some(at) = find(&self.held, &self.delimiter) {
            let rest = self.held.split_off(at + self.delimiter.len());
            self.held.truncate(at);
            push_bytes(pieces, std::mem::replace(&mut self.held, rest));
            self.state = State::Line(2);
            return true;
        }
        // The beginning of a delimiter may be at the end.
        let sure = self.held.len().saturating_sub(self.delimiter.len() - 1);
        let rest = self.held.split_off(sure);
        push_bytes(pieces, std::mem::replace(&mut self.held, rest));
        false
    }

    /// Drops everything up to and with the next delimiter; tells how much was before it.
    fn skip_to_delimiter(&mut self) -> Option<usize> {
        let at = find(&self.held, &self.delimiter)?;
        self.held.drain(..at + self.delimiter.len());
        Some(at)
    }
}

fn at_most(part: &'static str, found: usize, max: usize) -> Result<(), MultipartError> {
    if found > max {
        return Err(MultipartError::TooLarge { part, max });
    }
    Ok(())
}

fn push_bytes(pieces: &mut Vec<Piece>, bytes: Vec<u8>) {
    if !bytes.is_empty() {
        pieces.push(Piece::Bytes(bytes));
    }
}

/// Where `wanted` begins. Looks closer only where its first byte is.
fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    let first = *wanted.first()?;
    let mut from = 0;
    while let Some(at) = bytes.get(from..)?.iter().position(|byte| *byte == first) {
        let at = from + at;
        if bytes.get(at..)?.starts_with(wanted) {
            return Some(at);
        }
        from = at + 1;
    }
    None
}

fn file_head(text: &str) -> Result<FileHead, MultipartError> {
    let mut head = FileHead::default();
    for line in text.split("\r\n").filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').ok_or(MultipartError::Head)?;
        let value = value.trim();
        if value.chars().any(char::is_control) {
            return Err(MultipartError::Head);
        }
        let known = match name.trim().to_ascii_lowercase().as_str() {
            "content-type" => &mut head.content_type,
            "content-disposition" => &mut head.disposition,
            "location" => &mut head.location,
            _ => continue,
        };
        *known = Some(value.to_owned());
    }
    Ok(head)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The head and the bytes, however the body is cut into pieces.
    fn read(
        boundary: &str,
        body: &[u8],
        piece: usize,
    ) -> Result<(FileHead, Vec<u8>), MultipartError> {
        let mut parts = Parts::new(boundary);
        let (mut head, mut bytes, mut is_whole) = (None, Vec::new(), false);
        for piece in body.chunks(piece.max(1)) {
            for piece in parts.take(piece)? {
                assert!(!is_whole);
                match piece {
                    Piece::Head(one) => assert_eq!(head.replace(one), None),
                    Piece::Bytes(more) => bytes.extend(more),
                    Piece::End => is_whole = true,
                }
            }
        }
        parts.end()?;
        Ok((head.unwrap(), bytes))
    }

    fn written(boundary: &str, file: &[u8]) -> Vec<u8> {
        let mut body = head(boundary, "image/png", "inline; filename=a.png");
        body.extend(file);
        body.extend(tail(boundary));
        body
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn what_is_written_is_read_whatever_is_in_it(
            file in prop::collection::vec(prop::sample::select(b"\r\n-bx".to_vec()), 0..200),
            piece in 1_usize..50,
        ) {
            let (head, bytes) = read("bbbxb", &written("bbbxb", &file), piece).unwrap();
            prop_assert_eq!(head.content_type.as_deref(), Some("image/png"));
            prop_assert_eq!(head.disposition.as_deref(), Some("inline; filename=a.png"));
            // A file that holds the boundary ends there; ours never does.
            let ends = find(&file, b"\r\n--bbbxb").unwrap_or(file.len());
            prop_assert_eq!(&bytes, &file[..ends]);
        }

        #[test]
        fn no_bytes_are_too_much(body in prop::collection::vec(any::<u8>(), 0..400), piece in 1_usize..50) {
            let _ = read("b", &body, piece);
        }
    }

    #[test]
    fn what_others_write_is_read() {
        // As Synapse: a line end first, and a file without a name.
        let body = b"\r\n--b1\r\nContent-Type: application/json\r\n\r\n{}\r\n--b1\r\n\
            Content-Type: text/plain\r\n\r\nhello\r\n--b1--\r\n\r\n";
        let (head, bytes) = read("b1", body, 7).unwrap();
        assert_eq!(
            (head.content_type.as_deref(), &*bytes),
            (Some("text/plain"), &b"hello"[..])
        );
        // Elsewhere, by a part without bytes.
        let body = b"preamble\r\n--b1 \r\n\r\n{\"a\":1}\r\n--b1\r\n\
            LOCATION: https://cdn.example/x\r\n\r\n\r\n--b1--";
        let (head, bytes) = read("b1", body, 1).unwrap();
        assert_eq!(head.location.as_deref(), Some("https://cdn.example/x"));
        assert!(bytes.is_empty());
    }

    #[test]
    fn what_is_not_two_parts_is_no_file() {
        let cut = written("b", b"hello");
        assert_eq!(
            read("b", &cut[..cut.len() - 6], 9).unwrap_err(),
            MultipartError::Cut
        );
        assert!(read("b", b"--b\r\nA: b\r\n\r\n{}\r\n--b--", 9).is_err());
        assert!(read("b", b"--bad\r\n\r\n", 9).is_err());
        for endless in [
            vec![b'x'; 9000],
            [b"--b\r\n".to_vec(), vec![b'x'; 9000]].concat(),
            [b"--b\r\n\r\n".to_vec(), vec![b'x'; 70_000]].concat(),
        ] {
            let error = read("b", &endless, 512).unwrap_err();
            assert!(matches!(error, MultipartError::TooLarge { .. }), "{error}");
        }
    }

    #[test]
    fn a_boundary_is_found_among_the_parameters() {
        assert_eq!(boundary("multipart/mixed; boundary=abc"), Some("abc"));
        assert_eq!(
            boundary("Multipart/Mixed;x=1; Boundary=\"a b\""),
            Some("a b")
        );
        for none in [
            "multipart/form-data; boundary=a",
            "multipart/mixed",
            "multipart/mixed; boundary=",
        ] {
            assert_eq!(boundary(none), None, "{none}");
        }
        assert_eq!(
            boundary(&format!("multipart/mixed; boundary={}", "a".repeat(71))),
            None
        );
    }
}
