//! What is left of a model when the base of every adapted layer is gone.

use burn::module::Module;
use burn::tensor::Device;

use super::{Adapted, Merged, SiteFactors};
use crate::Error;
use crate::adapter::BaseGain;
use crate::low_rank_weights::{LowRankWeight, with_low_rank_weights};

impl<M: Module> Adapted<M> {
    /// The small model that is left when the base of every adapted layer is gone: their weights are products of two narrow
    /// matrices.
    ///
    /// # Errors
    /// If something of the base is left, or a number is not finite.
    pub fn condense(self, device: &Device) -> Result<M, Error> {
        let gain = self.base_gain().unwrap_or(BaseGain::WHOLE);
        if gain != (BaseGain { weight: 0.0, bias: 0.0 }) {
            return Err(Error::BaseIsLeft { percent: 100.0 * gain.weight.max(gain.bias) });
        }
        let all = self.factors();
        let Merged { model, biases_without_place, .. } = self.merged(&|weight| weight)?;
        let weight = |factors: SiteFactors| {
            let bias = factors.bias.filter(|_| biases_without_place.contains(&factors.site.path));
            let a = factors.a.expect("a base fades beside two matrices");
            let b = factors.b.iter().map(|&entry| (factors.scale * f64::from(entry)) as f32).collect();
            (factors.site.weight_path(), LowRankWeight { rank: factors.rank, a, b, bias })
        };
        let weights = all.into_iter().map(weight).collect();
        Ok(with_low_rank_weights(model, &weights, device))
    }
}
