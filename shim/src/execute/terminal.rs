//! A terminal of the container's own, and the process that carries bytes between it and stdio.
//!
//! The pseudo-terminal comes from the container's devpts. The relay is a process that is wholly the
//! caller: root never reads from nor writes to a terminal of his (attacks 32 and 49, CVE-2017-5226).

use crate::caller::{self, Entry};
use crate::error::{Context, Error};
use crate::plan::TerminalSize;
use crate::sys::{self, At, Fd, Poll, Side};

const CODE: &str = "terminal.failed";
const BUFFER_BYTES: usize = 16 * 1024;

/// Both sides of the container's terminal.
pub struct Terminal {
    master: Fd,
    peer: Fd,
}

impl Terminal {
    /// Opens a new terminal of the detached devpts `pts`. Without a size of the spec's it gets that
    /// of the caller's terminal.
    ///
    /// # Errors
    /// `terminal.failed`.
    pub fn open(pts: &Fd, size: Option<TerminalSize>, entry: &Entry) -> Result<Self, Error> {
        let flags = libc::O_RDWR | libc::O_NOCTTY;
        let master = sys::open(At::Dir(pts), c"ptmx", flags, 0, 0).or_fail(CODE, "ptmx")?;
        let peer = sys::terminal_peer(&master).or_fail(CODE, "the terminal's other side")?;
        match size {
            Some(TerminalSize { rows, columns }) => {
                let _ = sys::set_window_size(master.number(), [rows, columns, 0, 0]);
            }
            // As the caller: root asks nothing of a descriptor that is not its own (attack 49).
            None => entry.act(|| copy_size(&master)),
        }
        Ok(Self { master, peer })
    }

    /// Makes the terminal stdio and controlling terminal of this process. In the payload.
    ///
    /// # Errors
    /// `terminal.failed`.
    pub fn take(self) -> Result<(), Error> {
        sys::take_terminal(self.peer.number()).or_fail(CODE, "controlling terminal")?;
        for stream in 0..3 {
            sys::duplicate_onto(self.peer.number(), stream).or_fail(CODE, "stdio")?;
        }
        Ok(())
    }

    /// Starts the relay. In the parent, once the payload runs.
    ///
    /// # Errors
    /// `terminal.failed`.
    pub fn start_relay(self, entry: &Entry) -> Result<Fd, Error> {
        let supervisor = sys::pidfd(sys::own_pid()).or_fail(CODE, "pidfd_open")?;
        match sys::clone_process(0).or_fail(CODE, "the relay")? {
            Side::Parent(_, relay) => Ok(relay),
            Side::Child => {
                drop(self.peer);
                // Nothing of root's is left: not even the saved ids.
                caller::become_caller();
                let _ = sys::control(libc::PR_SET_NO_NEW_PRIVS, 1);
                debug_assert!(sys::user_ids().is_ok_and(|ids| ids.saved == entry.caller.uid));
                relay(&self.master, &supervisor);
                sys::exit(0)
            }
        }
    }
}

/// Gives the container's terminal the size of the caller's, if he has one.
fn copy_size(master: &Fd) {
    if let Some(size) = (0..3).find_map(|stream| sys::window_size(stream).ok()) {
        let _ = sys::set_window_size(master.number(), size);
    }
}

/// Carries bytes until the container's side is closed or the supervisor is gone.
fn relay(master: &Fd, supervisor: &Fd) {
    // The caller's keys are for the container: his terminal passes them on untouched meanwhile.
    let modes = sys::terminal_modes(0).ok();
    if let Some(modes) = modes {
        let _ = sys::set_terminal_modes(0, &modes.raw());
    }
    // What a shell would send to the foreground job is the supervisor's business; the size is ours,
    // and what ends us must not leave the caller's terminal raw.
    let _ = sys::set_signal_mask(caller::FORWARDED | sys::signal_set(&[libc::SIGPIPE]));
    if let Ok(signals) = sys::signal_fd(caller::FORWARDED) {
        carry(master, supervisor, &signals);
    }
    if let Some(modes) = modes {
        let _ = sys::set_terminal_modes(0, &modes);
    }
}

fn carry(master: &Fd, supervisor: &Fd, signals: &Fd) {
    let mut buffer = alloc::vec![0_u8; BUFFER_BYTES];
    let (mut input_open, mut orphaned) = (true, false);
    loop {
        let input = if input_open { Poll::readable(0) } else { Poll::nothing() };
        let parent = if orphaned { Poll::nothing() } else { Poll::readable(supervisor.number()) };
        let mut events =
            [Poll::readable(master.number()), input, Poll::readable(signals.number()), parent];
        // Once the supervisor is gone so is the container; what it wrote last is still there.
        if sys::poll(&mut events, orphaned.then_some(100)) == Ok(0) && orphaned {
            return;
        }
        if events[0].ready() {
            match sys::read(master.number(), &mut buffer) {
                Ok(count) if count > 0 => {
                    if !write_all(1, &buffer[..count]) {
                        return;
                    }
                }
                // EIO: the last process that had the other side open is gone.
                _ => return,
            }
        }
        if events[1].ready() {
            match sys::read(0, &mut buffer) {
                Ok(count) if count > 0 => {
                    if !write_all(master.number(), &buffer[..count]) {
                        return;
                    }
                }
                Err(error) if error.0 == libc::EAGAIN => {}
                _ => {
                    // The end of a pipe is the end-of-file key of a terminal.
                    let _ = write_all(master.number(), &[4]);
                    input_open = false;
                }
            }
        }
        if events[2].ready() {
            while let Some(signal) = sys::next_signal(signals) {
                if signal == libc::SIGWINCH {
                    copy_size(master);
                }
            }
        }
        orphaned |= events[3].ready();
    }
}

/// Writes all of `bytes`, waiting where a stream is full. False if it cannot be written to any more.
fn write_all(fd: i32, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match sys::write(fd, bytes) {
            Ok(count) => bytes = &bytes[count..],
            // The stream is the caller's and may be non-blocking; it stays as it is (attack 49).
            Err(error) if error.0 == libc::EAGAIN => {
                let _ = sys::poll(&mut [Poll::writable(fd)], Some(1000));
            }
            Err(error) if error.0 == libc::EINTR => {}
            Err(_) => return false,
        }
    }
    true
}
