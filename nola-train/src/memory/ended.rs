//! What happens when memory ends: a message with the cure and the exit code of the device, instead of an abort.

#![allow(unsafe_code, reason = "an allocator that says when memory has ended")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::any::Any;
use std::error::Error;
use std::io::{self, Write};
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::device::lost;
use crate::terminal::line_end;

/// The exit code of a device that cannot be used.
pub const EXIT_CODE: u8 = 7;

/// What to do about it.
pub const CURE: &str = "train with a smaller train.micro_batch, with train.gradient_checkpointing = true or with half types \
                    (model.dtype = \"bf16\"), or give the program more memory";

/// What messages of drivers and libraries contain when they have no memory left, in lower case.
const MESSAGES: [&str; 8] = [
    "out of memory",
    "outofmemory",
    "out_of_memory",
    "not enough memory",
    "failed to allocate",
    "capacity overflow",
    // A thread has a stack.
    "failed to spawn thread",
    "thread pool has not been initialized",
];

/// The system's allocator, which ends the program with a message where it has no memory left.
///
/// Code that would go on without the memory, as `try_reserve` offers, cannot be told from code that would abort.
pub struct EndingAllocator;

// SAFETY: every call is handed to `System` as it came in, and what `System` gives is handed out; only null never is.
unsafe impl GlobalAlloc for EndingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps what `GlobalAlloc` asks for.
        given(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above; all memory comes from `System`.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        given(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        given(unsafe { System.realloc(memory, layout, size) }, size)
    }
}

fn given(memory: *mut u8, bytes: usize) -> *mut u8 {
    if memory.is_null() {
        end(format_args!("{bytes} bytes more were needed"));
    }
    memory
}

/// Makes panics of libraries that have no memory left end the program in the same way. Those about a device that failed are
/// left to [`crate::program::run`].
pub fn watch_panics() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if is_about_memory(message_of(info.payload())) {
            end(format_args!("{}", message_of(info.payload())));
        }
        // Who catches it says more.
        if lost::is_of_device(message_of(info.payload())) && std::thread::current().name() == Some("main") {
            return;
        }
        // Below a status line; where nobody reads any more, there is nothing to say.
        let _ = write!(std::io::stderr(), "{}", line_end());
        usual(info);
    }));
}

/// Whether what caused an error is that the system had no memory left, as for a file that is mapped.
pub fn has_ended(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let of_system = error.downcast_ref::<io::Error>();
        if of_system.is_some_and(|error| error.kind() == io::ErrorKind::OutOfMemory) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// What a panic says.
pub(crate) fn message_of(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or_default()
}

fn is_about_memory(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    MESSAGES.iter().any(|known| message.contains(known))
}

/// Ends the program; nothing here asks for memory.
#[cold]
fn end(why: std::fmt::Arguments) -> ! {
    static ENDING: AtomicBool = AtomicBool::new(false);
    if ENDING.swap(true, Ordering::SeqCst) {
        // Another thread is saying so.
        loop {
            std::thread::sleep(Duration::from_secs(1));
        }
    }
    // Where nobody reads any more, the exit code still tells.
    let _ = writeln!(std::io::stderr(), "{}error: out of memory: {why}; {CURE}", line_end());
    exit()
}

/// Leaves at once: what is otherwise done at an exit may ask for memory, or wait for a thread that has none.
#[cfg(unix)]
fn exit() -> ! {
    // SAFETY: `_exit` ends the process and touches none of its memory.
    unsafe { nix::libc::_exit(EXIT_CODE.into()) }
}

/// Leaves at once.
#[cfg(not(unix))]
fn exit() -> ! {
    std::process::exit(EXIT_CODE.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_drivers_say_of_memory_is_known() {
        for message in [
            "wgpu error: Out of Memory",
            "CUDA_ERROR_OUT_OF_MEMORY",
            "Not enough memory left.",
            "capacity overflow",
            "Failed to allocate 1024 bytes",
            "DeviceError::OutOfMemory",
        ] {
            assert!(is_about_memory(message), "{message}");
        }
        for message in ["index out of bounds", "memory: 3 MiB", ""] {
            assert!(!is_about_memory(message), "{message}");
        }
    }

    #[test]
    fn an_error_of_the_system_about_memory_is_known_wherever_it_is_in_the_chain() {
        let of = |kind| {
            let source =
                nola_core::Error::Io { file: "m".into(), action: "read", source: io::Error::from(kind) };
            crate::Error::Model(nola_models::Error::Folder(source))
        };
        assert!(has_ended(&of(io::ErrorKind::OutOfMemory)));
        assert!(!has_ended(&of(io::ErrorKind::NotFound)));
        assert!(!has_ended(&crate::Error::NoPrompt));
    }

    #[test]
    fn the_message_of_a_panic_is_read_in_both_forms() {
        assert_eq!(message_of(&"a"), "a");
        assert_eq!(message_of(&"b".to_owned()), "b");
        assert_eq!(message_of(&3), "");
    }

    #[test]
    fn memory_that_there_is_is_handed_out() {
        let layout = Layout::from_size_align(64, 64).unwrap();
        // SAFETY: the memory is of this layout and is freed once, with the layout it has then.
        unsafe {
            let memory = EndingAllocator.alloc_zeroed(layout);
            assert_eq!(*memory.add(63), 0);
            let memory = EndingAllocator.realloc(memory, layout, 128);
            *memory.add(127) = 1;
            EndingAllocator.dealloc(memory, Layout::from_size_align(128, 64).unwrap());
        }
    }
}
