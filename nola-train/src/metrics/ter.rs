//! TER: how many words must be changed, or phrases moved, to turn a hypothesis into a reference.
//!
//! # Source
//! Snover et al., "A study of translation edit rate with targeted human annotation", 2006; limits and order of
//! preference as in `sacrebleu`, which follows Tercom.

use std::ops::Range;

use super::words::whitespace;
use super::{Corpus, Segment};

/// The longest phrase that is moved, in words.
const MAX_PHRASE: usize = 10;

/// How far apart the two places of a phrase may be, in words.
const MAX_DISTANCE: usize = 50;

/// Moves that are tried for a pair of texts before no further one is made.
const MAX_TRIES: usize = 1000;

/// Cells on each side of the diagonal in which alignments are looked for.
const BEAM: usize = 25;

/// Translation edit rate of a corpus in percent, from 0, lower is better; above 100 where more is to be changed than
/// the references have words.
///
/// Words stand between white space, in lower case. The edits are those to the nearest reference; the length is the
/// mean of all.
pub fn ter(corpus: &Corpus) -> f64 {
    let (mut edits, mut length) = (0.0, 0.0);
    for Segment { hypothesis, references } in corpus.segments(|text| whitespace(&text.to_lowercase())) {
        let hypothesis = borrowed(&hypothesis);
        let nearest =
            references.iter().map(|reference| edits_between(&hypothesis, &borrowed(reference))).min();
        edits += nearest.expect("a corpus has a reference for each hypothesis") as f64;
        length += references.iter().map(Vec::len).sum::<usize>() as f64 / references.len() as f64;
    }
    match (edits > 0.0, length > 0.0) {
        (_, true) => 100.0 * edits / length,
        (true, false) => 100.0,
        (false, false) => 0.0,
    }
}

fn borrowed(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

/// Moves of phrases and changes of words, as few as the greedy search finds.
fn edits_between<'a>(hypothesis: &[&'a str], reference: &[&'a str]) -> usize {
    if reference.is_empty() {
        return hypothesis.len();
    }
    let mut words = hypothesis.to_vec();
    let (mut moves, mut tries) = (0, 0);
    while let Some(moved) = best_move(&words, reference, &mut tries) {
        words = moved;
        moves += 1;
    }
    moves + Alignments::new(&words, reference).distance()
}

/// The words after the move that saves the most changes, if one saves any and tries are left.
///
/// Of equal ones the longest phrase is taken, then the first in the text, then the first target.
fn best_move<'a>(words: &[&'a str], reference: &[&'a str], tries: &mut usize) -> Option<Vec<&'a str>> {
    let alignments = Alignments::new(words, reference);
    let before = alignments.distance();
    let errors = Errors::of(&alignments.path());
    let mut best = None;
    for phrase in phrases(words, reference) {
        for target in errors.targets(&phrase) {
            let moved = move_phrase(words, &phrase, target);
            let after = alignments.resumed(&moved, phrase.start.min(target)).distance();
            let rank = (
                before as isize - after as isize,
                phrase.length,
                -(phrase.start as isize),
                -(target as isize),
            );
            if best.as_ref().is_none_or(|(highest, _)| rank > *highest) {
                best = Some((rank, moved));
            }
            *tries += 1;
        }
        if *tries >= MAX_TRIES {
            break;
        }
    }
    best.filter(|((saved, ..), _)| *saved > 0 && *tries < MAX_TRIES).map(|(_, moved)| moved)
}

/// Words that hypothesis and reference have in common.
struct Phrase {
    start: usize,
    reference_start: usize,
    length: usize,
}

fn phrases(words: &[&str], reference: &[&str]) -> Vec<Phrase> {
    let mut phrases = Vec::new();
    for start in 0..words.len() {
        let nearby = start.saturating_sub(MAX_DISTANCE)..reference.len().min(start + MAX_DISTANCE + 1);
        for reference_start in nearby {
            let pairs = std::iter::zip(&words[start..], &reference[reference_start..]);
            let common = pairs.take(MAX_PHRASE).take_while(|(left, right)| left == right).count();
            phrases.extend((1..=common).map(|length| Phrase { start, reference_start, length }));
        }
    }
    phrases
}

/// `words` with the phrase taken out and put in before the word that is `target` now.
fn move_phrase<'a>(words: &[&'a str], phrase: &Phrase, target: usize) -> Vec<&'a str> {
    let (start, end) = (phrase.start, phrase.start + phrase.length);
    let mut rest = [&words[..start], &words[end..]].concat();
    // A target before the phrase stays where it is, and one inside it moves the phrase on by as many words.
    let place = if target > end { target - phrase.length } else { target.min(rest.len()) };
    rest.splice(place..place, words[start..end].iter().copied());
    rest
}

/// One step of turning a hypothesis into a reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Keep,
    Substitute,
    Delete,
    Insert,
}

/// Where a path changes words.
struct Errors {
    hypothesis: Vec<bool>,
    reference: Vec<bool>,
    /// For each reference word how many hypothesis words the path has passed with it.
    passed: Vec<usize>,
}

impl Errors {
    fn of(path: &[Step]) -> Self {
        let mut errors = Self { hypothesis: Vec::new(), reference: Vec::new(), passed: Vec::new() };
        for &step in path {
            let changed = step != Step::Keep;
            if step != Step::Insert {
                errors.hypothesis.push(changed);
            }
            if step != Step::Delete {
                errors.reference.push(changed);
                errors.passed.push(errors.hypothesis.len());
            }
        }
        errors
    }

    /// Where the phrase may go: none if it is right already on either side, or would go into itself.
    fn targets(&self, phrase: &Phrase) -> Vec<usize> {
        let Phrase { start, reference_start, length } = *phrase;
        let right = |words: &[bool]| words.iter().all(|&changed| !changed);
        if right(&self.hypothesis[start..start + length])
            || right(&self.reference[reference_start..reference_start + length])
            || (start + 1..=start + length).contains(&self.passed[reference_start])
        {
            return Vec::new();
        }
        let before = reference_start.checked_sub(1).map_or(0, |previous| self.passed[previous]);
        let mut targets = vec![before];
        targets.extend(&self.passed[reference_start..reference_start + length]);
        targets.dedup();
        targets
    }
}

/// The fewest changes from each start of the hypothesis to each start of the reference, looked for near the diagonal.
struct Alignments<'w, 'a> {
    words: &'w [&'a str],
    reference: &'w [&'a str],
    /// Row by row, one row for each number of hypothesis words.
    changes: Vec<u32>,
}

/// Changes to where the beam does not reach; small enough that one more does not overflow.
const OUT_OF_REACH: u32 = u32::MAX / 2;

impl<'w, 'a> Alignments<'w, 'a> {
    fn new(words: &'w [&'a str], reference: &'w [&'a str]) -> Self {
        let no_words = (0..=reference.len() as u32).collect();
        Self { words, reference, changes: no_words }.filled()
    }

    /// The same for words of which `unchanged` at the start are ours.
    fn resumed<'m>(&self, words: &'m [&'a str], unchanged: usize) -> Alignments<'m, 'a>
    where
        'w: 'm,
    {
        let rows = self.changes[..(unchanged + 1) * self.columns()].to_vec();
        Alignments { words, reference: self.reference, changes: rows }.filled()
    }

    fn filled(mut self) -> Self {
        let columns = self.columns();
        let first = self.changes.len() / columns;
        self.changes.resize((self.words.len() + 1) * columns, OUT_OF_REACH);
        for row in first..=self.words.len() {
            let (above, current) = self.changes.split_at_mut(row * columns);
            let above = &above[(row - 1) * columns..];
            let reach = reach(row, self.words.len(), self.reference.len());
            fill(&mut current[..columns], above, reach, self.words[row - 1], self.reference);
        }
        self
    }

    fn columns(&self) -> usize {
        self.reference.len() + 1
    }

    fn at(&self, row: usize, column: usize) -> u32 {
        self.changes[row * self.columns() + column]
    }

    fn distance(&self) -> usize {
        self.at(self.words.len(), self.reference.len()) as usize
    }

    /// The steps of a cheapest way; of equal ones it keeps or substitutes, then deletes, then inserts.
    fn path(&self) -> Vec<Step> {
        let (mut row, mut column) = (self.words.len(), self.reference.len());
        let mut path = Vec::new();
        while (row, column) != (0, 0) {
            let step = self.step_to(row, column);
            path.push(step);
            row -= usize::from(step != Step::Insert);
            column -= usize::from(step != Step::Delete);
        }
        path.reverse();
        path
    }

    fn step_to(&self, row: usize, column: usize) -> Step {
        if row == 0 {
            return Step::Insert;
        }
        let changes = self.at(row, column);
        if column > 0 {
            let same = self.words[row - 1] == self.reference[column - 1];
            if self.at(row - 1, column - 1) + u32::from(!same) == changes {
                return if same { Step::Keep } else { Step::Substitute };
            }
        }
        if self.at(row - 1, column) + 1 == changes { Step::Delete } else { Step::Insert }
    }
}

/// The columns of a row that the beam covers.
fn reach(row: usize, words: usize, reference: usize) -> Range<usize> {
    let slope = reference as f64 / words as f64;
    let beam = if slope / 2.0 > BEAM as f64 { (slope / 2.0).ceil() as usize + BEAM } else { BEAM };
    let diagonal = (row as f64 * slope).floor() as usize;
    let end = if row == words { reference + 1 } else { (diagonal + beam).min(reference + 1) };
    diagonal.saturating_sub(beam)..end
}

fn fill(current: &mut [u32], above: &[u32], reach: Range<usize>, word: &str, reference: &[&str]) {
    for column in reach {
        let mut changes = above[column] + 1;
        if column > 0 {
            let other = u32::from(word != reference[column - 1]);
            changes = changes.min(above[column - 1] + other).min(current[column - 1] + 1);
        }
        current[column] = changes.min(OUT_OF_REACH);
    }
}

#[cfg(test)]
mod tests {
    use super::super::golden::{Golden, assert_close, cases, e2e_devset};
    use super::*;

    #[test]
    fn ter_is_that_of_sacrebleu() {
        for case in cases() {
            case.assert_has(ter(&case.corpus()), "/ter");
        }
    }

    #[test]
    fn the_development_set_has_the_score_of_sacrebleu() {
        if let Some(devset) = e2e_devset() {
            assert_close(ter(&devset.corpus()), 45.548161076260264, "devset");
        }
    }

    #[test]
    fn texts_with_their_halves_swapped_have_the_score_of_sacrebleu() {
        let Some(Golden { hypotheses, references, .. }) = e2e_devset() else { return };
        let swapped = hypotheses.iter().map(|text| {
            let mut words: Vec<&str> = text.split_whitespace().collect();
            let middle = words.len() / 2;
            words.rotate_left(middle);
            words.join(" ")
        });
        let swapped: Vec<String> = swapped.collect();
        let corpus = Corpus::new(&swapped, &references).unwrap();
        assert_close(ter(&corpus), 55.38233478533506, "swapped");
    }

    #[test]
    fn texts_backwards_have_the_score_of_sacrebleu() {
        let Some(Golden { hypotheses, references, .. }) = e2e_devset() else { return };
        let backwards = |group: &Vec<String>| group[0].split_whitespace().rev().collect::<Vec<_>>().join(" ");
        let backwards: Vec<String> = references.iter().map(backwards).collect();
        let originals: Vec<Vec<String>> = hypotheses.into_iter().map(|text| vec![text]).collect();
        let corpus = Corpus::new(&backwards, &originals).unwrap();
        assert_close(ter(&corpus), 100.09350892230967, "backwards");
    }

    /// Here the search runs out of tries.
    #[test]
    fn long_texts_have_the_score_of_sacrebleu() {
        let Some(Golden { hypotheses, references, .. }) = e2e_devset() else { return };
        let joined = |texts: &[String]| texts.join(" ");
        let first: Vec<String> = references.iter().map(|group| group[0].clone()).collect();
        let long: Vec<String> = hypotheses.chunks_exact(8).map(joined).collect();
        let long_references: Vec<Vec<String>> =
            first.chunks_exact(8).map(|texts| vec![joined(texts)]).collect();
        let corpus = Corpus::new(&long, &long_references).unwrap();
        assert_close(ter(&corpus), 74.16491473954684, "long");
    }

    #[test]
    fn a_moved_phrase_is_one_edit() {
        let words = |text: &'static str| text.split(' ').collect::<Vec<_>>();
        assert_eq!(edits_between(&words("in the city a cheap pub"), &words("a cheap pub in the city")), 1);
    }

    #[test]
    fn against_an_empty_reference_every_word_is_an_edit() {
        assert_eq!(edits_between(&["a", "pub"], &[]), 2);
    }

    #[test]
    fn texts_of_very_different_length_have_a_distance() {
        let long: Vec<&str> = std::iter::repeat_n("pub", 400).collect();
        assert_eq!(edits_between(&["pub"], &long), 399);
        assert_eq!(edits_between(&long, &["pub"]), 399);
    }
}
