//! CIDEr: how alike the rare n-grams of hypothesis and references are.
//!
//! # Source
//! Vedantam et al., "CIDEr: consensus-based image description evaluation", 2015, in the variant of the MS-COCO caption
//! scorer (`pycocoevalcap/cider/cider_scorer.py` of `tuetschek/e2e-metrics`): clipped counts and a penalty for other
//! lengths, as in CIDEr-D.

use std::collections::HashMap;
use std::hash::Hash;

use super::counts::Counts;
use super::{Corpus, Segment, mean, numbered, ptb};

/// The longest n-grams, in tokens.
const ORDERS: usize = 4;

/// Standard deviation of the length penalty, in tokens.
const SIGMA: f64 = 6.0;

/// Mean CIDEr of a corpus, 0 to 10, over Penn Treebank tokens in lower case, without punctuation.
///
/// How rare an n-gram is, is counted over the references of this corpus: scores of different corpora do not compare,
/// and a corpus of one hypothesis scores 0.
pub fn cider(corpus: &Corpus) -> f64 {
    mean(&cider_each(corpus))
}

/// CIDEr of each hypothesis, 0 to 10, as in [`cider`].
pub fn cider_each(corpus: &Corpus) -> Vec<f64> {
    each(&numbered(ptb::segments(corpus)))
}

pub(super) fn each<T: Ord + Hash>(segments: &[Segment<T>]) -> Vec<f64> {
    let rarity = Rarity::of(segments);
    segments.iter().map(|segment| rarity.score(segment)).collect()
}

/// In how many groups of references each n-gram occurs.
struct Rarity<'a, T> {
    groups: HashMap<&'a [T], usize>,
    all_groups: f64,
}

impl<'a, T: Ord + Hash> Rarity<'a, T> {
    fn of(segments: &'a [Segment<T>]) -> Self {
        let mut groups = HashMap::new();
        for segment in segments {
            for order in 1..=ORDERS {
                let group = segment.references.iter().map(|reference| Counts::of(reference, order));
                for (ngram, _) in Counts::highest(group).iter() {
                    *groups.entry(ngram).or_default() += 1;
                }
            }
        }
        Self { groups, all_groups: segments.len() as f64 }
    }

    /// What one occurrence weighs; an n-gram of no reference weighs as one of a single group.
    fn weight(&self, ngram: &[T]) -> f64 {
        let groups = self.groups.get(ngram).copied().unwrap_or(1);
        self.all_groups.ln() - (groups as f64).ln()
    }

    fn score(&self, Segment { hypothesis, references }: &Segment<T>) -> f64 {
        let ours: Vec<_> = (1..=ORDERS).map(|order| self.vector(hypothesis, order)).collect();
        let against = |reference: &Vec<T>| {
            let similarity: f64 = std::iter::zip(&ours, 1..=ORDERS)
                .map(|(vector, order)| self.similarity(vector, &self.vector(reference, order)))
                .sum();
            let bigrams = |tokens: &[T]| tokens.len().saturating_sub(1);
            let delta = bigrams(hypothesis).abs_diff(bigrams(reference)) as f64;
            similarity * (-delta.powi(2) / (2.0 * SIGMA.powi(2))).exp()
        };
        let total: f64 = references.iter().map(against).sum();
        10.0 * total / (ORDERS * references.len()) as f64
    }

    fn vector<'t>(&self, tokens: &'t [T], order: usize) -> Vector<'t, T> {
        let counts = Counts::of(tokens, order);
        let square = |(ngram, count)| (count as f64 * self.weight(ngram)).powi(2);
        Vector { norm: counts.iter().map(square).sum::<f64>().sqrt(), counts }
    }

    /// The cosine of two vectors, ours clipped to theirs.
    fn similarity(&self, ours: &Vector<T>, theirs: &Vector<T>) -> f64 {
        if ours.norm == 0.0 || theirs.norm == 0.0 {
            return 0.0;
        }
        let product = |(ngram, ours, theirs): (&[T], usize, usize)| {
            (ours.min(theirs) * theirs) as f64 * self.weight(ngram).powi(2)
        };
        let dot: f64 = ours.counts.shared(&theirs.counts).into_iter().map(product).sum();
        dot / (ours.norm * theirs.norm)
    }
}

/// The n-grams of one order of a text, and the length of their weighted vector.
struct Vector<'a, T> {
    counts: Counts<'a, T>,
    norm: f64,
}

#[cfg(test)]
mod tests {
    use super::super::golden::{cases, e2e};
    use super::*;

    #[test]
    fn cider_is_that_of_the_caption_scorer() {
        for case in cases() {
            let scores = each(&case.split());
            case.assert_has_all(&scores, "/coco/cider_each");
            case.assert_has(mean(&scores), "/coco/cider");
        }
    }

    #[test]
    fn over_simple_tokens_it_is_that_of_the_e2e_scorer() {
        for golden in e2e() {
            golden.assert_has(mean(&each(&golden.simple_tokens())), "/CIDEr_simple_tokens");
        }
    }
}
