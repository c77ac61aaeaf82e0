//! Ranks that move between sites during training.
//!
//! A rank that lost its gate stays in its tensors as a column and a row of zeros; new ranks are further pairs of factors,
//! with moments of their own in the optimizer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use burn::module::{Module, ModuleDisplay, ModuleMapper, Param, ParamId};
use burn::tensor::{DType, Tensor, TensorData};

use super::{Adapted, SiteFactors, TrainedState, floats};
use crate::Error;
use crate::adapter::{Moved, Plan, kaiming_uniform, moved};
use crate::params::{FoundParam, base_tensors, float_params, read_params, replace_params};
use crate::site::Site;

/// A's and B's of further pairs lie in modules of this name.
const FURTHER: &str = "further";

/// The ranks of every site; no site where none can move.
#[derive(Debug, Clone, Default)]
pub(super) struct Ranks {
    sites: Vec<SiteRanks>,
}

/// The ranks of a site: its first pair of factors, and those that were added.
#[derive(Debug, Clone)]
struct SiteRanks {
    site: Site,
    pairs: Vec<PairRanks>,
    /// Room for further pairs.
    empty: Vec<[ParamId; 2]>,
}

#[derive(Debug, Clone)]
struct PairRanks {
    a: ParamId,
    b: ParamId,
    /// Which of its ranks have their gates.
    gates: Vec<bool>,
}

/// A rank with its gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rank {
    site: usize,
    pair: usize,
    place: usize,
}

/// One time that ranks moved.
#[derive(Debug, Clone)]
pub struct RankMove {
    /// Site of each scored rank.
    pub site_of: Vec<usize>,
    /// Scores of all ranks that had their gates, in the order of sites.
    pub scores: Vec<f64>,
    /// What became of them.
    pub moved: Moved,
}

impl Ranks {
    /// The ranks of freshly attached updates.
    pub(super) fn new(sites: &[Site], plans: &[Plan], params: &[FoundParam]) -> Self {
        let can_move = plans.iter().any(|plan| plan.further_pairs > 0);
        let sites = if can_move { sites } else { &[] };
        let id = |path: &str| params.iter().find(|param| param.path == path).map(|param| param.id);
        let of_site = |(site, plan): (&Site, &Plan)| {
            let pair = |within: &str| {
                let path = |leaf: &str| format!("{}.adapter{within}.{leaf}", site.weight_path());
                let [a, b] = ["a", "b"].map(|leaf| id(&path(leaf)).expect("the adapter was just attached"));
                [a, b]
            };
            let [a, b] = pair("");
            SiteRanks {
                site: site.clone(),
                pairs: vec![PairRanks { a, b, gates: vec![true; plan.rank] }],
                // The last one is taken first.
                empty: (0..plan.further_pairs).rev().map(|n| pair(&format!(".{FURTHER}.{n}"))).collect(),
            }
        };
        Self { sites: sites.iter().zip(plans).map(of_site).collect() }
    }

    /// The parameters of pairs that were added.
    pub(super) fn further(&self) -> BTreeSet<ParamId> {
        let pairs = self.sites.iter().flat_map(|site| &site.pairs[1..]);
        pairs.flat_map(|pair| [pair.a, pair.b]).collect()
    }

    /// Trainable parameters in ranks that have their gates; nothing where no rank can move.
    pub(super) fn trainable_parameters(&self) -> Option<usize> {
        let of_site = |site: &SiteRanks| site.count() * (site.site.d_in + site.site.d_out);
        (!self.sites.is_empty()).then(|| self.sites.iter().map(of_site).sum())
    }

    /// Every rank that has its gate, in the order of sites.
    fn all(&self) -> Vec<Rank> {
        let of_pair = |site: usize, pair: usize, gates: &[bool]| {
            let open = gates.iter().enumerate().filter(|(_, gate)| **gate);
            open.map(|(place, _)| Rank { site, pair, place }).collect::<Vec<_>>()
        };
        let of_site = |(site, ranks): (usize, &SiteRanks)| {
            let pairs = ranks.pairs.iter().enumerate();
            pairs.flat_map(|(pair, ranks)| of_pair(site, pair, &ranks.gates)).collect::<Vec<_>>()
        };
        self.sites.iter().enumerate().flat_map(of_site).collect()
    }

    fn pair(&self, rank: Rank) -> &PairRanks {
        &self.sites[rank.site].pairs[rank.pair]
    }
}

impl SiteRanks {
    /// How many have their gates.
    fn count(&self) -> usize {
        self.pairs.iter().flat_map(|pair| &pair.gates).filter(|gate| **gate).count()
    }
}

impl<M: Module> Adapted<M> {
    /// The ranks that each site has now, where ranks move.
    pub fn ranks(&self) -> Vec<(&Site, usize)> {
        self.ranks.sites.iter().map(|ranks| (&ranks.site, ranks.count())).collect()
    }

    /// The model after what its adapter does between optimizer steps, `done` of `steps` being made, if it does something;
    /// `score` rates a model, always by the same samples.
    ///
    /// # Errors
    /// Those of `score`, or if no rank would be left.
    pub fn between_steps<E: From<Error>>(
        &self,
        done: usize,
        steps: usize,
        score: &mut dyn FnMut(&M) -> Result<f64, E>,
    ) -> Result<Option<Self>, E>
    where
        M: ModuleDisplay,
    {
        let moves = self.config().and_then(|config| config.method().rank_moves());
        let round = moves.and_then(|moves| Some((moves, moves.round(done, steps)?)));
        let Some((moves, round)) = round else { return Ok(None) };
        let count = moves.count(self.sites().len());
        // Another sequence in every round.
        let seed = moves.seed.wrapping_add(1 + round as u64);
        let drawn = |site: &Site, rank: usize| kaiming_uniform(seed, site, rank);
        Ok(Some(self.move_ranks(count, &drawn, score)?.0))
    }

    /// Refuses a run that is too short for what the adapter does between its steps.
    ///
    /// # Errors
    /// [`Error::BadSetting`] with the cure.
    pub fn check_run(&self, steps: usize) -> Result<(), Error> {
        self.config().map_or(Ok(()), |config| config.method().check_run(steps))
    }

    /// Takes the `count` least important ranks away and gives as many to sites that lost none; `drawn` gives the first A of
    /// new ranks, `[d_in, rank]` row-major, whose B is zero.
    ///
    /// # Errors
    /// Those of `score`, or if no rank would be left.
    ///
    /// # Source
    /// ALoRA (Liu et al., NAACL 2024), algorithm 1.
    pub fn move_ranks<E: From<Error>>(
        &self,
        count: usize,
        drawn: &dyn Fn(&Site, usize) -> Vec<f32>,
        score: &mut dyn FnMut(&M) -> Result<f64, E>,
    ) -> Result<(Self, RankMove), E>
    where
        M: ModuleDisplay,
    {
        let ranks = self.ranks.all();
        // Where every site loses some in each round nobody gets new ones, and at last few are left.
        let count = count.min(ranks.len().saturating_sub(1));
        let scores = self.scores(&ranks, score)?;
        let site_of: Vec<usize> = ranks.iter().map(|rank| rank.site).collect();
        let moved = moved(&scores, &site_of, self.ranks.sites.len(), count);
        let mut after = self.ranks.as_ref().clone();
        for &place in &moved.pruned {
            let Rank { site, pair, place } = ranks[place];
            after.sites[site].pairs[pair].gates[place] = false;
        }
        let adapted = self.clone().with_ranks(after).gated().grown(&moved.granted, drawn);
        Ok((adapted, RankMove { site_of, scores, moved }))
    }

    /// AB-LoRA's score of each rank: how much better the model is with it than without, and than one that has it alone.
    fn scores<E>(&self, ranks: &[Rank], score: &mut dyn FnMut(&M) -> Result<f64, E>) -> Result<Vec<f64>, E> {
        let model = self.model.valid();
        let ids: Vec<ParamId> =
            self.ranks.sites.iter().flat_map(|site| &site.pairs).map(|pair| pair.b).collect();
        let all = base_tensors(&model, &ids);
        let none = all.iter().map(|(id, b)| (*id, b.zeros_like())).collect();
        let without_any = replace_params(model.clone(), none);
        let whole = score(&model)?;
        let mut scores = Vec::with_capacity(ranks.len());
        for rank in ranks {
            let id = self.ranks.pair(*rank).b;
            let alone = row_alone(&all[&id], rank.place);
            let without =
                replace_params(model.clone(), BTreeMap::from([(id, all[&id].clone() - alone.clone())]));
            let only = replace_params(without_any.clone(), BTreeMap::from([(id, alone)]));
            scores.push(whole - score(&without)? + score(&only)?);
        }
        Ok(scores)
    }

    fn with_ranks(self, ranks: Ranks) -> Self {
        Self { ranks: Arc::new(ranks), ..self }
    }

    /// Ranks without gates are zero, whatever the optimizer made of them.
    pub(super) fn gated(mut self) -> Self {
        let pairs = self.ranks.sites.iter().flat_map(|site| &site.pairs);
        let with_pruned: Vec<&PairRanks> = pairs.filter(|pair| pair.gates.contains(&false)).collect();
        if with_pruned.is_empty() {
            return self;
        }
        let ids: Vec<ParamId> = with_pruned.iter().flat_map(|pair| [pair.a, pair.b]).collect();
        let tensors = base_tensors(&self.model, &ids);
        let mut gated = BTreeMap::new();
        for pair in with_pruned {
            let rank = pair.gates.len();
            let gates: Vec<f32> = pair.gates.iter().map(|gate| f32::from(u8::from(*gate))).collect();
            let row = Tensor::<2>::from_data(TensorData::new(gates, [1, rank]), &tensors[&pair.a].device());
            gated.insert(pair.a, tensors[&pair.a].clone() * row.clone());
            gated.insert(pair.b, tensors[&pair.b].clone() * row.transpose());
        }
        self.model = replace_params(self.model, gated);
        self
    }

    /// With so many new ranks at each site.
    fn grown(mut self, granted: &[usize], drawn: &dyn Fn(&Site, usize) -> Vec<f32>) -> Self {
        let mut after = self.ranks.as_ref().clone();
        let mut new = BTreeMap::new();
        for (ranks, &rank) in after.sites.iter_mut().zip(granted).filter(|(_, rank)| **rank > 0) {
            let [empty_a, empty_b] = ranks.empty.pop().expect("there is room for a pair in every round");
            let pair = PairRanks { a: ParamId::new(), b: ParamId::new(), gates: vec![true; rank] };
            let Site { d_in, d_out, .. } = ranks.site;
            new.insert(empty_a, (pair.a, TensorData::new(drawn(&ranks.site, rank), [d_in, rank])));
            new.insert(empty_b, (pair.b, TensorData::new(vec![0.0_f32; rank * d_out], [rank, d_out])));
            ranks.pairs.push(pair);
        }
        self.model = self.model.map(&mut Grow { new });
        self.with_ranks(after)
    }

    /// The model with the pairs of factors that `state` has beyond those it started with: they were added while it was
    /// trained. Their values are zero until [`Adapted::with_state`] sets them.
    pub fn with_added_pairs(mut self, state: &TrainedState) -> Self {
        for number in 0.. {
            let rank = |ranks: &SiteRanks| {
                let a = format!("{}.adapter.{FURTHER}.{number}.a", ranks.site.weight_path());
                let rank = state.get(&a).and_then(|a| a.shape().to_vec().get(1).copied());
                rank.filter(|_| !ranks.empty.is_empty()).unwrap_or(0)
            };
            let granted: Vec<usize> = self.ranks.sites.iter().map(rank).collect();
            if granted.iter().all(|rank| *rank == 0) {
                break;
            }
            self = self.grown(&granted, &|site, rank| vec![0.0; site.d_in * rank]);
        }
        self
    }

    /// What a state of an earlier time does not have: pairs that were added since are zero.
    pub(super) fn add_absent_pairs(&self, state: &mut TrainedState) {
        let further = self.ranks.further();
        for param in float_params(&self.model).into_iter().filter(|param| further.contains(&param.id)) {
            let zeros = || TensorData::new(vec![0.0_f32; param.shape.iter().product()], param.shape.clone());
            state.entry(param.path.clone()).or_insert_with(zeros);
        }
    }

    /// The same with the gates that the values say: a rank that is zero has none.
    pub(super) fn with_gates_of_values(self) -> Self {
        if self.ranks.sites.is_empty() {
            return self;
        }
        let mut after = self.ranks.as_ref().clone();
        let pairs = after.sites.iter().flat_map(|site| &site.pairs);
        let ids: Vec<ParamId> = pairs.flat_map(|pair| [pair.a, pair.b]).collect();
        let values = read_params(&self.model, &ids);
        for pair in after.sites.iter_mut().flat_map(|site| &mut site.pairs) {
            let (a, b) = (floats(values[&pair.a].clone()), floats(values[&pair.b].clone()));
            let rank = pair.gates.len();
            let d_out = b.len() / rank;
            for (place, gate) in pair.gates.iter_mut().enumerate() {
                let column = a.iter().skip(place).step_by(rank);
                *gate = column.chain(&b[place * d_out..(place + 1) * d_out]).any(|entry| *entry != 0.0);
            }
        }
        self.with_ranks(after)
    }

    /// The factors of site `index` without ranks that lost their gates, and with those that were added; `factors` are its
    /// first pair.
    pub(super) fn with_moved_ranks(
        &self,
        index: usize,
        factors: SiteFactors,
        values: &BTreeMap<ParamId, TensorData>,
    ) -> SiteFactors {
        let Some(ranks) = self.ranks.sites.get(index) else { return factors };
        let (mut columns, mut rows) = (Vec::new(), Vec::new());
        for pair in &ranks.pairs {
            let (a, b) = (floats(values[&pair.a].clone()), floats(values[&pair.b].clone()));
            let (rank, d_out) = (pair.gates.len(), ranks.site.d_out);
            for (place, _) in pair.gates.iter().enumerate().filter(|(_, gate)| **gate) {
                columns.push(a.iter().skip(place).step_by(rank).copied().collect::<Vec<f32>>());
                rows.extend_from_slice(&b[place * d_out..(place + 1) * d_out]);
            }
        }
        let a = (0..ranks.site.d_in).flat_map(|row| columns.iter().map(move |column| column[row])).collect();
        SiteFactors { rank: columns.len(), a: Some(a), b: rows, ..factors }
    }

    /// Zeros for B of the pairs that were added.
    pub(super) fn further_without_effect(&self) -> BTreeMap<ParamId, TensorData> {
        let of_site = |ranks: &SiteRanks| {
            let d_out = ranks.site.d_out;
            let zeros = move |pair: &PairRanks| {
                let shape = [pair.gates.len(), d_out];
                (pair.b, TensorData::new(vec![0.0_f32; shape[0] * shape[1]], shape))
            };
            ranks.pairs[1..].iter().map(zeros).collect::<Vec<_>>()
        };
        self.ranks.sites.iter().flat_map(of_site).collect()
    }
}

/// `b` with only its row `place`.
///
/// # Shapes
/// - `b` and output: `[rank, d_out]`
fn row_alone(b: &Tensor<2>, place: usize) -> Tensor<2> {
    let [rank, _] = b.dims();
    let row: Vec<f32> = (0..rank).map(|row| f32::from(u8::from(row == place))).collect();
    b.clone() * Tensor::<2>::from_data(TensorData::new(row, [rank, 1]), (&b.device(), b.dtype()))
}

/// Puts new parameters in the place of empty ones.
struct Grow {
    new: BTreeMap<ParamId, (ParamId, TensorData)>,
}

impl ModuleMapper for Grow {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some((id, data)) = self.new.remove(&param.id) else { return param };
        let tensor = Tensor::<D>::from_data(data, (&param.lazy_device(), DType::F32));
        Param::initialized(id, tensor.require_grad())
    }
}
