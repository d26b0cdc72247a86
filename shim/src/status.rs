//! What the shim tells its caller beside the exit status: one JSON object a line, on one descriptor.
//!
//! The descriptor is the caller's choice, so root never writes to it: every write happens with the
//! caller's effective ids (the class of CVE-2012-0056, attack 32).

use alloc::vec::Vec;

use crate::caller::Entry;
use crate::error::Error;
use crate::reply::Object;
use crate::rules::{Rule, active};
use crate::sys;

/// How long a full pipe may hold the shim, in milliseconds.
const PATIENCE_MS: u64 = 1000;

/// The descriptor that `--status-fd` names, if there is one.
#[derive(Clone, Copy, Debug)]
pub struct StatusFd(pub Option<i32>);

impl StatusFd {
    /// Checks that it is an open pipe or AF_UNIX socket, and closes it over execve.
    ///
    /// # Errors
    /// `status-fd.type`.
    pub fn require_suitable(&self) -> Result<(), Error> {
        let Some(fd) = self.0 else { return Ok(()) };
        let suitable = sys::stat(fd).is_ok_and(|status| match status.kind() {
            libc::S_IFIFO => true,
            libc::S_IFSOCK => sys::is_local_socket(fd),
            _ => !active(Rule::StatusType),
        });
        if suitable && sys::set_cloexec(fd).is_ok() {
            return Ok(());
        }
        Err(Error::refused(
            "status-fd.type",
            "the status descriptor is neither an open pipe nor a local socket",
            "pass the write end of a pipe",
        ))
    }

    /// The payload runs; `pid` is that of the container's first process, as the caller sees it.
    pub fn started(&self, entry: &Entry, pid: i32) {
        self.write(entry, Object::new().string("event", "started").number("pid", pid));
    }

    /// The payload has ended.
    pub fn exited(&self, entry: &Entry, status: u8) {
        self.write(entry, Object::new().string("event", "exited").number("status", status));
    }

    /// There was no payload.
    pub fn refused(&self, entry: &Entry, error: &Error) {
        let line = Self::refusal(error);
        entry.act(|| self.write_line(&line));
    }

    /// The line of [`StatusFd::refused`].
    pub fn refusal(error: &Error) -> Vec<u8> {
        let event = Object::new().string("event", "refused").string("code", error.code);
        event.string("why", &error.why).line()
    }

    fn write(&self, entry: &Entry, event: Object) {
        entry.act(|| self.write_line(&event.line()));
    }

    /// Writes a line with the ids that this thread has: they must be the caller's. Allocates nothing.
    pub fn write_line(&self, line: &[u8]) {
        let Some(fd) = self.0 else { return };
        // Never waits for a reader for long: a line is shorter than PIPE_BUF, so what can be
        // written at all is written whole. A reader that is gone gives EPIPE, not a signal.
        let mut wait = [sys::Poll::writable(fd)];
        if sys::poll(&mut wait, Some(PATIENCE_MS)).is_ok_and(|ready| ready > 0) {
            let _ = sys::write(fd, line);
        }
    }
}
