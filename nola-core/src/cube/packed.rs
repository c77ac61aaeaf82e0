//! Products with packed weights on GPUs: a slab of a weight at a time becomes numbers, and goes into burn's product.

use burn::backend::TensorMetadata;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::{DType, Shape, Slice};
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{Cube, kernel::into_contiguous};
use cubecl::calculate_cube_count_elemwise;
use cubecl::prelude::*;
use cubecl::server::Handle;

use super::handover;
use super::kernels::{UNITS, packed};
use crate::packed_product::{Direction, PackedProduct, Request};
use crate::weight;

/// Numbers of a slab, at most, unless a single output has more.
const SLAB: usize = 1 << 22;

impl PackedProduct for Cube {
    fn packed_product(x: FloatTensor<Self>, words: IntTensor<Self>, request: Request) -> FloatTensor<Self> {
        let [d_in, d_out] = request.sizes;
        let dtype = x.dtype();
        let words = into_contiguous(handover::words(words));
        let tables = Tables::beside(&words);
        let outputs = (SLAB / d_in.max(1)).clamp(1, d_out);
        let slabs = (0..d_out).step_by(outputs).map(|first| first..d_out.min(first + outputs));
        let parts = slabs.map(|outputs| {
            let slab = dequantized(&words, &tables, outputs.start * d_in, [outputs.len(), d_in]);
            let slab = Self::float_cast(handover::primitive(slab), dtype.into());
            match request.direction {
                Direction::Forward => Self::float_matmul(x.clone(), Self::float_transpose(slab)),
                Direction::Backward => {
                    let of_outputs = Slice::from(outputs.start as isize..outputs.end as isize);
                    let x = Self::float_slice(x.clone(), &[Slice::full(), of_outputs]);
                    // Sums over slabs are f32, as those within one are.
                    Self::float_cast(Self::float_matmul(x, slab), DType::F32.into())
                }
            }
        });
        match request.direction {
            Direction::Forward => Self::float_cat(parts.collect(), 1),
            Direction::Backward => {
                let sum = parts.reduce(Self::float_add).expect("a weight has outputs");
                Self::float_cast(sum, dtype.into())
            }
        }
    }
}

/// The numbers that codes are looked up in, on a device.
struct Tables {
    handle: Handle,
    count: usize,
}

impl Tables {
    fn beside(words: &CubeTensor) -> Self {
        let tables = weight::tables();
        Self { handle: words.client.create_from_slice(f32::as_bytes(&tables)), count: tables.len() }
    }
}

/// Rows of a packed weight `[d_out, d_in]`, from its number `first` on.
fn dequantized(words: &CubeTensor, tables: &Tables, first: usize, shape: [usize; 2]) -> CubeTensor {
    let (client, device) = (words.client.clone(), words.device.clone());
    let numbers = empty_device_contiguous_dtype(client.clone(), device, Shape::new(shape), DType::F32);
    let count = shape[0] * shape[1];
    // SAFETY: the buffer was made of this many numbers; the kernel reads words of the weight and writes `count` numbers.
    unsafe {
        packed::dequantize::launch_unchecked(
            &client,
            calculate_cube_count_elemwise(&client, count, CubeDim::new_1d(UNITS)),
            CubeDim::new_1d(UNITS),
            words.clone().into_buffer_arg(),
            BufferArg::from_raw_parts(tables.handle.clone(), tables.count),
            numbers.clone().into_buffer_arg(),
            first as u32,
            count as u32,
        );
    }
    numbers
}
