//! PID 1 where the config asks for one: reaps, and passes signals on.
//!
//! A payload that is PID 1 itself ignores TERM, INT and TSTP unless it handles them
//! (pid_namespaces(7)). This stage has dropped everything already: it has the payload's ids, cannot be
//! traced, and holds nothing open.

use crate::caller::FORWARDED;
use crate::execute::seccomp;
use crate::plan::Process;
use crate::rules::{Rule, active};
use crate::sys::{self, At, Poll, Side};

/// Signals that a keyboard sends: to the whole foreground job, not to its leader alone.
const KEYBOARD: sys::SignalSet =
    sys::signal_set(&[libc::SIGINT, libc::SIGQUIT, libc::SIGTSTP, libc::SIGCONT, libc::SIGWINCH]);

/// Splits off the payload, which goes on with `payload`, and stays behind as PID 1.
pub fn split(process: &Process, payload: impl FnOnce(&Process)) -> ! {
    let watched = FORWARDED | sys::signal_set(&[libc::SIGCHLD]);
    let _ = sys::set_signal_mask(watched | sys::signal_set(&[libc::SIGPIPE]));
    match sys::clone_process(0) {
        Ok(Side::Child) => {
            // With a terminal the payload leads a session, to control it. Without, it is a job of
            // PID 1's session: a process group whose leader's parent is elsewhere in its session is
            // not orphaned, so TSTP stops it as it should.
            let _ = if process.terminal.is_some() {
                sys::new_session()
            } else {
                sys::new_process_group()
            };
            payload(process);
            sys::exit(125)
        }
        Ok(Side::Parent(pid, _)) => supervise(pid, watched),
        Err(_) => sys::exit(125),
    }
}

fn supervise(payload: i32, watched: sys::SignalSet) -> ! {
    let Ok(signals) = sys::signal_fd(watched) else { sys::exit(125) };
    // The payload's streams are its own: a pipe ends when the payload closes it, not when PID 1 goes.
    if let Ok(null) = sys::open(At::Cwd, c"/dev/null", libc::O_RDWR, 0, 0) {
        for stream in 0..3 {
            let _ = sys::duplicate_onto(null.number(), stream);
        }
    }
    let kept = signals.number();
    sys::close_all_but(&[kept]);
    let _ = sys::change_dir(c"/");
    if active(Rule::TerminalIoctls) && sys::install_filter(&seccomp::filter()).is_err() {
        sys::exit(125);
    }
    loop {
        let _ = sys::poll(&mut [Poll::readable(kept)], None);
        while let Some(signal) = sys::next_signal(&signals) {
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
    while let Ok(Some((pid, status))) = sys::reap_any() {
        if pid == payload {
            sys::exit(status);
        }
    }
}
