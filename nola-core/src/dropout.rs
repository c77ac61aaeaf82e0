//! Dropout of what goes into an update: only in passes of training, and the same in both forward passes of a block that is
//! recomputed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use burn::tensor::Tensor;

use crate::adapter::Dropout;
use crate::basis::{Basis, Distribution, Generator, Stream};
use crate::linear_combinations::random_matrix;
use crate::philox::fnv1a_32;
use crate::site::Site;

/// What separates the seeds of two passes: 2^64 over the golden ratio, so that no two of them are near.
const BETWEEN_PASSES: u64 = 0x9E37_79B9_7F4A_7C15;

/// The pass of training that a model is in, if it is in one; clones of a model share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct CurrentPass(Arc<AtomicU64>);

impl CurrentPass {
    /// Runs `work` in pass `number`.
    pub(crate) fn within<T>(&self, number: u64, work: impl FnOnce() -> T) -> T {
        struct Leave<'a>(&'a AtomicU64);

        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                self.0.store(0, Ordering::Relaxed);
            }
        }

        self.0.store(number.saturating_add(1), Ordering::Relaxed);
        let _leave = Leave(&self.0);
        work()
    }

    fn number(&self) -> Option<u64> {
        self.0.load(Ordering::Relaxed).checked_sub(1)
    }
}

/// Dropout before one update.
#[derive(Debug, Clone)]
pub(crate) struct InputDropout {
    dropout: Dropout,
    /// Hash of the site's name.
    site: u32,
    pass: CurrentPass,
}

impl InputDropout {
    pub(crate) fn new(dropout: Dropout, site: &Site, pass: CurrentPass) -> Self {
        Self { dropout, site: fnv1a_32(&site.weight_path()), pass }
    }

    /// `x` with some entries 0 and the others larger in proportion, if the model is in a pass of training.
    ///
    /// Which entries is decided by seed, site and pass alone, on every device alike.
    ///
    /// # Shapes
    /// - `x`: `[rows, d_in]`
    ///
    /// # Source
    /// Srivastava et al. (JMLR 2014), in the inverted form of `torch.nn.Dropout`.
    pub(crate) fn dropped(&self, x: &Tensor<2>) -> Option<Tensor<2>> {
        let pass = self.pass.number()?;
        let generator = Generator {
            distribution: Distribution::Uniform,
            seed: self.dropout.seed.wrapping_add(pass.wrapping_mul(BETWEEN_PASSES)),
            site: self.site,
            stream: Stream::Dropout,
        };
        // Uniform in ±1.
        let drawn = random_matrix(Basis::generated(generator, 1, x.dims(), 1.0), &x.device().inner());
        let kept = drawn.greater_equal_elem(2.0 * self.dropout.rate - 1.0).float();
        let mask = kept.mul_scalar(1.0 / (1.0 - self.dropout.rate)).cast(x.dtype());
        let mask = match x.gradient_checkpointing_strategy() {
            Some(strategy) => mask.autodiff().with_gradient_checkpointing_strategy(strategy),
            None => mask,
        };
        Some(x.clone() * mask)
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn dropped(seed: u64, pass: u64) -> Vec<f32> {
        let (current, site) = (CurrentPass::default(), Site::linear("0", 100, 1));
        let dropout = InputDropout::new(Dropout { rate: 0.25, seed }, &site, current.clone());
        let x = Tensor::<2>::ones([50, 100], &Device::flex());
        assert!(dropout.dropped(&x).is_none(), "no pass of training");
        let dropped = current.within(pass, || dropout.dropped(&x)).expect("a pass of training");
        assert!(dropout.dropped(&x).is_none(), "the pass is over");
        dropped.into_data().try_into_vec().expect("f32")
    }

    #[test]
    fn a_quarter_is_dropped_and_the_rest_makes_up_for_it() {
        let values = dropped(1, 0);
        assert!(values.iter().all(|value| *value == 0.0 || (value - 4.0 / 3.0).abs() < 1e-6));
        let share = values.iter().filter(|value| **value == 0.0).count() as f64 / values.len() as f64;
        assert!((share - 0.25).abs() < 0.02, "{share}");
    }

    #[test]
    fn seed_and_pass_decide_what_is_dropped() {
        assert_eq!(dropped(1, 3), dropped(1, 3));
        assert_ne!(dropped(1, 3), dropped(1, 4));
        assert_ne!(dropped(1, 3), dropped(2, 3));
    }
}
