//! Tells Cargo that the built web UI is part of this crate: a new one is a new binary.

fn main() {
    // What is not there counts as changed: each build would compile this crate anew until the web UI is built.
    if let Err(e) = std::fs::create_dir_all("web/dist") {
        println!("cargo::warning=cannot make web/dist, where the web UI is built: {e}");
    }
    println!("cargo::rerun-if-changed=web/dist");
}
