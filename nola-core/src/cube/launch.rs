//! From tensors of burn's CubeCL backend to launches, and how a launch is cut into cubes.

use burn::tensor::{DType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;
use cubecl::{calculate_cube_count_elemwise, client::Client};

use super::kernels::{self, CHUNK, TermsLaunch, UNITS};
use crate::basis::{Distribution, Generator};

/// Units that keep a large GPU busy; with less work than that, more lanes share a sum.
const BUSY: usize = 1 << 17;
/// Most lanes that share a sum.
const MOST_LANES: usize = 32;
/// Fewest terms of a sum that are worth a lane of their own.
const TERMS_PER_LANE: usize = 8;

/// Sites of one shape whose bases differ in their hash alone.
#[derive(Debug, Clone)]
pub(super) struct Launch {
    /// Distribution, seed and stream of all sites.
    pub generator: Generator,
    /// Hash of each site, and its row among the coefficients.
    pub sites: Vec<[u32; 2]>,
    /// Number of coefficients.
    pub count: usize,
    /// Rows and columns of a factor.
    pub shape: [usize; 2],
    /// What every entry is multiplied with.
    pub entry_scale: f32,
}

impl Launch {
    /// Chunks of a factor.
    fn chunks(&self) -> usize {
        (self.shape[0] * self.shape[1]).div_ceil(CHUNK as usize)
    }

    /// Elements from the beginning of one site to the next one's: a multiple of what devices align buffers to.
    pub(super) fn pitch(&self) -> usize {
        self.chunks() * CHUNK as usize
    }

    /// Sites that a unit computes together.
    fn together(&self) -> u32 {
        let is_shared = self.sites.len() > 1 && self.sites.iter().all(|[hash, _]| *hash == self.sites[0][0]);
        match self.generator.distribution {
            Distribution::Uniform if is_shared => kernels::TOGETHER,
            // A call under the sign distribution makes so many numbers that drawing them once more costs nothing.
            Distribution::Uniform | Distribution::Sign => 1,
        }
    }

    /// Groups of sites that are computed together.
    fn groups(&self) -> usize {
        self.sites.len().div_ceil(self.together() as usize)
    }

    /// Sites of the groups, the last one filled up.
    pub(super) fn slots(&self) -> usize {
        self.groups() * self.together() as usize
    }

    /// The factor of every site, each in its part of one buffer.
    ///
    /// # Shapes
    /// - `coefficients`: `[rows, count]`
    /// - outputs: `shape`
    ///
    /// # Panics
    /// If there is no row for a site.
    pub(super) fn expand(&self, coefficients: CubeTensor) -> Vec<CubeTensor> {
        self.check_rows(&coefficients);
        let coefficients = into_contiguous(coefficients);
        let (client, device) = (coefficients.client.clone(), coefficients.device.clone());
        let shape = Shape::new([self.sites.len(), self.pitch()]);
        let factors = empty_device_contiguous_dtype(client.clone(), device, shape, DType::F32);
        let units = match self.generator.distribution {
            Distribution::Uniform => self.pitch() / kernels::UNIFORM_BLOCK as usize,
            Distribution::Sign => self.pitch() / kernels::SIGNS_OF_A_WORD as usize,
        };
        let lanes = lanes(self.groups() * units, self.count / TERMS_PER_LANE);
        let cubes = (units * lanes as usize).div_ceil(UNITS as usize);
        // SAFETY: the kernel reads `count` coefficients of the sites' rows, and writes whole chunks of each site.
        unsafe {
            kernels::expand::launch_unchecked(
                &client,
                self.all_cubes(&client, cubes),
                CubeDim::new_1d(UNITS),
                coefficients.into_buffer_arg(),
                self.site_table(&client),
                factors.clone().into_buffer_arg(),
                self.terms(cubes),
                self.generator.distribution,
                lanes,
                self.together(),
            );
        }
        (0..self.sites.len()).map(|site| self.part(&factors, site)).collect()
    }

    /// Writes the gradient of every site's coefficients into its row of `projected`.
    ///
    /// # Shapes
    /// - `gradients`: `[slots, pitch]`, zero behind each matrix and behind the last site
    /// - `projected`: `[rows, count]`, contiguous
    ///
    /// # Panics
    /// If there is no row or no gradient for a site.
    pub(super) fn project(&self, gradients: CubeTensor, projected: &CubeTensor) {
        self.check_rows(projected);
        assert_eq!(gradients.meta.shape()[..], [self.slots(), self.pitch()], "one gradient per site");
        let gradients = into_contiguous(gradients);
        let client = gradients.client.clone();
        let units = self.count.div_ceil(kernels::OWNED as usize);
        let lanes = lanes(self.groups() * units, self.chunks());
        let cubes = units.div_ceil(UNITS as usize / lanes as usize);
        // SAFETY: the kernel reads whole chunks of each site, and writes `count` coefficients of the sites' rows.
        unsafe {
            kernels::project::launch_unchecked(
                &client,
                self.all_cubes(&client, cubes),
                CubeDim::new_1d(UNITS),
                gradients.into_buffer_arg(),
                self.site_table(&client),
                projected.clone().into_buffer_arg(),
                self.terms(cubes),
                self.generator.distribution,
                lanes,
                self.together(),
            );
        }
    }

    /// Panics unless a tensor of coefficients has a row for every site.
    fn check_rows(&self, coefficients: &CubeTensor) {
        let rows = 1 + self.sites.iter().map(|[_, row]| *row as usize).max().unwrap_or(0);
        let shape = coefficients.meta.shape();
        assert!(
            shape[0] >= rows && shape[1] == self.count,
            "a row of coefficients for every site: {shape:?}"
        );
    }

    /// The part of `factors` that belongs to one site.
    fn part(&self, factors: &CubeTensor, site: usize) -> CubeTensor {
        let [rows, cols] = self.shape;
        let (start, behind) = (site * self.pitch(), (self.sites.len() - site) * self.pitch() - rows * cols);
        let bytes = |elements: usize| (elements * size_of::<f32>()) as u64;
        let handle = factors.handle.clone().offset_start(bytes(start)).offset_end(bytes(behind));
        let (client, device) = (factors.client.clone(), factors.device.clone());
        CubeTensor::new_contiguous(client, device, Shape::new(self.shape), handle, DType::F32)
    }

    fn all_cubes(&self, client: &Client, cubes: usize) -> CubeCount {
        let units = self.groups() * cubes * UNITS as usize;
        calculate_cube_count_elemwise(client, units, CubeDim::new_1d(UNITS))
    }

    fn site_table(&self, client: &Client) -> BufferArg {
        let mut sites = self.sites.clone();
        sites.resize(self.slots(), *self.sites.last().expect("no launch is without sites"));
        let table = sites.concat();
        let handle = client.create_from_slice(u32::as_bytes(&table));
        // SAFETY: the buffer was made of this many words.
        unsafe { BufferArg::from_raw_parts(handle, table.len()) }
    }

    fn terms(&self, cubes: usize) -> TermsLaunch {
        let Generator { seed, stream, .. } = self.generator;
        let (count, chunks, sites) = (self.count as u32, self.chunks() as u32, self.sites.len() as u32);
        let (seed_low, seed_high) = (seed as u32, (seed >> 32) as u32);
        TermsLaunch::new(
            seed_low,
            seed_high,
            stream as u32,
            count,
            chunks,
            sites,
            cubes as u32,
            self.entry_scale,
        )
    }
}

/// Lanes that share a sum of `terms` terms: a power of two, 1 if there are enough units without.
fn lanes(units: usize, terms: usize) -> u32 {
    let wanted = BUSY.div_ceil(units).next_power_of_two();
    let most = 1 << terms.clamp(1, MOST_LANES).ilog2();
    wanted.min(most) as u32
}
