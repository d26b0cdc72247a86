//! What is fuzzed, as functions of bytes that panic when an invariant does not hold.
//!
//! Two programs share this module: the fuzzer (fuzz/src/main.rs), and `cargo test`, which replays the
//! seeds and the regression corpus (tests/corpus.rs). It uses the public interface of the shim's
//! library and the standard library only. The oracles are written anew here, on purpose: an invariant
//! that called the code it judges would fail together with it.

mod accounts;
mod config;
mod grammar;
mod json;
mod plan;
mod policy_file;
mod request;
mod spec;

use locald_shim::error::Error;

/// Takes one input; panics if an invariant does not hold.
pub type Target = fn(&[u8]);

/// Every target, by its name.
pub const ALL: &[(&str, Target)] = &[
    ("json", json::run),
    ("config", config::run_text),
    ("policy", config::run_grammar),
    ("subids", accounts::run_subids),
    ("accounts", accounts::run_accounts),
    ("policy_file", policy_file::run),
    ("request", request::run),
];

/// Longest line of an error: it goes to a terminal and to a status pipe.
const MAX_LINE_BYTES: usize = 4096;

/// Whatever was quoted, an error is one short line without control characters, with a stable code.
fn check_error(error: &Error) {
    let line = error.line();
    let text = std::str::from_utf8(&line).expect("an error is text");
    assert!(line.len() <= MAX_LINE_BYTES, "an error of {} bytes", line.len());
    let body = text.strip_suffix('\n').expect("an error ends its line");
    assert!(!body.chars().any(char::is_control), "a control character in {body:?}");
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-');
    assert!(!error.code.is_empty() && error.code.chars().all(plain), "the code {}", error.code);
    assert!(!error.hint.is_empty(), "{} names no mend", error.code);
    assert!(matches!(error.exit_status(), 2 | 125), "{body}");
}

/// Repeats pieces of an input, so that limits of thousands are a few bytes away.
///
/// 0xFF 0xFE, then a length and a count: the `length` bytes before are repeated `count` squared times.
/// No text that any parser here takes holds those two, but for the inside of a JSON string.
fn expand(data: &[u8]) -> Vec<u8> {
    // More than any limit on counts needs; limits on bytes are reached by repeating long pieces.
    const MOST: usize = 1 << 18;
    let mut out = Vec::with_capacity(data.len());
    let mut rest = data;
    while let [first, tail @ ..] = rest {
        match (first, tail) {
            (0xff, [0xfe, length, count, after @ ..])
                if (1..=out.len()).contains(&usize::from(*length)) =>
            {
                let piece = out[out.len() - usize::from(*length)..].to_vec();
                for _ in 0..usize::from(*count) * usize::from(*count) {
                    if out.len() + piece.len() > MOST {
                        break;
                    }
                    out.extend_from_slice(&piece);
                }
                rest = after;
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

/// Splits an input at its first line that is `%`; without one the second part is empty.
fn split(data: &[u8]) -> (&[u8], &[u8]) {
    match data.windows(3).position(|window| window == b"\n%\n") {
        Some(at) => (&data[..at], &data[at + 3..]),
        None => (data, &[]),
    }
}
