//! LoRAs of sites that are parts of one foreign module, made one LoRA of that module.

use super::matrix::beside;
use super::{ForeignModule, Layout, Modules, Shares};
use crate::SiteFactors;
use crate::site::SiteKind;

/// The one LoRA of a foreign module, in our order.
pub(super) struct ModuleLora {
    pub name: String,
    pub kind: SiteKind,
    /// That of a linear layer; tables of embeddings have one alone.
    pub layout: Layout,
    pub rank: usize,
    /// Factor of the whole update.
    pub scale: f64,
    pub d_in: usize,
    pub d_out: usize,
    /// `[d_in, rank]`.
    pub a: Vec<f32>,
    /// `[rank, d_out]`.
    pub b: Vec<f32>,
    /// `[d_out]`: lengths of the columns, if they are trained.
    pub magnitude: Option<Vec<f32>>,
}

/// Lengths of the columns of the base, of one share of a foreign module.
pub(super) type BaseNorms<'a> = &'a dyn Fn(&ForeignModule, usize) -> Vec<f32>;

/// A site that is a part of a foreign module.
struct PartLora {
    shares: Shares,
    factors: SiteFactors,
}

/// One LoRA for every foreign module that holds a site, in the order of the first sites.
pub(super) fn module_loras(
    factors: Vec<SiteFactors>,
    modules: Modules,
    base_norms: BaseNorms,
) -> Vec<ModuleLora> {
    let mut found: Vec<(ForeignModule, Vec<PartLora>)> = Vec::new();
    for factors in factors {
        let module = modules(&factors.site.path);
        let part = PartLora { shares: module.part.shares(), factors };
        match found.iter_mut().find(|(known, _)| known.names == module.names) {
            Some((_, parts)) => {
                let is_new = parts.iter().all(|known| known.shares.from != part.shares.from);
                assert!(is_new, "two sites are the same part of {:?}", module.names);
                parts.push(part);
            }
            None => found.push((module, vec![part])),
        }
    }
    found.into_iter().map(|(module, parts)| join(&module, &parts, base_norms)).collect()
}

/// The LoRA that computes what `parts` compute, each on its own outputs, and nothing on the outputs of other parts.
fn join(module: &ForeignModule, parts: &[PartLora], base_norms: BaseNorms) -> ModuleLora {
    let site = &parts[0].factors.site;
    // The largest, so that no entry of B grows: where all are the same, as usual, nothing is multiplied.
    let scale = (parts.iter().map(|part| part.factors.scale))
        .fold(0.0_f64, |most, scale| if scale.abs() > most.abs() { scale } else { most });
    let mut stacked: Vec<&SiteFactors> = Vec::new();
    for PartLora { factors, .. } in parts {
        if !stacked.iter().any(|other| same_a(other, factors)) {
            stacked.push(factors);
        }
    }
    let rank = stacked.iter().map(|factors| factors.rank).sum();
    let share = site.d_out / module.part.shares().count();
    let outputs: Vec<Vec<f32>> = in_order(module, parts)
        .map(|(_, part)| match part {
            Some(part) => widened_b(&part.factors, &stacked, scale, rank),
            None => vec![0.0; rank * share],
        })
        .collect();
    let all_a: Vec<&[f32]> = stacked.iter().map(|factors| factors.low_rank_a()).collect();
    let all_b: Vec<&[f32]> = outputs.iter().map(Vec::as_slice).collect();
    ModuleLora {
        name: module.name().to_owned(),
        kind: site.kind,
        layout: match site.kind {
            SiteKind::Linear => module.layout,
            SiteKind::Embedding => Layout::Linear,
        },
        rank,
        scale,
        d_in: site.d_in,
        d_out: module.part.whole(site.d_out),
        a: beside(&all_a, site.d_in),
        b: beside(&all_b, rank),
        magnitude: joined_magnitude(module, parts, base_norms),
    }
}

/// The lengths of all columns of a module; those of parts without an adapter are the base's.
fn joined_magnitude(module: &ForeignModule, parts: &[PartLora], base_norms: BaseNorms) -> Option<Vec<f32>> {
    if parts.iter().all(|part| part.factors.magnitude.is_none()) {
        return None;
    }
    let of_part = |(first, part): (usize, Option<&PartLora>)| match part {
        Some(PartLora { shares, factors }) => factors.magnitude.clone().unwrap_or_else(|| {
            (shares.from..shares.to).flat_map(|share| base_norms(module, share)).collect()
        }),
        None => base_norms(module, first),
    };
    Some(in_order(module, parts).flat_map(of_part).collect())
}

/// The parts of a module in the order of its outputs, and between them the shares that no part is for; each with its first share.
fn in_order<'p>(
    module: &ForeignModule,
    parts: &'p [PartLora],
) -> impl Iterator<Item = (usize, Option<&'p PartLora>)> {
    let of_share = |share| match parts.iter().find(|part| part.shares.contains(share)) {
        Some(part) => (part.shares.from == share).then_some((share, Some(part))),
        None => Some((share, None)),
    };
    (0..module.part.shares().of).filter_map(of_share)
}

/// Whether two parts have the same A to the bit, as they have if they came from one LoRA.
fn same_a(left: &SiteFactors, right: &SiteFactors) -> bool {
    let has_same_bits = |(left, right): (&f32, &f32)| left.to_bits() == right.to_bits();
    left.rank == right.rank && left.low_rank_a().iter().zip(right.low_rank_a()).all(has_same_bits)
}

/// `[rank, d_out]`: B beside the rows of its own A, zero beside the others, for an update with the factor `scale`.
fn widened_b(factors: &SiteFactors, stacked: &[&SiteFactors], scale: f64, rank: usize) -> Vec<f32> {
    let before: usize = (stacked.iter()).take_while(|other| !same_a(other, factors)).map(|f| f.rank).sum();
    let ratio = if factors.scale == scale { 1.0 } else { factors.scale / scale };
    let d_out = factors.site.d_out;
    let mut widened = vec![0.0; rank * d_out];
    let rows = &mut widened[before * d_out..(before + factors.rank) * d_out];
    for (entry, b) in rows.iter_mut().zip(&factors.b) {
        *entry = (f64::from(*b) * ratio) as f32;
    }
    widened
}
