//! How an adapter that is made of the weights of its base shows on stderr: decompositions of a large one take minutes.

use std::cell::Cell;
use std::time::{Duration, Instant};

use nola_core::Progress;

use crate::amounts::duration;
use crate::terminal::err_line;

/// Time without a line.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

/// Reports how many weights were read: a line every now and then, with the time left; nothing if it is done sooner.
pub fn weights_read() -> impl Fn(Progress) {
    let (started, last) = (Instant::now(), Cell::new(Instant::now()));
    move |progress| {
        if last.get().elapsed() < BETWEEN_LINES {
            return;
        }
        last.set(Instant::now());
        err_line(&line(progress, started.elapsed()));
    }
}

fn line(Progress { weight, of }: Progress, elapsed: Duration) -> String {
    let each = elapsed.as_secs_f64() / weight.saturating_sub(1).max(1) as f64;
    let left = duration(each * (of + 1 - weight) as f64);
    format!("adapter: weight {weight} of {of} of the base is decomposed, {left} left")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_many_weights_and_how_much_time_is_left() {
        let text = line(Progress { weight: 11, of: 30 }, Duration::from_secs(20));
        assert_eq!(text, "adapter: weight 11 of 30 of the base is decomposed, 00:00:40 left");
    }
}
