//! METEOR with exact and stem matches alone.
//!
//! Published METEOR also matches synonyms through WordNet and phrases through a paraphrase table, neither of which is
//! shipped here, and METEOR 1.5 weighs its matches differently. So this score has a name of its own and must not be
//! compared with a METEOR from a paper.
//!
//! # Source
//! Lavie and Agarwal, "METEOR: an automatic metric for MT evaluation with high levels of correlation with human
//! judgments", 2007; alignment and parameters as `nltk.translate.meteor_score` has them, without WordNet.

use super::porter::stem;
use super::{Corpus, Segment, mean, ptb};

/// How much more recall counts than precision.
const ALPHA: f64 = 0.9;

/// Highest share of the score that is lost when the matches are scattered.
const GAMMA: f64 = 0.5;

/// METEOR with exact and stem matches, 0 to 1: mean over the hypotheses, each against its best reference.
///
/// Tokens are those of the Penn Treebank in lower case, without punctuation.
pub fn meteor_exact_stem(corpus: &Corpus) -> f64 {
    mean(&meteor_exact_stem_each(corpus))
}

/// [`meteor_exact_stem`] of each hypothesis, 0 to 1.
pub fn meteor_exact_stem_each(corpus: &Corpus) -> Vec<f64> {
    each(&ptb::segments(corpus))
}

pub(super) fn each(segments: &[Segment<String>]) -> Vec<f64> {
    segments.iter().map(score).collect()
}

fn score(Segment { hypothesis, references }: &Segment<String>) -> f64 {
    let hypothesis = with_stems(hypothesis);
    let against = |reference: &Vec<String>| single(&hypothesis, &with_stems(reference));
    references.iter().map(against).fold(0.0, f64::max)
}

/// A token and its stem.
struct Word<'a> {
    token: &'a str,
    stem: String,
}

fn with_stems(tokens: &[String]) -> Vec<Word<'_>> {
    tokens.iter().map(|token| Word { token, stem: stem(token) }).collect()
}

fn single(hypothesis: &[Word], reference: &[Word]) -> f64 {
    let partners = align(hypothesis, reference);
    let matches = partners.iter().flatten().count();
    if matches == 0 {
        return 0.0;
    }
    let precision = matches as f64 / hypothesis.len() as f64;
    let recall = matches as f64 / reference.len() as f64;
    let f_mean = precision * recall / (ALPHA * precision + (1.0 - ALPHA) * recall);
    let scattered = chunks(&partners) as f64 / matches as f64;
    (1.0 - GAMMA * scattered.powi(3)) * f_mean
}

/// For each word of the hypothesis the place of its partner: equal tokens first, then equal stems, the last first.
fn align(hypothesis: &[Word], reference: &[Word]) -> Vec<Option<usize>> {
    let mut partners = vec![None; hypothesis.len()];
    let mut free = vec![true; reference.len()];
    let same_token = |left: &Word, right: &Word| left.token == right.token;
    let same_stem = |left: &Word, right: &Word| left.stem == right.stem;
    for same in [same_token as fn(&Word, &Word) -> bool, same_stem] {
        for (word, partner) in std::iter::zip(hypothesis, &mut partners).rev() {
            if partner.is_some() {
                continue;
            }
            *partner = (0..reference.len()).rev().find(|&place| free[place] && same(word, &reference[place]));
            if let Some(place) = *partner {
                free[place] = false;
            }
        }
    }
    partners
}

/// Runs of matched words that stand side by side in both texts.
fn chunks(partners: &[Option<usize>]) -> usize {
    let mut chunks = 0;
    let mut expected = None;
    for partner in partners {
        if let Some(place) = *partner
            && expected != Some(place)
        {
            chunks += 1;
        }
        expected = partner.map(|place| place + 1);
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::super::golden::{assert_close, cases, e2e_devset};
    use super::*;

    #[test]
    fn each_score_is_that_of_nltk_without_wordnet() {
        for case in cases() {
            case.assert_has_all(&each(&case.split()), "/nltk_meteor_exact_stem");
        }
    }

    #[test]
    fn the_development_set_has_the_mean_score_of_nltk_over_treebank_tokens() {
        if let Some(devset) = e2e_devset() {
            assert_close(meteor_exact_stem(&devset.corpus()), 0.785327976484619, "devset");
        }
    }

    #[test]
    fn empty_texts_score_zero() {
        for (hypothesis, reference) in [("", "a pub"), ("a pub", ""), ("", "")] {
            let (hypotheses, references) = ([hypothesis.to_owned()], [vec![reference.to_owned()]]);
            assert_eq!(meteor_exact_stem(&Corpus::new(&hypotheses, &references).unwrap()), 0.0);
        }
    }
}
