//! What parent and child say to each other while the container is being made.
//!
//! The child asks for its id maps and reports why it could not go on; the end of its pipe, closed by
//! execve, says that the payload runs.

use alloc::string::String;
use alloc::vec::Vec;

use crate::error::{Context, Error, Kind};
use crate::sys::{self, Fd};

/// Most bytes of a report: a sentence, and a hint.
const MAX_REPORT_BYTES: usize = 16 * 1024;

/// The child's side.
pub struct ChildEnd {
    reports: Fd,
    answers: Fd,
}

/// The parent's side.
pub struct ParentEnd {
    reports: Fd,
    answers: Fd,
}

/// What the parent hears.
pub enum Report {
    /// The child is in its user namespace and wants its maps.
    WantsMaps,
    /// The child gave up.
    Error(Error),
    /// The child is ready and executes the payload now.
    Executing,
    /// The pipe has ended: the payload was executed, or the child is dead.
    End,
}

/// A link, both of its ends close-on-exec.
///
/// # Errors
/// `host.kernel-call`.
pub fn pair() -> Result<(ParentEnd, ChildEnd), Error> {
    let (reports_in, reports_out) = sys::pipe().or_fail("host.kernel-call", "pipe")?;
    let (answers_in, answers_out) = sys::pipe().or_fail("host.kernel-call", "pipe")?;
    Ok((
        ParentEnd { reports: reports_in, answers: answers_out },
        ChildEnd { reports: reports_out, answers: answers_in },
    ))
}

impl ChildEnd {
    /// Asks for the id maps and waits until they are written. False if the parent is gone.
    pub fn ask_for_maps(&self) -> bool {
        sys::write(self.reports.number(), b"m") == Ok(1)
            && sys::read(self.answers.number(), &mut [0]) == Ok(1)
    }

    /// Tells the parent that nothing is left to be done but execve.
    ///
    /// Without this word the end of the pipe means that the child was killed, not the payload.
    pub fn executing(&self) {
        let _ = sys::write(self.reports.number(), b"x");
    }

    /// Tells the parent why there will be no payload.
    pub fn report(&self, error: &Error) {
        let (kind, status) = match error.kind {
            Kind::Refused => (b'r', 0),
            Kind::Failed | Kind::Usage => (b'f', 0),
            Kind::Exec(status) => (b'x', status),
        };
        let mut text = Vec::with_capacity(error.why.len() + 256);
        text.extend_from_slice(&[b'e', kind, status]);
        for field in [error.code.as_bytes(), error.hint.as_bytes(), &error.why] {
            text.extend_from_slice(field);
            text.push(0);
        }
        let _ = sys::write(self.reports.number(), &text);
    }

    /// Closes everything from 3 on but `kept` and what a report goes through.
    ///
    /// # Errors
    /// `host.kernel-call`.
    pub fn close_others(&self, kept: &Fd) -> Result<(), Error> {
        sys::close_all_but(&[kept.number(), self.reports.number()])
            .or_fail("host.kernel-call", "close_range")
    }

    /// Ends the reports, after [`ChildEnd::close_others`].
    pub fn hang_up(self) {
        // The number of the answers is closed already.
        let _ = self.answers.leak();
    }

    /// Keeps only the reports open, as descriptor 3; everything from 4 on is closed.
    ///
    /// Ends this process where that cannot be: the payload must not hold what its supervisor reads.
    pub fn keep_reports_only(self) -> Self {
        let kept = 3;
        let moved = match self.reports.number() {
            3 => Ok(()),
            other => sys::duplicate_onto(other, kept),
        };
        let alone =
            moved.and_then(|()| sys::set_cloexec(kept)).and_then(|()| sys::close_all_but(&[kept]));
        if alone.is_err() {
            sys::exit(125);
        }
        // Both numbers are closed, or are 3 itself: neither may be closed again.
        let (_, _) = (self.reports.leak(), self.answers.leak());
        Self { reports: Fd::adopt(kept), answers: Fd::adopt(-1) }
    }
}

impl ParentEnd {
    /// The descriptor that becomes readable with each report.
    pub fn descriptor(&self) -> i32 {
        self.reports.number()
    }

    /// The next report; waits for it.
    pub fn next(&self) -> Report {
        match sys::read_once(self.reports.number(), MAX_REPORT_BYTES) {
            Ok(text) => parse_report(&text),
            Err(_) => Report::End,
        }
    }

    /// Tells the child that its maps are written.
    ///
    /// # Errors
    /// `host.kernel-call`: it would wait until its time is over.
    pub fn maps_written(&self) -> Result<(), Error> {
        sys::write(self.answers.number(), b"g").map(drop).or_fail("host.kernel-call", "write")
    }
}

fn parse_report(text: &[u8]) -> Report {
    match text {
        [b'm', ..] => Report::WantsMaps,
        [b'x'] => Report::Executing,
        // execve has failed before the parent looked.
        [b'x', rest @ ..] => parse_report(rest),
        [b'e', rest @ ..] if rest.len() > 2 => Report::Error(parse_error(rest)),
        _ => Report::End,
    }
}

fn parse_error(text: &[u8]) -> Error {
    let kind = match (text[0], text[1]) {
        (b'r', _) => Kind::Refused,
        (b'x', status) => Kind::Exec(status),
        _ => Kind::Failed,
    };
    let mut fields = text[2..].split(|&byte| byte == 0);
    let mut word = || String::from_utf8_lossy(fields.next().unwrap_or_default()).into_owned();
    let (code, hint) = (word().leak(), word().leak());
    Error { kind, code, hint, why: fields.next().unwrap_or_default().to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_told_apart_even_when_they_come_together() {
        assert!(matches!(parse_report(b"m"), Report::WantsMaps));
        assert!(matches!(parse_report(b"x"), Report::Executing));
        for text in [&b""[..], b"e", b"ef", b"?"] {
            assert!(matches!(parse_report(text), Report::End), "{text:?}");
        }
        let Report::Error(error) = parse_report(b"xex\x7fexec.not-found\0hint\0why\0") else {
            panic!("no error");
        };
        assert_eq!(
            (error.kind, error.code, error.hint),
            (Kind::Exec(127), "exec.not-found", "hint")
        );
        assert_eq!(error.why, b"why");
    }
}
