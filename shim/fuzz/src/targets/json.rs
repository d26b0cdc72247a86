//! The parser of JSON, and the writer of what the shim says.

use locald_shim::json::{self, Value};
use locald_shim::reply;

use super::{check_error, expand};

/// The limits, written a second time: rules 13 and 54 of the security manual.
const MAX_DEPTH: usize = 32;
const MAX_VALUES: usize = 50_000;

pub fn run(data: &[u8]) {
    let text = expand(data);
    check_written(&text);
    let value = match json::parse(&text) {
        Ok(value) => value,
        Err(error) => return check_error(&error),
    };
    let mut count = Count::default();
    count.value(&value, 0);
    assert!(count.deepest <= MAX_DEPTH, "{} levels", count.deepest);
    assert!(count.values <= MAX_VALUES, "{} values", count.values);
    // As many members as the text has: none was dropped as a duplicate, none came from nowhere.
    assert_eq!(count.members, count_colons(&text), "members were lost");
    let mut again = Vec::new();
    render(&value, &mut again);
    assert_eq!(json::parse(&again).as_ref(), Ok(&value), "parse(render(x)) is not x");
}

/// Any bytes are written as one JSON string on one line, which reads back as the text that they are.
fn check_written(bytes: &[u8]) {
    let text: Vec<u8> = bytes.iter().take(256).copied().filter(|byte| *byte != 0).collect();
    let mut line = Vec::new();
    reply::write_string(&mut line, &text);
    assert!(line.iter().all(|byte| *byte >= 0x20 && *byte != 0x7f), "a control character");
    let expected = String::from_utf8_lossy(&text).into_owned().into_bytes();
    assert_eq!(
        json::parse(&line),
        Ok(Value::String(expected)),
        "a written string reads differently"
    );
}

#[derive(Default)]
struct Count {
    deepest: usize,
    values: usize,
    members: usize,
}

impl Count {
    fn value(&mut self, value: &Value, depth: usize) {
        self.values += 1;
        self.deepest = self.deepest.max(depth);
        match value {
            Value::Array(values) => {
                self.deepest = self.deepest.max(depth + 1);
                values.iter().for_each(|value| self.value(value, depth + 1));
            }
            Value::Object(members) => {
                self.deepest = self.deepest.max(depth + 1);
                self.members += members.len();
                assert!(members.windows(2).all(|pair| pair[0].0 < pair[1].0), "a name twice");
                for (name, value) in members {
                    assert!(!name.contains(&0), "NUL in a name");
                    self.value(value, depth + 1);
                }
            }
            Value::String(bytes) => assert!(!bytes.contains(&0), "NUL in a string"),
            Value::Negative(number) => assert!(*number < 0),
            Value::Null | Value::Boolean(_) | Value::Unsigned(_) => {}
        }
    }
}

/// Colons outside of strings: what a reader with one bit of state sees.
fn count_colons(text: &[u8]) -> usize {
    let (mut inside, mut escaped, mut colons) = (false, false, 0);
    for &byte in text {
        match (inside, byte) {
            _ if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => inside = !inside,
            (false, b':') => colons += 1,
            _ => {}
        }
    }
    colons
}

/// Writes a value so that every byte of it comes back.
pub fn render(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Boolean(value) => out.extend_from_slice(value.to_string().as_bytes()),
        Value::Unsigned(number) => out.extend_from_slice(number.to_string().as_bytes()),
        Value::Negative(number) => out.extend_from_slice(number.to_string().as_bytes()),
        Value::String(bytes) => render_string(bytes, out),
        Value::Array(values) => {
            out.push(b'[');
            for (index, value) in values.iter().enumerate() {
                out.extend_from_slice(if index == 0 { b"" } else { b"," });
                render(value, out);
            }
            out.push(b']');
        }
        Value::Object(members) => {
            out.push(b'{');
            for (index, (name, value)) in members.iter().enumerate() {
                out.extend_from_slice(if index == 0 { b"" } else { b"," });
                render_string(name, out);
                out.push(b':');
                render(value, out);
            }
            out.push(b'}');
        }
    }
}

fn render_string(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for &byte in bytes {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0..0x20 => out.extend_from_slice(format!("\\u{byte:04X}").as_bytes()),
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}
