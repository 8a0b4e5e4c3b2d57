//! The grammar of JSON, read once from left to right. Which numbers pass is `Tree`'s business.

use super::{
    super::error::{DecodeError, Fault},
    Tree,
};
use crate::base::limits::NESTING_MAX;

type Read<T> = Result<T, DecodeError>;

/// A place in a text. It never moves back, and never past the end.
pub(super) struct Reader<'a> {
    text: &'a str,
    at: usize,
    /// How many arrays and objects may be open.
    deepest: usize,
}

impl<'a> Reader<'a> {
    /// Reads one value that fills the bytes but for white space around it.
    pub(super) fn document<T: Tree>(bytes: &'a [u8]) -> Read<T> {
        Self::document_within(bytes, NESTING_MAX)
    }

    /// The same with another ceiling for how deep it may nest.
    pub(super) fn document_within<T: Tree>(bytes: &'a [u8], deepest: usize) -> Read<T> {
        let text = std::str::from_utf8(bytes)
            .map_err(|error| DecodeError::new(Fault::Utf8, error.valid_up_to()))?;
        let mut reader = Reader {
            text,
            at: 0,
            deepest,
        };
        reader.skip_space();
        if reader.peek().is_none() {
            return Err(DecodeError::new(Fault::Empty, 0));
        }
        let value = reader.value(0)?;
        reader.skip_space();
        match text.len() - reader.at {
            0 => Ok(value),
            bytes => reader.fail(Fault::Trailing { bytes }),
        }
    }

    /// `depth`: how many arrays and objects are open around this value.
    fn value<T: Tree>(&mut self, depth: usize) -> Read<T> {
        self.skip_space();
        match self.peek() {
            Some(b'{' | b'[') if depth == self.deepest => {
                self.fail(Fault::TooDeep { max: self.deepest })
            }
            Some(b'{') => self.object(depth + 1),
            Some(b'[') => self.array(depth + 1),
            Some(b'"') => self.string().map(T::text),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true", T::truth(true)),
            Some(b'f') => self.word("false", T::truth(false)),
            Some(b'n') => self.word("null", T::NULL),
            _ => self.expected("a value"),
        }
    }

    fn object<T: Tree>(&mut self, depth: usize) -> Read<T> {
        let mut members = T::Members::default();
        self.at += 1;
        self.skip_space();
        if self.take(b'}') {
            return Ok(T::object(members));
        }
        loop {
            self.skip_space();
            let key_at = self.at;
            if self.peek() != Some(b'"') {
                return self.expected("a key in quotation marks");
            }
            let key = self.string()?;
            if T::has(&members, &key) {
                return Err(DecodeError::new(Fault::DuplicateKey, key_at).in_member(&key));
            }
            self.skip_space();
            if !self.take(b':') {
                return self.expected("a colon");
            }
            let value = self.value(depth).map_err(|error| error.in_member(&key))?;
            T::insert(&mut members, key, value);
            self.skip_space();
            if self.take(b'}') {
                return Ok(T::object(members));
            }
            if !self.take(b',') {
                return self.expected("a comma or the end of the object");
            }
        }
    }

    fn array<T: Tree>(&mut self, depth: usize) -> Read<T> {
        let mut items = Vec::new();
        self.at += 1;
        self.skip_space();
        if self.take(b']') {
            return Ok(T::array(items));
        }
        loop {
            let item = self
                .value(depth)
                .map_err(|error| error.in_item(items.len()))?;
            items.push(item);
            self.skip_space();
            if self.take(b']') {
                return Ok(T::array(items));
            }
            if !self.take(b',') {
                return self.expected("a comma or the end of the array");
            }
        }
    }

    fn string(&mut self) -> Read<String> {
        self.at += 1;
        let mut text = String::new();
        loop {
            let plain = self.skip_while(|byte| !matches!(byte, b'"' | b'\\' | ..0x20));
            text.push_str(plain);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(text);
                }
                Some(b'\\') => text.push(self.escape()?),
                _ => return self.expected("an escape instead of a control character"),
            }
        }
    }

    fn escape(&mut self) -> Read<char> {
        let start = self.at;
        self.at += 1;
        let plain = match self.peek() {
            Some(same @ (b'"' | b'\\' | b'/')) => char::from(same),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode_escape(start),
            _ => return self.expected("one of \" \\ / b f n r t u"),
        };
        self.at += 1;
        Ok(plain)
    }

    /// `\u` and four hexadecimal digits; twice, where the first is half of a pair.
    fn unicode_escape(&mut self, start: usize) -> Read<char> {
        self.at += 1;
        let first = self.hex4()?;
        let lone = DecodeError::new(Fault::LoneSurrogate { unit: first }, start);
        if let Some(whole) = char::from_u32(u32::from(first)) {
            return Ok(whole);
        }
        if !self
            .text
            .get(self.at..)
            .is_some_and(|rest| rest.starts_with("\\u"))
        {
            return Err(lone);
        }
        self.at += 2;
        let second = self.hex4()?;
        match char::decode_utf16([first, second]).next() {
            Some(Ok(whole)) => Ok(whole),
            _ => Err(lone),
        }
    }

    fn hex4(&mut self) -> Read<u16> {
        let digits = self.text.get(self.at..self.at + 4);
        let Some(digits) = digits.filter(|four| four.bytes().all(|b| b.is_ascii_hexdigit())) else {
            return self.expected("four hexadecimal digits");
        };
        self.at += 4;
        Ok(u16::from_str_radix(digits, 16).expect("four hexadecimal digits are 16 bits"))
    }

    fn number<T: Tree>(&mut self) -> Read<T> {
        let start = self.at;
        let mut integral = true;
        self.take(b'-');
        // A zero stands alone: what follows it must be the fraction, the exponent or the end.
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            integral = false;
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            integral = false;
            let _sign = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        let text = self.text.get(start..self.at).expect("a number is ASCII");
        T::number(text, integral).map_err(|fault| DecodeError::new(fault, start))
    }

    fn digits(&mut self) -> Read<()> {
        if self.skip_while(|byte| byte.is_ascii_digit()).is_empty() {
            return self.expected("a digit");
        }
        Ok(())
    }

    fn word<T>(&mut self, word: &'static str, value: T) -> Read<T> {
        if !self
            .text
            .get(self.at..)
            .is_some_and(|rest| rest.starts_with(word))
        {
            return self.expected(word);
        }
        self.at += word.len();
        Ok(value)
    }

    fn skip_space(&mut self) {
        self.skip_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r'));
    }

    /// Moves to the first byte that is not wanted and gives what lies between.
    ///
    /// Every caller stops at ASCII only, so that no character is cut.
    fn skip_while(&mut self, wanted: impl Fn(u8) -> bool) -> &'a str {
        let start = self.at;
        let rest = self.text.get(start..).unwrap_or_default();
        self.at += rest
            .bytes()
            .position(|byte| !wanted(byte))
            .unwrap_or(rest.len());
        self.text
            .get(start..self.at)
            .expect("every stop is at an ASCII byte or the end")
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// At the end of the text, what is missing is not a word but the rest.
    fn expected<T>(&self, expected: &'static str) -> Read<T> {
        if self.at >= self.text.len() {
            return self.fail(Fault::Truncated);
        }
        self.fail(Fault::Syntax { expected })
    }

    fn fail<T>(&self, fault: Fault) -> Read<T> {
        Err(DecodeError::new(fault, self.at))
    }
}
