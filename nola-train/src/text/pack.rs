//! Several samples in one row of a batch.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::Sample;

/// Which samples share a row of at most `max_tokens`: the longest first, each in the fullest row it fits in.
///
/// # Source
/// Best-fit decreasing, which needs at most 11/9 of the fewest possible rows, and a constant (Johnson 1973).
pub(super) fn rows_of(samples: &[Sample], max_tokens: usize) -> Vec<Vec<usize>> {
    let mut longest_first: Vec<usize> = (0..samples.len()).collect();
    longest_first.sort_by_key(|&sample| Reverse(samples[sample].positions()));
    let mut rows: Vec<Vec<usize>> = Vec::new();
    // Rows by the tokens that are still free in them.
    let mut open: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for sample in longest_first {
        let length = samples[sample].positions();
        let (free, row) = match open.range_mut(length..).next() {
            None => (max_tokens, new_row(&mut rows)),
            Some((&free, fitting)) => {
                let row = fitting.pop().expect("empty lists are removed");
                if fitting.is_empty() {
                    open.remove(&free);
                }
                (free, row)
            }
        };
        rows[row].push(sample);
        open.entry(free.saturating_sub(length)).or_default().push(row);
    }
    rows.iter_mut().for_each(|row| row.sort_unstable());
    rows.sort_unstable();
    rows
}

fn new_row(rows: &mut Vec<Vec<usize>>) -> usize {
    rows.push(Vec::new());
    rows.len() - 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn samples(lengths: &[usize]) -> Vec<Sample> {
        lengths.iter().map(|&length| Sample { ids: vec![0; length + 1], trained: Vec::new() }).collect()
    }

    #[test]
    fn rows_are_filled_with_what_fits_best() {
        let rows = rows_of(&samples(&[2, 7, 3, 8, 5, 5]), 10);
        assert_eq!(rows, [vec![0, 3], vec![1, 2], vec![4, 5]]);
    }

    proptest! {
        #[test]
        fn every_sample_is_in_one_row_and_no_row_is_overfull(
            lengths in proptest::collection::vec(1usize..=20, 0..60),
        ) {
            let rows = rows_of(&samples(&lengths), 20);
            let mut seen = rows.concat();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
            for row in &rows {
                prop_assert!(row.iter().map(|&sample| lengths[sample]).sum::<usize>() <= 20);
            }
            let half_full = rows.iter().filter(|row| row.iter().map(|&sample| lengths[sample]).sum::<usize>() <= 10);
            prop_assert!(half_full.count() <= 1, "two half-full rows would have become one");
        }
    }
}
