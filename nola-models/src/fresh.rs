//! Fresh weights to train from scratch, drawn on the host: every device gets the same ones.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Int, Tensor, TensorData};
use nola_core::Packing;
use nola_core::weight::Quantization;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::WeightDtype;

/// How fresh weights are distributed around zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Distribution {
    /// Normal.
    Normal,
    /// Normal, cut at two deviations.
    CutNormal,
}

/// How the parameter at a path is made.
pub(crate) struct Plan<'a> {
    /// Standard deviation.
    pub(crate) deviation: &'a dyn Fn(&str) -> f64,
    /// The storage dtype.
    pub(crate) dtype: &'a dyn Fn(&str) -> WeightDtype,
    /// How the weight is quantised, if it is one of a linear layer.
    pub(crate) quantization: &'a dyn Fn(&str) -> Option<Quantization>,
}

/// `module` with fresh weights; norms and biases stay.
///
/// Each parameter has its own stream of `seed`.
pub(crate) fn fresh<M: Module>(module: M, seed: u64, distribution: Distribution, plan: &Plan) -> M {
    let packing = Packing::of(&module);
    module.map(&mut Fresh { seed, distribution, plan, packing, parameters: 0, path: Vec::new() })
}

/// Draws fresh weights, parameter by parameter.
struct Fresh<'a> {
    seed: u64,
    distribution: Distribution,
    plan: &'a Plan<'a>,
    packing: Packing,
    parameters: u64,
    path: Vec<String>,
}

impl ModuleMapper for Fresh<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.parameters += 1;
        let path = self.path.join(".");
        let dtype = (self.plan.dtype)(&path);
        // Norms start as ones and zeros, which is how burn makes them; biases as zeros, and layer scales as they were made.
        if matches!(self.path.last().map(String::as_str), Some("gamma" | "beta" | "bias" | "lambda1")) {
            return held_as(param, dtype);
        }
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(self.parameters);
        let deviation = (self.plan.deviation)(&path);
        let shape = param.lazy_shape();
        let values: Vec<f32> = (0..shape.num_elements())
            .map(|_| (self.distribution.draw(&mut rng) * deviation) as f32)
            .collect();
        if let Some(quantization) = (self.plan.quantization)(&path) {
            let packed = self.packing.quantized(&path, &param, quantization, &values, dtype.dtype());
            if let Some(packed) = packed {
                return packed;
            }
        }
        let data = TensorData::new(values, shape);
        let tensor = Tensor::from_data(data, (&param.lazy_device(), dtype.dtype()));
        Param::initialized(param.id, tensor).set_require_grad(true)
    }

    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        self.packing.words(param)
    }
}

/// The parameter in another number type; one that is f32 and was never used stays unused.
pub(crate) fn held_as<const D: usize>(param: Param<Tensor<D>>, dtype: WeightDtype) -> Param<Tensor<D>> {
    if dtype == WeightDtype::F32 {
        return param;
    }
    param.map(|tensor| {
        let trained = tensor.is_require_grad();
        // Detached last: only a leaf may be tracked.
        tensor.cast(dtype.dtype()).detach().set_require_grad(trained)
    })
}

impl Distribution {
    /// One draw with deviation 1 (before it is cut), by Box and Muller's formula.
    fn draw(self, rng: &mut ChaCha8Rng) -> f64 {
        loop {
            let (u, v): (f64, f64) = (rng.random(), rng.random());
            let normal = (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos();
            match self {
                Self::Normal => return normal,
                Self::CutNormal if normal.abs() <= 2.0 => return normal,
                Self::CutNormal => {}
            }
        }
    }
}
