//! A linear layer whose weight is dense or packed, with its adapter.

use std::collections::BTreeSet;

use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::nn;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use crate::Error;
use crate::base_weight::{BaseWeight, LinearLayer};
use crate::features::{self, Layers};
use crate::floats::floats;
use crate::low_rank_weights::LowRank;
use crate::packed_weights::{packable_weights, packed_words};
use crate::params::{FoundParam, float_params};
use crate::row_adapters::PerRow;
use crate::update::{Update, noted};
use crate::weight::{PackedWeight, Quantization};

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

/// Packs weights on a walk that maps the parameters of a model, which meets a weight first and then its words.
#[derive(Debug)]
pub struct Packing {
    packable: BTreeSet<String>,
    /// Of the weight that was packed last.
    words: Option<PackedWeight>,
}

impl Packing {
    /// For the layers of `module`.
    pub fn of<M: Module>(module: &M) -> Self {
        Self { packable: packable_weights(module), words: None }
    }

    /// Whether the weight at `path` can be packed.
    pub fn is_possible_at(&self, path: &str) -> bool {
        self.packable.contains(path)
    }

    /// What stands for the weight `param` at `path` when it is quantised: NaN of its shape, which takes no memory. Nothing if it
    /// cannot be packed.
    ///
    /// # Shapes
    /// - `values`: `[d_in, d_out]`, row-major
    pub fn quantized<const D: usize>(
        &mut self,
        path: &str,
        param: &Param<Tensor<D>>,
        quantization: Quantization,
        values: &[f32],
        compute: DType,
    ) -> Option<Param<Tensor<D>>> {
        if !self.is_possible_at(path) {
            return None;
        }
        let shape = param.lazy_shape();
        let packed = PackedWeight::quantize_transposed(quantization, values, [shape[0], shape[1]]);
        Some(self.weight(param, packed, compute))
    }

    /// What stands for the weight `param` when `packed` takes its place: NaN of its shape, which takes no memory.
    pub fn weight<const D: usize>(
        &mut self,
        param: &Param<Tensor<D>>,
        packed: PackedWeight,
        compute: DType,
    ) -> Param<Tensor<D>> {
        self.words = Some(packed);
        let one = Tensor::<D>::full([1; D], f32::NAN, (&param.lazy_device(), compute));
        Param::initialized(param.id, one.expand(param.lazy_shape())).set_require_grad(false)
    }

    /// The words of the weight that was packed last, or `param` as it is.
    pub fn words<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        let Some(packed) = self.words.take() else { return param };
        let words = packed.into_words();
        let mut shape = [1; D];
        shape[D - 1] = words.len();
        let data = TensorData::new(words, shape);
        Param::initialized(param.id, Tensor::from_data(data, (&param.lazy_device(), DType::U32)))
    }
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

/// `module` with the weights at paths that are `wanted` in few bits, as far as they are of [`Linear`]; they are frozen then, and
/// multiplied in the type they had. What is packed already stays as it is.
///
/// # Errors
/// If a weight is not finite, or has an adapter, which would be lost.
pub fn quantized<M: Module>(
    module: M,
    quantization: Quantization,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<M, Error> {
    let packed = packed_words(&module);
    let is_new = |param: &FoundParam| wanted(&param.path) && !packed.contains_key(&param.id);
    let params = float_params(&module);
    let adapted = params.iter().find_map(|param| param.path.split_once(".weight.adapter."));
    if let Some((site, _)) = adapted {
        return Err(Error::Adapted { site: site.to_owned() });
    }
    let new: BTreeSet<String> = params.iter().filter(|param| is_new(param)).map(|p| p.path.clone()).collect();
    let packing = Packing::of(&module);
    let mut quantize = Quantize { quantization, new, packing, path: Vec::new(), wrong: None };
    let module = module.map(&mut quantize);
    quantize.wrong.map_or(Ok(module), Err)
}

struct Quantize {
    quantization: Quantization,
    new: BTreeSet<String>,
    packing: Packing,
    path: Vec<String>,
    wrong: Option<Error>,
}

impl ModuleMapper for Quantize {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let path = self.path.join(".");
        if !self.new.contains(&path) || !self.packing.is_possible_at(&path) {
            return param;
        }
        let values = floats(param.base().into_data());
        let count = values.iter().filter(|value| !value.is_finite()).count();
        if count > 0 {
            self.wrong = Some(Error::WeightNotFinite { site: path, count });
            return param;
        }
        let compute = param.base().dtype();
        self.packing.quantized(&path, &param, self.quantization, &values, compute).unwrap_or(param)
    }

    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        self.packing.words(param)
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
            None => match weight.reparameterization::<PerRow>() {
                Some(per_row) => per_row.forward(layer, rows),
                None => plain(rows),
            },
        },
        (Some(_), Layers::Base) => noted(plain(rows)),
        (Some(update), Layers::Adapted) => noted(update.forward(layer, rows)),
    };
    shape[D - 1] = y.dims()[1];
    y.reshape(shape)
}
