//! The command line.

use locald_shim::request::{Request, Target, parse};

use super::check_error;

/// The input is the argument vector after the shim's name, one argument a line.
pub fn run(data: &[u8]) {
    let words: Vec<&[u8]> = match data {
        [] => Vec::new(),
        _ => data.split(|&byte| byte == b'\n').collect(),
    };
    let request = match parse(&words) {
        Ok(request) => request,
        Err(error) => {
            assert!(matches!(error.code, "usage" | "id.invalid"), "{}", error.code);
            return check_error(&error);
        }
    };
    let rendered = render(&request);
    let again: Vec<&[u8]> = rendered.iter().map(Vec::as_slice).collect();
    assert_eq!(parse(&again).as_ref(), Ok(&request), "parse(render(x)) is not x");
    // Whatever is understood was said: no value comes from anywhere else.
    for value in rendered.iter().filter(|word| !word.starts_with(b"--")) {
        let said =
            words.iter().any(|word| word == value || word.ends_with(&[b"=", &value[..]].concat()));
        let number = value.iter().all(u8::is_ascii_digit);
        // An address has several spellings, and one that is meant where none is given.
        let said = said || matches!(request, Request::Bind { .. });
        assert!(said || number, "{:?} was never said", String::from_utf8_lossy(value));
    }
}

/// The one canonical command line of a request; checks its values on the way.
fn render(request: &Request) -> Vec<Vec<u8>> {
    let option = |name: &str, value: &[u8]| [name.as_bytes().to_vec(), value.to_vec()];
    match request {
        Request::Run { bundle, id, status_fd } => {
            assert!(!bundle.is_empty(), "a bundle without a path");
            check_id(id.as_bytes());
            let mut words = vec![b"bundle".to_vec(), b"run".to_vec()];
            words.extend(option("--bundle", bundle.as_bytes()));
            words.extend(option("--id", id.as_bytes()));
            if let Some(number) = status_fd {
                assert!(*number >= 3, "the status descriptor is {number}");
                words.extend(option("--status-fd", number.to_string().as_bytes()));
            }
            words
        }
        Request::Cleanup { target } => {
            let mut words = vec![b"cleanup".to_vec()];
            match target {
                Target::All => {}
                Target::Bundle(path) => {
                    assert!(!path.is_empty(), "a bundle without a path");
                    words.extend(option("--bundle", path.as_bytes()));
                }
                Target::Id(id) => {
                    check_id(id.as_bytes());
                    words.extend(option("--id", id.as_bytes()));
                }
            }
            words
        }
        Request::Bind { port, address } => {
            assert!(*port > 0, "port 0");
            assert!(!address.is_multicast(), "the address {address}");
            let mut words = vec![b"bind".to_vec()];
            words.extend(option("--port", port.to_string().as_bytes()));
            words.extend(option("--address", address.to_string().as_bytes()));
            words
        }
        Request::Check => vec![b"check".to_vec()],
        Request::Version => vec![b"version".to_vec()],
        Request::Install => vec![b"install".to_vec()],
    }
}

/// Rule 17: an id is one plain file name.
fn check_id(id: &[u8]) {
    let shown = String::from_utf8_lossy(id);
    assert!((1..=64).contains(&id.len()), "an id of {} bytes", id.len());
    assert!(matches!(id[0], b'a'..=b'z' | b'0'..=b'9'), "the id {shown:?}");
    let plain = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-');
    assert!(id.iter().all(plain), "the id {shown:?}");
}
