//! A second thread that ends this process when its time is up.
//!
//! Not SIGALRM: a call that waits for a file server (FUSE, NFS) takes no signal but one that kills, so
//! a handler would never run, and what kills leaves a signal's number in the place of an exit status.

use alloc::boxed::Box;
use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};

use super::{Errno, Result, call, now_ms, number, scalar};

/// What the thread stands on: it makes few calls, and none of them nests deep.
const STACK_BYTES: usize = 16 * 1024;

/// A thread that waits for [`Watch::end`].
#[must_use]
pub struct Watch {
    shared: &'static Shared,
}

struct Shared {
    /// 1 from when there is nothing to watch any more.
    done: AtomicU32,
    /// Not 0 as long as there is a thread: the kernel writes the 0 (CLONE_CHILD_CLEARTID).
    alive: AtomicU32,
    milliseconds: u64,
    expire: Box<dyn Fn()>,
}

/// Starts a thread that calls `expire` once `milliseconds` have passed, and then ends the process with
/// the exit status 125.
///
/// The thread has ids of its own, which are those of this moment. `expire` runs beside whatever the
/// process does then: it may neither allocate nor free.
///
/// # Errors
/// The kernel's, from clone(2).
pub fn watch(milliseconds: u64, expire: Box<dyn Fn()>) -> Result<Watch> {
    let (done, alive) = (AtomicU32::new(0), AtomicU32::new(1));
    let shared: &'static Shared = Box::leak(Box::new(Shared { done, alive, milliseconds, expire }));
    // Uninitialised: a page that the thread does not come to is never touched.
    let stack = Box::leak(Box::<[u128]>::new_uninit_slice(STACK_BYTES / size_of::<u128>()));
    // Untraced: no tracer takes hold of it by having hold of us.
    let flags = libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD
        | libc::CLONE_SYSVSEM
        | libc::CLONE_CHILD_CLEARTID
        | libc::CLONE_UNTRACED;
    let ret: isize;
    // SAFETY: clone(2) on x86_64: flags, stack, parent's and child's place for the number, TLS. The new
    // thread begins behind the call with its own stack, which is leaked, aligned as the ABI wants it and
    // nobody else's, touches nothing of ours, and never comes out of `guard`. `shared` is leaked too, so
    // the kernel may write to `alive` whenever the thread ends.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone as isize => ret,
            in("rdi") number(flags),
            in("rsi") stack.as_mut_ptr_range().end,
            in("rdx") 0,
            in("r10") shared.alive.as_ptr(),
            in("r8") 0,
            in("r12") shared,
            in("r13") guard as extern "C" fn(&'static Shared) -> !,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    if ret < 0 { Err(Errno(-ret as i32)) } else { Ok(Watch { shared }) }
}

impl Watch {
    /// Ends the thread; it is gone when this returns.
    ///
    /// # Errors
    /// The kernel's, from futex(2): the thread may be there still.
    pub fn end(self) -> Result<()> {
        self.shared.done.store(1, Ordering::SeqCst);
        wake(&self.shared.done)?;
        loop {
            // Asked once at least, also where the thread was faster: the calls that a run makes are the same
            // each time, so that tests can count them.
            let seen = self.shared.alive.load(Ordering::SeqCst);
            match wait_while(&self.shared.alive, seen.max(1), None) {
                Ok(()) | Err(Errno(libc::EAGAIN | libc::EINTR)) => {}
                Err(error) => return Err(error),
            }
            if self.shared.alive.load(Ordering::SeqCst) == 0 {
                return Ok(());
            }
        }
    }
}

/// What the thread does.
extern "C" fn guard(shared: &'static Shared) -> ! {
    let deadline = now_ms().saturating_add(shared.milliseconds);
    while shared.done.load(Ordering::SeqCst) == 0 {
        let left = deadline.saturating_sub(now_ms());
        if left == 0 {
            (shared.expire)();
            super::exit(125);
        }
        // Whatever it was that ended the wait: the loop looks.
        let _ = wait_while(&shared.done, 0, Some(left));
    }
    loop {
        // exit(2), not exit_group(2): this thread alone.
        let _ = scalar(libc::SYS_exit, [0; 5]);
    }
}

/// futex(2) FUTEX_WAIT: while `word` is `value`, at most `milliseconds`.
///
/// Not a private futex: the kernel's own wake-up at a thread's end is none.
fn wait_while(word: &AtomicU32, value: u32, milliseconds: Option<u64>) -> Result<()> {
    let timeout = milliseconds.map(|ms| [ms / 1000, ms % 1000 * 1_000_000]);
    let timeout_at = timeout.as_ref().map_or(0, |pair| &raw const *pair as usize);
    let (word, wait) = (word.as_ptr() as usize, number(libc::FUTEX_WAIT));
    // SAFETY: the kernel reads the word and the 16 bytes of the timeout, if there is one.
    unsafe { call(libc::SYS_futex, [word, wait, value as usize, timeout_at, 0, 0]) }.map(drop)
}

/// futex(2) FUTEX_WAKE.
fn wake(word: &AtomicU32) -> Result<()> {
    let (word, wake) = (word.as_ptr() as usize, number(libc::FUTEX_WAKE));
    // SAFETY: the kernel takes the word's address as a name, and does not touch it.
    unsafe { call(libc::SYS_futex, [word, wake, 1, 0, 0, 0]) }.map(drop)
}
