//! Tells Cargo that the built web UI is part of this crate: a new one is a new binary.

fn main() {
    println!("cargo::rerun-if-changed=web/dist");
}
