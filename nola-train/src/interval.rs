//! How well a share is known that was counted on a sample.

/// 97.5 % quantile of the normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// The interval of 95 % confidence around a share, from 0 to 1, of so many independent answers.
///
/// # Source
/// Wilson: *Probable Inference, the Distribution of Succession, and Statistical Inference* (1927).
pub fn wilson(share: f64, answers: usize) -> [f64; 2] {
    if answers == 0 {
        return [0.0, 1.0];
    }
    let n = answers as f64;
    let weight = 1.0 + Z * Z / n;
    let centre = (share + Z * Z / (2.0 * n)) / weight;
    let half = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt() / weight;
    [(centre - half).max(0.0), (centre + half).min(1.0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_that_of_statsmodels() {
        // statsmodels.stats.proportion.proportion_confint(count, nobs, method="wilson")
        for (right, answers, low, high) in [
            (362, 500, 0.683_222_43, 0.761_361_87),
            (0, 10, 0.0, 0.277_532_8),
            (10, 10, 0.722_467_2, 1.0),
            (1, 2, 0.094_531_21, 0.905_468_79),
        ] {
            let [found_low, found_high] = wilson(f64::from(right) / answers as f64, answers);
            assert!(
                (found_low - low).abs() < 1e-6 && (found_high - high).abs() < 1e-6,
                "{right} of {answers}: {found_low} {found_high}"
            );
        }
    }

    #[test]
    fn of_nothing_nothing_is_known() {
        assert_eq!(wilson(0.0, 0), [0.0, 1.0]);
    }
}
