//! Entry point, memory functions and allocator: what a C library would bring.
//!
//! Part of the program only, not of the library: unit tests and fuzzers use the standard ones.
#![allow(unsafe_code)]

use core::alloc::{GlobalAlloc, Layout};
use core::arch::{asm, global_asm};
use core::cell::Cell;
use core::ffi::{CStr, c_char};

use locald_shim::sys;

// The kernel starts here with the stack pointer at argc (System V ABI, process initialisation).
global_asm!(
    ".globl _start",
    ".type _start, @function",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "lea rsi, [rip + _DYNAMIC]",
    "lea rdx, [rip + __ehdr_start]",
    "and rsp, -16",
    "call {start}",
    "ud2",
    start = sym start,
);

const DT_NULL: usize = 0;
const DT_RELA: usize = 7;
const DT_RELASZ: usize = 8;
const R_X86_64_RELATIVE: u64 = 8;
const PT_GNU_RELRO: u32 = 0x6474_e552;

/// Fixes the addresses of a position-independent program: it has relative relocations only.
///
/// # Safety
/// `dynamic` is the program's dynamic section, `base` where it is loaded; called once, first.
// Nothing in here may need a relocated address: no table, no formatted panic, no trait object.
unsafe fn relocate(dynamic: *const [usize; 2], base: usize) {
    let (mut table, mut size, mut at) = (0, 0, dynamic);
    loop {
        // SAFETY: the section ends with a DT_NULL entry, before which `at` stays inside it.
        let [tag, value] = unsafe { at.read() };
        match tag {
            DT_NULL => break,
            DT_RELA => table = base.wrapping_add(value),
            DT_RELASZ => size = value,
            _ => {}
        }
        at = at.wrapping_add(1);
    }
    let mut entry = table as *const [u64; 3];
    let end = table.wrapping_add(size) as *const [u64; 3];
    while entry < end {
        // SAFETY: DT_RELA and DT_RELASZ bound an array of {offset, info, addend}.
        let [offset, info, addend] = unsafe { entry.read() };
        if info == R_X86_64_RELATIVE {
            let place = base.wrapping_add(offset as usize) as *mut u64;
            // SAFETY: the linker made this entry for a word of our own, still writable, data.
            unsafe { place.write((base as u64).wrapping_add(addend)) };
        }
        entry = entry.wrapping_add(1);
    }
}

/// Makes what only relocation had to write read-only, as a dynamic linker does (PT_GNU_RELRO).
///
/// # Safety
/// `base` is the address of the program's own ELF header.
unsafe fn protect(base: usize) {
    let field = |offset: usize, bytes: usize| {
        let at = base.wrapping_add(offset) as *const u8;
        let mut value = 0_u64;
        for index in 0..bytes {
            // SAFETY: the ELF header and program headers are mapped with the first segment.
            value |= u64::from(unsafe { at.wrapping_add(index).read() }) << (8 * index);
        }
        value as usize
    };
    // Elf64_Ehdr: e_phoff at 32, e_phentsize at 54, e_phnum at 56.
    let (headers, size, count) = (field(32, 8), field(54, 2), field(56, 2));
    for index in 0..count {
        let header = headers + index * size;
        // Elf64_Phdr: p_type at 0, p_vaddr at 16, p_memsz at 40.
        if field(header, 4) == PT_GNU_RELRO as usize {
            let first = base.wrapping_add(field(header + 16, 8));
            let last = first.wrapping_add(field(header + 40, 8)) & !0xfff;
            sys::make_read_only(first & !0xfff, last.saturating_sub(first & !0xfff));
        }
    }
}

/// # Safety
/// Called by `_start` only, with the stack as the kernel left it.
unsafe extern "C" fn start(stack: *const usize, dynamic: *const [usize; 2], base: usize) -> ! {
    // SAFETY: `_start` passes the addresses of our own dynamic section and ELF header.
    unsafe { relocate(dynamic, base) };
    // SAFETY: as above; relocation is done.
    unsafe { protect(base) };
    // SAFETY: the kernel puts argc at the stack pointer.
    let count = unsafe { stack.read() };
    let first = stack.wrapping_add(1).cast::<*const c_char>();
    // SAFETY: behind argc stand `count` pointers to strings, a null, the environment, a null; all
    // of it lives, unchanged, as long as the process.
    let args = unsafe { strings(first) };
    // SAFETY: as above; the environment begins behind the null after the arguments.
    let env = unsafe { strings(first.wrapping_add(count + 1)) };
    sys::exit(crate::run(&args, &env))
}

/// # Safety
/// `at` points to a null-terminated array of pointers to C strings that live for ever.
unsafe fn strings(mut at: *const *const c_char) -> alloc::vec::Vec<&'static CStr> {
    let mut found = alloc::vec::Vec::new();
    loop {
        // SAFETY: the array goes on until its null, at which this stops.
        let string = unsafe { at.read() };
        if string.is_null() {
            return found;
        }
        // SAFETY: see above: a C string that lives for ever.
        found.push(unsafe { CStr::from_ptr(string) });
        at = at.wrapping_add(1);
    }
}

/// A bump allocator over a fixed arena: the shim is short-lived and its input is bounded.
struct Arena {
    next: Cell<usize>,
    end: Cell<usize>,
}

// SAFETY: one thread allocates; the one of `sys::watch` does not.
unsafe impl Sync for Arena {}

/// What one step takes from the kernel at least.
const CHUNK_BYTES: usize = 256 * 1024;

// SAFETY: each block is handed out once, from memory the kernel gave us zeroed and that is never
// given back; alignment is rounded up; a null result tells the failure.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let fit = |next: usize| {
            let start = next.checked_next_multiple_of(layout.align())?;
            Some((start, start.checked_add(layout.size())?))
        };
        match fit(self.next.get()) {
            Some((start, stop)) if stop <= self.end.get() => {
                self.next.set(stop);
                start as *mut u8
            }
            _ => {
                let Some(wanted) = layout.size().checked_add(layout.align()) else {
                    return core::ptr::null_mut();
                };
                let length = wanted.max(CHUNK_BYTES).next_multiple_of(4096);
                let Ok(start) = sys::map_memory(length) else {
                    return core::ptr::null_mut();
                };
                self.end.set(start + length);
                let start = start.next_multiple_of(layout.align());
                self.next.set(start + layout.size());
                start as *mut u8
            }
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // The last block can be taken back; this keeps growing vectors from wasting their past.
        if block as usize + layout.size() == self.next.get() {
            self.next.set(block as usize);
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let (at, end) = (block as usize, self.end.get());
        let is_last = at + layout.size() == self.next.get();
        if is_last && at.checked_add(size).is_some_and(|stop| stop <= end) {
            self.next.set(at + size);
            return block;
        }
        let Ok(layout_new) = Layout::from_size_align(size, layout.align()) else {
            return core::ptr::null_mut();
        };
        // SAFETY: a valid layout of a size that is not zero, as the caller promised.
        let fresh = unsafe { self.alloc(layout_new) };
        if !fresh.is_null() {
            // SAFETY: both blocks are at least as long as the shorter size, and distinct.
            unsafe { fresh.copy_from_nonoverlapping(block, layout.size().min(size)) };
        }
        fresh
    }
}

#[global_allocator]
static ARENA: Arena = Arena { next: Cell::new(0), end: Cell::new(0) };

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing of the message: it could quote what the caller may not see.
    locald_shim::caller::become_caller();
    let line = b"locald-shim: failed [internal]: a bug of the shim; hint: please report it\n";
    let _ = sys::write(2, line);
    sys::exit(125)
}

/// Named by the precompiled core library; nothing unwinds here (panic = "abort").
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// As above, in a build without optimisation.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    sys::exit(125)
}

// The compiler calls these four by name. String instructions, so that it cannot turn the body of
// one into a call of itself; modern processors run them at full width.

/// # Safety
/// As memcpy(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    // SAFETY: the caller promises `length` readable and writable bytes without overlap.
    unsafe {
        asm!("rep movsb", inout("rcx") length => _, inout("rdi") to => _, inout("rsi") from => _,
             options(nostack, preserves_flags));
    }
    to
}

/// # Safety
/// As memmove(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= length {
        // SAFETY: copying upwards never reads what it has written; the rest is as in memcpy.
        return unsafe { memcpy(to, from, length) };
    }
    let (last_to, last_from) = (to.wrapping_add(length - 1), from.wrapping_add(length - 1));
    // SAFETY: the caller promises the bytes; downwards, since `to` lies inside what is read. The
    // direction flag is clear again afterwards, as the ABI wants it.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rcx") length => _, inout("rdi") last_to => _,
             inout("rsi") last_from => _, options(nostack));
    }
    to
}

/// # Safety
/// As memset(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, length: usize) -> *mut u8 {
    // SAFETY: the caller promises `length` writable bytes.
    unsafe {
        asm!("rep stosb", inout("rcx") length => _, inout("rdi") to => _, in("al") value as u8,
             options(nostack, preserves_flags));
    }
    to
}

/// # Safety
/// As memcmp(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, length: usize) -> i32 {
    for at in 0..length {
        // SAFETY: the caller promises `length` readable bytes on the left side.
        let a = unsafe { left.wrapping_add(at).read_volatile() };
        // SAFETY: and on the right side.
        let b = unsafe { right.wrapping_add(at).read_volatile() };
        if a != b {
            return i32::from(a) - i32::from(b);
        }
    }
    0
}

/// # Safety
/// As bcmp(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, length: usize) -> i32 {
    // SAFETY: the same promise.
    unsafe { memcmp(left, right, length) }
}

/// # Safety
/// As strlen(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(string: *const u8) -> usize {
    let mut length = 0;
    // SAFETY: the caller promises a NUL at the end, at which this stops.
    while unsafe { string.wrapping_add(length).read_volatile() } != 0 {
        length += 1;
    }
    length
}
