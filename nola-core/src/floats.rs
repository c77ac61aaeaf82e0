//! Values of tensors on the host.

use burn::tensor::TensorData;

/// The values of `data` as `f32`.
pub(crate) fn floats(data: TensorData) -> Vec<f32> {
    let data = data.convert::<f32>();
    data.try_into_vec::<f32>().expect("it was converted to f32")
}
