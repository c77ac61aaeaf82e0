//! A device that fails in the middle of the work: a driver that was reset, a GPU that went away, a kernel that it cannot run.

/// What messages of drivers and of burn's backends contain then, in lower case.
const MESSAGES: [&str; 6] = [
    "the device is poisoned",
    "the device was poisoned",
    "device is lost",
    "device lost",
    "wgpu error: ",
    "cuda_error_",
];

/// Whether a panic is about a device that failed, and not about a fault in this program.
pub(crate) fn is_of_device(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    MESSAGES.iter().any(|known| message.contains(known))
}

/// What is wrong, from the first line of a panic, and what helps.
pub(crate) fn problem(message: &str) -> String {
    let first_line = message.lines().next().unwrap_or_default();
    format!(
        "it failed in the middle of the work ({first_line}); look into the system's log for its driver, then go on from the \
         last checkpoint with `nola-train train --resume RUN`; `nola-train doctor` says whether it computes rightly, and \
         --device cpu does without it"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_drivers_say_of_a_lost_device_is_known() {
        for message in [
            "The device is poisoned by an earlier fault",
            "wgpu error: Validation Error\n\nCaused by: Parent device is lost",
            "called `Result::unwrap()` on an `Err` value: Device lost",
            "CUDA_ERROR_ILLEGAL_ADDRESS",
        ] {
            assert!(is_of_device(message), "{message}");
            let problem = problem(message);
            assert!(problem.contains("--resume RUN") && !problem.contains('\n'), "{problem}");
        }
        for message in ["index out of bounds: the len is 3", "the model has these layers", ""] {
            assert!(!is_of_device(message), "{message}");
        }
    }
}
