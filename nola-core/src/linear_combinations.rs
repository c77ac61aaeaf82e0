//! The linear combinations of one side of all adapters, expanded and projected where their coefficients are.

use std::sync::{Mutex, PoisonError};

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};

use crate::adapter::{Coefficients, Factor, FrozenMatrix, LinearCombination, Matrices, Owner, Plan};
use crate::basis::{Basis, project_all};
use crate::cube::Kernels;
use crate::floats::floats;
use crate::product::is_cpu;
use crate::quantized::{CoefficientBits, ScaleType};

/// The linear combinations of A, or of B, of all sites in order.
#[derive(Debug)]
pub(crate) struct LinearCombinations {
    all: Vec<LinearCombination>,
    coefficients: Coefficients,
    /// Those of random matrices.
    random: Vec<RandomSites>,
    /// The frozen matrices of the others on the device that asked for them last.
    frozen_there: Mutex<Option<FrozenThere>>,
}

/// Sites that combine equally many random matrices.
#[derive(Debug)]
struct RandomSites {
    /// In the order of all sites.
    sites: Vec<usize>,
    /// For GPUs; nothing if somebody else drew a basis.
    kernels: Option<Kernels>,
}

/// Frozen matrices on a device, those that are the same once.
#[derive(Debug)]
struct FrozenThere {
    device: Device,
    matrices: Vec<(FrozenMatrix, Tensor<2>)>,
}

impl LinearCombinations {
    /// The factors that `side` picks from the plans; nothing if they are not linear combinations.
    pub(crate) fn of(plans: &[Plan], side: impl Fn(&Plan) -> &Factor) -> Option<Self> {
        let combined = plans.iter().map(|plan| match side(plan) {
            Factor::Combined(combined) => Some(combined.clone()),
            Factor::Learned(_) | Factor::Frozen(_) | Factor::Identity => None,
        });
        let all = combined.collect::<Option<Vec<_>>>()?;
        let coefficients = plans.first()?.coefficients;
        Some(Self { random: random_sites(&all), all, coefficients, frozen_there: Mutex::default() })
    }

    /// Name of the coefficients.
    pub(crate) fn name(&self) -> &'static str {
        self.all.first().map_or("", |combined| combined.name)
    }

    /// How many coefficients each site has.
    fn counts(&self) -> impl Iterator<Item = usize> {
        self.all.iter().map(|combined| combined.matrices.count())
    }

    /// The vectors of coefficients: one for each site, or one for all.
    pub(crate) fn vectors(&self) -> Vectors {
        let owners = match self.coefficients.owner {
            Owner::Site => self.all.len(),
            Owner::AllSites => 1,
        };
        Vectors { counts: self.counts().take(owners).collect(), rounding: self.coefficients.rounding }
    }

    /// How many coefficients belong to all sites together.
    pub(crate) fn shared(&self) -> usize {
        match self.coefficients.owner {
            Owner::Site => 0,
            Owner::AllSites => self.vectors().counts.iter().sum(),
        }
    }

    /// The coefficients at the start of training.
    ///
    /// # Shapes
    /// - output: as [`LinearCombinations::shape`]
    pub(crate) fn initial_coefficients(&self, device: &Device) -> Param<Tensor<2>> {
        let vectors = self.vectors().counts.len();
        let rows = self.all.iter().take(vectors).map(|combined| combined.initial.as_slice());
        Param::from_data(TensorData::new(rows.collect::<Vec<_>>().concat(), self.shape()), device)
    }

    /// Lengths of the axes of the tensor that holds the coefficients: see [`coefficients_shape`].
    fn shape(&self) -> [usize; 2] {
        coefficients_shape(&self.vectors().counts)
    }

    /// The coefficients of every site, as they are used.
    ///
    /// # Shapes
    /// - `coefficients`: as [`LinearCombinations::shape`]
    /// - outputs: `[1, count]`
    fn rows(&self, coefficients: Tensor<2>) -> Vec<Tensor<2>> {
        let vectors = self.vectors();
        let total = vectors.counts.iter().sum::<usize>();
        let flat = self.rounded(coefficients).reshape([1, total]);
        let mut start = 0;
        let row = |count: &usize| {
            start += count;
            flat.clone().slice([0..1, start - count..start])
        };
        self.for_sites(vectors.counts.iter().map(row).collect())
    }

    /// The coefficients as they are used, where they are. The host rounds them, so that every device uses the same.
    fn rounded(&self, coefficients: Tensor<2>) -> Tensor<2> {
        if self.coefficients.rounding == CoefficientBits::B32 {
            return coefficients;
        }
        let device = coefficients.device();
        let values = self.vectors().rounded(&floats(coefficients.into_data()));
        Tensor::from_data(TensorData::new(values, self.shape()), &device)
    }

    /// The coefficients of every site on the host, as they are used.
    pub(crate) fn host_rows(&self, coefficients: &[f32]) -> Vec<Vec<f32>> {
        let vectors = self.vectors();
        let rounded = vectors.rounded(coefficients);
        self.for_sites(vectors.split(&rounded).map(<[f32]>::to_vec).collect())
    }

    /// The group of all sites, if all combine equally many random matrices, each with coefficients of its own: then one tensor
    /// holds them as they are needed.
    fn only_group(&self) -> Option<&RandomSites> {
        let is_whole = |group: &&RandomSites| group.sites.len() == self.all.len();
        match self.coefficients.owner {
            Owner::Site => self.random.first().filter(is_whole),
            Owner::AllSites => None,
        }
    }

    /// A vector for every site, from one of each owner.
    fn for_sites<T: Clone>(&self, vectors: Vec<T>) -> Vec<T> {
        match self.coefficients.owner {
            Owner::Site => vectors,
            Owner::AllSites => vectors.into_iter().cycle().take(self.all.len()).collect(),
        }
    }

    /// The factors of all sites, outside autodiff.
    ///
    /// # Shapes
    /// - `coefficients`: as [`LinearCombinations::shape`]
    /// - outputs: the shapes of the linear combinations
    pub(crate) fn expand(&self, coefficients: Tensor<2>) -> Vec<Tensor<2>> {
        let coefficients = coefficients.inner();
        let device = coefficients.device();
        if let Some(group) = self.only_group() {
            return self.expand_random(group, self.rounded(coefficients));
        }
        let rows = self.rows(coefficients);
        let mut matrices: Vec<Option<Tensor<2>>> = vec![None; self.all.len()];
        for group in &self.random {
            let rows = Tensor::cat(group.sites.iter().map(|&site| rows[site].clone()).collect(), 0);
            for (&site, matrix) in group.sites.iter().zip(self.expand_random(group, rows)) {
                matrices[site] = Some(matrix);
            }
        }
        let frozen = self.frozen_on(&device);
        let rest = matrices.into_iter().zip(rows).zip(&self.all).zip(frozen);
        let matrix =
            |(((matrix, row), combined), frozen): (((Option<_>, _), &LinearCombination), Option<_>)| {
                matrix.unwrap_or_else(|| {
                    let (matrices, frozen) =
                        (&combined.matrices, frozen.expect("what is not random is frozen"));
                    if !is_cpu(&device) {
                        return matrices.expand_there(row, frozen);
                    }
                    // The bits of merged and stored factors.
                    let expanded = matrices.expand(&floats(row.into_data()));
                    Tensor::from_data(TensorData::new(expanded, matrices.shape()), &device)
                })
            };
        rest.map(matrix).collect()
    }

    /// The same for a group of random ones.
    ///
    /// # Shapes
    /// - `rows`: `[sites, count]`
    fn expand_random(&self, group: &RandomSites, rows: Tensor<2>) -> Vec<Tensor<2>> {
        let sites: Vec<(&LinearCombination, &Basis)> =
            group.sites.iter().map(|&site| self.basis(site)).collect();
        if let Some(kernels) = group.kernels.as_ref().filter(|kernels| kernels.run_beside(&rows)) {
            sites.iter().for_each(|(_, basis)| basis.count_expand());
            return kernels.expand(rows);
        }
        let (device, count) = (rows.device(), rows.dims()[1]);
        let rows = floats(rows.into_data());
        let with_rows: Vec<(&LinearCombination, &Basis, &[f32])> = (sites.iter().zip(rows.chunks(count)))
            .map(|((combined, basis), row)| (*combined, *basis, row))
            .collect();
        let expanded = LinearCombination::expand_random(&with_rows).into_iter().zip(sites);
        expanded
            .map(|(matrix, (_, basis))| Tensor::from_data(TensorData::new(matrix, basis.shape()), &device))
            .collect()
    }

    /// The gradient of the coefficients, outside autodiff; zero for a site whose factor has none.
    ///
    /// # Shapes
    /// - `gradients`: the shapes of the linear combinations
    /// - `coefficients` and output: as [`LinearCombinations::shape`]
    pub(crate) fn project(
        &self,
        mut gradients: Vec<Option<Tensor<2>>>,
        coefficients: &Tensor<2>,
    ) -> Tensor<2> {
        let (device, dtype) = (coefficients.device().inner(), coefficients.dtype());
        if let Some(group) = self.only_group() {
            return self.project_random(group, gradients, &device).cast(dtype);
        }
        let mut rows: Vec<Option<Tensor<2>>> = vec![None; self.all.len()];
        for group in &self.random {
            let of_group: Vec<_> = group.sites.iter().map(|&site| gradients[site].take()).collect();
            let projected = self.project_random(group, of_group, &device);
            for (n, &site) in group.sites.iter().enumerate() {
                rows[site] = Some(projected.clone().narrow(0, n, 1));
            }
        }
        for (site, frozen) in self.frozen_on(&device).into_iter().enumerate() {
            if let (Some(frozen), Some(gradient)) = (frozen, gradients[site].take()) {
                rows[site] = Some(self.all[site].matrices.project_there(gradient, frozen));
            }
        }
        let row = |(row, count): (Option<Tensor<2>>, usize)| {
            row.unwrap_or_else(|| Tensor::zeros([1, count], &device)).cast(dtype)
        };
        let rows: Vec<Tensor<2>> = rows.into_iter().zip(self.counts()).map(row).collect();
        match self.coefficients.owner {
            Owner::Site => Tensor::cat(rows, 1).reshape(self.shape()),
            Owner::AllSites => Tensor::cat(rows, 0).sum_dim(0),
        }
    }

    /// The same for a group of random ones.
    ///
    /// # Shapes
    /// - output: `[sites, count]`
    fn project_random(
        &self,
        group: &RandomSites,
        gradients: Vec<Option<Tensor<2>>>,
        device: &Device,
    ) -> Tensor<2> {
        let sites: Vec<&Basis> = group.sites.iter().map(|&site| self.basis(site).1).collect();
        let count = sites[0].count();
        let empty = Tensor::<2>::zeros([1, count], device);
        if let Some(kernels) = group.kernels.as_ref().filter(|kernels| kernels.run_beside(&empty)) {
            let with_one = sites.iter().zip(&gradients).filter(|(_, gradient)| gradient.is_some());
            with_one.for_each(|(basis, _)| basis.count_project());
            return kernels.project(gradients, device);
        }
        let gradients: Vec<Option<Vec<f32>>> =
            gradients.into_iter().map(|gradient| gradient.map(|g| floats(g.into_data()))).collect();
        let of_sites: Vec<(&Basis, &[f32])> = sites
            .iter()
            .zip(&gradients)
            .filter_map(|(basis, gradient)| Some((*basis, gradient.as_deref()?)))
            .collect();
        let mut projected = project_all(&of_sites).into_iter();
        let rows = gradients.iter().map(|gradient| match gradient {
            Some(_) => projected.next().expect("one row for each gradient"),
            None => vec![0.0; count],
        });
        Tensor::from_data(TensorData::new(rows.flatten().collect::<Vec<f32>>(), [sites.len(), count]), device)
    }

    /// A combination of random matrices, and those.
    fn basis(&self, site: usize) -> (&LinearCombination, &Basis) {
        let combined = &self.all[site];
        (combined, combined.matrices.random().expect("a group of random matrices"))
    }

    /// The frozen matrix of every site that has one, on `device`.
    fn frozen_on(&self, device: &Device) -> Vec<Option<Tensor<2>>> {
        let mut there = self.frozen_there.lock().unwrap_or_else(PoisonError::into_inner);
        if there.as_ref().is_none_or(|there| there.device != *device) {
            *there = Some(FrozenThere { device: device.clone(), matrices: Vec::new() });
        }
        let matrices = there.as_mut().map(|there| &mut there.matrices).expect("it was just made");
        let mut tensor = |frozen: &FrozenMatrix| {
            if let Some((_, tensor)) = matrices.iter().find(|(known, _)| known.is_shared_with(frozen)) {
                return tensor.clone();
            }
            let tensor = frozen.on(device);
            matrices.push((frozen.clone(), tensor.clone()));
            tensor
        };
        self.all.iter().map(|combined| combined.matrices.frozen().map(&mut tensor)).collect()
    }
}

/// The only matrix of `basis` on `device`, outside autodiff.
pub(crate) fn random_matrix(basis: Basis, device: &Device) -> Tensor<2> {
    let matrices = Matrices::Random(basis);
    let all = vec![LinearCombination { name: "", matrices, offset: None, initial: vec![1.0] }];
    let (random, coefficients) = (random_sites(&all), Coefficients::default());
    let alone = LinearCombinations { all, coefficients, random, frozen_there: Mutex::default() };
    alone.expand(Tensor::ones([1, 1], device)).pop().expect("one site")
}

/// The vectors of coefficients that lie one after the other in a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Vectors {
    /// Numbers of each.
    pub counts: Vec<usize>,
    /// Bits that they are rounded to before they are used.
    rounding: CoefficientBits,
}

impl Vectors {
    /// The vectors in `values`.
    pub(crate) fn split<'a>(&self, values: &'a [f32]) -> impl Iterator<Item = &'a [f32]> {
        let mut rest = values;
        self.counts.iter().map(move |count| {
            let (vector, behind) = rest.split_at(*count);
            rest = behind;
            vector
        })
    }

    /// The coefficients as they are used.
    fn rounded(&self, values: &[f32]) -> Vec<f32> {
        self.split(values).flat_map(|vector| self.rounding.rounded(vector)).collect()
    }

    /// What is stored in so many bits: the coefficients as they are used, unless there is room for those that are trained.
    pub(crate) fn to_store(&self, values: &[f32], bits: CoefficientBits) -> Vec<f32> {
        if bits == CoefficientBits::B32 { values.to_vec() } else { self.rounded(values) }
    }

    /// What is trained in as many bits as it is stored in keeps its scale.
    pub(crate) fn scale_type(&self, bits: CoefficientBits) -> ScaleType {
        if bits == self.rounding { ScaleType::F32 } else { ScaleType::Bf16 }
    }
}

/// `[vectors, count]` if all vectors have equally many coefficients; else `[1, total]`, one after the other.
pub(crate) fn coefficients_shape(counts: &[usize]) -> [usize; 2] {
    match counts {
        [first, rest @ ..] if rest.iter().all(|count| count == first) => [counts.len(), *first],
        _ => [1, counts.iter().sum()],
    }
}

/// The sites with random matrices, in groups of equally many.
fn random_sites(all: &[LinearCombination]) -> Vec<RandomSites> {
    let mut groups: Vec<(usize, Vec<usize>)> = Vec::new();
    for (site, combined) in all.iter().enumerate() {
        let Some(basis) = combined.matrices.random() else { continue };
        match groups.iter_mut().find(|(count, _)| *count == basis.count()) {
            Some((_, sites)) => sites.push(site),
            None => groups.push((basis.count(), vec![site])),
        }
    }
    let group = |(_, sites): (usize, Vec<usize>)| {
        let of_group: Vec<&LinearCombination> = sites.iter().map(|&site| &all[site]).collect();
        RandomSites { kernels: Kernels::of(&of_group), sites }
    };
    groups.into_iter().map(group).collect()
}
