//! PID 1 where the config asks for one: reaps, and passes signals on.
//!
//! A payload that is PID 1 itself ignores TERM, INT and TSTP unless it handles them
//! (pid_namespaces(7)). This stage has dropped everything already: it has the payload's ids, cannot be
//! traced, and holds nothing open.

use super::link::ChildEnd;
use crate::caller::FORWARDED;
use crate::error::{Context, Error};
use crate::execute::seccomp;
use crate::plan::Process;
use crate::sys::{self, At, Fd, Poll, Side};

/// Signals that a keyboard sends: to the whole foreground job, not to its leader alone.
const KEYBOARD: sys::SignalSet =
    sys::signal_set(&[libc::SIGINT, libc::SIGQUIT, libc::SIGTSTP, libc::SIGCONT, libc::SIGWINCH]);

const CODE: &str = "host.kernel-call";

/// Splits off the payload, which goes on with `payload`, and stays behind as PID 1.
pub fn split(process: &Process, link: ChildEnd, payload: impl FnOnce(&Process, ChildEnd)) -> ! {
    let watched = FORWARDED | sys::signal_set(&[libc::SIGCHLD]);
    // Without the mask the payload's end would go unnoticed.
    let sides = sys::set_signal_mask(watched | sys::signal_set(&[libc::SIGPIPE]))
        .and_then(|_| sys::clone_process(0))
        .or_fail(CODE, "the payload's process");
    match sides {
        Ok(Side::Child) => {
            // With a terminal the payload leads a session, to control it. Without, it is a job of
            // PID 1's session: a process group whose leader's parent is elsewhere in its session is
            // not orphaned, so TSTP stops it as it should.
            let _ = if process.terminal.is_some() {
                sys::new_session()
            } else {
                sys::new_process_group()
            };
            payload(process, link);
            sys::exit(125)
        }
        Ok(Side::Parent(pid, _)) => match settle(watched, &link) {
            Ok(signals) => {
                link.hang_up();
                supervise(pid, &signals)
            }
            Err(error) => give_up(&link, &error),
        },
        Err(error) => give_up(&link, &error),
    }
}

/// Our end is the payload's too, whatever it does by now.
fn give_up(link: &ChildEnd, error: &Error) -> ! {
    link.report(error);
    sys::exit(125)
}

/// Lets go of everything but the signals. The supervisor hears the link's end only once this is done, so
/// that nothing that goes wrong here looks like a payload's end.
fn settle(watched: sys::SignalSet, link: &ChildEnd) -> Result<Fd, Error> {
    let signals = sys::signal_fd(watched).or_fail(CODE, "signalfd")?;
    // The payload's streams are its own: a pipe ends when the payload closes it, not when PID 1 goes.
    if let Ok(null) = sys::open(At::Cwd, c"/dev/null", libc::O_RDWR, 0, 0) {
        for stream in 0..3 {
            let _ = sys::duplicate_onto(null.number(), stream);
        }
    }
    let _ = sys::change_dir(c"/");
    seccomp::install()?;
    link.close_others(&signals)?;
    Ok(signals)
}

fn supervise(payload: i32, signals: &Fd) -> ! {
    loop {
        let _ = sys::poll(&mut [Poll::readable(signals.number())], None);
        while let Some(signal) = sys::next_signal(signals) {
            match signal {
                libc::SIGCHLD => reap(payload),
                _ if KEYBOARD & sys::signal_set(&[signal]) != 0 => {
                    // Until it leads a group of its own, the payload alone.
                    if sys::kill(-payload, signal).is_err() {
                        let _ = sys::kill(payload, signal);
                    }
                }
                _ => {
                    let _ = sys::kill(payload, signal);
                }
            }
        }
    }
}

/// Takes in whoever has ended; ends with the payload's status, and the kernel ends the rest.
fn reap(payload: i32) {
    loop {
        match sys::reap_any() {
            Ok(Some((pid, status))) if pid == payload => sys::exit(status),
            Ok(Some(_)) => {}
            Ok(None) => return,
            // The payload may have been among what could not be taken in: better no container.
            Err(_) => sys::exit(125),
        }
    }
}
