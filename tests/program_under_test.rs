//! `nola-train` as a binary of this package: Cargo builds it for the tests and tells them where it lies.

#[global_allocator]
static ALLOCATOR: nola_train::memory::EndingAllocator = nola_train::memory::EndingAllocator;

fn main() -> std::process::ExitCode {
    nola_train::program::run()
}
