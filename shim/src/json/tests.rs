use std::time::{Duration, Instant};

use super::*;

fn code(text: &[u8]) -> &'static str {
    match parse(text) {
        Err(error) => error.code,
        Ok(value) => panic!("{:?} is accepted as {value:?}", String::from_utf8_lossy(text)),
    }
}

fn string(text: &str) -> Value {
    Value::String(text.as_bytes().to_vec())
}

/// The small generator of Marsaglia, 2003: the same texts in every run.
struct Xorshift(u64);

impl Xorshift {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below as u64) as usize
    }
}

#[test]
fn values_of_every_kind_are_read() {
    let text = br#" {"b":[null,true,false,0,-1,[],{}],"a":"x"} "#;
    let list = Value::Array(vec![
        Value::Null,
        Value::Boolean(true),
        Value::Boolean(false),
        Value::Unsigned(0),
        Value::Negative(-1),
        Value::Array(vec![]),
        Value::Object(vec![]),
    ]);
    let object = Value::Object(vec![(b"a".to_vec(), string("x")), (b"b".to_vec(), list)]);
    assert_eq!(parse(text), Ok(object));
}

#[test]
fn integers_have_64_bits() {
    for (text, value) in [
        ("18446744073709551615", Value::Unsigned(u64::MAX)),
        ("-9223372036854775808", Value::Negative(i64::MIN)),
        ("-0", Value::Unsigned(0)),
        ("10", Value::Unsigned(10)),
    ] {
        assert_eq!(parse(text.as_bytes()), Ok(value), "{text}");
    }
    let refused = [
        "18446744073709551616",
        "-9223372036854775809",
        "99999999999999999999999",
        "1.0",
        "1e3",
        "1E3",
        "0.5",
        "01",
        "-01",
        "00",
        "-",
        "-a",
        "-.5",
    ];
    for text in refused {
        assert_eq!(code(text.as_bytes()), "json.number", "{text}");
    }
}

#[test]
fn strings_are_bytes_and_escapes_are_utf_8() {
    let text = r#""\"\\\/\b\f\n\r\t\u00e9\u20AC\ud83d\ude00 é""#;
    assert_eq!(parse(text.as_bytes()), Ok(string("\"\\/\u{8}\u{c}\n\r\té€😀 é")));
    assert_eq!(parse(b"\"\xff\x80\x7f\""), Ok(Value::String(b"\xff\x80\x7f".to_vec())));
    let refused: &[&[u8]] = &[
        br#""\ud83d""#,
        br#""\ude00""#,
        br#""\ud83d\u0041""#,
        br#""\ud83dx""#,
        br#""\ud83d\ud83d""#,
        br#""\u12""#,
        br#""\u12g4""#,
        br#""\u+123""#,
        br#""\x41""#,
        br#""\'""#,
        b"\"a\nb\"",
        b"\"a\tb\"",
        b"\"\x1f\"",
        b"\"\\",
        b"\"\\u",
    ];
    for text in refused {
        assert_eq!(code(text), "json.string", "{:?}", String::from_utf8_lossy(text));
    }
}

#[test]
fn surrogates_are_pairs_from_the_first_to_the_last() {
    for (text, character) in [
        (r#""\ud7ff""#, "\u{d7ff}"),
        (r#""\ud800\udc00""#, "\u{10000}"),
        (r#""\ud801\udc01""#, "\u{10401}"),
        (r#""\udbff\udfff""#, "\u{10ffff}"),
        (r#""\ue000""#, "\u{e000}"),
        (r#""\u0001""#, "\u{1}"),
    ] {
        assert_eq!(parse(text.as_bytes()), Ok(string(character)), "{text}");
    }
    for text in [
        r#""\ud800""#,
        r#""\udbff""#,
        r#""\udc00""#,
        r#""\udfff""#,
        r#""\udc00\udc00""#,
        r#""\ud800\udbff""#,
        r#""\ud800\ue000""#,
    ] {
        assert_eq!(code(text.as_bytes()), "json.string", "{text}");
    }
}

#[test]
fn errors_name_the_line() {
    for (text, why) in [
        ("\n\n", "line 3: the text ends too early"),
        ("[\n1,\n\n", "line 4: the text ends too early"),
        ("[\n\"\\x\"]", "line 2: an escape is not known"),
        ("[\n\"\\u00g0\"]", "line 2: `\\u` needs four hexadecimal digits"),
        ("[\n\"\n\"]", "line 3: a control character must be escaped"),
        ("[\n\"a", "line 2: a string does not end"),
        ("[\n\"\0\"]", "line 2: a string holds a NUL"),
        ("[\n\n1.5]", "line 3: a number is not an integer"),
        ("\n{\"a\":1,\n\"a\":2}", "line 3: an object has the member \"a\" twice"),
        ("1\n\n2", "line 3: something follows the value"),
    ] {
        assert_eq!(parse(text.as_bytes()).unwrap_err().why, why.as_bytes(), "{text:?}");
    }
    let deep = [b"\n".repeat(2), b"[".repeat(33)].concat();
    assert_eq!(parse(&deep).unwrap_err().why, b"line 3: values nest deeper than 32");
}

#[test]
fn no_string_holds_a_nul() {
    let texts: &[&[u8]] = &[br#""a\u0000b""#, b"\"a\0b\"", br#"{"\u0000":1}"#];
    for text in texts {
        assert_eq!(code(text), "json.nul");
    }
    #[cfg(locald_mutants)]
    {
        assert!(crate::rules::disable_from(b"52"));
        assert!(texts.iter().all(|text| parse(text).is_ok()));
    }
}

#[test]
fn what_is_not_one_value_is_refused() {
    let texts = [
        "",
        " ",
        "{",
        "[",
        "}",
        "]",
        "[1",
        "[1,",
        "[1,]",
        "[,1]",
        "[1 2]",
        "{\"a\"",
        "{\"a\":",
        "{\"a\":1",
        "{\"a\":1,",
        "{\"a\":1,}",
        "{a:1}",
        "{1:1}",
        "{\"a\" 1}",
        "{\"a\":1 \"b\":2}",
        "nul",
        "tru",
        "False",
        "True",
        "NaN",
        "+1",
        "'a'",
        "\"a",
        "1 2",
        "{} {}",
        "[] x",
        "//\n1",
        "1//",
        "\u{feff}1",
        "\u{a0}1",
        "nullx",
        "truetrue",
    ];
    for text in texts {
        assert_eq!(code(text.as_bytes()), "json.syntax", "{text:?}");
    }
    assert_eq!(code(b"1\0"), "json.syntax");
    assert_eq!(parse(b"{\n\n x").unwrap_err().why, b"line 3: a member's name is expected");
}

fn nested(depth: usize) -> Vec<u8> {
    [b"[".repeat(depth), b"]".repeat(depth)].concat()
}

#[test]
fn values_nest_32_deep() {
    assert!(parse(&nested(MAX_DEPTH)).is_ok());
    assert_eq!(code(&nested(MAX_DEPTH + 1)), "json.depth");
    assert_eq!(code(&b"{\"a\":".repeat(33)), "json.depth");
    assert_eq!(code(&b"[".repeat(1 << 20)), "json.depth");
    #[cfg(locald_mutants)]
    {
        assert!(crate::rules::disable_from(b"13-depth"));
        assert!(parse(&nested(MAX_DEPTH + 1)).is_ok());
    }
}

#[test]
fn no_member_is_there_twice() {
    let texts: &[&[u8]] =
        &[br#"{"a":1,"a":1}"#, br#"{"a":1,"b":2,"\u0061":3}"#, br#"[{"":1,"":2}]"#];
    for text in texts {
        assert_eq!(code(text), "json.duplicate");
    }
    assert!(parse(br#"{"a":{"a":1},"b":{"a":1}}"#).is_ok());
    #[cfg(locald_mutants)]
    {
        assert!(crate::rules::disable_from(b"13-duplicate"));
        assert!(texts.iter().all(|text| parse(text).is_ok()));
    }
}

fn zeros(count: usize) -> Vec<u8> {
    format!("[{}0]", "0,".repeat(count - 2)).into_bytes()
}

#[test]
fn values_are_counted() {
    assert!(parse(&zeros(MAX_VALUES)).is_ok());
    assert_eq!(code(&zeros(MAX_VALUES + 1)), "json.too-many");
    #[cfg(locald_mutants)]
    {
        assert!(crate::rules::disable_from(b"54-values"));
        assert!(parse(&zeros(MAX_VALUES + 1)).is_ok());
    }
}

#[test]
fn the_worst_mebibyte_takes_little_time() {
    let keys: String = (0..MAX_VALUES - 1).map(|n| format!("\"k{n:013}\":0,")).collect();
    let long = "x".repeat(20_000);
    let long_keys: String = (0..50).map(|n| format!("\"{long}{n}\":0,")).collect();
    let worst = [
        format!("{{{}\"z\":0}}", &keys[..keys.len().min(1 << 20)].trim_end_matches(|c| c != ',')),
        format!("{{{long_keys}\"z\":0}}"),
        format!("\"{}\"", "\\u00e9".repeat(170_000)),
        " ".repeat(1 << 20),
        format!("[{}1]", "\n".repeat(1 << 20)),
        "9".repeat(1 << 20),
    ];
    let start = Instant::now();
    for text in &worst {
        let _ = parse(text.as_bytes());
    }
    // Some 0.1 s unoptimised; a quadratic step would take minutes.
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn no_text_makes_it_panic() {
    let pieces: &[&[u8]] = &[
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"\"",
        b"\\",
        b"\\u",
        b"d83d",
        b"0000",
        b"null",
        b"true",
        b"-",
        b"0",
        b"1.",
        b" ",
        b"\n",
        b"\"a\"",
        b"\"b\":",
        b"\xff",
        b"\0",
        b"18446744073709551616",
        b"[[",
        b"]]",
    ];
    let sample = include_bytes!("../../tests/data/runc-spec.json");
    let mut random = Xorshift(0x9e37_79b9_7f4a_7c15);
    for _ in 0..20_000 {
        let count = random.next(24);
        let text: Vec<u8> =
            (0..count).flat_map(|_| pieces[random.next(pieces.len())]).copied().collect();
        let _ = parse(&text);
    }
    for _ in 0..1_000 {
        let mut text = sample.to_vec();
        for _ in 0..=random.next(4) {
            let at = random.next(text.len());
            match random.next(3) {
                0 => text[at] = random.next(256) as u8,
                1 => text.truncate(at.max(1)),
                _ => text.extend_from_within(at..),
            }
        }
        let _ = parse(&text);
    }
}
