//! Runs that learn nothing, since no gradient reaches what is trained.

use crate::Error;

/// After so many first steps without any gradient a run has learned nothing, and will not.
const STEPS_WITHOUT_GRADIENT: usize = 10;

/// Counts the first steps of a run that had no gradient but zero.
#[derive(Debug)]
pub(super) struct FirstGradients {
    without: usize,
    /// So many of them end the run.
    most: usize,
}

impl FirstGradients {
    /// Of a run with so many optimizer steps.
    pub(super) fn of(steps: usize) -> Self {
        Self { without: 0, most: STEPS_WITHOUT_GRADIENT.min(steps) }
    }

    /// Takes the norm of all gradients of a step, counted from 0.
    ///
    /// # Errors
    /// If neither this step nor any before it had a gradient, and there were enough of them.
    pub(super) fn count(&mut self, step: usize, norm: f64) -> Result<(), Error> {
        if step != self.without || norm != 0.0 {
            return Ok(());
        }
        self.without += 1;
        if self.without < self.most {
            return Ok(());
        }
        Err(Error::NoGradient { steps: self.without })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether each step, from the first on, ends a run of so many steps.
    fn ends(steps: usize, norms: &[f64]) -> Vec<bool> {
        let mut first = FirstGradients::of(steps);
        norms.iter().enumerate().map(|(step, norm)| first.count(step, *norm).is_err()).collect()
    }

    #[test]
    fn a_run_whose_first_steps_have_no_gradient_ends() {
        let ended = ends(1000, &[0.0; STEPS_WITHOUT_GRADIENT]);
        assert_eq!(ended.iter().position(|ends| *ends), Some(STEPS_WITHOUT_GRADIENT - 1));
        assert_eq!(ends(3, &[0.0; 3]), [false, false, true], "a short run has no more steps");
    }

    #[test]
    fn one_gradient_is_enough_to_go_on() {
        let mut norms = [0.0; 30];
        norms[STEPS_WITHOUT_GRADIENT - 1] = 1e-30;
        assert!(!ends(1000, &norms).contains(&true));
    }
}
