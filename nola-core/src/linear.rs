//! A linear layer whose weight is dense or packed, with its adapter: the only place that multiplies with a weight.

use burn::module::{Module, Param, ParamId};
use burn::nn;
use burn::tensor::DType;
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::features::{self, Layers};
use crate::low_rank_weights::LowRank;
use crate::packed_product::packed_product;
use crate::product::{product, with_bias};
use crate::update::{Update, noted};
use crate::weight::{PackedView, PackedWeight};

/// A linear layer, `x·weight + bias`.
///
/// In few bits the weight lies beside the parameter `weight`, which then has its shape, its compute dtype and no memory: each of
/// its numbers is NaN, so that nobody computes with it unawares.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[d_in, d_out]`.
    pub weight: Param<Tensor<2>>,
    /// The words of a packed weight; one word if it is dense.
    packed: Param<Tensor<1, Int>>,
    /// `[d_out]`.
    pub bias: Option<Param<Tensor<1>>>,
}

impl Linear {
    /// A layer with a dense weight.
    pub fn dense(weight: Param<Tensor<2>>, bias: Option<Param<Tensor<1>>>) -> Self {
        let device = weight.lazy_device();
        let no_word = |device: &Device, _| Tensor::zeros([1], (device, DType::U32));
        let packed = Param::uninitialized(ParamId::new(), no_word, device, false, [1].into());
        Self { weight, packed, bias }
    }

    /// Whether its weight is packed.
    pub fn is_packed(&self) -> bool {
        self.packed.lazy_shape().num_elements() > 1
    }
}

impl From<nn::Linear> for Linear {
    fn from(layer: nn::Linear) -> Self {
        Self::dense(layer.weight, layer.bias)
    }
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

/// Name of the words of a packed weight, beside `weight`.
pub(crate) const PACKED: &str = "packed";

/// The path of the weight that the words at `path` belong to; nothing if these are none.
pub(crate) fn weight_path_of_words(path: &str) -> Option<String> {
    Some(format!("{}.weight", path.strip_suffix(PACKED)?.strip_suffix('.')?))
}

/// The parameter that holds the words of `weight`.
pub fn packed_param<const D: usize>(
    old: &Param<Tensor<D, Int>>,
    weight: PackedWeight,
) -> Param<Tensor<D, Int>> {
    let words = weight.into_words();
    let mut shape = [1; D];
    shape[D - 1] = words.len();
    let tensor = Tensor::from_data(TensorData::new(words, shape), (&old.lazy_device(), DType::U32));
    Param::initialized(old.id, tensor)
}

/// The parameter that stands for a packed weight: NaN of this shape that takes no memory.
pub fn placeholder<const D: usize>(old: &Param<Tensor<D>>, dtype: DType) -> Param<Tensor<D>> {
    let one = Tensor::full([1; D], f32::NAN, (&old.lazy_device(), dtype));
    Param::initialized(old.id, one.expand(old.lazy_shape())).set_require_grad(false)
}

/// A layer that multiplies with a weight: this project's, and burn's.
pub trait LinearLayer {
    /// `[d_in, d_out]`.
    fn weight(&self) -> &Param<Tensor<2>>;

    /// `[d_out]`.
    fn bias(&self) -> Option<&Param<Tensor<1>>>;

    /// The words of the weight, if it is packed.
    fn packed(&self) -> Option<Tensor<1, Int>>;
}

impl LinearLayer for Linear {
    fn weight(&self) -> &Param<Tensor<2>> {
        &self.weight
    }

    fn bias(&self) -> Option<&Param<Tensor<1>>> {
        self.bias.as_ref()
    }

    fn packed(&self) -> Option<Tensor<1, Int>> {
        self.is_packed().then(|| self.packed.val())
    }
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
        Self::new(layer.weight().base(), layer.packed())
    }

    /// The weight, or the placeholder and the words in its place.
    pub(crate) fn new(weight: Tensor<2>, packed: Option<Tensor<1, Int>>) -> Self {
        match packed {
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

/// `x·(W + ΔW) + bias` as `x·W + scale·(x·A)·B + bias`: no weight-sized product or gradient.
///
/// # Shapes
/// - `x`: `[.., d_in]`
/// - output: `[.., d_out]`
///
/// # Source
/// LoRA (Hu et al., ICLR 2022), equation 3; NOLA (Koohpayegani et al., ICLR 2024), section 2; DoRA (Liu et al., ICML
/// 2024), equation 5.
pub fn adapted<const D: usize>(layer: &impl LinearLayer, x: Tensor<D>) -> Tensor<D> {
    let (d_in, mut shape) = (x.dims()[D - 1], x.dims());
    // One product over all rows, however they are grouped: the weight is then read once.
    let rows = x.reshape([-1, d_in as i64]);
    let plain = |x| BaseWeight::of(layer).product(x, layer.bias().map(|bias| bias.val()));
    let weight = layer.weight();
    let y = match (weight.reparameterization::<Update>(), features::layers()) {
        (None, _) => match weight.reparameterization::<LowRank>() {
            Some(low_rank) => low_rank.forward(layer, rows),
            None => plain(rows),
        },
        (Some(_), Layers::Base) => noted(plain(rows)),
        (Some(update), Layers::Adapted) => noted(update.forward(layer, rows)),
    };
    shape[D - 1] = y.dims()[1];
    y.reshape(shape)
}
