//! A terminal of the container's own, and the process that carries bytes between it and stdio.
//!
//! The pseudo-terminal comes from the container's devpts. The relay is a process that is wholly the
//! caller: root never reads from nor writes to a terminal of his (attacks 32 and 49, CVE-2017-5226).

use alloc::vec::Vec;
use core::ops::Range;

use crate::caller::{self, Entry};
use crate::error::{Context, Error};
use crate::plan::TerminalSize;
use crate::sys::{self, At, Fd, Poll, Side};

const CODE: &str = "terminal.failed";
const BUFFER_BYTES: usize = 16 * 1024;
/// A pipe that poll(2) calls writable takes this much (PIPE_BUF) without making its writer wait.
const CHUNK_BYTES: usize = 4096;
/// What ends the relay while it only has the last output left to write.
const ENDING: sys::SignalSet =
    sys::signal_set(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT]);

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
        // Non-blocking: a container that reads nothing must not keep its output from being read.
        let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_NONBLOCK;
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
    pub fn start_relay(self) -> Result<Fd, Error> {
        let supervisor = sys::pidfd(sys::own_pid()).or_fail(CODE, "pidfd_open")?;
        match sys::clone_process(0).or_fail(CODE, "the relay")? {
            Side::Parent(_, relay) => Ok(relay),
            Side::Child => {
                // The lock of the container's state is among what it would hold.
                // What it must not miss: an end of the terminal's other side that stays open here would
                // keep it waiting for ever.
                let kept = [self.master.number(), supervisor.number()];
                if sys::close_all_but(&kept).is_err() {
                    sys::exit(125);
                }
                // Nothing of root's is left: not even the saved ids.
                caller::become_caller();
                let _ = sys::control(libc::PR_SET_NO_NEW_PRIVS, 1);
                sys::exit(if relay(&self.master, &supervisor) { 0 } else { 125 })
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

/// Carries bytes until the container's side is closed or the supervisor is gone. False if it never could.
fn relay(master: &Fd, supervisor: &Fd) -> bool {
    // The caller's keys are for the container: his terminal passes them on untouched meanwhile.
    let modes = sys::terminal_modes(0).ok();
    if let Some(modes) = modes {
        let _ = sys::set_terminal_modes(0, &modes.raw());
    }
    // What a shell would send to the foreground job is the supervisor's business; the size is ours,
    // and what ends us must not leave the caller's terminal raw.
    let _ = sys::set_signal_mask(caller::FORWARDED | sys::signal_set(&[libc::SIGPIPE]));
    let signals = sys::signal_fd(caller::FORWARDED).ok();
    let mut output = Flow::new();
    if let Some(signals) = &signals {
        carry(master, supervisor, signals, &mut output, modes);
    }
    // The last of the output may wait for its reader: by now the keys are the caller's. His terminal
    // stays raw for what the container's has already made lines of.
    if let Some(modes) = modes {
        let _ = sys::set_terminal_modes(0, &modes.with_raw_output());
    }
    if let Some(signals) = &signals {
        finish(master, signals, &mut output);
    }
    if let Some(modes) = modes {
        let _ = sys::set_terminal_modes(0, &modes);
    }
    signals.is_some()
}

/// Bytes on their way in one direction.
struct Flow {
    buffer: Vec<u8>,
    waiting: Range<usize>,
}

impl Flow {
    fn new() -> Self {
        Self { buffer: alloc::vec![0_u8; BUFFER_BYTES], waiting: 0..0 }
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes what `fd` has. False at its end.
    fn take(&mut self, fd: i32) -> bool {
        match sys::read(fd, &mut self.buffer) {
            Ok(count) => {
                self.waiting = 0..count;
                count > 0
            }
            // The stream is the caller's and may be non-blocking; it stays as it is (attack 49).
            Err(error) => matches!(error.0, libc::EAGAIN | libc::EINTR),
        }
    }

    /// Gives `fd` some of it. False if `fd` takes no more for ever.
    fn give(&mut self, fd: i32) -> bool {
        let end = self.waiting.end.min(self.waiting.start + CHUNK_BYTES);
        match sys::write(fd, &self.buffer[self.waiting.start..end]) {
            Ok(count) => {
                self.waiting.start += count;
                true
            }
            Err(error) => matches!(error.0, libc::EAGAIN | libc::EINTR),
        }
    }

    /// Where to wait: for bytes from `source`, if it is still open, or for room at `sink`; the end of
    /// `source` is seen in either case.
    fn events(&self, source: Option<i32>, sink: i32) -> [Poll; 2] {
        if self.is_empty() {
            [source.map_or(Poll::nothing(), Poll::readable), Poll::nothing()]
        } else {
            [source.map_or(Poll::nothing(), Poll::end), Poll::writable(sink)]
        }
    }
}

fn carry(master: &Fd, supervisor: &Fd, signals: &Fd, output: &mut Flow, modes: Option<sys::Modes>) {
    let terminal = master.number();
    let mut input = Flow::new();
    let (mut source, mut orphaned) = (Some(0), false);
    loop {
        let [output_ready, room_outside] = output.events(Some(terminal), 1);
        let [input_ready, room_inside] = input.events(source, terminal);
        let parent = if orphaned { Poll::nothing() } else { Poll::readable(supervisor.number()) };
        let signal = Poll::readable(signals.number());
        let mut events = [output_ready, room_outside, input_ready, room_inside, signal, parent];
        // Once the supervisor is gone so is the container; what it wrote last is still there.
        if sys::poll(&mut events, orphaned.then_some(100)) == Ok(0) && orphaned {
            return;
        }
        if events[0].ready() && !output.is_empty() {
            // The last process that had the other side open is gone; what it wrote is still there.
            return;
        }
        if events[0].ready() && !output.take(terminal) {
            return;
        }
        if events[1].ready() && !output.give(1) {
            output.waiting = 0..0;
            return;
        }
        if events[2].ready() && input.is_empty() && !input.take(0) {
            // The end of a pipe is the end-of-file key of a terminal.
            input.buffer[0] = 4;
            input.waiting = 0..1;
            source = None;
        }
        if events[3].ready() && !input.give(terminal) {
            input.waiting = 0..0;
            source = None;
        }
        while let Some(signal) = sys::next_signal(signals) {
            if signal == libc::SIGWINCH || signal == libc::SIGCONT {
                copy_size(master);
            }
            if signal == libc::SIGCONT
                && let Some(modes) = modes
            {
                // Back from a stop: the caller's shell has set its own modes meanwhile. In the
                // background this stops the job again, as it does any program that wants the terminal.
                let _ = sys::set_terminal_modes(0, &modes.raw());
            }
        }
        orphaned |= events[5].ready();
    }
}

/// Writes the last of the output, as long as its reader takes and nobody ends us.
fn finish(master: &Fd, signals: &Fd, output: &mut Flow) {
    while !output.is_empty() || output.take(master.number()) && !output.is_empty() {
        let mut events = [Poll::writable(1), Poll::readable(signals.number())];
        let _ = sys::poll(&mut events, None);
        if events[0].ready() && !output.give(1) {
            return;
        }
        while let Some(signal) = sys::next_signal(signals) {
            if ENDING & sys::signal_set(&[signal]) != 0 {
                return;
            }
        }
    }
}
