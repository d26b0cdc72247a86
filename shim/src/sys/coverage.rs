//! Coverage: what every process of the shim counts, in one file that they all share.
//!
//! Test builds only (`--cfg locald_coverage` and `-C instrument-coverage`; docs/decisions/0047). A shared
//! mapping instead of a file written at the end: the supervisor, the payload until its execve, PID 1 and the
//! relay inherit it over clone(2), it needs no descriptor, no path and no privilege later, and what a
//! process counted before a SIGKILL is there. Counting twice at once may lose a count, never make it 0.

use core::ffi::CStr;

use super::counter::sum;
use super::{At, Result, call, number};

/// Root makes it before the first call, as long as the counters, writable by whoever may call a shim.
const FILE: &CStr = c"/var/lib/locald-coverage/shim";

unsafe extern "C" {
    // The linker puts these at both ends of the section in which the compiler counts.
    #[link_name = "__start___llvm_prf_cnts"]
    static FIRST: u64;
    #[link_name = "__stop___llvm_prf_cnts"]
    static END: u64;
}

/// The compiler adds this to the address of every counter: `-runtime-counter-relocation` of LLVM.
#[unsafe(no_mangle)]
static mut __llvm_profile_counter_bias: usize = 0;
/// By this name compiled code asks for LLVM's own library, which wants a C library: there is none.
#[unsafe(no_mangle)]
static __llvm_profile_runtime: i32 = 0;

/// Counts in the shared file from now on, with what was counted so far.
///
/// # Errors
/// The file is missing or may not be mapped: a process that nobody counts would look like unreached code.
pub fn share_counters() -> Result<()> {
    let file = super::open(At::Cwd, FILE, libc::O_RDWR, 0, super::NO_SYMLINKS)?;
    let (first, end) = (&raw const FIRST as usize, &raw const END as usize);
    let protection = number(libc::PROT_READ | libc::PROT_WRITE);
    let shared = number(libc::MAP_SHARED);
    // SAFETY: a new mapping where the kernel chooses replaces nothing; it outlives the descriptor.
    let map = unsafe {
        call(libc::SYS_mmap, [0, end - first, protection, shared, number(file.number()), 0])
    }?;
    for at in (0..end - first).step_by(size_of::<u64>()) {
        // SAFETY: `at` stays inside the section, which is an array of u64 that lives for ever.
        let counted = unsafe { ((first + at) as *const u64).read_volatile() };
        let shared = (map + at) as *mut u64;
        // SAFETY: the mapping is as long as the section; other processes change it, hence volatile.
        let before = unsafe { shared.read_volatile() };
        if let Some(sum) = sum(before, counted) {
            // SAFETY: the same place, which may be written.
            unsafe { shared.write_volatile(sum) };
        }
    }
    // SAFETY: the process has one thread; counting anywhere reads this, nothing holds a reference.
    unsafe { __llvm_profile_counter_bias = map.wrapping_sub(first) };
    Ok(())
}
