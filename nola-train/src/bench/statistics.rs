//! Medians and percentiles, as the PyTorch script computes them.

/// Value below which the share `q` of the values lies, with a straight line between neighbours; none of no values.
pub(super) fn percentile(values: &[f64], q: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = sorted.len().checked_sub(1)? as f64 * q;
    let low = place as usize;
    let high = (low + 1).min(sorted.len() - 1);
    Some(sorted[low] + (sorted[high] - sorted[low]) * (place - low as f64))
}

/// The middle value, or the mean of the two in the middle; none of no values.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    percentile(values, 0.5)
}

/// The smallest value; none of no values.
pub(super) fn smallest(values: &[f64]) -> Option<f64> {
    values.iter().copied().min_by(f64::total_cmp)
}

/// `value` with so many digits behind the point.
pub(crate) fn rounded(value: f64, digits: i32) -> f64 {
    let unit = 10_f64.powi(digits);
    (value * unit).round() / unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_pytorch_script() {
        let values = [0.5, 0.1, 0.4, 0.2];
        // pct(xs, q) of the script gives 0.13, 0.3 and 0.47.
        for (q, expected) in [(0.1, 0.13), (0.5, 0.3), (0.9, 0.47)] {
            let found = percentile(&values, q).expect("there are values");
            assert!((found - expected).abs() < 1e-12, "{q}: {found}");
        }
    }

    #[test]
    fn one_value_is_every_percentile_and_none_has_none() {
        assert_eq!([0.0, 0.1, 0.9, 1.0].map(|q| percentile(&[3.0], q)), [Some(3.0); 4]);
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn rounding_keeps_so_many_digits() {
        assert_eq!(rounded(1.234_56, 4), 1.2346);
        assert_eq!(rounded(1234.56, 1), 1234.6);
    }
}
