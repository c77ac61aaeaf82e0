//! chrF: F-score of character n-grams; chrF++ counts word n-grams too.
//!
//! # Source
//! Popović, "chrF: character n-gram F-score for automatic MT evaluation", 2015, and "chrF++: words helping character
//! n-grams", 2017, with the defaults of `sacrebleu`.

use super::Corpus;
use super::counts::Counts;

/// The longest n-grams of characters.
const CHARACTER_ORDERS: usize = 6;

/// The longest n-grams of words in chrF++.
const WORD_ORDERS: usize = 2;

/// How much more recall counts than precision, squared.
const BETA_SQUARED: f64 = 4.0;

/// chrF2 of a corpus, 0 to 100: n-grams of up to 6 characters, white space left out.
pub fn chrf(corpus: &Corpus) -> f64 {
    score(corpus, &|hypothesis, reference| character_matches(hypothesis, reference))
}

/// chrF2++ of a corpus, 0 to 100: n-grams of up to 6 characters and of up to 2 words.
pub fn chrf_plus_plus(corpus: &Corpus) -> f64 {
    score(corpus, &|hypothesis, reference| {
        let mut matches = character_matches(hypothesis, reference);
        matches.extend(order_matches(&words(hypothesis), &words(reference), WORD_ORDERS));
        matches
    })
}

/// The n-grams of one order.
#[derive(Clone, Copy, Default)]
struct Matches {
    hypothesis: usize,
    reference: usize,
    shared: usize,
}

fn score(corpus: &Corpus, compare: &dyn Fn(&str, &str) -> Vec<Matches>) -> f64 {
    let mut totals = Vec::new();
    for (hypothesis, references) in std::iter::zip(corpus.hypotheses, corpus.references) {
        let best = best(references.iter().map(|reference| compare(hypothesis, reference)));
        totals.resize(best.len(), Matches::default());
        for (total, matches) in std::iter::zip(&mut totals, best) {
            total.hypothesis += matches.hypothesis;
            total.reference += matches.reference;
            total.shared += matches.shared;
        }
    }
    f_score(&totals)
}

/// The first of the references with the highest score.
fn best(references: impl Iterator<Item = Vec<Matches>>) -> Vec<Matches> {
    let scored = references.map(|matches| (f_score(&matches), matches));
    let first_highest = scored.reduce(|best, next| if next.0 > best.0 { next } else { best });
    first_highest.expect("a corpus has a reference for each hypothesis").1
}

fn character_matches(hypothesis: &str, reference: &str) -> Vec<Matches> {
    let characters =
        |text: &str| text.chars().filter(|character| !character.is_whitespace()).collect::<Vec<_>>();
    order_matches(&characters(hypothesis), &characters(reference), CHARACTER_ORDERS)
}

fn order_matches<T: Ord>(hypothesis: &[T], reference: &[T], orders: usize) -> Vec<Matches> {
    let of_order = |order| {
        let (ours, theirs) = (Counts::of(hypothesis, order), Counts::of(reference, order));
        Matches {
            // An order that the reference is too short for is left out.
            hypothesis: if theirs.total() > 0 { ours.total() } else { 0 },
            reference: theirs.total(),
            shared: ours.hits(&theirs),
        }
    };
    (1..=orders).map(of_order).collect()
}

/// Words, with one ASCII punctuation mark at the end, or else at the start, as a word of its own.
fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    for word in text.split_whitespace() {
        let (start, end) = (ends_with_mark(word.chars().next()), ends_with_mark(word.chars().next_back()));
        match (start, end) {
            _ if word.chars().count() == 1 => words.push(word),
            (_, true) => words.extend([&word[..word.len() - 1], &word[word.len() - 1..]]),
            (true, false) => words.extend([&word[..1], &word[1..]]),
            (false, false) => words.push(word),
        }
    }
    words
}

fn ends_with_mark(character: Option<char>) -> bool {
    character.is_some_and(|character| character.is_ascii_punctuation())
}

/// F-score in percent of the mean precision and recall over the orders that both texts are long enough for.
fn f_score(orders: &[Matches]) -> f64 {
    let (mut precision, mut recall, mut effective) = (0.0, 0.0, 0.0);
    for order in orders.iter().filter(|order| order.hypothesis > 0 && order.reference > 0) {
        precision += order.shared as f64 / order.hypothesis as f64;
        recall += order.shared as f64 / order.reference as f64;
        effective += 1.0;
    }
    if precision + recall == 0.0 {
        return 0.0;
    }
    let (precision, recall) = (precision / effective, recall / effective);
    100.0 * (1.0 + BETA_SQUARED) * precision * recall / (BETA_SQUARED * precision + recall)
}

#[cfg(test)]
mod tests {
    use super::super::golden::{assert_close, cases, e2e_devset};
    use super::*;

    #[test]
    fn both_scores_are_those_of_sacrebleu() {
        for case in cases() {
            case.assert_has(chrf(&case.corpus()), "/chrf2");
            case.assert_has(chrf_plus_plus(&case.corpus()), "/chrf2pp");
        }
    }

    #[test]
    fn the_development_set_has_the_scores_of_sacrebleu() {
        if let Some(devset) = e2e_devset() {
            assert_close(chrf(&devset.corpus()), 72.50391255403268, "chrF2");
            assert_close(chrf_plus_plus(&devset.corpus()), 71.16143293001065, "chrF2++");
        }
    }

    #[test]
    fn a_mark_at_the_end_of_a_word_is_cut_off_before_one_at_its_start() {
        assert_eq!(words("(hi) (hi a."), ["(hi", ")", "(", "hi", "a", "."]);
    }
}
