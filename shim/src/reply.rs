//! Writes the JSON lines that `check`, `version`, `install` and the status descriptor speak.
//!
//! Imports nothing: one flat builder, no value tree.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// A JSON object that is being written, member by member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Object {
    members: Vec<u8>,
}

impl Object {
    /// An object without a member.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a string; what is not UTF-8 in it becomes U+FFFD.
    #[must_use]
    pub fn string(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.name(name);
        write_string(&mut self.members, value.as_ref());
        self
    }

    /// Adds a string, or `null` where there is none.
    #[must_use]
    pub fn optional(self, name: &str, value: Option<impl AsRef<[u8]>>) -> Self {
        match value {
            Some(value) => self.string(name, value),
            None => self.raw(name, b"null"),
        }
    }

    /// Adds an integer.
    #[must_use]
    pub fn number(self, name: &str, value: impl Into<i128>) -> Self {
        let digits = format!("{}", value.into());
        self.raw(name, digits.as_bytes())
    }

    /// Adds `true` or `false`.
    #[must_use]
    pub fn boolean(self, name: &str, value: bool) -> Self {
        self.raw(name, if value { b"true" } else { b"false" })
    }

    /// Adds an object.
    #[must_use]
    pub fn object(mut self, name: &str, value: &Object) -> Self {
        self.name(name);
        self.members.push(b'{');
        self.members.extend_from_slice(&value.members);
        self.members.push(b'}');
        self
    }

    /// Adds an object, or `null` where there is none.
    #[must_use]
    pub fn optional_object(self, name: &str, value: Option<&Object>) -> Self {
        match value {
            Some(value) => self.object(name, value),
            None => self.raw(name, b"null"),
        }
    }

    /// Adds a list of strings.
    #[must_use]
    pub fn strings<T: AsRef<[u8]>>(
        mut self,
        name: &str,
        values: impl IntoIterator<Item = T>,
    ) -> Self {
        self.name(name);
        self.members.push(b'[');
        for (index, value) in values.into_iter().enumerate() {
            if index > 0 {
                self.members.push(b',');
            }
            write_string(&mut self.members, value.as_ref());
        }
        self.members.push(b']');
        self
    }

    /// Adds a list of numbers.
    #[must_use]
    pub fn numbers(self, name: &str, values: impl IntoIterator<Item = u16>) -> Self {
        let digits: Vec<String> = values.into_iter().map(|value| format!("{value}")).collect();
        self.raw(name, format!("[{}]", digits.join(",")).as_bytes())
    }

    /// The object as one line.
    pub fn line(self) -> Vec<u8> {
        let mut line = Vec::with_capacity(self.members.len() + 3);
        line.push(b'{');
        line.extend_from_slice(&self.members);
        line.extend_from_slice(b"}\n");
        line
    }

    fn raw(mut self, name: &str, value: &[u8]) -> Self {
        self.name(name);
        self.members.extend_from_slice(value);
        self
    }

    fn name(&mut self, name: &str) {
        if !self.members.is_empty() {
            self.members.push(b',');
        }
        write_string(&mut self.members, name.as_bytes());
        self.members.push(b':');
    }
}

/// Appends `bytes` as a JSON string of ASCII controls escaped, so that it stays one line.
pub fn write_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    for character in String::from_utf8_lossy(bytes).chars() {
        match character {
            '"' | '\\' => out.extend_from_slice(&[b'\\', character as u8]),
            // C1 controls and the two line separators too: terminals and JavaScript act on them.
            '\0'..='\x1f' | '\x7f'..='\u{9f}' | '\u{2028}' | '\u{2029}' => {
                out.extend_from_slice(format!("\\u{:04x}", character as u32).as_bytes());
            }
            _ => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::{self, Value};

    #[test]
    fn members_are_written_in_order() {
        let mode = Object::new().boolean("allowed", true).optional("code", None::<&str>);
        let line = Object::new()
            .number("protocol", 1u8)
            .string("kernel", "6.18.0")
            .object("modes", &Object::new().object("mapped", &mode).object("none", &Object::new()))
            .number("status", -1i64)
            .optional("why", Some(b"x"))
            .strings("names", ["a", "\""])
            .numbers("ports", [80, 443])
            .strings("none", [""; 0])
            .line();
        let expected = concat!(
            r#"{"protocol":1,"kernel":"6.18.0","modes":{"mapped":{"allowed":true,"code":null},"none":{}},"#,
            r#""status":-1,"why":"x","names":["a","\""],"ports":[80,443],"none":[]}"#,
            "\n",
        );
        assert_eq!(String::from_utf8(line).unwrap(), expected);
        assert_eq!(Object::new().line(), b"{}\n");
    }

    #[test]
    fn any_bytes_come_back_as_text_on_one_line() {
        let mut all: Vec<u8> = (0..=255).collect();
        all.extend_from_slice("\u{85}\u{2028}é😀".as_bytes());
        let mut out = Vec::new();
        write_string(&mut out, &all);
        assert!(!out.iter().any(|byte| *byte < 0x20 || *byte == 0x7f));
        // The parser refuses NUL, which is the only difference.
        let mut out = Vec::new();
        write_string(&mut out, &all[1..]);
        let expected = String::from_utf8_lossy(&all[1..]).into_owned().into_bytes();
        assert_eq!(json::parse(&out), Ok(Value::String(expected)));
    }
}
