//! Replays what the fuzzer starts from and what it once found: fuzz/seeds and fuzz/corpus.

#[path = "../fuzz/src/targets/mod.rs"]
mod targets;

use std::fs;
use std::panic;
use std::path::Path;

/// Fewest inputs of all targets together: fewer means that a directory went missing.
const LEAST_INPUTS: usize = 25;

#[test]
fn every_kept_input_holds_every_invariant() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let mut replayed = 0;
    for (name, run) in targets::ALL {
        let before = replayed;
        for kind in ["seeds", "corpus"] {
            let Ok(entries) = fs::read_dir(fuzz.join(kind).join(name)) else { continue };
            for entry in entries {
                let path = entry.expect("an entry").path();
                let input = fs::read(&path).expect("a file");
                let held = panic::catch_unwind(|| run(&input));
                assert!(held.is_ok(), "{name} does not hold for {}", path.display());
                replayed += 1;
            }
        }
        assert!(replayed > before, "{name} has no input");
    }
    assert!(replayed >= LEAST_INPUTS, "only {replayed} inputs");
}
