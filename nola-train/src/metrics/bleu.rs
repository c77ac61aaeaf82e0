//! BLEU: how many n-grams of the hypotheses the references have, times a penalty for short hypotheses.
//!
//! # Source
//! Papineni et al., "BLEU: a method for automatic evaluation of machine translation", 2002; Post, "A call for clarity
//! in reporting BLEU scores", 2018, for the settings of [`SacreBleu`].

use serde::Serialize;

use super::counts::Counts;
use super::words::{international, mteval_13a, mteval_lower, whitespace};
use super::{Corpus, Segment, numbered};

/// The longest n-grams, in tokens.
const ORDERS: usize = 4;

/// BLEU-4 of a corpus, 0 to 1, as the E2E scorer has it: `mteval-v13a` tokens in lower case, no smoothing.
///
/// An order without a match counts as `1e-15` matches, as in that scorer, so the score stays just above zero.
///
/// # Source
/// `BLEUScore` in `metrics/pymteval.py` of `tuetschek/e2e-metrics`.
pub fn mteval_bleu(corpus: &Corpus) -> f64 {
    mteval(&numbered(corpus.segments(mteval_lower)))
}

/// BLEU-4 of each hypothesis alone, 0 to 1, one match and one n-gram added to every order.
///
/// # Source
/// As [`mteval_bleu`], with its smoothing of 1 for single sentences.
pub fn mteval_sentence_bleu(corpus: &Corpus) -> Vec<f64> {
    let one = |segment| Totals::of(std::slice::from_ref(segment)).mteval(1.0);
    corpus.segments(mteval_lower).iter().map(one).collect()
}

pub(super) fn mteval<T: Ord>(segments: &[Segment<T>]) -> f64 {
    Totals::of(segments).mteval(0.0)
}

/// BLEU-4 as `sacrebleu` computes it; the default is the one that is published as sacreBLEU.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct SacreBleu {
    /// What a token is.
    pub tokens: Tokens,
    /// Whether letters must agree in case.
    pub case: Case,
    /// What an order without a match counts as.
    pub smoothing: Smoothing,
    /// Which orders enter the mean.
    pub orders: NgramOrders,
}

/// What a token of [`SacreBleu`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tokens {
    /// Words and ASCII punctuation, as `mteval-v13a`; `13a` in sacrebleu.
    #[default]
    Mteval13a,
    /// Words, punctuation and symbols of every script, as `mteval-v14`; `intl` in sacrebleu.
    International,
    /// What stands between white space; `none` in sacrebleu.
    Whitespace,
}

/// Whether letters must agree in case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Case {
    /// They must.
    #[default]
    Sensitive,
    /// They need not.
    Ignored,
}

/// What an n-gram order without a match counts as.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Smoothing {
    /// As half a match, the next such order as a quarter, and so on; `exp` in sacrebleu.
    #[default]
    Halving,
    /// As this many matches; `floor` in sacrebleu, whose own choice is 0.1.
    Floor(f64),
    /// Every order above single tokens gets this many matches and n-grams more; `add-k` in sacrebleu.
    Add(f64),
    /// As none: the score is zero.
    Off,
}

impl Smoothing {
    /// What the matches and the n-grams of an order are raised by.
    fn added(self, order: usize) -> f64 {
        match self {
            Self::Add(more) if order > 1 => more,
            Self::Halving | Self::Floor(_) | Self::Add(_) | Self::Off => 0.0,
        }
    }

    /// The matches of an order that has none, the `missed`th such order.
    fn instead_of_none(self, missed: i32) -> f64 {
        match self {
            Self::Halving => 0.5_f64.powi(missed),
            Self::Floor(matches) => matches,
            Self::Add(_) | Self::Off => 0.0,
        }
    }
}

/// Which n-gram orders enter the mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NgramOrders {
    /// All four; a corpus without any 4-gram scores zero.
    #[default]
    All,
    /// Those that the hypotheses are long enough for; for single sentences.
    Effective,
}

/// BLEU with its parts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct BleuScore {
    /// BLEU, 0 to 100.
    pub score: f64,
    /// The precision of n-grams of 1 to 4 tokens, 0 to 100, smoothed.
    pub precisions: [f64; ORDERS],
    /// The factor for short hypotheses, 0 to 1.
    pub brevity_penalty: f64,
    /// Tokens of all hypotheses.
    pub hypothesis_tokens: usize,
    /// Tokens of the references that are closest in length.
    pub reference_tokens: usize,
}

impl SacreBleu {
    /// Scores a corpus as a whole.
    pub fn score(&self, corpus: &Corpus) -> BleuScore {
        Totals::of(&numbered(corpus.segments(|text| self.tokens(text)))).sacre(self)
    }

    /// Scores each hypothesis alone; choose [`NgramOrders::Effective`] for it.
    pub fn score_each(&self, corpus: &Corpus) -> Vec<BleuScore> {
        let one = |segment| Totals::of(std::slice::from_ref(segment)).sacre(self);
        corpus.segments(|text| self.tokens(text)).iter().map(one).collect()
    }

    fn tokens(&self, text: &str) -> Vec<String> {
        let text = match self.case {
            Case::Sensitive => text.to_owned(),
            Case::Ignored => text.to_lowercase(),
        };
        match self.tokens {
            Tokens::Mteval13a => mteval_13a(&text),
            Tokens::International => international(&text),
            Tokens::Whitespace => whitespace(&text),
        }
    }
}

/// What both kinds of BLEU are made of, summed over segments.
#[derive(Default)]
struct Totals {
    matches: [usize; ORDERS],
    ngrams: [usize; ORDERS],
    hypothesis_tokens: usize,
    reference_tokens: usize,
}

impl Totals {
    fn of<T: Ord>(segments: &[Segment<T>]) -> Self {
        let mut totals = Self::default();
        for segment in segments {
            totals.add(segment);
        }
        totals
    }

    fn add<T: Ord>(&mut self, Segment { hypothesis, references }: &Segment<T>) {
        for order in 1..=ORDERS {
            let ours = Counts::of(hypothesis, order);
            let theirs = Counts::highest(references.iter().map(|reference| Counts::of(reference, order)));
            self.matches[order - 1] += ours.hits(&theirs);
            self.ngrams[order - 1] += ours.total();
        }
        let length = hypothesis.len();
        let closest = references.iter().map(Vec::len).min_by_key(|&tokens| (tokens.abs_diff(length), tokens));
        self.hypothesis_tokens += length;
        self.reference_tokens += closest.expect("a corpus has a reference for each hypothesis");
    }

    fn mteval(&self, smoothing: f64) -> f64 {
        let logs = std::iter::zip(self.matches, self.ngrams).map(|(matches, ngrams)| {
            let (matches, ngrams) = (matches as f64 + smoothing, ngrams as f64 + smoothing);
            (matches.max(1e-15) / ngrams.max(1e-9)).ln()
        });
        let precision = (logs.sum::<f64>() / ORDERS as f64).exp();
        let tokens = if self.hypothesis_tokens == 0 { 1e-5 } else { self.hypothesis_tokens as f64 };
        precision * (1.0 - self.reference_tokens as f64 / tokens).min(0.0).exp()
    }

    fn sacre(&self, settings: &SacreBleu) -> BleuScore {
        let (precisions, orders) = self.precisions(settings);
        let brevity_penalty = match self.hypothesis_tokens {
            0 => f64::from(u8::from(self.reference_tokens == 0)),
            tokens => (1.0 - self.reference_tokens as f64 / tokens as f64).min(0.0).exp(),
        };
        let logs: f64 = precisions[..orders].iter().map(|precision| precision.ln()).sum();
        BleuScore {
            score: brevity_penalty * (logs / orders as f64).exp(),
            precisions,
            brevity_penalty,
            hypothesis_tokens: self.hypothesis_tokens,
            reference_tokens: self.reference_tokens,
        }
    }

    /// Precisions in percent, and how many orders enter the mean.
    fn precisions(&self, settings: &SacreBleu) -> ([f64; ORDERS], usize) {
        let mut precisions = [0.0; ORDERS];
        let mut orders = ORDERS;
        if self.matches == [0; ORDERS] {
            return (precisions, orders);
        }
        let mut missed = 0;
        for (index, precision) in precisions.iter_mut().enumerate() {
            let added = settings.smoothing.added(index + 1);
            let (matches, ngrams) = (self.matches[index] as f64 + added, self.ngrams[index] as f64 + added);
            if ngrams == 0.0 {
                break;
            }
            match settings.orders {
                NgramOrders::All => {}
                NgramOrders::Effective => orders = index + 1,
            }
            missed += i32::from(matches == 0.0);
            let matches = if matches == 0.0 { settings.smoothing.instead_of_none(missed) } else { matches };
            *precision = 100.0 * matches / ngrams;
        }
        (precisions, orders)
    }
}

#[cfg(test)]
mod tests {
    use super::super::golden::{Golden, assert_close, cases, e2e, e2e_devset, e2e_example};
    use super::*;

    const SETTINGS: [(&str, SacreBleu); 7] = {
        let plain = SacreBleu {
            tokens: Tokens::Mteval13a,
            case: Case::Sensitive,
            smoothing: Smoothing::Halving,
            orders: NgramOrders::All,
        };
        [
            ("13a", plain),
            ("13a_add_k_1", SacreBleu { smoothing: Smoothing::Add(1.0), ..plain }),
            ("13a_effective_order", SacreBleu { orders: NgramOrders::Effective, ..plain }),
            ("13a_floor", SacreBleu { smoothing: Smoothing::Floor(0.1), ..plain }),
            ("13a_lowercase", SacreBleu { case: Case::Ignored, ..plain }),
            ("intl", SacreBleu { tokens: Tokens::International, ..plain }),
            (
                "none_smooth_none",
                SacreBleu { tokens: Tokens::Whitespace, smoothing: Smoothing::Off, ..plain },
            ),
        ]
    };

    #[test]
    fn every_setting_gives_the_score_of_sacrebleu() {
        for case in cases() {
            for (name, settings) in SETTINGS {
                let bleu = settings.score(&case.corpus());
                let at = |field: &str| format!("/sacrebleu/{name}/{field}");
                case.assert_has(bleu.score, &at("score"));
                case.assert_has_all(&bleu.precisions, &at("precisions"));
                case.assert_has(bleu.brevity_penalty, &at("bp"));
                case.assert_has(bleu.hypothesis_tokens as f64, &at("sys_len"));
                case.assert_has(bleu.reference_tokens as f64, &at("ref_len"));
            }
        }
    }

    #[test]
    fn single_sentences_have_the_scores_of_sacrebleu() {
        for case in cases() {
            let settings = SacreBleu { orders: NgramOrders::Effective, ..SacreBleu::default() };
            let scores: Vec<f64> =
                settings.score_each(&case.corpus()).iter().map(|bleu| bleu.score).collect();
            case.assert_has_all(&scores, "/sacrebleu_sentence_13a_effective_order");
        }
    }

    #[test]
    fn the_development_set_has_the_default_score_of_sacrebleu() {
        if let Some(devset) = e2e_devset() {
            assert_close(SacreBleu::default().score(&devset.corpus()).score, 58.68522178093499, "devset");
        }
    }

    #[test]
    fn corpus_bleu_is_that_of_the_e2e_scorer() {
        for golden in e2e() {
            golden.assert_has(mteval_bleu(&golden.corpus()), "/BLEU");
        }
    }

    #[test]
    fn smoothed_sentence_bleu_is_that_of_the_e2e_scorer() {
        if let Some(example) = e2e_example() {
            example.assert_has_all(&mteval_sentence_bleu(&example.corpus()), "/sentence_BLEU_plus1");
        }
    }

    /// The cases that neither smooths; nltk also counts one n-gram where a hypothesis is too short for any.
    fn unsmoothed() -> impl Iterator<Item = (Golden, Totals)> {
        let with_totals = |case: Golden| {
            let totals = Totals::of(&case.split());
            (case, totals)
        };
        cases().into_iter().map(with_totals).filter(|(_, totals)| !totals.matches.contains(&0))
    }

    #[test]
    fn where_every_order_matches_bleu_is_that_of_nltk() {
        for (case, totals) in unsmoothed() {
            if case.split().iter().all(|segment| segment.hypothesis.len() >= ORDERS) {
                case.assert_has(totals.mteval(0.0), "/nltk_bleu4");
            }
        }
    }

    #[test]
    fn where_every_order_matches_bleu_is_that_of_the_caption_scorer() {
        for (case, totals) in unsmoothed() {
            let expected = case.expected["coco"]["bleu"][3].as_f64().unwrap();
            // It adds 1e-9 to every count of n-grams.
            assert!((totals.mteval(0.0) - expected).abs() < 2e-9, "{}", case.name);
        }
    }

    #[test]
    fn an_empty_hypothesis_scores_zero() {
        let (hypotheses, references) = ([String::new()], [vec!["a pub".to_owned()]]);
        let corpus = Corpus::new(&hypotheses, &references).unwrap();
        assert_eq!(SacreBleu::default().score(&corpus).score, 0.0);
        assert!(mteval_bleu(&corpus) < 1e-9);
    }
}
