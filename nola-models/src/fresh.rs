//! Fresh weights to train from scratch, drawn on the host: every device gets the same ones.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How fresh weights are distributed around zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Law {
    /// Normal.
    Normal,
    /// Normal, cut at two deviations.
    CutNormal,
}

/// `module` with fresh weights; `deviation` is the standard deviation of the parameter at a path. Norms and biases stay.
///
/// Each parameter has its own stream of `seed`.
pub(crate) fn fresh<M: Module>(module: M, seed: u64, law: Law, deviation: &dyn Fn(&str) -> f64) -> M {
    module.map(&mut Fresh { seed, law, deviation, parameters: 0, path: Vec::new() })
}

/// Draws fresh weights, parameter by parameter.
struct Fresh<'a> {
    seed: u64,
    law: Law,
    deviation: &'a dyn Fn(&str) -> f64,
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
        // Norms start as ones and zeros, which is how burn makes them; biases as zeros.
        if matches!(self.path.last().map(String::as_str), Some("gamma" | "beta" | "bias")) {
            return param;
        }
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(self.parameters);
        let deviation = (self.deviation)(&self.path.join("."));
        let shape = param.lazy_shape();
        let values: Vec<f32> =
            (0..shape.num_elements()).map(|_| (self.law.draw(&mut rng) * deviation) as f32).collect();
        let data = TensorData::new(values, shape);
        Param::initialized(param.id, Tensor::from_data(data, &param.lazy_device())).set_require_grad(true)
    }
}

impl Law {
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
