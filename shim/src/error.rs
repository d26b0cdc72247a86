//! The one error type: a stable code, a sentence, a mend, and how the process ends.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::sys;

/// Whether a rule said no, or a system call did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A rule of the policy forbids what was asked.
    Refused,
    /// Allowed, but the host could not do it.
    Failed,
    /// The command line is malformed (exit status 2).
    Usage,
    /// The payload could not be executed (exit status 126 or 127).
    Exec(u8),
}

/// What happened, what to do about it, and how the process ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Who said no.
    pub kind: Kind,
    /// Stable and documented: tests and `locald` use it, never the wording.
    pub code: &'static str,
    /// One sentence, without a newline. Bytes: it may quote a path.
    pub why: Vec<u8>,
    /// What mends it.
    pub hint: &'static str,
}

impl Error {
    /// A rule forbids what was asked.
    pub fn refused(code: &'static str, why: impl Into<String>, hint: &'static str) -> Self {
        let why: String = why.into();
        Self { kind: Kind::Refused, code, why: why.into_bytes(), hint }
    }

    /// The host could not do what is allowed.
    pub fn failed(code: &'static str, why: impl Into<String>, hint: &'static str) -> Self {
        let why: String = why.into();
        Self { kind: Kind::Failed, code, why: why.into_bytes(), hint }
    }

    /// The command line is malformed.
    pub fn usage(why: impl Into<String>) -> Self {
        let why: String = why.into();
        let hint = "see `locald-shim` in the manual, reference/shim";
        Self { kind: Kind::Usage, code: "usage", why: why.into_bytes(), hint }
    }

    /// The exit status that tells this error (sysexits are not used: podman's and runc's are).
    pub fn exit_status(&self) -> u8 {
        match self.kind {
            Kind::Refused | Kind::Failed => 125,
            Kind::Usage => 2,
            Kind::Exec(status) => status,
        }
    }

    /// The line for stderr: `locald-shim: refused [CODE]: why; hint: what to do`.
    ///
    /// Control characters of a quoted path are shown as `?`: the line stays one line and sends no
    /// escape sequence to a terminal.
    pub fn line(&self) -> Vec<u8> {
        let verb = match self.kind {
            Kind::Refused | Kind::Usage => "refused",
            Kind::Failed | Kind::Exec(_) => "failed",
        };
        let mut line = Vec::with_capacity(self.why.len() + self.hint.len() + 64);
        for part in ["locald-shim: ", verb, " [", self.code, "]: "] {
            line.extend_from_slice(part.as_bytes());
        }
        // Characters, not bytes: C1 controls are two bytes of UTF-8, and terminals act on them too.
        for character in String::from_utf8_lossy(&self.why).chars() {
            let shown = if character.is_control() { '?' } else { character };
            line.extend_from_slice(shown.encode_utf8(&mut [0; 4]).as_bytes());
        }
        if !self.hint.is_empty() {
            line.extend_from_slice(b"; hint: ");
            line.extend_from_slice(self.hint.as_bytes());
        }
        line.push(b'\n');
        line
    }
}

/// Says what a system call was for, where it failed.
pub trait Context<T> {
    /// Turns an error number into `failed [code]: what: words`.
    ///
    /// # Errors
    /// That error, if there is one.
    fn or_fail(self, code: &'static str, what: &str) -> Result<T, Error>;
}

impl<T> Context<T> for sys::Result<T> {
    fn or_fail(self, code: &'static str, what: &str) -> Result<T, Error> {
        self.map_err(|error| {
            Error::failed(
                code,
                format!("{what}: {error}"),
                "`locald doctor` shows what this host allows",
            )
        })
    }
}
