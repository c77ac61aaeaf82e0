//! What an adapter does to a weight: one shape for all of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::module::{Module, Param, Reparameterization};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use crate::adapter::{BaseGain, Magnitude, Plan};
use crate::adapter_params::AdapterParam;
use crate::base_weight::{BaseWeight, LinearLayer};
use crate::dropout::{CurrentPass, InputDropout};
use crate::features;
use crate::low_rank::updated;
use crate::product::{product, with_bias};
use crate::site::Site;

/// Names of the parameters of an [`Update`] that can be trained.
pub(crate) const LEAVES: [&str; 4] = ["a", "b", "bias", "magnitude"];

/// `ΔW = scale · (A·B - A₀·B₀)`, attached to a weight whose columns may have lengths of their own.
///
/// Every parameter is a plain leaf of the autodiff graph, whoever made it.
#[derive(Module, Debug)]
pub struct Update {
    /// `[d_in, rank]`; none if it is the identity.
    pub a: Option<Param<Tensor<2>>>,
    /// `[rank, d_out]`.
    pub b: Param<Tensor<2>>,
    /// A₀ `[d_in, rank]`, frozen.
    start_a: Option<Param<Tensor<2>>>,
    /// B₀ `[rank, d_out]`, frozen.
    start_b: Option<Param<Tensor<2>>>,
    /// Pairs beside A and B that were added during training, and room for more.
    further: Vec<Pair>,
    /// A trained bias that is added, `[d_out]`.
    bias: Option<Param<Tensor<1>>>,
    /// Trained lengths of the weight's columns, `[d_out]`.
    magnitude: Option<Param<Tensor<1>>>,
    /// Lengths that the columns have without it, `[d_out]`: constant within an optimizer step, and for the gradient.
    norm: Option<Param<Tensor<1>>>,
    /// Squared lengths of the base's columns, `[d_out]`, frozen.
    base_squares: Option<Param<Tensor<1>>>,
    #[module(skip)]
    dropout: Option<InputDropout>,
    #[module(skip)]
    base: SharedGain,
    #[module(skip)]
    scale: f64,
}

/// Factors beside those of an update: `[d_in, rank]` and `[rank, d_out]`, or `[1, 1]` and not used as long as there are none.
#[derive(Module, Debug)]
struct Pair {
    a: Param<Tensor<2>>,
    b: Param<Tensor<2>>,
}

impl Pair {
    /// Room for a pair.
    fn empty(device: &Device) -> Self {
        let empty = || Param::from_data(TensorData::new(vec![0.0_f32], [1, 1]), device);
        Self { a: empty(), b: empty() }
    }
}

impl Update {
    /// The update that `plan` says, for the weight of `site`; `squares` are those of its columns, if their lengths are trained.
    /// In the passes of training that `pass` describes, it drops what the plan says.
    pub(crate) fn new(
        plan: &Plan,
        site: &Site,
        squares: Option<Vec<f32>>,
        gain: SharedGain,
        pass: &CurrentPass,
        device: &Device,
    ) -> Self {
        let matrix =
            |values: Vec<f32>, shape: [usize; 2]| Param::from_data(TensorData::new(values, shape), device);
        let row = |values: Vec<f32>| {
            let count = values.len();
            Param::from_data(TensorData::new(values, [count]), device)
        };
        let (in_shape, out_shape) = ([site.d_in, plan.rank], [plan.rank, site.d_out]);
        let start = plan.start.as_ref();
        let norms =
            squares.as_ref().map(|squares| squares.iter().map(|square| square.sqrt()).collect::<Vec<f32>>());
        let magnitude = match &plan.magnitude {
            Magnitude::Free => None,
            Magnitude::OfBase => norms.clone(),
            Magnitude::Given(lengths) => Some(lengths.clone()),
        };
        Self {
            a: plan.a.initial().map(|values| matrix(values, in_shape)),
            b: matrix(plan.b.initial().expect("B is no identity"), out_shape),
            start_a: start.map(|[a, _]| matrix(a.values().to_vec(), in_shape)),
            start_b: start.map(|[_, b]| matrix(b.values().to_vec(), out_shape)),
            further: (0..plan.further_pairs).map(|_| Pair::empty(device)).collect(),
            bias: plan.bias.clone().map(row),
            magnitude: magnitude.map(row),
            norm: norms.map(row),
            base_squares: squares.map(row),
            dropout: plan.dropout.map(|dropout| InputDropout::new(dropout, site, pass.clone())),
            base: gain,
            scale: plan.scale,
        }
    }

    /// An update of parameters that are there, by their names; nothing of its input is dropped.
    pub(crate) fn of_params(params: &BTreeMap<String, AdapterParam>, scale: f64, base: SharedGain) -> Self {
        let matrix = |name: &str| params.get(name).cloned().map(AdapterParam::matrix);
        let vector = |name: &str| params.get(name).cloned().map(AdapterParam::vector);
        let pair = |place: usize| {
            let of = |name: &str| matrix(&format!("further.{place}.{name}"));
            Some(Pair { a: of("a")?, b: of("b")? })
        };
        Self {
            a: matrix("a"),
            b: matrix("b").expect("each adapter has a B"),
            start_a: matrix("start_a"),
            start_b: matrix("start_b"),
            further: (0..).map_while(pair).collect(),
            bias: vector("bias"),
            magnitude: vector("magnitude"),
            norm: vector("norm"),
            base_squares: vector("base_squares"),
            dropout: None,
            base,
            scale,
        }
    }

    /// What [`Update::forward`] makes of `y`, the product of the base without its bias, which other adapters share.
    pub(crate) fn onto(&self, y: Tensor<2>, x: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
        let gain = self.base.get();
        let y = self.added(times(y, gain.weight), x);
        let y = match self.column_gain() {
            None => y,
            Some(columns) => {
                let columns = columns.unsqueeze_dim(0).cast(y.dtype());
                y * columns
            }
        };
        let bias = bias.filter(|_| gain.bias != 0.0).map(|bias| times(bias, gain.bias));
        with_bias(with_bias(y, bias), self.bias.as_ref().map(|bias| bias.val()))
    }

    /// What each column of the product is multiplied by.
    fn column_gain(&self) -> Option<Tensor<1>> {
        let (magnitude, norm) = (self.magnitude.as_ref()?, self.norm.as_ref()?);
        Some(magnitude.val() / norm.val().detach())
    }

    /// What is left of the base layer.
    fn base_product(&self, layer: &impl LinearLayer, x: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
        let gain = self.base.get();
        let bias = bias.filter(|_| gain.bias != 0.0).map(|bias| times(bias, gain.bias));
        if gain.weight != 0.0 {
            return BaseWeight::of(layer).product(times(x, gain.weight), bias);
        }
        let [rows, d_out] = [x.dims()[0], self.b.dims()[1]];
        with_bias(Tensor::zeros([rows, d_out], (&x.device(), x.dtype())), bias)
    }

    /// The layer with its adapter.
    pub(crate) fn forward(&self, layer: &impl LinearLayer, x: Tensor<2>) -> Tensor<2> {
        let bias = layer.bias().map(|bias| bias.val());
        let y = match self.column_gain() {
            None => {
                let y = self.base_product(layer, x.clone(), bias);
                let seen = self.dropped(&x).unwrap_or(x);
                self.added(y, seen)
            }
            Some(gain) => with_bias(self.with_lengths(layer, x, gain), bias),
        };
        with_bias(y, self.bias.as_ref().map(|bias| bias.val()))
    }

    /// The input as the update sees it, if some of it is dropped.
    fn dropped(&self, x: &Tensor<2>) -> Option<Tensor<2>> {
        self.dropout.as_ref()?.dropped(x)
    }

    /// The product where columns have trained lengths: `y` without the update, `gain` and the base's product once more, if
    /// the update sees less of the input.
    ///
    /// # Source
    /// `DoraLinearLayer` of PEFT.
    fn with_lengths(&self, layer: &impl LinearLayer, x: Tensor<2>, gain: Tensor<1>) -> Tensor<2> {
        let y = self.base_product(layer, x.clone(), None);
        let gain = gain.unsqueeze_dim(0).cast(y.dtype());
        match self.dropped(&x) {
            None => self.added(y, x) * gain,
            Some(seen) => {
                let of_seen = self.base_product(layer, seen.clone(), None);
                let updated = self.added(of_seen.clone(), seen) * gain;
                y - of_seen + updated
            }
        }
    }

    /// `y + x·ΔW`, before the columns get their lengths.
    fn added(&self, y: Tensor<2>, x: Tensor<2>) -> Tensor<2> {
        let y = match (&self.start_a, &self.start_b) {
            (Some(a), Some(b)) => updated(y, x.clone(), a.val(), b.val(), -self.scale),
            (Some(_), None) | (None, Some(_)) | (None, None) => y,
        };
        let further = self.further().fold(y, |y, (a, b)| updated(y, x.clone(), a, b, self.scale));
        match &self.a {
            Some(a) => updated(further, x, a.val(), self.b.val(), self.scale),
            None => further + times(product(x, self.b.val(), None), self.scale),
        }
    }

    /// What the update adds to the rows `ids` of a table.
    ///
    /// # Shapes
    /// - `ids`: `[rows]`
    /// - output: `[rows, d_out]`
    pub(crate) fn of_rows(&self, ids: Tensor<1, Int>) -> Tensor<2> {
        let a = self.a.as_ref().expect("an update of a table has both factors");
        times(product(a.val().select(0, ids), self.b.val(), None), self.scale)
    }

    /// The pairs that were added.
    fn further(&self) -> impl Iterator<Item = (Tensor<2>, Tensor<2>)> {
        let Some(a) = &self.a else { return Vec::new().into_iter() };
        let ([d_in, _], [_, d_out]) = (a.dims(), self.b.dims());
        let pairs = self.further.iter().map(|pair| (pair.a.val(), pair.b.val()));
        let added = pairs.filter(move |(a, b)| a.dims()[0] == d_in && b.dims()[1] == d_out);
        added.collect::<Vec<_>>().into_iter()
    }
}

/// A gain that changes between optimizer steps, one for all clones of a model.
#[derive(Debug, Clone)]
pub(crate) struct SharedGain(Arc<Mutex<BaseGain>>);

impl SharedGain {
    pub(crate) fn new(gain: BaseGain) -> Self {
        Self(Arc::new(Mutex::new(gain)))
    }

    pub(crate) fn get(&self) -> BaseGain {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self, gain: BaseGain) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = gain;
    }
}

/// `y` itself, noted if a pass is recorded.
pub(crate) fn noted(y: Tensor<2>) -> Tensor<2> {
    features::note(&y);
    y
}

/// The tensor itself, if it is multiplied by 1.
fn times<const D: usize>(tensor: Tensor<D>, factor: f64) -> Tensor<D> {
    if factor == 1.0 { tensor } else { tensor.mul_scalar(factor) }
}

/// Squared lengths of the columns of a row-major matrix, each summed in `f64`.
pub(crate) fn column_squares(weight: &[f32], d_out: usize) -> Vec<f32> {
    let mut squares = vec![0.0_f64; d_out];
    for row in weight.chunks_exact(d_out) {
        squares.iter_mut().zip(row).for_each(|(sum, &entry)| *sum += f64::from(entry).powi(2));
    }
    squares.into_iter().map(|square| square as f32).collect()
}

/// Lengths of the columns of `W + scale·A·B`, without a matrix of the weight's size.
///
/// # Shapes
/// - `weight`: `[d_in, d_out]`, dense or packed; `squares`: `[d_out]`, of its columns
/// - `a`: `[d_in, rank]`; `b`: `[rank, d_out]`
/// - output: `[d_out]`
pub(crate) fn column_norms(
    weight: BaseWeight,
    squares: Tensor<1>,
    a: Tensor<2>,
    b: Tensor<2>,
    scale: f64,
) -> Tensor<1> {
    let (a, b) = (a.cast(DType::F32), b.cast(DType::F32));
    let cross = (weight.product(a.clone().transpose(), None) * b.clone()).sum_dim(0);
    let own = (a.clone().transpose().matmul(a).matmul(b.clone()) * b).sum_dim(0);
    let sum = squares.unsqueeze_dim(0) + cross.mul_scalar(2.0 * scale) + own.mul_scalar(scale * scale);
    sum.clamp_min(0.0).sqrt().squeeze_dim(0)
}

impl Reparameterization for Update {
    const NAME: &'static str = "adapter";

    /// The updated weight, dense: the oracle of [`adapted`](fn@crate::adapted), and what models that do not call it compute with.
    fn apply<const D: usize>(&self, base: Tensor<D>) -> Tensor<D> {
        let b = self.b.val();
        let product = self.a.as_ref().map_or(b.clone(), |a| a.val().matmul(b));
        let mut delta = product.mul_scalar(self.scale);
        if let (Some(a), Some(b)) = (&self.start_a, &self.start_b) {
            delta = delta - a.val().matmul(b.val()).mul_scalar(self.scale);
        }
        for (a, b) in self.further() {
            delta = delta + a.matmul(b).mul_scalar(self.scale);
        }
        let update = delta.clone().reshape(base.shape()).cast(base.dtype());
        let weight = if self.base.get().weight == 0.0 {
            update
        } else {
            times(base.clone(), self.base.get().weight) + update
        };
        match self.column_gain() {
            None => weight,
            Some(gain) => {
                let gain = gain.unsqueeze_dim::<2>(0).expand(delta.dims());
                weight * gain.reshape(base.shape()).cast(base.dtype())
            }
        }
    }
}
