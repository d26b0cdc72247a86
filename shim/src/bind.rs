//! `bind`: a listening TCP socket on a port that the policy lists, sent to the caller over stdin.
//!
//! The socket is made, listens and is sent with the caller's ids: it is his in /proc/net/tcp and to a
//! packet filter, and shares no port with another user's. All that root lends him is one bind(2) with
//! CAP_NET_BIND_SERVICE (attack 45).

use alloc::format;
use core::net::IpAddr;

use crate::caller::{self, Entry};
use crate::error::{Context, Error};
use crate::host;
#[cfg(locald_mutants)]
use crate::plants;
use crate::reply::Object;
use crate::rules::{Rule, active};
use crate::sys::{self, Fd};

/// The socket over which the new one is sent.
const STDIN: i32 = 0;
/// CAP_NET_BIND_SERVICE of capabilities(7), as a set.
const NET_BIND_SERVICE: u64 = 1 << 10;
const RECEIVE: &str = "pass one end of socketpair(2) as stdin and receive from the other";

/// Binds, listens, sends.
///
/// # Errors
/// `bind.port`, `bind.address`, `bind.stdin`, `bind.network`, `bind.in-use`, `bind.unavailable`,
/// `bind.failed`, `credentials.failed`, and what [`crate::execute::run`] refuses about caller and policy.
pub fn run(entry: &Entry, address: IpAddr, port: u16) -> Result<(), Error> {
    entry.require_privilege()?;
    host::require_single_link()?;
    host::permit(&entry.caller)?.permits_bind(address, port)?;
    require_receiver(entry)?;
    host::require_own_network()?;

    let socket = || make_socket(address, port);
    let early = if active(Rule::BindOwner) { None } else { Some(socket()?) };
    // For good: from here on this is a process of the caller's that may do one thing more than others.
    if active(Rule::BindCapability) {
        caller::become_caller_with(NET_BIND_SERVICE)
            .or_fail("credentials.failed", "the caller's ids")?;
    }
    let socket = early.map_or_else(socket, Ok)?;
    #[cfg(locald_mutants)]
    plants::share_port(&socket);
    let fault = |error| cannot(error, address, port);
    with_capability(|| sys::bind(&socket, address, port)).map_err(fault)?;
    // Whoever listens first has the port: another socket may have been bound to it in between.
    sys::listen(&socket).map_err(fault)?;
    let said = Object::new()
        .string("event", "bound")
        .string("address", format!("{address}"))
        .number("port", port);
    sys::send_descriptor(STDIN, &socket, &said.line()).map_err(|error| {
        let why = format!("the new socket could not be sent over stdin: {error}");
        Error::failed("bind.stdin", why, RECEIVE)
    })
}

fn make_socket(address: IpAddr, port: u16) -> Result<Fd, Error> {
    sys::tcp_socket(address).map_err(|error| cannot(error, address, port))
}

/// Does `step` with the one capability in effect, and gives it up for good.
fn with_capability<T>(step: impl FnOnce() -> sys::Result<T>) -> sys::Result<T> {
    if !active(Rule::BindCapability) {
        return step();
    }
    sys::set_capabilities(NET_BIND_SERVICE, NET_BIND_SERVICE, 0)?;
    let result = step();
    sys::set_capabilities(0, 0, 0)?;
    result
}

/// Checks that stdin is a connected AF_UNIX socket, a stream or packets in sequence, whose other end
/// the caller made or took up: what is granted to him is sent to nobody else.
fn require_receiver(entry: &Entry) -> Result<(), Error> {
    let is = |option, value| sys::socket_option(STDIN, option) == Ok(value);
    let local = sys::is_local_socket(STDIN)
        && (is(libc::SO_TYPE, libc::SOCK_STREAM) || is(libc::SO_TYPE, libc::SOCK_SEQPACKET));
    if active(Rule::BindSocket) && !(local && sys::is_connected(STDIN)) {
        return Err(unsuitable("stdin is no connected local socket"));
    }
    if active(Rule::BindPeer) && sys::peer_uid(STDIN) != Ok(entry.caller.uid) {
        return Err(unsuitable("the other end of stdin is not the caller's own"));
    }
    Ok(())
}

fn unsuitable(why: &str) -> Error {
    Error::refused("bind.stdin", why, RECEIVE)
}

fn cannot(error: sys::Errno, address: IpAddr, port: u16) -> Error {
    // 127.0.0.1:80 and [::1]:80.
    let place = core::net::SocketAddr::new(address, port);
    match error.0 {
        libc::EADDRINUSE => Error::failed(
            "bind.in-use",
            format!("{place} is in use"),
            "`ss -ltn` shows what listens; end it, or use another port",
        ),
        libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT => Error::failed(
            "bind.unavailable",
            format!("{place}: this host does not have that address"),
            "`ip address` shows those that it has",
        ),
        _ => Error::failed(
            "bind.failed",
            format!("{place}: {error}"),
            "`locald doctor` shows what this host allows",
        ),
    }
}
