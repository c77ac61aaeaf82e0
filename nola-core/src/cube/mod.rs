//! `expand` and `project` on the GPUs of burn's CubeCL backend: coefficients and gradients stay there.
//!
//! The kernels draw the same words as the plain version, so the basis has the same bits; sums agree to some 1e-6.

#![allow(unsafe_code, reason = "kernels are launched without the checks of bounds that they make themselves")]

mod handover;
mod kernels;
mod launch;
mod packed;

use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{DType, Device, Tensor, TensorData};
use burn_cubecl::tensor::CubeTensor;

use self::launch::Launch;
use crate::adapter::LinearCombination;
use crate::basis::Generator;

/// Most elements of all factors of a launch: no index leaves 32 bits, and buffers stay below every device's limit.
const MOST_ELEMENTS: usize = 1 << 28;

/// The launches for the linear combinations of one side, A or B, of all sites.
#[derive(Debug)]
pub(crate) struct Kernels {
    launches: Vec<Launch>,
    /// Of every site, in the order of the sites.
    offsets: Vec<Option<Arc<[f32]>>>,
    /// The offsets on the device that asked for them last; they never change.
    offsets_there: Mutex<Option<Offsets>>,
}

/// The offset of every site that has one, on a device.
#[derive(Debug)]
struct Offsets {
    device: Device,
    matrices: Vec<Option<Tensor<2>>>,
}

impl Kernels {
    /// The launches for the linear combinations `all`; nothing if somebody else drew a basis.
    pub(crate) fn of(all: &[&LinearCombination]) -> Option<Self> {
        let mut launches: Vec<Launch> = Vec::new();
        for (row, combined) in all.iter().enumerate() {
            let new = launch_of(combined, row)?;
            match launches.iter_mut().find(|launch| may_join(launch, &new)) {
                Some(launch) => launch.sites.extend(new.sites),
                None => launches.push(new),
            }
        }
        let offsets = all.iter().map(|combined| combined.offset.clone()).collect();
        Some(Self { launches, offsets, offsets_there: Mutex::default() })
    }

    /// Whether they run where `tensor` is.
    pub(crate) fn run_beside(&self, tensor: &Tensor<2>) -> bool {
        there(tensor.clone()).is_some()
    }

    /// The matrices of all sites in order.
    ///
    /// # Shapes
    /// - `coefficients`: `[sites, count]`
    ///
    /// # Panics
    /// If these kernels do not run where `coefficients` are.
    pub(crate) fn expand(&self, coefficients: Tensor<2>) -> Vec<Tensor<2>> {
        let device = coefficients.device().inner();
        let coefficients = there(coefficients).expect("a device with these kernels");
        let mut matrices: Vec<Option<Tensor<2>>> = vec![None; self.offsets.len()];
        for launch in &self.launches {
            let factors = launch.expand(coefficients.clone());
            for ([_, row], factor) in launch.sites.iter().zip(factors) {
                matrices[*row as usize] = Some(handover::tensor(factor));
            }
        }
        let with_offset = |(matrix, offset): (Option<Tensor<2>>, Option<Tensor<2>>)| {
            let matrix = matrix.expect("every site is in one launch");
            match offset {
                Some(offset) => matrix + offset,
                None => matrix,
            }
        };
        matrices.into_iter().zip(self.offsets_on(&device)).map(with_offset).collect()
    }

    /// The gradients of all sites' coefficients, zero where a matrix has none.
    ///
    /// # Shapes
    /// - output: `[sites, count]`
    ///
    /// # Panics
    /// If `device` is none that these kernels run on.
    pub(crate) fn project(&self, mut gradients: Vec<Option<Tensor<2>>>, device: &Device) -> Tensor<2> {
        let count = self.launches[0].count;
        let projected = there(Tensor::zeros([gradients.len(), count], (device, DType::F32)));
        let projected = burn_cubecl::kernel::into_contiguous(projected.expect("a device with these kernels"));
        for launch in &self.launches {
            let mut launch = launch.clone();
            launch.sites.retain(|[_, row]| gradients[*row as usize].is_some());
            if launch.sites.is_empty() {
                continue;
            }
            let mut side_by_side = Tensor::<2>::zeros([launch.slots(), launch.pitch()], (device, DType::F32));
            for (n, [_, row]) in launch.sites.iter().enumerate() {
                let gradient = gradients[*row as usize].take().expect("those without were left out");
                let [rows, cols] = launch.shape;
                let flat = gradient.cast(DType::F32).reshape([1, rows * cols]);
                side_by_side = side_by_side.slice_assign([n..n + 1, 0..rows * cols], flat);
            }
            launch.project(there(side_by_side).expect("it was made there"), &projected);
        }
        handover::tensor(projected)
    }

    fn offsets_on(&self, device: &Device) -> Vec<Option<Tensor<2>>> {
        let mut there = self.offsets_there.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(offsets) = there.as_ref().filter(|offsets| offsets.device == *device) {
            return offsets.matrices.clone();
        }
        let copied = |(offset, shape): (&Option<Arc<[f32]>>, [usize; 2])| {
            let data = TensorData::new(offset.as_ref()?.to_vec(), shape);
            Some(Tensor::from_data(data, (device, DType::F32)))
        };
        let matrices: Vec<_> = self.offsets.iter().zip(self.shapes()).map(copied).collect();
        *there = Some(Offsets { device: device.clone(), matrices: matrices.clone() });
        matrices
    }

    /// The shapes of all sites' matrices, in order.
    fn shapes(&self) -> Vec<[usize; 2]> {
        let mut shapes = vec![[0, 0]; self.offsets.len()];
        for launch in &self.launches {
            launch.sites.iter().for_each(|[_, row]| shapes[*row as usize] = launch.shape);
        }
        shapes
    }
}

/// The buffer of `tensor`, outside autodiff and in `f32`; nothing if another backend has it.
fn there(tensor: Tensor<2>) -> Option<CubeTensor> {
    handover::buffer(tensor.inner().cast(DType::F32))
}

/// A launch for one site.
fn launch_of(combined: &LinearCombination, row: usize) -> Option<Launch> {
    let basis = combined.matrices.random()?;
    let generator = *basis.generator()?;
    let (count, shape) = (basis.count(), basis.shape());
    let sites = vec![[generator.site, row as u32]];
    Some(Launch { generator, sites, count, shape, entry_scale: basis.entry_scale() })
}

/// Whether one launch can do the sites of both.
fn may_join(launch: &Launch, new: &Launch) -> bool {
    let but_for_the_site = |generator: Generator| Generator { site: 0, ..generator };
    but_for_the_site(launch.generator) == but_for_the_site(new.generator)
        && (launch.count, launch.shape) == (new.count, new.shape)
        && launch.entry_scale.to_bits() == new.entry_scale.to_bits()
        && (launch.sites.len() + 1) * launch.pitch() <= MOST_ELEMENTS
}
