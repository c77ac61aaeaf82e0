//! Numbers in memory that tensors on the CPU use where they lie.

use burn::tensor::{Bytes, DType, Device, Tensor, TensorData};

/// A matrix of `f32`, row-major; clones share it.
#[derive(Debug, Clone)]
pub(super) struct Numbers {
    bytes: Bytes,
    shape: [usize; 2],
}

impl Numbers {
    /// # Panics
    /// If there are not as many numbers as the shape says.
    pub(super) fn new(values: Vec<f32>, shape: [usize; 2]) -> Self {
        assert_eq!(values.len(), shape[0] * shape[1], "a number for each place");
        Self { bytes: Bytes::from_elems(values).shared(), shape }
    }

    /// Numbers in one row.
    pub(super) fn row(values: Vec<f32>) -> Self {
        let shape = [1, values.len()];
        Self::new(values, shape)
    }

    pub(super) fn shape(&self) -> [usize; 2] {
        self.shape
    }

    pub(super) fn len(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    pub(super) fn values(&self) -> &[f32] {
        bytemuck::cast_slice(&self.bytes)
    }

    /// On `device`; on the CPU not copied.
    pub(super) fn on(&self, device: &Device) -> Tensor<2> {
        let data = TensorData::from_bytes(self.bytes.clone(), self.shape, DType::F32);
        Tensor::from_data(data, (device, DType::F32))
    }
}
