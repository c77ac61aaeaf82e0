//! ROUGE-L: how much of a text is a common subsequence of hypothesis and reference.
//!
//! # Source
//! Lin, "ROUGE: a package for automatic evaluation of summaries", 2004, as in the MS-COCO caption scorer
//! (`pycocoevalcap/rouge/rouge.py` of `tuetschek/e2e-metrics`).

use super::{Corpus, Segment, mean, numbered, ptb};

/// How much more recall counts than precision.
const BETA: f64 = 1.2;

/// Mean ROUGE-L of a corpus, 0 to 1, over Penn Treebank tokens in lower case, without punctuation.
pub fn rouge_l(corpus: &Corpus) -> f64 {
    mean(&rouge_l_each(corpus))
}

/// ROUGE-L of each hypothesis, 0 to 1.
///
/// Precision and recall are each the best over the references, so they may come from different ones.
pub fn rouge_l_each(corpus: &Corpus) -> Vec<f64> {
    each(&numbered(ptb::segments(corpus)))
}

pub(super) fn each<T: PartialEq>(segments: &[Segment<T>]) -> Vec<f64> {
    segments.iter().map(score).collect()
}

fn score<T: PartialEq>(Segment { hypothesis, references }: &Segment<T>) -> f64 {
    let (mut precision, mut recall) = (0.0_f64, 0.0_f64);
    for reference in references {
        let common = common_subsequence(hypothesis, reference) as f64;
        precision = precision.max(common / hypothesis.len().max(1) as f64);
        recall = recall.max(common / reference.len().max(1) as f64);
    }
    if precision == 0.0 {
        return 0.0;
    }
    let weight = BETA * BETA;
    (1.0 + weight) * precision * recall / (recall + weight * precision)
}

/// Tokens of the longest common subsequence.
fn common_subsequence<T: PartialEq>(left: &[T], right: &[T]) -> usize {
    let mut row = vec![0; right.len() + 1];
    for token in left {
        let mut diagonal = 0;
        for (column, other) in right.iter().enumerate() {
            let above = row[column + 1];
            row[column + 1] = if token == other { diagonal + 1 } else { above.max(row[column]) };
            diagonal = above;
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::super::golden::{cases, e2e, e2e_example};
    use super::*;

    #[test]
    fn rouge_l_is_that_of_the_caption_scorer() {
        for case in cases() {
            let scores = each(&case.split());
            case.assert_has_all(&scores, "/coco/rouge_l_each");
            case.assert_has(mean(&scores), "/coco/rouge_l");
        }
    }

    #[test]
    fn over_simple_tokens_it_is_that_of_the_e2e_scorer() {
        for golden in e2e() {
            golden.assert_has(mean(&each(&golden.simple_tokens())), "/ROUGE_L_simple_tokens");
        }
    }

    #[test]
    fn each_output_of_the_e2e_example_has_its_score() {
        if let Some(example) = e2e_example() {
            example.assert_has_all(&each(&example.simple_tokens()), "/sentence_ROUGE_L_simple_tokens");
        }
    }
}
