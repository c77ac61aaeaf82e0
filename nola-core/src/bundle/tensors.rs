//! The file of tensors of a bundle.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::TensorData;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use super::manifest::Manifest;
use super::{Basis, Bundle, Numbers};
use crate::Error;
use crate::adapted::{TrainedState, floats};
use crate::plain_words::plain_words;

/// Problems that a message names.
const MOST_PROBLEMS: usize = 16;

/// Names of tensors.
fn v(cluster: usize, site: usize) -> String {
    format!("v.{cluster}.{site}")
}

fn u(cluster: usize, site: usize) -> String {
    format!("u.{cluster}.{site}")
}

fn cores(cluster: usize) -> String {
    format!("cores.{cluster}")
}

fn beside(member: usize, name: &str) -> String {
    format!("beside.{member}.{name}")
}

impl Bundle {
    /// The bytes of the file; `file` is named if they cannot be made.
    pub(super) fn serialized(&self, file: &Path) -> Result<Vec<u8>, Error> {
        let tensors = self.stored();
        let views: Result<Vec<_>, _> = (tensors.iter())
            .map(|(name, (shape, values))| {
                let bytes: &[u8] = bytemuck::cast_slice(values);
                Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?))
            })
            .collect();
        let invalid = |error: safetensors::SafeTensorError| Error::Invalid {
            file: file.to_owned(),
            problems: vec![plain_words(&error.to_string())],
        };
        views.and_then(|views| safetensors::serialize(views, None)).map_err(invalid)
    }

    fn stored(&self) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
        let mut tensors = BTreeMap::new();
        let mut put = |name: String, numbers: &Numbers| {
            tensors.insert(name, (numbers.shape().to_vec(), numbers.values().to_vec()));
        };
        for (cluster, bases) in self.bases.iter().enumerate() {
            for (site, basis) in bases.iter().enumerate() {
                put(v(cluster, site), &basis.v);
                put(u(cluster, site), &basis.u);
            }
        }
        for (cluster, members) in self.manifest.by_cluster().into_iter().enumerate() {
            let rows: Vec<f32> =
                members.iter().flat_map(|&member| self.cores[member].values()).copied().collect();
            tensors.insert(cores(cluster), (vec![members.len(), self.manifest.core_numbers()], rows));
        }
        for (member, state) in self.beside.iter().enumerate() {
            let of_member = state
                .iter()
                .map(|(name, data)| (beside(member, name), (data.shape().to_vec(), floats(data.clone()))));
            tensors.extend(of_member);
        }
        tensors
    }

    /// A bundle of a manifest and the tensors of a file.
    ///
    /// # Errors
    /// With all that is missing, surplus, misshapen or not finite.
    pub(super) fn of_tensors(manifest: Manifest, tensors: &SafeTensors) -> Result<Self, Vec<String>> {
        let (found, expected) = (tensors.len(), manifest.tensor_count());
        if found != expected {
            return Err(vec![format!("holds {found} tensors, expected {expected}")]);
        }
        let mut reader = Reader { tensors, problems: Vec::new() };
        let bases: Vec<Vec<Option<Basis>>> =
            (0..manifest.clusters).map(|cluster| reader.bases(&manifest, cluster)).collect();
        let mut all_cores: Vec<Option<Numbers>> = vec![None; manifest.members.len()];
        for (cluster, members) in manifest.by_cluster().into_iter().enumerate() {
            reader.cores(&manifest, cluster, &members, &mut all_cores);
        }
        let beside: Vec<Option<TrainedState>> =
            (0..manifest.members.len()).map(|member| reader.beside(&manifest, member)).collect();
        let problems = reader.problems;
        let bases = bases.into_iter().map(|bases| bases.into_iter().collect()).collect::<Option<Vec<_>>>();
        let cores = all_cores.into_iter().collect::<Option<Vec<_>>>();
        let beside = beside.into_iter().collect::<Option<Vec<_>>>();
        match (bases, cores, beside) {
            (Some(bases), Some(cores), Some(beside)) if problems.is_empty() => {
                Ok(Self { manifest, bases, cores, beside })
            }
            _ => Err(first_of(problems)),
        }
    }
}

struct Reader<'a> {
    tensors: &'a SafeTensors<'a>,
    problems: Vec<String>,
}

impl Reader<'_> {
    /// The numbers of a tensor of this shape, or a problem.
    fn take(&mut self, name: String, shape: &[usize]) -> Option<Vec<f32>> {
        let found = self.tensors.tensor(&name);
        let problem = match found {
            Err(_) => format!("`{name}` is missing"),
            Ok(view) if view.dtype() != Dtype::F32 || view.shape() != shape => {
                format!("`{name}` is {:?} {:?}, expected F32 {shape:?}", view.dtype(), view.shape())
            }
            Ok(view) => {
                let bytes = view.data().as_chunks::<4>().0;
                let values: Vec<f32> = bytes.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
                let count = values.iter().filter(|value| !value.is_finite()).count();
                if count == 0 {
                    return Some(values);
                }
                format!("`{name}` holds {count} numbers that are not finite")
            }
        };
        self.problems.push(problem);
        None
    }

    fn matrix(&mut self, name: String, shape: [usize; 2]) -> Option<Numbers> {
        self.take(name, &shape).map(|values| Numbers::new(values, shape))
    }

    fn bases(&mut self, manifest: &Manifest, cluster: usize) -> Vec<Option<Basis>> {
        let mut basis = |(place, site)| {
            let rank = manifest.rank_at(site);
            let v = self.matrix(v(cluster, place), [site.d_in, rank]);
            let u = self.matrix(u(cluster, place), [rank, site.d_out]);
            Some(Basis { v: v?, u: u? })
        };
        manifest.sites.iter().enumerate().map(&mut basis).collect()
    }

    fn cores(&mut self, manifest: &Manifest, cluster: usize, members: &[usize], all: &mut [Option<Numbers>]) {
        let numbers = manifest.core_numbers();
        let Some(rows) = self.take(cores(cluster), &[members.len(), numbers]) else { return };
        for (&member, row) in members.iter().zip(rows.chunks_exact(numbers)) {
            all[member] = Some(Numbers::row(row.to_vec()));
        }
    }

    fn beside(&mut self, manifest: &Manifest, member: usize) -> Option<TrainedState> {
        let mut state = Some(TrainedState::new());
        for (name, shape) in &manifest.members[member].beside {
            let values = self.take(beside(member, name), shape);
            state = state.zip(values).map(|(mut state, values)| {
                state.insert(name.clone(), TensorData::new(values, shape.clone()));
                state
            });
        }
        state
    }
}

/// As many as a message can hold.
fn first_of(mut problems: Vec<String>) -> Vec<String> {
    let more = problems.len().saturating_sub(MOST_PROBLEMS);
    problems.truncate(MOST_PROBLEMS);
    problems.extend((more > 0).then(|| format!("and {more} more")));
    problems
}
