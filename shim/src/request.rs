//! What the caller asks for: the command line, parsed strictly.
//!
//! Options are `--name VALUE` or `--name=VALUE`, each at most once, in any order; there are no
//! abbreviations, no short forms and no `--`. Nothing is opened here.

use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;
use core::net::{IpAddr, Ipv4Addr};

use crate::error::Error;
use crate::policy_file::{parse_address, parse_port};
use crate::rules::{Rule, active};

/// Longest container id, in bytes.
pub const MAX_ID_BYTES: usize = 64;

/// A container id: `[a-z0-9][a-z0-9_.-]{0,63}`. It can be no path but a plain file name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Id(CString);

impl Id {
    /// Checks `text`.
    ///
    /// # Errors
    /// `id.invalid`.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let starts = text.first().is_some_and(|&byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9'));
        let plain = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-');
        let valid = starts && text.len() <= MAX_ID_BYTES && text.iter().all(plain);
        match CString::new(text) {
            Ok(id) if valid || !active(Rule::ContainerId) => Ok(Self(id)),
            _ => {
                let why = "the container id is not a short, plain word";
                let hint = "use 1 to 64 of a-z, 0-9, `_`, `.` and `-`, the first a letter or digit";
                Err(Error::refused("id.invalid", why, hint))
            }
        }
    }

    /// The id as the kernel wants a file name.
    pub fn as_c_str(&self) -> &core::ffi::CStr {
        &self.0
    }

    /// The id as bytes, ASCII only.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// What `cleanup` looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Whatever dead containers of the caller left.
    All,
    /// One bundle, by path.
    Bundle(CString),
    /// One container.
    Id(Id),
}

/// One call of the shim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// `bundle run --bundle PATH --id ID [--status-fd N]`
    Run {
        /// As given; opened as the caller.
        bundle: CString,
        /// The container's id.
        id: Id,
        /// 3 or higher.
        status_fd: Option<i32>,
    },
    /// `cleanup [--bundle PATH | --id ID]`
    Cleanup {
        /// What to look at.
        target: Target,
    },
    /// `bind --port N [--address A]`
    Bind {
        /// 1 to 65535.
        port: u16,
        /// 127.0.0.1 unless given.
        address: IpAddr,
    },
    /// `check`
    Check,
    /// `version`
    Version,
    /// `install`
    Install,
}

/// Parses the command line after argv\[0\].
///
/// # Errors
/// `usage` (exit status 2) for a malformed line, `id.invalid` for an id that is not allowed.
pub fn parse(arguments: &[&[u8]]) -> Result<Request, Error> {
    match arguments {
        [b"bundle", b"run", rest @ ..] => parse_run(rest),
        [b"cleanup", rest @ ..] => parse_cleanup(rest),
        [b"bind", rest @ ..] => parse_bind(rest),
        [b"check"] => Ok(Request::Check),
        [b"version"] => Ok(Request::Version),
        [b"install"] => Ok(Request::Install),
        [] => Err(Error::usage("a verb is missing")),
        [verb @ (b"check" | b"version" | b"install"), ..] => {
            Err(Error::usage(format!("{} takes no argument", shown(verb))))
        }
        [b"bundle", ..] => Err(Error::usage("the only verb of a bundle is `bundle run`")),
        [verb, ..] => Err(Error::usage(format!("there is no verb {}", shown(verb)))),
    }
}

fn parse_run(arguments: &[&[u8]]) -> Result<Request, Error> {
    let [bundle, id, status_fd] = parse_options(arguments, ["--bundle", "--id", "--status-fd"])?;
    let bundle = bundle.ok_or_else(|| Error::usage("--bundle is missing"))?;
    let id = id.ok_or_else(|| Error::usage("--id is missing"))?;
    let bundle = parse_path(bundle)?;
    let status_fd = status_fd.map(parse_status_fd).transpose()?;
    Ok(Request::Run { bundle, id: Id::parse(id)?, status_fd })
}

fn parse_cleanup(arguments: &[&[u8]]) -> Result<Request, Error> {
    let target = match parse_options(arguments, ["--bundle", "--id"])? {
        [None, None] => Target::All,
        [Some(bundle), None] => Target::Bundle(parse_path(bundle)?),
        [None, Some(id)] => Target::Id(Id::parse(id)?),
        [Some(_), Some(_)] => return Err(Error::usage("--bundle and --id exclude each other")),
    };
    Ok(Request::Cleanup { target })
}

fn parse_bind(arguments: &[&[u8]]) -> Result<Request, Error> {
    let [port, address] = parse_options(arguments, ["--port", "--address"])?;
    let port = port
        .and_then(parse_port)
        .ok_or_else(|| Error::usage("--port needs a number from 1 to 65535"))?;
    let address = match address {
        Some(text) => parse_address(text)
            .ok_or_else(|| Error::usage("--address needs an IPv4 or IPv6 address of a host"))?,
        None => IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    Ok(Request::Bind { port, address })
}

/// Returns the value of each option in `names`, in their order.
fn parse_options<'a, const N: usize>(
    arguments: &[&'a [u8]],
    names: [&str; N],
) -> Result<[Option<&'a [u8]>; N], Error> {
    let mut values = [None; N];
    let mut rest = arguments.iter();
    while let Some(&argument) = rest.next() {
        let equals = argument.iter().position(|&byte| byte == b'=');
        let name = &argument[..equals.unwrap_or(argument.len())];
        let Some(index) = names.iter().position(|known| known.as_bytes() == name) else {
            return Err(Error::usage(format!("there is no option {}", shown(argument))));
        };
        let value = match equals {
            Some(equals) => Some(&argument[equals + 1..]),
            None => rest.next().copied(),
        };
        let value = value.ok_or_else(|| Error::usage(format!("{} needs a value", names[index])))?;
        if values[index].replace(value).is_some() {
            return Err(Error::usage(format!("{} is given twice", names[index])));
        }
    }
    Ok(values)
}

fn parse_path(path: &[u8]) -> Result<CString, Error> {
    match CString::new(path) {
        Ok(path) if !path.is_empty() => Ok(path),
        _ => Err(Error::usage("--bundle needs a path")),
    }
}

fn parse_status_fd(text: &[u8]) -> Result<i32, Error> {
    // The standard streams belong to the payload: a report among its output could not be told apart.
    let lowest = if active(Rule::StatusNumber) { 3 } else { 0 };
    crate::accounts::parse_id(text)
        .and_then(|number| i32::try_from(number).ok())
        .filter(|&number| number >= lowest)
        .ok_or_else(|| {
            Error::usage("--status-fd needs the number of an open descriptor, 3 or higher")
        })
}

/// A piece of the command line for an error: text, and not much of it.
fn shown(argument: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(&argument[..argument.len().min(64)]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use core::net::Ipv6Addr;

    fn request(line: &str) -> Result<Request, Error> {
        let arguments: Vec<&[u8]> =
            line.split(' ').filter(|word| !word.is_empty()).map(str::as_bytes).collect();
        parse(&arguments)
    }

    fn code(line: &str) -> &'static str {
        request(line).expect_err(line).code
    }

    fn run(status_fd: Option<i32>) -> Request {
        Request::Run { bundle: c"/b".into(), id: Id(c"web-1".into()), status_fd }
    }

    #[test]
    fn both_forms_of_an_option_are_known() {
        assert_eq!(request("bundle run --bundle /b --id web-1"), Ok(run(None)));
        assert_eq!(request("bundle run --id=web-1 --status-fd=3 --bundle=/b"), Ok(run(Some(3))));
        let equals = Request::Cleanup { target: Target::Bundle(c"a=b".into()) };
        assert_eq!(request("cleanup --bundle=a=b"), Ok(equals));
        assert_eq!(request("cleanup"), Ok(Request::Cleanup { target: Target::All }));
        assert_eq!(
            request("cleanup --id x"),
            Ok(Request::Cleanup { target: Target::Id(Id(c"x".into())) })
        );
        let bound = |address: [u8; 4]| Request::Bind { port: 80, address: address.into() };
        assert_eq!(request("bind --port 80"), Ok(bound([127, 0, 0, 1])));
        assert_eq!(request("bind --address=0.0.0.0 --port=80"), Ok(bound([0; 4])));
        let six = Request::Bind { port: 443, address: IpAddr::V6(Ipv6Addr::LOCALHOST) };
        assert_eq!(request("bind --port 443 --address ::1"), Ok(six));
        assert_eq!(request("check"), Ok(Request::Check));
        assert_eq!(request("version"), Ok(Request::Version));
        assert_eq!(request("install"), Ok(Request::Install));
    }

    #[test]
    fn what_is_malformed_is_a_usage_error() {
        let lines = [
            "",
            "run",
            "bundle",
            "bundle exec",
            "bundle run",
            "bundle run --bundle /b",
            "bundle run --id a",
            "bundle run --bundle",
            "bundle run --bundle /b --id a --id a",
            "bundle run --bundle= --id a",
            "bundle run --bundle /b --id a x",
            "bundle run --bundle /b --id a --",
            "bundle run -b /b --id a",
            "bundle run --bund /b --id a",
            "check x",
            "version --json",
            "install --force",
            "--version",
            "--help",
            "exec",
            "delete",
            "bind",
            "bind --port",
            "bind --port 0",
            "bind --port 65536",
            "bind --port -80",
            "bind --port http",
            "bind --port 80 --port 80",
            "bind --port 80 --address",
            "bind --port 80 --address localhost",
            "bind --port 80 --address=127.1",
            "bind --port 80 --address 0177.0.0.1",
            "bind --port 80 --address 127.0.0.1:80",
            "bind --port 80 --address [::1]",
            "bind --port 80 --address ::1%lo",
            "bind --port 80 --address ::ffff:127.0.0.1",
            "bind --port 80 --address fe80::1",
            "bind --port 80 --address 224.0.0.1",
            "bind --port 80 --protocol udp",
            "bind --port 80 --status-fd 3",
            "bind 80",
            "cleanup --bundle a --id b",
            "cleanup a",
            "cleanup --status-fd 3",
        ];
        for line in lines {
            let error = request(line).expect_err(line);
            assert_eq!((error.code, error.exit_status()), ("usage", 2), "{line}");
        }
        assert_eq!(parse(&[b"\xff\n"]).unwrap_err().code, "usage");
    }

    #[test]
    fn an_error_shows_some_of_what_was_said() {
        let why = |words: &[&[u8]]| String::from_utf8(parse(words).unwrap_err().why).unwrap();
        assert_eq!(why(&[b"exec"]), r#"there is no verb "exec""#);
        assert_eq!(why(&[b"cleanup", b"\xff\n"]), "there is no option \"\u{fffd}\\n\"");
        assert_eq!(why(&[&[b'a'; 65]]), format!("there is no verb {:?}", "a".repeat(64)));
    }

    const STATUS: &[&str] =
        &["", "0", "1", "2", "-1", "+3", "x", "3x", "2147483648", "99999999999"];

    #[test]
    fn the_status_descriptor_is_three_or_higher() {
        for number in STATUS {
            assert_eq!(
                code(&format!("bundle run --bundle /b --id a --status-fd={number}")),
                "usage",
                "{number}"
            );
        }
        assert!(request("bundle run --bundle /b --id a --status-fd=2147483647").is_ok());
    }

    fn bad_ids() -> Vec<Vec<u8>> {
        let words = [
            &b""[..],
            b"../x",
            b"a/b",
            b".",
            b"..",
            b".a",
            b"-a",
            b"_a",
            b"A",
            b"a b",
            b"a\n",
            b"\xff",
            "é".as_bytes(),
        ];
        let mut ids: Vec<Vec<u8>> = words.iter().map(|word| word.to_vec()).collect();
        ids.extend([vec![b'a'; 65], vec![b'a'; 300]]);
        ids
    }

    #[test]
    fn an_id_is_a_short_plain_word() {
        for id in [&b"a"[..], b"0", b"a.b_c-d", &[b'z'; 64]] {
            assert_eq!(Id::parse(id).unwrap().as_bytes(), id);
        }
        for id in bad_ids().iter().map(Vec::as_slice).chain([&b"a\0b"[..]]) {
            assert_eq!(Id::parse(id).unwrap_err().code, "id.invalid", "{id:?}");
        }
        assert_eq!(code("bundle run --bundle /b --id ../x"), "id.invalid");
        assert_eq!(code("cleanup --id=A"), "id.invalid");
    }

    #[test]
    #[cfg(locald_mutants)]
    fn without_their_rules_both_pass() {
        assert!(crate::rules::disable_from(b"17,32-number"));
        for id in bad_ids() {
            assert_eq!(Id::parse(&id).unwrap().as_bytes(), id);
        }
        assert!(request("bundle run --bundle /b --id a --status-fd=1").is_ok());
    }
}
