//! The shim's twin: the same command line, policy and plan, carried out by youki's libcontainer.
//!
//! For the conformance kit's guests only, and never to be installed set-user-id on a host that anybody
//! uses: README.md says why. What it shows is which clauses another engine keeps under the same plan.

mod engine;
mod maps;
mod place;
mod spec;

use std::env;
use std::ffi::CString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;

use locald_shim::bundle::{Bundle, Sources};
use locald_shim::caller::{self, Entry};
use locald_shim::error::Error;
use locald_shim::plan::Plan;
use locald_shim::request::{self, Request};
use locald_shim::status::StatusFd;
use locald_shim::sys::{self, At};
use locald_shim::{execute, host, policy_file};

fn main() -> ExitCode {
    let arguments: Vec<Vec<u8>> = env::args_os().map(OsStringExt::into_vec).collect();
    if let Some(done) = maps::run_if_called_as_one(&arguments) {
        return done;
    }
    let words: Vec<&[u8]> = arguments.iter().skip(1).map(Vec::as_slice).collect();
    let (target, id, status) = match request::parse(&words) {
        Ok(Request::Run { bundle, id, status_fd }) => (bundle, id, StatusFd(status_fd)),
        Ok(Request::Version) => return say("{\"version\":\"libcontainer 0.7.0\",\"twin\":true}\n"),
        Ok(_) => return tell(&Error::usage("the twin runs bundles and nothing else")),
        Err(error) => return tell(&error),
    };
    close_stand_in();
    let mut entry = match caller::enter(status.0) {
        Ok(entry) => entry,
        Err(error) => return tell(&error),
    };
    let name = String::from_utf8_lossy(id.as_bytes()).into_owned();
    match decide(&mut entry, &target, &status)
        .and_then(|(plan, mounts)| engine::run(&entry, &plan, mounts, &name, &status))
    {
        Ok(exit_status) => ExitCode::from(exit_status),
        Err(error) => {
            if status.require_suitable().is_ok() {
                status.refused(&entry, &error);
            }
            tell(&error)
        }
    }
}

/// Closes /dev/full, which glibc opens for writing in the place of a setuid program's closed standard input.
///
/// The shim starts without a C library and so opens /dev/null there itself; `caller::enter` does that here too.
fn close_stand_in() {
    const ACCESS_MODE: i32 = 3;
    const WRITE_ONLY: i32 = 1;
    let identity = |found: sys::Stat| (found.device, found.inode);
    let full = sys::stat_at(At::Cwd, c"/dev/full").map(identity).ok();
    let writes_only = sys::status_flags(0).is_ok_and(|flags| flags & ACCESS_MODE == WRITE_ONLY);
    if writes_only && full.is_some() && sys::stat(0).map(identity).ok() == full {
        let _ = sys::close_range(0, 0);
    }
}

/// What the shim does up to the plan, by its own code; and the caller's directories, opened as him.
fn decide(
    entry: &mut Entry,
    bundle: &CString,
    status: &StatusFd,
) -> Result<(Plan, place::Mounts), Error> {
    entry.require_privilege()?;
    let rules = host::permit(&entry.caller)?;
    status.require_suitable()?;
    let (plan, sources) = caller::bounded(status, || open(entry, bundle, &rules))?;
    let mounts = place::Mounts::copy(&plan, sources)?;
    Ok((plan, mounts))
}

fn open(
    entry: &mut Entry,
    bundle: &CString,
    rules: &policy_file::Policy,
) -> Result<(Plan, Sources), Error> {
    let (bundle, text) = entry.act(|| {
        let bundle = Bundle::open(bundle, entry)?;
        let text = bundle.read_config()?;
        Ok((bundle, text))
    })?;
    let plan = execute::decide(entry, &text, rules)?;
    spec::require_possible(&plan)?;
    let sources = entry.act(|| bundle.open_sources(&plan))?;
    Ok((plan, sources))
}

fn say(line: &str) -> ExitCode {
    caller::become_caller();
    ExitCode::from(u8::from(io::stdout().write_all(line.as_bytes()).is_err()))
}

/// Writes the line of an error to stderr, with the caller's ids.
fn tell(error: &Error) -> ExitCode {
    caller::become_caller();
    let _ = io::stderr().write_all(&error.line());
    ExitCode::from(error.exit_status())
}
