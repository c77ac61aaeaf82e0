//! Tells Cargo to build the crate again when a shipped file changes: `include_dir!` cannot.

fn main() {
    for folder in ["digits", "llama-micro", "recipes", "text", "vit-micro"] {
        println!("cargo::rerun-if-changed={folder}");
    }
}
