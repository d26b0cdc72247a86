//! A strict parser of JSON (RFC 8259) over bytes that a hostile caller wrote.
//!
//! Stricter than the RFC: integers only, no duplicate member, no NUL, bounded depth and number of
//! values. Laxer in one point: bytes from 0x80 on pass through a string untouched, because arguments
//! and paths of Linux are bytes, not UTF-8. Time is linear in the text (n log n in an object's
//! members), memory a small multiple of it. Imports `error` and `rules` only.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::error::Error;
use crate::rules::{Rule, active};

/// How deep arrays and objects may nest.
pub const MAX_DEPTH: usize = 32;
/// How many values a text may hold, so that 1 MiB of `[]` is not 40 MiB of memory.
pub const MAX_VALUES: usize = 50_000;

/// Any JSON value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `null`
    Null,
    /// `true` or `false`
    Boolean(bool),
    /// An integer from 0 on.
    Unsigned(u64),
    /// An integer below 0.
    Negative(i64),
    /// Any bytes but NUL.
    String(Vec<u8>),
    /// In the order of the text.
    Array(Vec<Value>),
    /// Sorted by name; no name twice.
    Object(Vec<(Vec<u8>, Value)>),
}

/// Parses the one value that `text` holds.
///
/// # Errors
/// `json.syntax`, `json.string`, `json.nul`, `json.number`, `json.duplicate`, `json.depth` and
/// `json.too-many`, each with the line.
pub fn parse(text: &[u8]) -> Result<Value, Error> {
    let mut parser = Parser { text, at: 0, values: 0 };
    let value = parser.value(0)?;
    parser.skip_space();
    if parser.at < text.len() {
        return Err(parser.syntax("something follows the value"));
    }
    Ok(value)
}

struct Parser<'t> {
    text: &'t [u8],
    at: usize,
    values: usize,
}

impl Parser<'_> {
    fn value(&mut self, depth: usize) -> Result<Value, Error> {
        self.values += 1;
        if active(Rule::JsonValues) && self.values > MAX_VALUES {
            let why = format!("config.json holds more than {MAX_VALUES} values");
            return Err(Error::refused("json.too-many", why, "make config.json smaller"));
        }
        self.skip_space();
        match self.peek() {
            Some(b'{') => self.object(depth + 1),
            Some(b'[') => self.array(depth + 1),
            Some(b'"') => Ok(Value::String(self.string()?)),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true", Value::Boolean(true)),
            Some(b'f') => self.word("false", Value::Boolean(false)),
            Some(b'n') => self.word("null", Value::Null),
            Some(_) => Err(self.syntax("a value is expected")),
            None => Err(self.syntax("the text ends too early")),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value, Error> {
        self.open(depth)?;
        let mut members = Vec::new();
        if !self.skip(b'}') {
            loop {
                self.skip_space();
                if self.peek() != Some(b'"') {
                    return Err(self.syntax("a member's name is expected"));
                }
                let name = self.string()?;
                self.expect(b':', "`:` is expected after a member's name")?;
                members.push((name, self.value(depth)?));
                if self.skip(b'}') {
                    break;
                }
                self.expect(b',', "`,` or `}` is expected")?;
            }
        }
        // Sorting finds duplicates in n log n; comparing each name with each would be quadratic.
        members.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        if let Some(pair) = members.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            if active(Rule::JsonDuplicate) {
                let name = String::from_utf8_lossy(&pair[0].0[..pair[0].0.len().min(64)]);
                let why = format!("line {}: an object has the member {name:?} twice", self.line());
                let hint = "remove one of the two members";
                return Err(Error::refused("json.duplicate", why, hint));
            }
            members.dedup_by(|a, b| a.0 == b.0);
        }
        Ok(Value::Object(members))
    }

    fn array(&mut self, depth: usize) -> Result<Value, Error> {
        self.open(depth)?;
        let mut values = Vec::new();
        if !self.skip(b']') {
            loop {
                values.push(self.value(depth)?);
                if self.skip(b']') {
                    break;
                }
                self.expect(b',', "`,` or `]` is expected")?;
            }
        }
        Ok(Value::Array(values))
    }

    /// Steps over the bracket that begins a value at `depth`.
    fn open(&mut self, depth: usize) -> Result<(), Error> {
        self.at += 1;
        if active(Rule::JsonDepth) && depth > MAX_DEPTH {
            let why = format!("line {}: values nest deeper than {MAX_DEPTH}", self.line());
            return Err(Error::refused("json.depth", why, "make config.json flatter"));
        }
        Ok(())
    }

    fn string(&mut self) -> Result<Vec<u8>, Error> {
        self.at += 1;
        let mut bytes = Vec::new();
        loop {
            // What needs no decoding is copied in one piece.
            let rest = &self.text[self.at..];
            let plain = rest.iter().position(|&byte| matches!(byte, b'"' | b'\\' | 0..=0x1f));
            let Some(plain) = plain else {
                return Err(self.syntax("a string does not end"));
            };
            bytes.extend_from_slice(&rest[..plain]);
            self.at += plain + 1;
            match rest[plain] {
                b'"' => return Ok(bytes),
                b'\\' => self.escape(&mut bytes)?,
                0 => bytes.push(self.nul()?),
                _ => return Err(self.bad_string("a control character must be escaped")),
            }
        }
    }

    /// Decodes what follows a backslash.
    fn escape(&mut self, bytes: &mut Vec<u8>) -> Result<(), Error> {
        let letter = self.peek();
        self.at += 1;
        bytes.push(match letter {
            Some(byte @ (b'"' | b'\\' | b'/')) => byte,
            Some(b'b') => 0x08,
            Some(b'f') => 0x0c,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'u') => return self.unicode(bytes),
            _ => return Err(self.bad_string("an escape is not known")),
        });
        Ok(())
    }

    /// Decodes `XXXX`, or a surrogate pair, after `\u`.
    fn unicode(&mut self, bytes: &mut Vec<u8>) -> Result<(), Error> {
        let first = self.hex()?;
        if first == 0 {
            bytes.push(self.nul()?);
            return Ok(());
        }
        let mut code = first;
        if (0xd800..0xdc00).contains(&first) && self.text[self.at..].starts_with(b"\\u") {
            self.at += 2;
            let second = self.hex()?;
            if (0xdc00..0xe000).contains(&second) {
                code = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
            }
        }
        // A surrogate that is still alone is not a character.
        let Some(character) = char::from_u32(code) else {
            return Err(self.bad_string("an escape is half of a surrogate pair"));
        };
        bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        Ok(())
    }

    fn hex(&mut self) -> Result<u32, Error> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16));
            let Some(digit) = digit else {
                return Err(self.bad_string("`\\u` needs four hexadecimal digits"));
            };
            code = code << 4 | digit;
            self.at += 1;
        }
        Ok(code)
    }

    /// A checked string and the C string made of it must be the same string.
    fn nul(&self) -> Result<u8, Error> {
        if active(Rule::NulByte) {
            let why = format!("line {}: a string holds a NUL", self.line());
            let hint = "remove the NUL: no path or argument of Linux holds one";
            return Err(Error::refused("json.nul", why, hint));
        }
        Ok(0)
    }

    fn number(&mut self) -> Result<Value, Error> {
        let negative = self.peek() == Some(b'-');
        self.at += usize::from(negative);
        let rest = &self.text[self.at..];
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let after = rest.get(digits);
        self.at += digits;
        if digits == 0 || (digits > 1 && rest[0] == b'0') {
            return Err(self.bad_number("a number is malformed"));
        }
        if matches!(after, Some(b'.' | b'e' | b'E')) {
            return Err(self.bad_number("a number is not an integer"));
        }
        let mut number: u64 = 0;
        for digit in &rest[..digits] {
            let next =
                number.checked_mul(10).and_then(|tens| tens.checked_add(u64::from(digit - b'0')));
            number = next.ok_or_else(|| self.bad_number("a number has more than 64 bits"))?;
        }
        match (negative, number) {
            (false, _) | (true, 0) => Ok(Value::Unsigned(number)),
            (true, _) => match 0i64.checked_sub_unsigned(number) {
                Some(number) => Ok(Value::Negative(number)),
                None => Err(self.bad_number("a number has more than 64 bits")),
            },
        }
    }

    fn word(&mut self, word: &str, value: Value) -> Result<Value, Error> {
        if !self.text[self.at..].starts_with(word.as_bytes()) {
            return Err(self.syntax("a value is expected"));
        }
        self.at += word.len();
        Ok(value)
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Steps over `byte` if it comes next.
    fn skip(&mut self, byte: u8) -> bool {
        self.skip_space();
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8, why: &str) -> Result<(), Error> {
        if self.skip(byte) { Ok(()) } else { Err(self.syntax(why)) }
    }

    fn line(&self) -> usize {
        let end = self.at.min(self.text.len());
        1 + self.text[..end].iter().filter(|&&byte| byte == b'\n').count()
    }

    fn syntax(&self, why: &str) -> Error {
        let why = format!("line {}: {why}", self.line());
        let hint = "config.json must be one JSON value (RFC 8259), without a byte order mark";
        Error::refused("json.syntax", why, hint)
    }

    fn bad_string(&self, why: &str) -> Error {
        let why = format!("line {}: {why}", self.line());
        Error::refused("json.string", why, "write the string as RFC 8259 has it")
    }

    fn bad_number(&self, why: &str) -> Error {
        let why = format!("line {}: {why}", self.line());
        Error::refused("json.number", why, "write a plain integer of at most 64 bits")
    }
}

#[cfg(test)]
mod tests;
