//! libFuzzer's entry point: one program, the target named by `LOCALD_FUZZ_TARGET`.
//!
//! Built by `nox -s fuzz` with the sanitizer-coverage pass of the stable compiler. A build with
//! `--cfg locald_mutants` switches off the rules of `LOCALD_SHIM_DISABLE_RULE`: the fuzzer must then
//! find an assertion that fails.
#![no_main]

mod targets;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

static TARGET: OnceLock<targets::Target> = OnceLock::new();

fuzz_target!(
    init: {
        let name = std::env::var("LOCALD_FUZZ_TARGET").unwrap_or_default();
        let target = targets::ALL.iter().find(|target| target.0 == name);
        let target = target.unwrap_or_else(|| panic!("no target is called {name:?}"));
        assert!(TARGET.set(target.1).is_ok());
        #[cfg(locald_mutants)]
        if let Ok(rules) = std::env::var("LOCALD_SHIM_DISABLE_RULE") {
            assert!(locald_shim::rules::disable_from(rules.as_bytes()), "no rule is called {rules}");
        }
    },
    |data: &[u8]| TARGET.get().expect("set at the start")(data)
);
