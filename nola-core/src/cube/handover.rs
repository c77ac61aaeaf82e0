//! Tensors handed over to the kernels and back: the only file that knows whether burn fuses operations.
//!
//! With fusion, burn queues operations and a tensor is a promise; the kernels need its buffer, so what leads to it runs
//! first. Without, a tensor is its buffer.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::Tensor;
use burn_cubecl::{Cube, tensor::CubeTensor};

/// The buffer of a tensor of integers.
#[cfg(not(feature = "fusion"))]
pub(super) fn words(tensor: IntTensor<Cube>) -> CubeTensor {
    tensor
}

/// The buffer of a tensor of integers.
#[cfg(feature = "fusion")]
pub(super) fn words(tensor: IntTensor<Cube>) -> CubeTensor {
    let client = tensor.client.clone();
    client.resolve_tensor_int::<burn_cubecl::CubeBackend>(tensor)
}

/// A tensor with this buffer, as burn's backend has it.
pub(super) fn primitive(buffer: CubeTensor) -> FloatTensor<Cube> {
    tensor(buffer).try_into_primitive::<Cube>().expect("it was just made there")
}

/// The buffer of `tensor`; nothing if another backend has it.
#[cfg(not(feature = "fusion"))]
pub(super) fn buffer(tensor: Tensor<2>) -> Option<CubeTensor> {
    tensor.try_into_primitive::<Cube>().ok()
}

/// The buffer of `tensor`; nothing if another backend has it.
#[cfg(feature = "fusion")]
pub(super) fn buffer(tensor: Tensor<2>) -> Option<CubeTensor> {
    let promise = tensor.try_into_primitive::<Cube>().ok()?;
    let client = promise.client.clone();
    Some(client.resolve_tensor_float::<burn_cubecl::CubeBackend>(promise))
}

/// A tensor with this buffer.
#[cfg(not(feature = "fusion"))]
pub(super) fn tensor(buffer: CubeTensor) -> Tensor<2> {
    Tensor::from_primitive::<Cube>(buffer)
}

/// A tensor with this buffer.
#[cfg(feature = "fusion")]
pub(super) fn tensor(buffer: CubeTensor) -> Tensor<2> {
    use burn::backend::fusion::{NoOp, get_client, stream::StreamId};
    use burn::backend::ir::{InitOperationIr, OperationIr, OperationOutput};
    use burn_cubecl::CubeBackend;

    let client = get_client::<CubeBackend>(&buffer.device);
    let (shape, dtype) = (buffer.meta.shape().clone(), buffer.dtype);
    let kept = InitOperationIr::create(shape, dtype, || client.register_tensor_handle(buffer.into()));
    let promise =
        client.register(StreamId::current(), OperationIr::Init(kept), NoOp::<CubeBackend>::new()).output();
    Tensor::from_primitive::<Cube>(promise)
}
