//! The device under test, and numbers on their way to it and back.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, DeviceKind, Int, Tensor, TensorData};
use nola_core::Adapted;

use crate::fixtures::{Golden, Tensors};

/// The device that `NOLA_TEST_DEVICE` names, `cpu` (default) or `wgpu`, ready to differentiate.
///
/// # Panics
/// If it names another one: a typo there must not turn a test of a GPU into one of the CPU.
pub fn device() -> Device {
    let device = match std::env::var("NOLA_TEST_DEVICE").as_deref() {
        Err(_) | Ok("cpu") => Device::flex(),
        Ok("wgpu") => Device::wgpu(DeviceKind::DefaultDevice),
        Ok(other) => panic!("NOLA_TEST_DEVICE: `{other}` is neither `cpu` nor `wgpu`"),
    };
    device.autodiff()
}

/// Largest difference from a golden float64 value.
///
/// On the CPU what the fixtures' README suggests for a float32 run. WGSL lets functions such as `exp` and
/// `inverseSqrt` err by several units in the last place: on lavapipe, values met the CPU's bound, and gradients of the
/// first block were off by up to 6.5e-4 at a size of 3.
pub fn tolerance() -> f64 {
    match std::env::var("NOLA_TEST_DEVICE").as_deref() {
        Ok("wgpu") => 1e-3,
        Ok(_) | Err(_) => 1e-4,
    }
}

/// Largest difference of a factor from the host's, as a part of the largest entry: none on the CPU, and the rounding of
/// another order of summation on a GPU.
pub fn factor_tolerance() -> f32 {
    match std::env::var("NOLA_TEST_DEVICE").as_deref() {
        Ok("wgpu") => 1e-6,
        Ok(_) | Err(_) => 0.0,
    }
}

/// The golden tensor in the highest precision there is: `NAME.f64`, else `NAME`.
pub fn precise<'a>(golden: &'a Tensors, name: &str) -> Option<&'a Golden> {
    golden.get(&format!("{name}.f64")).or_else(|| golden.get(name))
}

/// A golden tensor on `device`, rounded to f32.
pub fn tensor<const D: usize>(golden: &Golden, device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(golden.f32(), golden.shape.clone()), device)
}

/// Golden class indices on `device`.
pub fn classes(golden: &Golden, device: &Device) -> Tensor<1, Int> {
    let labels = golden.i64().to_vec();
    let shape = [labels.len()];
    Tensor::from_data(TensorData::new(labels, shape), device)
}

/// The numbers of a tensor, row-major.
pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data_as::<f32>().try_into_vec().expect("the type was asked for")
}

/// The transposes of row-major matrices with `rows` rows and `cols` columns, which stand one after the other.
pub fn transposed<T: Copy>(values: &[T], rows: usize, cols: usize) -> Vec<T> {
    let transpose = |matrix: &[T]| -> Vec<T> {
        (0..cols)
            .flat_map(|col| (0..rows).map(move |row| (row, col)))
            .map(|(row, col)| matrix[row * cols + col])
            .collect()
    };
    values.chunks(rows * cols).flat_map(transpose).collect()
}

/// The gradients of `module`'s parameters, by path; without those that have none.
pub fn by_path<M: Module>(module: &M, gradients: &GradientsParams) -> BTreeMap<String, Vec<f32>> {
    let mut walk = Walk { gradients, path: Vec::new(), found: BTreeMap::new() };
    module.visit(&mut walk);
    walk.found
}

/// The gradients of what an optimizer changes in `adapted`: coefficients by name, other parameters by path.
pub fn by_name<M: Module + burn::module::ModuleDisplay>(
    adapted: &Adapted<M>,
    gradients: &GradientsParams,
) -> BTreeMap<String, Vec<f32>> {
    let mut found = by_path(adapted, gradients);
    for (index, name) in adapted.coefficient_names().enumerate() {
        if let Some(gradient) = found.remove(&format!("coefficients.{index}")) {
            found.insert(name.to_owned(), gradient);
        }
    }
    found
}

struct Walk<'a> {
    gradients: &'a GradientsParams,
    path: Vec<String>,
    found: BTreeMap<String, Vec<f32>>,
}

impl ModuleVisitor for Walk<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.get::<D>(param.id) {
            self.found.insert(self.path.join("."), values(gradient));
        }
    }
}
