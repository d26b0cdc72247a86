//! locald-shim: a setuid leaf. Reads one bundle that an untrusted caller made, and executes it.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

extern crate alloc;

#[path = "sys/start.rs"]
mod start;

use core::ffi::CStr;

/// What the kernel's entry calls: the arguments, the environment, the exit status.
///
/// The environment is looked at by test builds only.
fn run(args: &[&'static CStr], env: &[&'static CStr]) -> u8 {
    #[cfg(locald_mutants)]
    locald_shim::switch_rules_off(env);
    #[cfg(locald_coverage)]
    locald_shim::count_where_all_do();
    let _ = env;
    locald_shim::run(args)
}
