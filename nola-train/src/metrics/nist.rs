//! NIST: n-gram precision in which a rare n-gram is worth more.
//!
//! # Source
//! Doddington, "Automatic evaluation of machine translation quality using n-gram co-occurrence statistics", 2002;
//! `NISTScore` in `metrics/pymteval.py` of `tuetschek/e2e-metrics`, and `mteval-v13a`, which it follows, for hypotheses
//! that are shorter than the longest n-grams.

use std::collections::HashMap;
use std::f64::consts::LN_2;
use std::hash::Hash;

use super::counts::Counts;
use super::words::mteval_lower;
use super::{Corpus, Segment, numbered};

/// The longest n-grams, in tokens.
const ORDERS: usize = 5;

/// NIST-5 of a corpus, from 0, over `mteval-v13a` tokens in lower case; its highest value depends on the references.
pub fn nist(corpus: &Corpus) -> f64 {
    score(&numbered(corpus.segments(mteval_lower)))
}

pub(super) fn score<T: Ord + Hash>(segments: &[Segment<T>]) -> f64 {
    up_to(ORDERS, segments)
}

fn up_to<T: Ord + Hash>(orders: usize, segments: &[Segment<T>]) -> f64 {
    let information = Information::of(segments, orders);
    let precision: f64 = (1..=orders).map(|order| information.precision(segments, order)).sum();
    precision * length_penalty(segments)
}

/// How often the references have each n-gram.
struct Information<'a, T> {
    counts: HashMap<&'a [T], usize>,
    tokens: usize,
}

impl<'a, T: Ord + Hash> Information<'a, T> {
    fn of(segments: &'a [Segment<T>], orders: usize) -> Self {
        let mut information = Self { counts: HashMap::new(), tokens: 0 };
        for reference in segments.iter().flat_map(|segment| &segment.references) {
            information.tokens += reference.len();
            for ngram in (1..=orders).flat_map(|order| reference.windows(order)) {
                *information.counts.entry(ngram).or_default() += 1;
            }
        }
        information
    }

    /// Bits that an n-gram of the references tells beyond its beginning.
    fn bits(&self, ngram: &[T]) -> f64 {
        let beginning = match &ngram[..ngram.len() - 1] {
            [] => self.tokens,
            beginning => self.counts[beginning],
        };
        (beginning as f64 / self.counts[ngram] as f64).log2()
    }

    fn precision(&self, segments: &[Segment<T>], order: usize) -> f64 {
        let (mut bits, mut ngrams) = (0.0, 0);
        for Segment { hypothesis, references } in segments {
            let ours = Counts::of(hypothesis, order);
            let theirs = Counts::highest(references.iter().map(|reference| Counts::of(reference, order)));
            let worth =
                |(ngram, ours, theirs): (&[T], usize, usize)| self.bits(ngram) * ours.min(theirs) as f64;
            bits += ours.shared(&theirs).into_iter().map(worth).sum::<f64>();
            ngrams += ours.total();
        }
        bits / ngrams.max(1) as f64
    }
}

/// 1 for hypotheses as long as the mean of their references, 0.5 for two thirds of it.
fn length_penalty<T>(segments: &[Segment<T>]) -> f64 {
    let hypotheses: usize = segments.iter().map(|segment| segment.hypothesis.len()).sum();
    let mean = |references: &[Vec<T>]| {
        references.iter().map(Vec::len).sum::<usize>() as f64 / references.len() as f64
    };
    let references: f64 = segments.iter().map(|segment| mean(&segment.references)).sum();
    if hypotheses == 0 || hypotheses as f64 >= references {
        return f64::from(u8::from(hypotheses > 0));
    }
    let ratio = hypotheses as f64 / references;
    let beta = LN_2 / 1.5_f64.ln().powi(2);
    (-beta * ratio.ln().powi(2)).exp()
}

#[cfg(test)]
mod tests {
    use super::super::golden::{cases, e2e};
    use super::*;

    #[test]
    fn nist_is_that_of_the_e2e_scorer() {
        for golden in e2e() {
            golden.assert_has(nist(&golden.corpus()), "/NIST");
        }
    }

    /// Of several references nltk takes the best one, the script all of them together.
    #[test]
    fn with_one_reference_each_nist_is_that_of_nltk() {
        for case in cases() {
            if case.references.iter().any(|group| group.len() > 1) {
                continue;
            }
            for orders in 3..=5 {
                case.assert_has(up_to(orders, &case.split()), &format!("/nltk_nist{orders}"));
            }
        }
    }

    #[test]
    fn hypotheses_shorter_than_the_longest_ngrams_have_a_score() {
        let (hypotheses, references) = (["a pub".to_owned()], [vec!["a pub".to_owned()]]);
        // Two words, each one of two: one bit, and none for the second word of the only bigram.
        assert_eq!(nist(&Corpus::new(&hypotheses, &references).unwrap()), 1.0);
    }

    #[test]
    fn empty_texts_score_zero() {
        for (hypothesis, reference) in [("", "a pub"), ("a pub", ""), ("", "")] {
            let (hypotheses, references) = ([hypothesis.to_owned()], [vec![reference.to_owned()]]);
            assert_eq!(nist(&Corpus::new(&hypotheses, &references).unwrap()), 0.0);
        }
    }
}
