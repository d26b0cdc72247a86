//! Links the shim without a C library: it brings its own entry point (src/sys/start.rs).

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=LOCALD_SHIM_SOURCE_DIGEST");
    for argument in [
        "-nostartfiles",
        "-nostdlib",
        // Read-only after relocation, non-executable stack, no lazily bound symbol.
        "-Wl,-z,relro,-z,now,-z,noexecstack",
        "-Wl,--build-id=none",
        "-Wl,--no-dynamic-linker",
    ] {
        println!("cargo:rustc-link-arg-bin=locald-shim={argument}");
    }
}
