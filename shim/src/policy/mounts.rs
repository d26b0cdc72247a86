//! Mounts: binds and capped tmpfs as the config has them; the standard ones are recognised.
//!
//! A bind is always recursive, every mount nosuid and nodev, all propagation private: options that
//! say so are accepted and change nothing.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::{c_string, check_count, is_beneath, is_clean, path};
use crate::config::{self, quoted};
use crate::error::Error;
use crate::plan::{Mount, Source};
use crate::rules::{Rule, active};

/// Most mounts of one container.
pub const MAX_MOUNTS: usize = 128;

const PAGE_BYTES: u64 = 4096;
/// Size of a tmpfs that names none, as of the standard /dev and /dev/shm.
const DEFAULT_TMPFS_BYTES: u64 = 64 << 20;
/// Fewest inodes of a tmpfs that names none: a small one still holds a tree of small files.
const LEAST_INODES: u64 = 1024;

/// A mount that `runc spec` or `crun spec` writes; the shim makes its own in its place.
struct Fixed {
    destination: &'static str,
    kind: &'static str,
    /// Empty where the source is only a label.
    source: &'static str,
    options: &'static [&'static str],
}

#[rustfmt::skip]
const FIXED: &[Fixed] = &[
    Fixed { destination: "/proc", kind: "proc", source: "", options: &["nosuid", "noexec", "nodev"] },
    Fixed { destination: "/dev", kind: "tmpfs", source: "", options: &["nosuid", "noexec", "strictatime", "mode=755", "size=65536k"] },
    Fixed { destination: "/dev/pts", kind: "devpts", source: "", options: &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
    Fixed { destination: "/dev/shm", kind: "tmpfs", source: "", options: &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
    Fixed { destination: "/dev/mqueue", kind: "mqueue", source: "", options: &["nosuid", "noexec", "nodev"] },
    Fixed { destination: "/sys", kind: "sysfs", source: "", options: &["nosuid", "noexec", "nodev", "ro"] },
    Fixed { destination: "/sys", kind: "none", source: "/sys", options: &["rbind", "nosuid", "noexec", "nodev", "ro"] },
    Fixed { destination: "/sys/fs/cgroup", kind: "cgroup", source: "", options: &["nosuid", "noexec", "nodev", "relatime", "ro"] },
];

/// Decides every mount; those that the shim makes itself do not appear in the result.
pub(super) fn make_mounts(mounts: Vec<config::Mount>, ram_bytes: u64) -> Result<Vec<Mount>, Error> {
    check_count("mounts", mounts.len(), MAX_MOUNTS)?;
    let mut made = Vec::new();
    for (index, mount) in mounts.into_iter().enumerate() {
        let place = format!("mounts[{index}]");
        match FIXED.iter().find(|fixed| fixed.is(&mount)) {
            Some(fixed) => fixed.check_options(&mount, &place)?,
            None => made.push(make_mount(mount, &place, ram_bytes)?),
        }
    }
    Ok(made)
}

impl Fixed {
    fn is(&self, mount: &config::Mount) -> bool {
        mount.destination == self.destination.as_bytes()
            && mount.kind == self.kind.as_bytes()
            && (self.source.is_empty() || mount.source == self.source.as_bytes())
    }

    fn check_options(&self, mount: &config::Mount, place: &str) -> Result<(), Error> {
        let known = |option: &&Vec<u8>| {
            self.options.iter().any(|known| known.as_bytes() == option.as_slice())
        };
        match mount.options.iter().find(|option| !known(option)) {
            Some(option) if active(Rule::MountOption) => Err(bad_option(place, option)),
            _ => Ok(()),
        }
    }
}

fn make_mount(mount: config::Mount, place: &str, ram_bytes: u64) -> Result<Mount, Error> {
    let asks = |name: &[u8]| mount.options.iter().any(|option| option == name);
    let bind = match mount.kind.as_slice() {
        b"bind" => true,
        b"" | b"none" if asks(b"bind") || asks(b"rbind") => true,
        b"tmpfs" => false,
        _ if !active(Rule::MountType) => false,
        kind => {
            let why = format!("{place}.type is {}", quoted(kind));
            let hint = "use bind or tmpfs; /proc, /sys and /dev are always there";
            return Err(Error::refused("mount.type", why, hint));
        }
    };
    let fixed =
        [&b"/proc"[..], b"/sys", b"/dev"].iter().any(|fixed| is_beneath(&mount.destination, fixed));
    let clean = is_clean(&mount.destination) && mount.destination != b"/";
    if active(Rule::MountDestination) && (fixed || !clean) {
        let why = format!("{place}.destination is {}", quoted(&mount.destination));
        let hint =
            "use an absolute path without `.`, `..` or a final `/`, outside /proc, /sys and /dev";
        return Err(Error::refused("mount.destination", why, hint));
    }
    let options = Options::parse(&mount.options, bind, place)?;
    let source = if bind {
        if !mount.source.starts_with(b"/") {
            let why = format!("{place}.source is {}", quoted(&mount.source));
            return Err(Error::refused("mount.source", why, "use an absolute path"));
        }
        Source::Bind(path(&format!("{place}.source"), mount.source)?)
    } else {
        options.make_tmpfs(place, ram_bytes)?
    };
    let destination = c_string(mount.destination)?;
    Ok(Mount { destination, source, readonly: options.readonly, noexec: options.noexec })
}

#[derive(Default)]
struct Options {
    readonly: bool,
    noexec: bool,
    size_bytes: Option<u64>,
    inodes: Option<u64>,
    mode: Option<u32>,
}

impl Options {
    fn parse(options: &[Vec<u8>], bind: bool, place: &str) -> Result<Self, Error> {
        let mut parsed = Self::default();
        let mut writable = false;
        for option in options {
            let equals = option.iter().position(|&byte| byte == b'=').unwrap_or(option.len());
            let (name, value) = option.split_at(equals);
            let known = match (name, value.strip_prefix(b"=")) {
                (b"bind" | b"rbind", None) => bind,
                // In force whether named or not.
                (b"nosuid" | b"nodev" | b"private" | b"rprivate", None) => true,
                (b"noexec", None) => set(&mut parsed.noexec, true),
                (b"ro", None) => set(&mut parsed.readonly, true),
                (b"rw", None) => set(&mut writable, true),
                (b"size", Some(value)) if !bind => {
                    set_number(&mut parsed.size_bytes, parse_size(value))
                }
                (b"nr_inodes", Some(value)) if !bind => {
                    set_number(&mut parsed.inodes, parse_size(value))
                }
                (b"mode", Some(value)) if !bind => set_number(&mut parsed.mode, parse_mode(value)),
                _ => false,
            };
            let contradicts = parsed.readonly && writable;
            if active(Rule::MountOption) && (!known || contradicts) {
                return Err(bad_option(place, option));
            }
        }
        Ok(parsed)
    }

    /// Caps a tmpfs: memory of the machine that its creator, root, would not be stopped from using.
    fn make_tmpfs(&self, place: &str, ram_bytes: u64) -> Result<Source, Error> {
        let most_bytes = (ram_bytes / 2).max(PAGE_BYTES);
        let most_inodes = (most_bytes / PAGE_BYTES).max(LEAST_INODES);
        let size_bytes = self.size_bytes.unwrap_or(DEFAULT_TMPFS_BYTES.min(most_bytes));
        let default_inodes = (size_bytes / PAGE_BYTES).max(LEAST_INODES);
        let inodes = self.inodes.unwrap_or(default_inodes);
        // Zero means "no limit" to the kernel.
        let capped = (1..=most_bytes).contains(&size_bytes) && (1..=most_inodes).contains(&inodes);
        if active(Rule::TmpfsSize) && !capped {
            let why = format!(
                "{place}.options asks for {size_bytes} bytes and {inodes} inodes, of at most {most_bytes} and {most_inodes}"
            );
            let hint = "use a `size=` above 0 and of at most half of the machine's memory";
            return Err(Error::refused("mount.size", why, hint));
        }
        Ok(Source::Tmpfs { size_bytes, inodes, mode: self.mode.unwrap_or(0o1777) })
    }
}

fn set(flag: &mut bool, value: bool) -> bool {
    *flag = value;
    true
}

/// Whether there is a number and none was given before.
fn set_number<T: Copy>(field: &mut Option<T>, value: Option<T>) -> bool {
    value.is_some_and(|value| field.replace(value).is_none())
}

/// `65536k`: bytes, or KiB, MiB, GiB. A percentage is not known: it is of memory the caller does not own.
fn parse_size(text: &[u8]) -> Option<u64> {
    let (digits, shift) = match text {
        [digits @ .., b'k' | b'K'] => (digits, 10),
        [digits @ .., b'm' | b'M'] => (digits, 20),
        [digits @ .., b'g' | b'G'] => (digits, 30),
        digits => (digits, 0),
    };
    if digits.is_empty() || digits.len() > 19 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0u64, |number, digit| number * 10 + u64::from(digit - b'0'));
    number.checked_mul(1 << shift)
}

/// Octal, at most 1777: the setuid and setgid bits mean nothing good on a directory made by root.
fn parse_mode(text: &[u8]) -> Option<u32> {
    if text.is_empty() || text.len() > 5 || !text.iter().all(|byte| matches!(byte, b'0'..=b'7')) {
        return None;
    }
    let mode = text.iter().fold(0, |mode, digit| mode << 3 | u32::from(digit - b'0'));
    (mode <= 0o1777).then_some(mode)
}

fn bad_option(place: &str, option: &[u8]) -> Error {
    let why: String = format!("{place}.options holds {}", quoted(option));
    let hint = "use ro or rw, noexec, nosuid, nodev, private, for bind also rbind, for tmpfs also size=, nr_inodes=, mode=";
    Error::refused("mount.option", why, hint)
}

#[cfg(test)]
mod tests;
