//! Links a shared object that needs no other: it is loaded by processes of any C library.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for argument in ["-nostartfiles", "-nostdlib", "-Wl,--build-id=none", "-Wl,-z,now", "-Wl,-z,noexecstack"]
    {
        println!("cargo::rustc-link-arg={argument}");
    }
}
