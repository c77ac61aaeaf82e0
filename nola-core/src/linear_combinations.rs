//! The linear combinations of one side of all adapters, expanded and projected where their coefficients are.

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};

use crate::adapted::floats;
use crate::adapter::{Factor, Mixed, Plan};
use crate::basis::{Basis, project_all};
use crate::cube::Kernels;

/// The linear combinations of A, or of B, of all sites in order.
#[derive(Debug)]
pub(crate) struct LinearCombinations {
    all: Vec<Mixed>,
    /// For GPUs; nothing if somebody else drew a basis.
    kernels: Option<Kernels>,
}

impl LinearCombinations {
    /// The factors that `side` picks from the plans; nothing if they are not linear combinations.
    pub(crate) fn of(plans: &[Plan], side: impl Fn(&Plan) -> &Factor) -> Option<Self> {
        let mixed = plans.iter().map(|plan| match side(plan) {
            Factor::Mixed(mixed) => Some(mixed.clone()),
            Factor::Learned(_) => None,
        });
        let all = mixed.collect::<Option<Vec<_>>>()?;
        (!all.is_empty()).then(|| Self { kernels: Kernels::of(&all), all })
    }

    /// Name of the coefficients.
    pub(crate) fn name(&self) -> &'static str {
        self.all.first().map_or("", |mixed| mixed.name)
    }

    /// The coefficients at the start of training.
    ///
    /// # Shapes
    /// - output: `[sites, count]`
    pub(crate) fn initial_coefficients(&self, device: &Device) -> Param<Tensor<2>> {
        let rows: Vec<&[f32]> = self.all.iter().map(|mixed| mixed.initial.as_slice()).collect();
        let count = rows.first().map_or(0, |row| row.len());
        Param::from_data(TensorData::new(rows.concat(), [rows.len(), count]), device)
    }

    /// The factors of all sites, outside autodiff.
    ///
    /// # Shapes
    /// - `coefficients`: `[sites, count]`
    /// - outputs: the shapes of the linear combinations
    pub(crate) fn expand(&self, coefficients: Tensor<2>) -> Vec<Tensor<2>> {
        let there = self.kernels.as_ref().filter(|kernels| kernels.run_beside(&coefficients));
        if let Some(kernels) = there {
            self.all.iter().for_each(|mixed| mixed.basis.count_expand());
            return kernels.expand(coefficients);
        }
        let (device, count) = (coefficients.device().inner(), coefficients.dims()[1]);
        let rows = floats(coefficients.into_data());
        let linear_combinations: Vec<(&Mixed, &[f32])> = self.all.iter().zip(rows.chunks(count)).collect();
        let expanded = Mixed::expand_all(&linear_combinations).into_iter().zip(&self.all);
        expanded
            .map(|(matrix, mixed)| Tensor::from_data(TensorData::new(matrix, mixed.basis.shape()), &device))
            .collect()
    }

    /// The gradient of the coefficients, outside autodiff; zero for a site whose factor has none.
    ///
    /// # Shapes
    /// - `gradients`: the shapes of the linear combinations
    /// - `coefficients` and output: `[sites, count]`
    pub(crate) fn project(&self, gradients: Vec<Option<Tensor<2>>>, coefficients: &Tensor<2>) -> Tensor<2> {
        let device = coefficients.device().inner();
        let there = self.kernels.as_ref().filter(|kernels| kernels.run_beside(coefficients));
        if let Some(kernels) = there {
            let with_one = self.all.iter().zip(&gradients).filter(|(_, gradient)| gradient.is_some());
            with_one.for_each(|(mixed, _)| mixed.basis.count_project());
            return kernels.project(gradients, &device).cast(coefficients.dtype());
        }
        let gradients: Vec<Option<Vec<f32>>> =
            gradients.into_iter().map(|gradient| gradient.map(|g| floats(g.into_data()))).collect();
        let of_sites: Vec<(&Basis, &[f32])> = (self.all.iter().zip(&gradients))
            .filter_map(|(mixed, gradient)| Some((&mixed.basis, gradient.as_deref()?)))
            .collect();
        let shape = coefficients.dims();
        let mut projected = project_all(&of_sites).into_iter();
        let rows = gradients.iter().map(|gradient| match gradient {
            Some(_) => projected.next().expect("one row for each gradient"),
            None => vec![0.0; shape[1]],
        });
        Tensor::from_data(TensorData::new(rows.flatten().collect::<Vec<f32>>(), shape), &device)
    }
}
