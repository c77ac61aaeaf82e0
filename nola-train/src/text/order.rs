//! Steps of samples of about the same length.

use std::cmp::Reverse;

/// Steps that share their samples out by length, at most.
///
/// # Source
/// The `mega_batch_mult` of Hugging Face's `LengthGroupedSampler`.
const MOST_STEPS: usize = 50;
/// An epoch is at least this many groups, so that not every epoch goes from long to short.
const LEAST_GROUPS: usize = 4;

/// An order in which the rows of a step are of about the same length.
///
/// The rows of several steps are taken together, sorted from long to short and shared out again; so each row still comes
/// as often as before, and what a step gets depends on the order and the step alone. Unlike Hugging Face's sampler it
/// does not move the longest of all rows to the start.
#[derive(Debug, Clone)]
pub struct LengthGroups {
    lengths: Vec<usize>,
    steps: usize,
    /// The last group, and its rows.
    last: Option<(usize, Vec<usize>)>,
}

impl LengthGroups {
    /// For rows of these lengths, in tokens, of which each step takes `batch`, at least 1.
    pub fn new(lengths: Vec<usize>, batch: usize) -> Self {
        let steps = (lengths.len() / (batch * LEAST_GROUPS)).clamp(1, MOST_STEPS);
        Self { lengths, steps, last: None }
    }

    /// The rows of a step, where `order` gives those of each step without regard to length.
    pub fn step(&mut self, step: usize, order: impl FnMut(usize) -> Vec<usize>) -> Vec<usize> {
        let (group, place) = (step / self.steps, step % self.steps);
        let rows = match self.last.take() {
            Some((last, rows)) if last == group => rows,
            Some(_) | None => self.group(group, order),
        };
        let batch = rows.len() / self.steps;
        let own = rows[place * batch..(place + 1) * batch].to_vec();
        self.last = Some((group, rows));
        own
    }

    /// The rows of a group from long to short.
    fn group(&self, group: usize, order: impl FnMut(usize) -> Vec<usize>) -> Vec<usize> {
        let steps = group * self.steps..(group + 1) * self.steps;
        let mut rows: Vec<usize> = steps.flat_map(order).collect();
        rows.sort_by_key(|&row| Reverse(self.lengths[row]));
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows 0, 1, 2, ... over and over, three a step.
    fn in_turn(step: usize) -> Vec<usize> {
        (3 * step..3 * step + 3).map(|position| position % 100).collect()
    }

    fn groups() -> LengthGroups {
        LengthGroups::new((0..100).map(|row| row * 37 % 100).collect(), 3)
    }

    #[test]
    fn a_group_has_the_rows_it_would_have_had_from_long_to_short() {
        let mut groups = groups();
        assert_eq!(groups.steps, 8);
        let rows: Vec<usize> = (8..16).flat_map(|step| groups.step(step, in_turn)).collect();
        assert!(rows.is_sorted_by_key(|&row| Reverse(groups.lengths[row])));
        let mut sorted = rows;
        sorted.sort_unstable();
        assert_eq!(sorted, (24..48).collect::<Vec<_>>());
    }

    #[test]
    fn a_step_is_the_same_wherever_a_run_starts() {
        let mut whole = groups();
        let steps: Vec<_> = (0..30).map(|step| whole.step(step, in_turn)).collect();
        for start in [5, 8, 29] {
            let mut resumed = groups();
            for (step, expected) in steps.iter().enumerate().skip(start) {
                assert_eq!(&resumed.step(step, in_turn), expected);
            }
        }
    }

    #[test]
    fn few_rows_keep_their_order_of_steps() {
        let mut groups = LengthGroups::new(vec![1, 2, 3], 3);
        assert_eq!(groups.step(0, |_| vec![0, 1, 2]), [2, 1, 0]);
    }
}
