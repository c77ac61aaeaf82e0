//! How good generated text is: scores of hypotheses against the references that people wrote.
//!
//! The five figures of the E2E challenge come from [`e2e_scores`], as its scorer computes them: corpus [`mteval_bleu`],
//! [`nist()`], [`rouge_l`] and [`cider()`], and [`meteor_exact_stem`] in the place of METEOR, whose published figure needs
//! WordNet and a paraphrase table that are not shipped here. DART and WebNLG are reported with [`SacreBleu`], [`ter()`],
//! [`chrf()`] and [`chrf_plus_plus`].

mod bleu;
mod chrf;
mod cider;
mod counts;
#[cfg(test)]
mod golden;
mod meteor;
mod nist;
mod porter;
mod ptb;
mod rouge;
mod ter;
mod words;

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

pub use bleu::{
    BleuScore, Case, NgramOrders, SacreBleu, Smoothing, Tokens, mteval_bleu, mteval_sentence_bleu,
};
pub use chrf::{chrf, chrf_plus_plus};
pub use cider::{cider, cider_each};
pub use meteor::{meteor_exact_stem, meteor_exact_stem_each};
pub use nist::nist;
pub use rouge::{rouge_l, rouge_l_each};
pub use ter::ter;

/// Why texts cannot be scored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MetricsError {
    /// There is nothing to score.
    #[error("no hypotheses: a score needs at least one generated text")]
    Empty,

    /// Hypotheses and groups of references do not pair up.
    #[error(
        "{hypotheses} hypotheses but {references} groups of references: give one group for each hypothesis, \
         in the same order"
    )]
    Count {
        /// How many hypotheses there are.
        hypotheses: usize,
        /// How many groups of references there are.
        references: usize,
    },

    /// A hypothesis has nothing to be compared with.
    #[error("hypothesis {number} has no reference: give at least one, or leave the hypothesis out")]
    NoReference {
        /// Which hypothesis, counted from 1.
        number: usize,
    },
}

/// Hypotheses, each with at least one reference.
#[derive(Debug, Clone, Copy)]
pub struct Corpus<'a> {
    hypotheses: &'a [String],
    references: &'a [Vec<String>],
}

impl<'a> Corpus<'a> {
    /// Pairs hypothesis `i` with all of `references[i]`.
    ///
    /// # Errors
    /// If there is no hypothesis, a different number of groups, or a group without a reference. An empty text is none
    /// of these: it is scored.
    pub fn new(hypotheses: &'a [String], references: &'a [Vec<String>]) -> Result<Self, MetricsError> {
        if hypotheses.len() != references.len() {
            return Err(MetricsError::Count { hypotheses: hypotheses.len(), references: references.len() });
        }
        if hypotheses.is_empty() {
            return Err(MetricsError::Empty);
        }
        if let Some(index) = references.iter().position(Vec::is_empty) {
            return Err(MetricsError::NoReference { number: index + 1 });
        }
        Ok(Self { hypotheses, references })
    }

    /// The texts as tokens.
    fn segments(&self, mut tokens: impl FnMut(&str) -> Vec<String>) -> Vec<Segment<String>> {
        std::iter::zip(self.hypotheses, self.references)
            .map(|(hypothesis, references)| Segment {
                hypothesis: tokens(hypothesis),
                references: references.iter().map(|text| tokens(text)).collect(),
            })
            .collect()
    }
}

/// One hypothesis and its references, as tokens.
struct Segment<T> {
    hypothesis: Vec<T>,
    references: Vec<Vec<T>>,
}

/// The same texts with a number for each token, equal for equal ones: n-grams of numbers are quicker to compare.
fn numbered(segments: Vec<Segment<String>>) -> Vec<Segment<usize>> {
    let mut numbers = HashMap::new();
    let mut number = |tokens: Vec<String>| {
        let number = |token| {
            let next = numbers.len();
            *numbers.entry(token).or_insert(next)
        };
        tokens.into_iter().map(number).collect::<Vec<usize>>()
    };
    let segment = |Segment { hypothesis, references }| Segment {
        hypothesis: number(hypothesis),
        references: references.into_iter().map(&mut number).collect(),
    };
    segments.into_iter().map(segment).collect()
}

/// The figures of the E2E challenge; each is better when higher.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct E2eScores {
    /// Corpus BLEU-4, 0 to 1; published as percent.
    pub bleu: f64,
    /// NIST-5, from 0; its highest value depends on the references.
    pub nist: f64,
    /// METEOR with exact and stem matches alone, 0 to 1; not comparable with published METEOR.
    pub meteor_exact_stem: f64,
    /// Mean ROUGE-L, 0 to 1; published as percent.
    pub rouge_l: f64,
    /// Mean CIDEr, 0 to 10.
    pub cider: f64,
}

/// Scores `hypotheses` as the scorer of the E2E challenge does, METEOR excepted.
///
/// # Errors
/// As [`Corpus::new`].
///
/// # Source
/// Dušek et al., "Evaluating the state-of-the-art of end-to-end natural language generation: the E2E NLG challenge",
/// 2020, and its scorer, `tuetschek/e2e-metrics`.
pub fn e2e_scores(hypotheses: &[String], references: &[Vec<String>]) -> Result<E2eScores, MetricsError> {
    let corpus = Corpus::new(hypotheses, references)?;
    let mteval = numbered(corpus.segments(words::mteval_lower));
    let captions = ptb::segments(&corpus);
    let meteor_exact_stem = mean(&meteor::each(&captions));
    let captions = numbered(captions);
    Ok(E2eScores {
        bleu: bleu::mteval(&mteval),
        nist: nist::score(&mteval),
        meteor_exact_stem,
        rouge_l: mean(&rouge::each(&captions)),
        cider: mean(&cider::each(&captions)),
    })
}

fn mean(scores: &[f64]) -> f64 {
    scores.iter().sum::<f64>() / scores.len() as f64
}
#[cfg(test)]
mod tests {
    use super::golden::{assert_close, e2e_devset, e2e_example};
    use super::*;

    fn owned(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    /// Printed by the E2E scorer with its Java tokeniser; METEOR by nltk without WordNet over the same tokens.
    #[test]
    fn the_example_has_the_official_scores() {
        let Some(example) = e2e_example() else { return };
        let scores = e2e_scores(&example.hypotheses, &example.references).unwrap();
        assert_close(scores.bleu, 0.7202928494322162, "BLEU");
        assert_close(scores.nist, 7.788887609555574, "NIST");
        assert_close(scores.meteor_exact_stem, 0.836565773112311, "METEOR");
        assert_close(scores.rouge_l, 0.7909526131515365, "ROUGE-L");
        assert_close(scores.cider, 2.303943135258847, "CIDEr");
    }

    /// As [`the_example_has_the_official_scores`].
    #[test]
    fn the_development_set_has_the_official_scores() {
        let Some(devset) = e2e_devset() else { return };
        let scores = e2e_scores(&devset.hypotheses, &devset.references).unwrap();
        assert_close(scores.bleu, 0.5995345944253415, "BLEU");
        assert_close(scores.nist, 8.578516297666646, "NIST");
        assert_close(scores.meteor_exact_stem, 0.785327976484619, "METEOR");
        assert_close(scores.rouge_l, 0.6528351319176511, "ROUGE-L");
        assert_close(scores.cider, 1.8542754607258303, "CIDEr");
    }

    #[test]
    fn a_perfect_output_has_the_highest_scores() {
        let texts = owned(&["The Eagle is a cheap pub.", "Wildwood serves French food near the river."]);
        let references: Vec<Vec<String>> = texts.iter().map(|text| vec![text.clone()]).collect();
        let scores = e2e_scores(&texts, &references).unwrap();
        assert_close(scores.bleu, 1.0, "BLEU");
        assert_close(scores.rouge_l, 1.0, "ROUGE-L");
        assert_close(scores.cider, 10.0, "CIDEr");
    }

    #[test]
    fn without_hypotheses_there_is_no_score() {
        assert_eq!(e2e_scores(&[], &[]), Err(MetricsError::Empty));
    }

    #[test]
    fn a_missing_group_of_references_is_an_error_with_both_counts() {
        let error = e2e_scores(&owned(&["a", "b"]), &[owned(&["a"])]).unwrap_err();
        assert_eq!(error, MetricsError::Count { hypotheses: 2, references: 1 });
    }

    #[test]
    fn a_hypothesis_without_reference_is_named_by_its_number() {
        let error = e2e_scores(&owned(&["a", "b"]), &[owned(&["a"]), vec![]]).unwrap_err();
        assert!(error.to_string().starts_with("hypothesis 2 has no reference"));
    }

    #[test]
    fn outputs_without_words_score_finite_numbers() {
        let scores = e2e_scores(&owned(&["", "."]), &[owned(&["a pub"]), owned(&[""])]).unwrap();
        for score in [scores.bleu, scores.nist, scores.meteor_exact_stem, scores.rouge_l, scores.cider] {
            assert!(score.is_finite() && score >= 0.0);
        }
    }
}
