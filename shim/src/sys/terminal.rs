//! ioctl(2): terminals.

use core::mem;

use super::{Fd, Result, call, fd_result, number, scalar};

/// The modes of a terminal, as TCGETS gives them: struct termios of the kernel.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Modes {
    input: u32,
    output: u32,
    control: u32,
    local: u32,
    line: u8,
    characters: [u8; 19],
}

impl Modes {
    /// The same terminal passing every byte through untouched: cfmakeraw(3).
    pub fn raw(mut self) -> Self {
        self.input &= !(libc::IGNBRK
            | libc::BRKINT
            | libc::PARMRK
            | libc::ISTRIP
            | libc::INLCR
            | libc::IGNCR
            | libc::ICRNL
            | libc::IXON);
        self.local &= !(libc::ECHO | libc::ECHONL | libc::ICANON | libc::ISIG | libc::IEXTEN);
        self.control = self.control & !(libc::CSIZE | libc::PARENB) | libc::CS8;
        self.with_raw_output()
    }

    /// The same terminal writing every byte as it comes.
    pub fn with_raw_output(mut self) -> Self {
        self.output &= !libc::OPOST;
        self
    }
}

/// TCGETS: the modes of a terminal; ENOTTY for anything else.
pub fn terminal_modes(fd: i32) -> Result<Modes> {
    // SAFETY: `Modes` is made of integers, for which all zeroes is a valid value.
    let mut modes: Modes = unsafe { mem::zeroed() };
    let at = &raw mut modes as usize;
    // SAFETY: the kernel writes one struct termios, 36 bytes, the size of `Modes`.
    unsafe { call(libc::SYS_ioctl, [number(fd), libc::TCGETS as usize, at, 0, 0, 0]) }?;
    Ok(modes)
}

/// TCSETSW: new modes once pending output is out.
pub fn set_terminal_modes(fd: i32, modes: &Modes) -> Result<()> {
    let at = &raw const *modes as usize;
    // SAFETY: the kernel reads one struct termios, 36 bytes, the size of `Modes`.
    unsafe { call(libc::SYS_ioctl, [number(fd), libc::TCSETSW as usize, at, 0, 0, 0]) }.map(drop)
}

/// TIOCGWINSZ: rows, columns and pixels of a terminal.
pub fn window_size(fd: i32) -> Result<[u16; 4]> {
    let mut size = [0_u16; 4];
    let at = size.as_mut_ptr() as usize;
    // SAFETY: the kernel writes one struct winsize, four u16.
    unsafe { call(libc::SYS_ioctl, [number(fd), libc::TIOCGWINSZ as usize, at, 0, 0, 0]) }?;
    Ok(size)
}

/// TIOCSWINSZ.
pub fn set_window_size(fd: i32, size: [u16; 4]) -> Result<()> {
    let at = size.as_ptr() as usize;
    // SAFETY: the kernel reads one struct winsize, four u16.
    unsafe { call(libc::SYS_ioctl, [number(fd), libc::TIOCSWINSZ as usize, at, 0, 0, 0]) }.map(drop)
}

/// Unlocks the terminal behind `master` and opens its other side: TIOCSPTLCK, TIOCGPTPEER.
pub fn terminal_peer(master: &Fd) -> Result<Fd> {
    let unlocked = 0_i32;
    let (fd, at) = (number(master.number()), &raw const unlocked as usize);
    // SAFETY: the kernel reads one int.
    unsafe { call(libc::SYS_ioctl, [fd, libc::TIOCSPTLCK as usize, at, 0, 0, 0]) }?;
    let flags = number(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
    fd_result(scalar(libc::SYS_ioctl, [fd, libc::TIOCGPTPEER as usize, flags, 0, 0]))
}

/// TIOCSCTTY: makes `fd` the controlling terminal of our session, which has none.
pub fn take_terminal(fd: i32) -> Result<()> {
    scalar(libc::SYS_ioctl, [number(fd), libc::TIOCSCTTY as usize, 0, 0, 0]).map(drop)
}
