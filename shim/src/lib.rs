//! The setuid leaf of locald: executes an OCI bundle that an untrusted caller made.
//!
//! Read `main.rs` for the order of things, `policy.rs` and `plan.rs` for what may happen, `sys.rs`
//! for every contact with the kernel, SECURITY.md for what a caller must never gain.
#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]

extern crate alloc;

// Rules that can be switched off, or counters in a file that everybody can write: never in what is installed. The
// profiles `mutants` and `coverage` of Cargo.toml have debug assertions, `release` has not.
#[cfg(all(locald_mutants, not(debug_assertions)))]
compile_error!("a release build has no `--cfg locald_mutants`: use `--profile=mutants`");
#[cfg(all(locald_coverage, not(debug_assertions)))]
compile_error!("a release build has no `--cfg locald_coverage`: use `--profile=coverage`");

pub mod accounts;
pub mod bind;
pub mod bundle;
pub mod caller;
pub mod cgroup;
pub mod cleanup;
pub mod config;
pub mod error;
pub mod execute;
pub mod host;
pub mod install;
pub mod json;
pub mod plan;
#[cfg(locald_mutants)]
mod plants;
pub mod policy;
pub mod policy_file;
pub mod reply;
pub mod request;
pub mod rules;
pub mod state;
pub mod status;
pub mod subids;
pub mod sys;

use alloc::format;
use alloc::vec::Vec;
use core::ffi::CStr;

use crate::caller::Entry;
use crate::error::{Context, Error};
use crate::reply::Object;
use crate::request::Request;
use crate::rules::{Rule, active};
use crate::status::StatusFd;

/// Version of the command line and of the status lines; `locald` works with exactly one.
pub const PROTOCOL: u32 = 1;
/// The digest of the sources this shim was built from, where the build recorded it.
pub const BUILD: &str = match option_env!("LOCALD_SHIM_SOURCE_DIGEST") {
    Some(digest) => digest,
    None => "unrecorded",
};

/// Everything, in order: parse, sanitise, do; the exit status.
///
/// `args` is the argument vector as execve(2) passed it, its first element included.
pub fn run(args: &[&'static CStr]) -> u8 {
    if let Err(error) = require_arguments(args) {
        return tell(&error);
    }
    let words: Vec<&[u8]> = args.iter().skip(1).map(|word| word.to_bytes()).collect();
    let request = match request::parse(&words) {
        Ok(request) => request,
        Err(error) => return tell(&error),
    };
    let status = match &request {
        Request::Run { status_fd, .. } => StatusFd(*status_fd),
        _ => StatusFd(None),
    };
    let mut entry = match caller::enter(status.0) {
        Ok(entry) => entry,
        Err(error) => return tell(&error),
    };
    let done = match &request {
        Request::Run { bundle, id, .. } => execute::run(&mut entry, bundle, id, &status),
        Request::Cleanup { target } => cleanup::run(&entry, target).map(|()| 0),
        Request::Bind { port, address } => bind::run(&entry, *address, *port).map(|()| 0),
        Request::Check => execute::check(&entry).and_then(|line| say(&line)),
        Request::Version => say(&version()),
        Request::Install => install::run(&entry).and_then(|line| say(&line)),
    };
    match done {
        Ok(exit_status) => exit_status,
        Err(error) => refuse(&entry, &status, &error),
    }
}

/// CVE-2021-4034: whoever reads argv[1] of an empty vector reads the environment.
fn require_arguments(args: &[&CStr]) -> Result<(), Error> {
    if args.is_empty() && active(Rule::ArgumentsPresent) {
        return Err(Error::refused("usage.empty", "the argument vector is empty", "pass a name"));
    }
    Ok(())
}

fn version() -> Vec<u8> {
    let answer = Object::new()
        .string("version", env!("CARGO_PKG_VERSION"))
        .number("protocol", PROTOCOL)
        .string("build", BUILD);
    // Whoever finds such a file on a host can tell what it is.
    #[cfg(locald_coverage)]
    let answer = answer.boolean("coverage", true);
    answer.line()
}

/// Writes an answer to stdout, with the caller's ids: root writes to no stream of his.
///
/// # Errors
/// `credentials.failed`, `stdout.failed`.
fn say(line: &[u8]) -> Result<u8, Error> {
    caller::become_caller_with(0).or_fail("credentials.failed", "the caller's ids")?;
    let why = match sys::write(1, line) {
        Ok(count) if count == line.len() => return Ok(0),
        Ok(count) => format!("only {count} bytes of the answer were taken"),
        Err(error) => format!("the answer was not taken: {error}"),
    };
    Err(Error::failed("stdout.failed", why, "call it with a standard output that can be written"))
}

fn refuse(entry: &Entry, status: &StatusFd, error: &Error) -> u8 {
    if status.require_suitable().is_ok() {
        status.refused(entry, error);
    }
    tell(error)
}

/// Writes the line of an error to stderr, with the caller's ids.
fn tell(error: &Error) -> u8 {
    if active(Rule::StreamsAsCaller) {
        caller::become_caller();
    }
    let _ = sys::write(2, &error.line());
    error.exit_status()
}

/// Switches rules off, as the file itself says or else the environment: test builds only (see [`rules`]).
#[cfg(locald_mutants)]
pub fn switch_rules_off(env: &[&'static CStr]) {
    fn names(entry: &'static CStr) -> Option<&'static [u8]> {
        entry.to_bytes().strip_prefix(rules::VARIABLE)?.strip_prefix(b"=")
    }
    // The compiler may not believe that it knows what stands in the place.
    let written =
        names(core::hint::black_box(rules::PLACE)).filter(|names| names.first() != Some(&b','));
    let said = written.or_else(|| env.iter().find_map(|entry| names(entry)));
    if said.is_some_and(|names| !rules::disable_from(names)) {
        sys::exit(2);
    }
}

/// Counts this process among all others, or ends it: test builds only (see [`sys::share_counters`]).
#[cfg(locald_coverage)]
pub fn count_where_all_do() {
    if let Err(error) = sys::share_counters() {
        caller::become_caller();
        let line = format!("locald-shim: failed [coverage.file]: {error}; hint: measure again\n");
        let _ = sys::write(2, line.as_bytes());
        sys::exit(125);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_argument_vector_is_refused() {
        // No kernel since 5.18 passes one on, so that no program can be called like this.
        assert_eq!(require_arguments(&[]).map_err(|error| error.code), Err("usage.empty"));
        assert_eq!(require_arguments(&[c"locald-shim"]), Ok(()));
    }
}
