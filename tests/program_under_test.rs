//! `nola-train` as a binary of this package: Cargo builds it for the tests and tells them where it lies.

fn main() -> std::process::ExitCode {
    nola_train::program::run()
}
