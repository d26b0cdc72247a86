//! The twin as newuidmap and newgidmap.
//!
//! libcontainer writes a map of one entry itself. For a longer one it runs a program of that name from
//! PATH, ignores whether it failed, and says no word where none is: so PATH holds the twin alone, which
//! writes what it is told.

use std::fs;
use std::process::ExitCode;

const NAMES: [(&str, &str); 2] = [("newuidmap", "uid_map"), ("newgidmap", "gid_map")];

/// The names that `PATH` must have.
pub fn names() -> impl Iterator<Item = &'static str> {
    NAMES.iter().map(|(name, _)| *name)
}

/// Does the work of one of the two, if that is the name it was called by.
///
/// Nobody gains by calling it so himself: the kernel asks for the writer's capabilities over the target
/// process, and whoever is not root has given his up here.
pub fn run_if_called_as_one(arguments: &[Vec<u8>]) -> Option<ExitCode> {
    let name = arguments.first()?.rsplit(|&byte| byte == b'/').next()?;
    let (_, file) = NAMES.iter().find(|(known, _)| known.as_bytes() == name)?;
    if locald_shim::sys::user_ids().is_ok_and(|ids| ids.real != 0) {
        locald_shim::caller::become_caller();
    }
    let words: Option<Vec<&str>> =
        arguments[1..].iter().map(|word| std::str::from_utf8(word).ok()).collect();
    let written = words.and_then(|words| {
        let (pid, numbers) = words.split_first()?;
        let lines: Vec<String> = numbers.chunks(3).map(|entry| entry.join(" ")).collect();
        fs::write(format!("/proc/{pid}/{file}"), lines.join("\n") + "\n").ok()
    });
    Some(ExitCode::from(u8::from(written.is_none())))
}
