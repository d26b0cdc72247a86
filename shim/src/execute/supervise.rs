//! The parent: writes the maps, lets go of its privilege, waits, forwards.

use alloc::format;
use core::ffi::CStr;

use super::link::{ParentEnd, Report};
use super::terminal::Terminal;
use crate::bundle::c_string;
use crate::caller::{Entry, FORWARDED, SLOW_FILES};
use crate::error::{Context, Error};
use crate::plan::{Mode, Plan};
use crate::policy::render_map;
use crate::rules::{Rule, active};
use crate::status::StatusFd;
use crate::sys::{self, At, Fd, Poll};

/// How long a container may take to be made, in milliseconds: only the caller's own file systems
/// (FUSE, a stopped server) can take long, and they hold only his call. Test builds wait for less.
const SETUP_MS: u64 = if cfg!(locald_mutants) { 6_000 } else { 60_000 };
/// How long a process may take to end that was killed, in milliseconds.
const KILLED_MS: u64 = 5_000;
/// How long the relay may take to end once it was told to, in milliseconds.
const RELAY_MS: u64 = 2_000;
/// What ends a program that does not handle it.
const ENDING: sys::SignalSet =
    sys::signal_set(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT]);
/// CAP_KILL of capabilities(7).
const CAP_KILL: u64 = 1 << 5;

/// A container that is being made, or runs.
pub struct Container {
    /// Its first process, as the caller sees it.
    pub pid: i32,
    /// The same, as nobody can mistake it.
    pub child: Fd,
    /// What the caller sends us, but TSTP.
    pub signals: Fd,
    /// Tells that TSTP waits; never read.
    pub stop: Fd,
    /// Its terminal, until the relay has it.
    pub terminal: Option<Terminal>,
}

/// Sees the container to its end; its exit status.
///
/// # Errors
/// What the child reports, `setup.timeout`, `setup.killed`, `terminal.failed`.
pub fn run(
    entry: &Entry,
    plan: &Plan,
    mut container: Container,
    link: ParentEnd,
    status: &StatusFd,
) -> Result<u8, Error> {
    let set_up = await_payload(plan, &container, &link);
    drop(link);
    let relay = set_up.and_then(|()| match container.terminal.take() {
        Some(terminal) => terminal.start_relay().map(Some),
        None => Ok(None),
    });
    // Of root's powers only that of sending signals is left; euid 0 still owns the state directory.
    let limited = sys::set_capabilities(CAP_KILL, CAP_KILL, 0);
    let relay = match relay
        .and_then(|relay| limited.or_fail("credentials.failed", "capset").map(|()| relay))
    {
        Ok(relay) => relay,
        Err(error) => {
            let _ = sys::pidfd_kill(&container.child, libc::SIGKILL);
            let _ = sys::wait_within(&container.child, KILLED_MS);
            return Err(error);
        }
    };
    status.started(entry, container.pid);
    let (ended, ending) = forward(&container, relay.is_some());
    if let Some(relay) = relay {
        finish(&relay, &container.signals, ending)?;
    }
    ended.or_fail("host.kernel-call", "waitid")
}

/// Answers the child until its payload is executed.
fn await_payload(plan: &Plan, container: &Container, link: &ParentEnd) -> Result<(), Error> {
    let deadline = sys::now_ms() + SETUP_MS;
    let mut executing = false;
    let mut maps_due = matches!(plan.mode, Mode::Mapped { .. });
    loop {
        let left = deadline.saturating_sub(sys::now_ms());
        // Only a child that asks for its maps waits for us: all else that it says is in the pipe, with room
        // for it, when it ends or executes. Waking for each word would cost both of us a processor.
        let wanted = if maps_due { Poll::readable } else { Poll::end };
        let mut events = [wanted(link.descriptor())];
        let ready = sys::poll(&mut events, Some(left)).or_fail("host.kernel-call", "ppoll")?;
        if ready == 0 && (left == 0 || sys::now_ms() >= deadline) && active(Rule::BoundedWaits) {
            return Err(Error::failed(
                "setup.timeout",
                "the container was not ready in time",
                SLOW_FILES,
            ));
        }
        if ready == 0 {
            continue;
        }
        match link.next() {
            Report::WantsMaps => {
                write_maps(&plan.mode, container.pid)?;
                link.maps_written()?;
                maps_due = false;
            }
            Report::Error(error) => return Err(error),
            Report::Executing => executing = true,
            Report::End if executing => return Ok(()),
            Report::End => {
                return Err(Error::failed(
                    "setup.killed",
                    "the process that makes the container was killed",
                    "see whether memory ran out, or what else killed it",
                ));
            }
        }
    }
}

/// Writes the maps that the plan computed. The child has not been waited for, so its pid is its own.
fn write_maps(mode: &Mode, pid: i32) -> Result<(), Error> {
    let Mode::Mapped { uids, gids, setgroups } = mode else { return Ok(()) };
    let write = |name: &str, text: &[u8]| {
        let path = c_string(format!("/proc/{pid}/{name}"));
        let path: &CStr = &path;
        let written = sys::open(At::Cwd, path, libc::O_WRONLY, 0, 0)
            .and_then(|file| sys::write(file.number(), text));
        written.map(drop).or_fail("map.failed", name)
    };
    if !*setgroups && active(Rule::Groups) {
        write("setgroups", b"deny")?;
    }
    write("gid_map", &render_map(gids))?;
    write("uid_map", &render_map(uids))
}

/// Forwards signals until the container's first process has ended: its exit status, and whether one
/// of them was to end it.
fn forward(container: &Container, has_terminal: bool) -> (sys::Result<u8>, bool) {
    let mut ending = false;
    loop {
        let mut events = [&container.child, &container.signals, &container.stop]
            .map(|source| Poll::readable(source.number()));
        let _ = sys::poll(&mut events, None);
        if events[2].ready() {
            pass_on(container, libc::SIGTSTP);
            stop_like_a_job();
            if !sys::is_pending(libc::SIGCONT) {
                // Nobody continued us, so we did not stop: nor does the payload, for nobody would know.
                pass_on(container, libc::SIGCONT);
            }
        }
        while let Some(signal) = sys::next_signal(&container.signals) {
            // The relay gives the terminal its new size, of which the kernel tells the payload; told
            // any sooner, it would find the old one.
            if signal == libc::SIGWINCH && has_terminal {
                continue;
            }
            pass_on(container, signal);
            ending |= ENDING & sys::signal_set(&[signal]) != 0;
        }
        if events[0].ready() {
            return (sys::wait_for(&container.child), ending);
        }
    }
}

fn pass_on(container: &Container, signal: i32) {
    let _ = if active(Rule::Pidfds) {
        sys::pidfd_kill(&container.child, signal)
    } else {
        sys::kill(container.pid, signal)
    };
}

/// Lets the TSTP that waits do what it does to any job of a shell.
///
/// The kernel decides, not we by a SIGSTOP of our own: a CONT that comes first takes the TSTP away, where
/// our own stop would take away the CONT, and last for ever. In an orphaned process group, which nobody
/// could continue, it does nothing. CONT wakes us, waits to be read, and is passed on then.
fn stop_like_a_job() {
    let tstp = sys::signal_set(&[libc::SIGTSTP]);
    if let Ok(mask) = sys::set_signal_mask(FORWARDED & !tstp | sys::signal_set(&[libc::SIGPIPE])) {
        let _ = sys::set_signal_mask(mask);
    }
}

/// Lets the relay write what is left: for as long as that takes, since whoever reads it may pause;
/// what would end any other program ends this, too, also where it has already ended the container.
///
/// # Errors
/// `terminal.failed` if the relay was at its end too soon: what hung up on the payload was not the caller.
fn finish(relay: &Fd, signals: &Fd, mut ending: bool) -> Result<(), Error> {
    loop {
        let mut events = [Poll::readable(relay.number()), Poll::readable(signals.number())];
        let _ = sys::poll(&mut events, ending.then_some(RELAY_MS));
        while let Some(signal) = sys::next_signal(signals) {
            ending |= ENDING & sys::signal_set(&[signal]) != 0;
        }
        if events[0].ready() {
            break;
        }
        if ending {
            let _ = sys::pidfd_kill(relay, libc::SIGTERM);
            let _ = sys::poll(&mut [Poll::readable(relay.number())], Some(RELAY_MS));
            let _ = sys::pidfd_kill(relay, libc::SIGKILL);
            break;
        }
    }
    match sys::wait_within(relay, KILLED_MS) {
        Ok(Some(0)) => Ok(()),
        _ if ending => Ok(()),
        _ => Err(Error::failed(
            "terminal.failed",
            "the process between your terminal and the container's has failed",
            "see whether memory ran out, or what else killed it",
        )),
    }
}
