//! Changes of embeddings, heads and convolutions that become changes of the whole matrix when an adapter is read.

use super::CONFIG;
use super::lora_config::Layer;
use super::matching::{Lora, Matching, Place, TOKEN_ROWS, factor_names, key};
use super::matrix::transposed;
use crate::SiteFactors;
use crate::adapter::BaseGain;
use crate::params::FoundParam;
use crate::site::{Site, SiteKind};

impl Matching<'_> {
    /// The LoRA of a convolution, or of an embedding whose rows were trained too, which becomes a change of the whole matrix.
    pub(super) fn dense_update(&mut self, place: &Place) -> Option<SiteFactors> {
        match place.param.shape[..] {
            [rows, width] if place.param.is_of_embedding() => self.of_embedding(place, rows, width),
            [d_out, ref inside @ ..] if place.param.is_of_convolution() && !inside.is_empty() => {
                self.of_convolution(place, d_out, inside)
            }
            _ => None,
        }
    }

    fn of_embedding(&mut self, place: &Place, rows: usize, width: usize) -> Option<SiteFactors> {
        if !self.becomes_table(place.module) {
            return None;
        }
        let [a, b] = factor_names(SiteKind::Embedding);
        let lora = self.lora(place.module, &place.foreign, Layer::Other, [a, b])?;
        let a = self.take(&key(&lora.name, a), &[lora.rank, rows]);
        let b = self.take(&key(&lora.name, b), &[width, lora.rank]);
        Some(lora.update(place, [rows, width], transposed(&a?, rows), transposed(&b?, lora.rank)))
    }

    fn of_convolution(&mut self, place: &Place, d_out: usize, inside: &[usize]) -> Option<SiteFactors> {
        let [a, b] = factor_names(SiteKind::Linear);
        let lora = self.lora(place.module, &place.foreign, Layer::Other, [a, b])?;
        let a = self.take(&key(&lora.name, a), &[&[lora.rank], inside].concat());
        let b = self.take(&key(&lora.name, b), &[d_out, lora.rank, 1, 1]);
        Some(lora.update(place, [d_out, inside.iter().product()], b?, a?))
    }

    /// The rows of a token embedding, or of a head, that were trained alone.
    pub(super) fn token_rows(&mut self, place: &Place) -> Option<TokenRows> {
        if place.leaf != "weight" {
            return None;
        }
        // PEFT ties the head to the trained rows of its embedding, unless it has rows of its own.
        let tied = self.adapter.tied.filter(|tied| tied.head == place.module);
        let embedding = tied.map(|tied| (self.modules)(tied.embedding));
        let homes = [Some(&place.foreign), embedding.as_ref()].into_iter().flatten();
        let names: Vec<String> = homes.flat_map(|home| self.names(home)).cloned().collect();
        let name = names.into_iter().find(|name| self.has(&key(name, TOKEN_ROWS)))?;
        let Some(indices) = self.adapter.config.trained_rows(&name) else {
            self.note(format!(
                "`{}` is there, but `trainable_token_indices` does not name it",
                key(&name, TOKEN_ROWS)
            ));
            return None;
        };
        let (count, width) = table_shape(place.param)?;
        let values = self.take(&key(&name, TOKEN_ROWS), &[indices.len(), width])?;
        if let Some(index) = indices.iter().find(|index| **index >= count) {
            self.note(format!(
                "`trainable_token_indices` of `{CONFIG}` names row {index} of `{name}`, which has {count}"
            ));
            return None;
        }
        Some(TokenRows { indices: indices.to_vec(), values })
    }
}

impl Lora {
    /// `scale · left·right` on the whole of a parameter, seen as a matrix.
    fn update(&self, place: &Place, shape: [usize; 2], left: Vec<f32>, right: Vec<f32>) -> SiteFactors {
        let site = Site::linear(place.module, shape[0], shape[1]);
        SiteFactors {
            site,
            rank: self.rank,
            scale: self.scale,
            base: BaseGain::WHOLE,
            a: Some(left),
            b: right,
            bias: None,
            magnitude: None,
        }
    }
}

/// Number and width of the rows that tokens have in the table of an embedding or a head.
fn table_shape(param: &FoundParam) -> Option<(usize, usize)> {
    match param.shape[..] {
        [width, count] if param.is_of_linear() => Some((count, width)),
        [count, width] if param.is_of_embedding() => Some((count, width)),
        _ => None,
    }
}

/// New rows for some tokens.
pub(super) struct TokenRows {
    indices: Vec<usize>,
    values: Vec<f32>,
}

impl TokenRows {
    /// Puts them into the values of an embedding, or of a head, where they are columns.
    pub(super) fn write(&self, table: &mut [f32], param: &FoundParam) {
        let Some((count, width)) = table_shape(param) else { return };
        for (index, row) in self.indices.iter().zip(self.values.chunks(width)) {
            if param.is_of_linear() {
                table.iter_mut().skip(*index).step_by(count).zip(row).for_each(|(old, new)| *old = *new);
            } else {
                table[index * width..(index + 1) * width].copy_from_slice(row);
            }
        }
    }
}
