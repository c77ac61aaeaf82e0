//! The weight of a linear layer, dense or packed, as its product sees it.

use burn::module::Param;
use burn::nn;
use burn::tensor::{DType, Device, Int, Tensor};

use crate::packed_product::packed_product;
use crate::product::{product, with_bias};
use crate::weight::PackedView;

/// A layer that multiplies with a weight: this project's, and burn's.
pub trait LinearLayer {
    /// `[d_in, d_out]`.
    fn weight(&self) -> &Param<Tensor<2>>;

    /// `[d_out]`.
    fn bias(&self) -> Option<&Param<Tensor<1>>>;

    /// The words of the weight, if it is packed.
    fn packed(&self) -> Option<Tensor<1, Int>>;
}

impl LinearLayer for nn::Linear {
    fn weight(&self) -> &Param<Tensor<2>> {
        &self.weight
    }

    fn bias(&self) -> Option<&Param<Tensor<1>>> {
        self.bias.as_ref()
    }

    fn packed(&self) -> Option<Tensor<1, Int>> {
        None
    }
}

/// A base weight, outside of any adapter.
#[derive(Debug, Clone)]
pub(crate) enum BaseWeight {
    /// `[d_in, d_out]`.
    Dense(Tensor<2>),
    /// In few bits.
    Packed {
        /// Its words.
        words: Tensor<1, Int>,
        /// `d_in` and `d_out`.
        sizes: [usize; 2],
        /// The dtype that is multiplied in, where the device has it.
        compute: DType,
    },
}

impl BaseWeight {
    /// The weight of `layer` without its adapter.
    pub(crate) fn of(layer: &impl LinearLayer) -> Self {
        let weight = layer.weight().base();
        match layer.packed() {
            None => Self::Dense(weight),
            Some(words) => Self::Packed { words, sizes: weight.dims(), compute: weight.dtype() },
        }
    }

    /// `x·weight + bias`.
    ///
    /// # Shapes
    /// - `x`: `[rows, d_in]`
    /// - output: `[rows, d_out]`
    pub(crate) fn product(self, x: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
        match self {
            Self::Dense(weight) => product(x, weight, bias),
            Self::Packed { words, sizes, compute } => {
                with_bias(packed_product(x, words, sizes, compute), bias)
            }
        }
    }
}

/// Name of the words of a packed weight, beside `weight`.
pub(crate) const PACKED: &str = "packed";

/// The path of the weight that the words at `path` belong to; nothing if these are none.
pub(crate) fn weight_path_of_words(path: &str) -> Option<String> {
    Some(format!("{}.weight", path.strip_suffix(PACKED)?.strip_suffix('.')?))
}

/// The parameter of a weight that is dense: one word, which takes no memory until it is asked for.
pub(crate) fn no_words<const D: usize>(old: &Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
    let no_word = |device: &Device, _| Tensor::zeros([1; D], (device, DType::U32));
    Param::uninitialized(old.id, no_word, old.lazy_device(), false, [1; D].into())
}

/// The numbers of a packed weight on the host, `[d_in, d_out]` row-major.
///
/// # Panics
/// If these are not the words of a packed weight.
pub fn dequantized(words: Tensor<1, Int>) -> Vec<f32> {
    let data = words.into_data();
    PackedView::of(data.as_slice().expect("words of 32 bits")).transposed()
}
