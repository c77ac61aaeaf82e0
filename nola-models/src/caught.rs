//! Libraries that panic on crafted files, kept in bounds.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    /// Whether a panic of this thread becomes an error, which says all there is to say.
    static IS_CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`, which must not leave anything half finished that is used again; a panic on this thread becomes its
/// message, and nothing of it is written on stderr.
///
/// # Errors
/// With the message of the panic.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !IS_CAUGHT.get() {
                usual(panic);
            }
        }));
    });
    let was_caught = IS_CAUGHT.replace(true);
    let outcome = panic::catch_unwind(AssertUnwindSafe(work));
    IS_CAUGHT.set(was_caught);
    outcome.map_err(message)
}

fn message(panic: Box<dyn Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(message) => *message,
        Err(panic) => panic.downcast_ref::<&str>().map_or("no message".to_string(), ToString::to_string),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_its_message() {
        assert_eq!(caught(|| 3), Ok(3));
        assert_eq!(caught(|| -> u8 { panic!("plain") }), Err("plain".to_string()));
        assert_eq!(caught(|| -> u8 { panic!("with {}", 1) }), Err("with 1".to_string()));
    }

    #[test]
    fn a_panic_inside_of_a_caught_one_leaves_the_outer_one_caught() {
        let outer = caught(|| {
            let inner = caught(|| -> u8 { panic!("inner") });
            assert!(IS_CAUGHT.get());
            inner
        });
        assert_eq!(outer, Ok(Err("inner".to_string())));
        assert!(!IS_CAUGHT.get());
    }
}
