//! Updates of adapters that have their outer factors in common: those are in memory once, and small numbers of each adapter's own
//! stand between them.
//!
//! For all rows of such adapters in a batch there is one product with A and one with B, and between them one of each row with its
//! own small matrix. All numbers of an adapter lie in one row, so that those of a batch are put together once for a pass.

use std::collections::BTreeMap;

use burn::tensor::{Int, Tensor};

use crate::product::product;

/// `ΔW = A·C·B·diag(g)` of each weight, where A and B are common to many adapters, and C and g one adapter's own.
#[derive(Debug)]
pub struct SharedFactors {
    pairs: BTreeMap<String, SharedPair>,
    /// Outputs and numbers of the weights, in the order in which an adapter's numbers stand.
    sites: Vec<Layout>,
    numbers: usize,
    bytes: u64,
}

/// The factors at one weight, on their device.
#[derive(Debug, Clone)]
pub(crate) struct SharedSite {
    /// Path of the weight.
    pub path: String,
    /// `[d_in, rank]`.
    pub a: Tensor<2>,
    /// `[rank, d_out]`.
    pub b: Tensor<2>,
    pub core: CoreForm,
    /// Whether each output has a gain.
    pub has_gains: bool,
}

/// The small matrix between the factors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CoreForm {
    /// `[rank, rank]`, row-major.
    Full,
    /// The diagonal, `[rank]`.
    Diagonal,
}

/// Where the numbers of a weight stand in the row of an adapter: those of its core, then its gains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    start: usize,
    core: usize,
    gains: usize,
}

#[derive(Debug)]
struct SharedPair {
    site: SharedSite,
    layout: Layout,
}

impl SharedFactors {
    /// The numbers of an adapter stand in the order of `sites`; all factors take `bytes`.
    pub(crate) fn new(sites: Vec<SharedSite>, bytes: u64) -> Self {
        let (mut pairs, mut layouts, mut start) = (BTreeMap::new(), Vec::new(), 0);
        for site in sites {
            let [rank, d_out] = site.b.dims();
            let core = match site.core {
                CoreForm::Full => rank * rank,
                CoreForm::Diagonal => rank,
            };
            let layout = Layout { start, core, gains: if site.has_gains { d_out } else { 0 } };
            start += layout.core + layout.gains;
            layouts.push(layout);
            pairs.insert(site.path.clone(), SharedPair { site, layout });
        }
        Self { pairs, sites: layouts, numbers: start, bytes }
    }

    /// Numbers that an adapter has of its own.
    pub fn numbers(&self) -> usize {
        self.numbers
    }

    /// Bytes of the factors, those that somebody else holds anyway left out.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The numbers of an adapter from the cores of all its weights and from their gains, each one weight after the other; none if
    /// there are not as many.
    pub(crate) fn row(&self, cores: &[f32], gains: &[f32]) -> Option<Vec<f32>> {
        let (mut cores, mut gains) = (cores, gains);
        let mut row = Vec::with_capacity(self.numbers);
        for layout in &self.sites {
            let (own, rest) = cores.split_at_checked(layout.core)?;
            let (own_gains, rest_of_gains) = gains.split_at_checked(layout.gains)?;
            row.extend(own.iter().chain(own_gains));
            (cores, gains) = (rest, rest_of_gains);
        }
        (cores.is_empty() && gains.is_empty()).then_some(row)
    }

    pub(super) fn paths(&self) -> impl Iterator<Item = &String> {
        self.pairs.keys()
    }

    pub(super) fn changes(&self, path: &str) -> bool {
        self.pairs.contains_key(path)
    }

    /// `y` with what the adapter of each row adds to it, if they change the weight at `path`.
    ///
    /// # Shapes
    /// - `y` and output: `[rows · tokens, d_out]`; `x`: `[rows · tokens, d_in]`
    /// - `numbers`: `[rows, numbers]`
    pub(super) fn onto(&self, path: &str, y: Tensor<2>, x: Tensor<2>, numbers: &Tensor<2>) -> Tensor<2> {
        match self.pairs.get(path) {
            Some(pair) => y + pair.after(product(x, pair.site.a.clone(), None), numbers),
            None => y,
        }
    }

    /// The same of rows of a table: `y` is what was looked up for `ids`.
    ///
    /// # Shapes
    /// - `ids`: `[rows · tokens]`
    pub(super) fn onto_rows(
        &self,
        path: &str,
        y: Tensor<2>,
        ids: Tensor<1, Int>,
        numbers: &Tensor<2>,
    ) -> Tensor<2> {
        match self.pairs.get(path) {
            Some(pair) => {
                let looked_up = pair.site.a.clone().select(0, ids).cast(y.dtype());
                y + pair.after(looked_up, numbers)
            }
            None => y,
        }
    }
}

impl SharedPair {
    /// What is left to do after the product with A: that with the core of each row, that with B, and the gains.
    ///
    /// # Shapes
    /// - `h`: `[rows · tokens, rank]`
    /// - output: `[rows · tokens, d_out]`
    fn after(&self, h: Tensor<2>, numbers: &Tensor<2>) -> Tensor<2> {
        let ([all, rank], [rows, _]) = (h.dims(), numbers.dims());
        let (tokens, dtype) = (all / rows, h.dtype());
        let Layout { start, core, gains } = self.layout;
        let of_rows = |start, count| numbers.clone().narrow(1, start, count).cast(dtype);
        let h = h.reshape([rows, tokens, rank]);
        let h = match self.site.core {
            CoreForm::Full => h.matmul(of_rows(start, core).reshape([rows, rank, rank])),
            CoreForm::Diagonal => h * of_rows(start, core).reshape([rows, 1, rank]),
        };
        let z = product(h.reshape([all, rank]), self.site.b.clone(), None);
        if gains == 0 {
            return z;
        }
        let d_out = z.dims()[1];
        let gains = of_rows(start + core, gains).reshape([rows, 1, d_out]);
        (z.reshape([rows, tokens, d_out]) * gains).reshape([all, d_out])
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use burn::tensor::{Device, TensorData, Tolerance};

    use super::*;

    fn tensor(shape: [usize; 2], from: usize) -> Tensor<2> {
        let values = (0..shape[0] * shape[1]).map(|n| ((n + from) as f32 * 0.7).sin());
        Tensor::from_data(TensorData::new(values.collect::<Vec<f32>>(), shape), &Device::flex())
    }

    fn site(path: &str, core: CoreForm, has_gains: bool) -> SharedSite {
        SharedSite { path: path.to_owned(), a: tensor([5, 2], 0), b: tensor([2, 3], 9), core, has_gains }
    }

    #[test]
    fn each_row_has_its_own_small_matrix_and_gains() {
        let sites = vec![site("a", CoreForm::Full, false), site("b", CoreForm::Diagonal, true)];
        let factors = SharedFactors::new(sites, 0);
        assert_eq!(factors.numbers(), 4 + 2 + 3);
        // Two rows of two tokens.
        let (x, y, numbers) = (tensor([4, 5], 30), tensor([4, 3], 50), tensor([2, 9], 70));
        for path in ["a", "b", "c"] {
            let found = factors.onto(path, y.clone(), x.clone(), &numbers);
            let of_row = |row: usize| {
                let own = numbers.clone().narrow(0, row, 1);
                let (a, b) = (tensor([5, 2], 0), tensor([2, 3], 9));
                let delta = match path {
                    "a" => a.matmul(own.narrow(1, 0, 4).reshape([2, 2])).matmul(b),
                    "b" => (a * own.clone().narrow(1, 4, 2)).matmul(b) * own.narrow(1, 6, 3),
                    _ => Tensor::zeros([5, 3], &Device::flex()),
                };
                y.clone().narrow(0, 2 * row, 2) + x.clone().narrow(0, 2 * row, 2).matmul(delta)
            };
            let expected = Tensor::cat(vec![of_row(0), of_row(1)], 0);
            found.into_data().assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(1e-5));
        }
    }

    #[test]
    fn cores_and_gains_of_all_weights_make_one_row() {
        let sites = vec![site("a", CoreForm::Diagonal, true), site("b", CoreForm::Diagonal, false)];
        let factors = SharedFactors::new(sites, 0);
        let row = factors.row(&[1.0, 2.0, 3.0, 4.0], &[5.0, 6.0, 7.0]);
        assert_eq!(row, Some(vec![1.0, 2.0, 5.0, 6.0, 7.0, 3.0, 4.0]));
        for (cores, gains) in [(3, 3), (5, 3), (4, 2), (4, 4)] {
            assert_eq!(factors.row(&vec![1.0; cores], &vec![1.0; gains]), None, "{cores} and {gains}");
        }
    }
}
