//! The program; see the crate's documentation.

#[global_allocator]
static ALLOCATOR: nola_train::memory::EndingAllocator = nola_train::memory::EndingAllocator;

fn main() -> std::process::ExitCode {
    nola_train::program::run()
}
