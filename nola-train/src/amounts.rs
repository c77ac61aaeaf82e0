//! Amounts as people read them.

use std::time::Duration;

use indicatif::FormattedDuration;

/// A share from 0 to 1 in percent.
pub fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// `1234567` as `1,234,567`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A size in the largest unit that keeps it above one.
pub fn bytes(size: u64) -> String {
    match size {
        0..1024 => format!("{size} B"),
        1024..1_048_576 => format!("{:.1} KiB", size as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", size as f64 / 1_048_576.0),
        1_073_741_824.. => format!("{:.1} GiB", size as f64 / 1_073_741_824.0),
    }
}

/// Seconds as hours, minutes and seconds, and days where there are any.
pub fn duration(seconds: f64) -> String {
    // Infinity and NaN are cut off far beyond what anybody waits.
    let seconds = if seconds.is_finite() { seconds.clamp(0.0, 1e9) } else { 1e9 };
    FormattedDuration(Duration::from_secs_f64(seconds)).to_string()
}

/// What stays on one line with the number before it.
const UNITS: [&str; 18] = [
    "%",
    "s",
    "B",
    "KiB",
    "MiB",
    "GiB",
    "bits",
    "bytes",
    "nats",
    "images",
    "tokens",
    "classes",
    "parameters",
    "samples",
    "steps",
    "epochs",
    "cores",
    "threads",
];

/// Text in which numbers stay on one line with their units.
pub fn unbroken(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for (place, word) in text.split(' ').enumerate() {
        let is_unit = UNITS.contains(&word.trim_end_matches([',', ';', '.', ':', ')']));
        if place > 0 {
            shown.push(if is_unit && shown.ends_with(|last: char| last.is_ascii_digit()) {
                '\u{a0}'
            } else {
                ' '
            });
        }
        shown.push_str(word);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_are_grouped() {
        assert_eq!([0, 999, 1000, 1234567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn sizes_have_a_unit_that_fits() {
        assert_eq!([1023, 1536, 3 << 20, 5 << 30].map(bytes), ["1023 B", "1.5 KiB", "3.0 MiB", "5.0 GiB"]);
    }

    #[test]
    fn durations_are_clocks_with_days_before_them() {
        let shown = [0.4, 61.0, 3599.9, 86_400.0 + 3661.0].map(duration);
        assert_eq!(shown, ["00:00:00", "00:01:01", "00:59:59", "1d 01:01:01"]);
        assert_eq!(duration(f64::INFINITY), "11574d 01:46:40");
    }

    #[test]
    fn units_stay_with_their_numbers() {
        let text = unbroken("CPU (2 cores), 72.4 % of 10 images;  from 0.80 to 3.93 after 5 steps");
        let expected =
            "CPU (2\u{a0}cores), 72.4\u{a0}% of 10\u{a0}images;  from 0.80 to 3.93 after 5\u{a0}steps";
        assert_eq!(text, expected);
    }
}
