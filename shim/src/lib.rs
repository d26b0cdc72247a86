//! The setuid leaf of locald: executes an OCI bundle that an untrusted caller made.
//!
//! Read `main.rs` for the order of things, `policy.rs` and `plan.rs` for what may happen, `sys.rs`
//! for every contact with the kernel, SECURITY.md for what a caller must never gain.
#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]

extern crate alloc;

pub mod accounts;
pub mod config;
pub mod error;
pub mod json;
pub mod plan;
pub mod policy;
pub mod policy_file;
pub mod reply;
pub mod request;
pub mod rules;
pub mod subids;
