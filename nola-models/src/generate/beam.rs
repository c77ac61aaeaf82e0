//! Beam search: the best texts are followed side by side.
//!
//! # Source
//! transformers' `_beam_search`, for each prompt by itself. There, a score of -1e9 fills the places of beams that do not
//! exist; here, they do not exist.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use rayon::prelude::*;

use super::{
    Batch, EarlyStopping, Finish, GenerateError, Generated, GenerationConfig, NextToken, Prompt, Room, logits,
};

/// The search for one prompt.
struct Search {
    row: u64,
    place: usize,
    room: Room,
    open: Vec<Beam>,
    /// Best first, `num_beams` at most.
    ended: Vec<Ended>,
}

/// A text that grows.
struct Beam {
    tokens: Vec<u32>,
    log_probability: f64,
}

/// A text that has ended.
struct Ended {
    tokens: Vec<u32>,
    score: f64,
    finish: Finish,
}

/// A beam with one more token.
#[derive(Clone, Copy, PartialEq)]
struct Candidate {
    log_probability: f64,
    beam: usize,
    token: u32,
}

/// Continues every prompt until its search has ended.
pub(super) fn run<M: NextToken>(
    model: &mut M,
    prompts: &[Prompt],
    config: &GenerationConfig,
) -> Result<Vec<Vec<Generated>>, GenerateError> {
    let max_tokens = model.max_tokens();
    let search = |(place, prompt)| Search::new(place, prompt, config, max_tokens);
    let mut searches: Vec<Search> = prompts.iter().enumerate().map(search).collect();
    let mut texts: Vec<Vec<Generated>> = prompts.iter().map(|_| Vec::new()).collect();
    let mut batch = Batch::start(model, prompts)?;
    while !searches.is_empty() {
        let rows_of_beams = step_all(&mut searches, &mut batch.logits, config)?;
        let (mut from, mut chosen) = (Vec::new(), Vec::new());
        let mut going_on = Vec::with_capacity(searches.len());
        for (search, rows) in searches.into_iter().zip(rows_of_beams) {
            if search.is_over(config) {
                let place = search.place;
                texts[place] = search.into_texts(config);
            } else {
                from.extend(rows);
                chosen.extend(search.open.iter().filter_map(|beam| beam.tokens.last()));
                going_on.push(search);
            }
        }
        searches = going_on;
        batch.advance(&from, &chosen)?;
    }
    Ok(texts)
}

/// Lets every search take a step; returns for each its open beams' rows in `logits`.
///
/// In parallel: with many beams and a large vocabulary, this takes as long as a pass of the model.
fn step_all(
    searches: &mut [Search],
    logits: &mut [Vec<f32>],
    config: &GenerationConfig,
) -> Result<Vec<Vec<usize>>, GenerateError> {
    let (mut parts, mut first_row, mut rest) = (Vec::with_capacity(searches.len()), 0, logits);
    for search in searches.iter() {
        let (part, others) = rest.split_at_mut(search.open.len());
        parts.push((first_row, part));
        first_row += search.open.len();
        rest = others;
    }
    let step = |(search, (first_row, part)): (&mut Search, (usize, &mut [Vec<f32>]))| {
        let beams = search.step(part, config)?;
        Ok(beams.into_iter().map(|beam| first_row + beam).collect())
    };
    let steps: Vec<Result<Vec<usize>, GenerateError>> =
        searches.par_iter_mut().zip(parts).map(step).collect();
    // Of several errors the first prompt's, on every run.
    steps.into_iter().collect()
}

impl Search {
    fn new(place: usize, prompt: &Prompt, config: &GenerationConfig, max_tokens: usize) -> Self {
        let beam = Beam { tokens: prompt.tokens.clone(), log_probability: 0.0 };
        let room = Room::after(prompt, config, max_tokens);
        Self { row: prompt.row, place, room, open: vec![beam], ended: Vec::new() }
    }

    /// Adds a token to the beams, the best going on and others ending; returns which beam each open one came from.
    fn step(
        &mut self,
        scores: &mut [Vec<f32>],
        config: &GenerationConfig,
    ) -> Result<Vec<usize>, GenerateError> {
        let (mut open, mut from) = (Vec::new(), Vec::new());
        for (rank, candidate) in self.candidates(scores, config)?.into_iter().enumerate() {
            let mut tokens = self.open[candidate.beam].tokens.clone();
            tokens.push(candidate.token);
            match self.room.finish(&tokens, config) {
                // What ends below the first `num_beams` only made room for beams that go on.
                Some(finish) if rank < config.num_beams => {
                    let new_tokens = self.room.added(&tokens).len();
                    let score = score(candidate.log_probability, new_tokens, config);
                    self.ended.push(Ended { tokens, score, finish });
                }
                Some(_) => {}
                None if open.len() < config.num_beams => {
                    open.push(Beam { tokens, log_probability: candidate.log_probability });
                    from.push(candidate.beam);
                }
                None => {}
            }
        }
        if open.is_empty() && self.ended.is_empty() {
            let new_tokens = self.new_tokens(&self.open[0]);
            return Err(GenerateError::NothingLeft { row: self.row, new_tokens });
        }
        self.open = open;
        self.ended.sort_by(|one, other| other.score.total_cmp(&one.score));
        self.ended.truncate(config.num_beams);
        Ok(from)
    }

    /// The likeliest ways to go on, best first: so many that all end tokens of all beams leave `num_beams` others.
    fn candidates(
        &self,
        scores: &mut [Vec<f32>],
        config: &GenerationConfig,
    ) -> Result<Vec<Candidate>, GenerateError> {
        let count = config.num_beams * (1 + config.eos_token_id.len()).max(2);
        let mut best = BinaryHeap::with_capacity(count + 1);
        for (index, (beam, scores)) in self.open.iter().zip(scores).enumerate() {
            let new_tokens = self.new_tokens(beam);
            logits::check(scores, self.row, new_tokens)?;
            logits::log_softmax(scores);
            logits::restrain(scores, &beam.tokens, new_tokens, config);
            for (token, &score) in scores.iter().enumerate().filter(|(_, score)| score.is_finite()) {
                let log_probability = beam.log_probability + f64::from(score);
                let candidate = Reverse(Candidate { log_probability, beam: index, token: token as u32 });
                if best.len() < count || best.peek().is_some_and(|worst| candidate < *worst) {
                    best.push(candidate);
                    if best.len() > count {
                        best.pop();
                    }
                }
            }
        }
        Ok(best.into_sorted_vec().into_iter().map(|Reverse(candidate)| candidate).collect())
    }

    /// Whether no text can be added to those that have ended, or none is wanted.
    fn is_over(&self, config: &GenerationConfig) -> bool {
        let Some(best) = self.open.first() else { return true };
        let full = self.ended.len() >= config.num_beams;
        let Some(worst) = self.ended.last().filter(|_| full) else { return false };
        let length = match config.early_stopping {
            EarlyStopping::Full => return true,
            EarlyStopping::Never if config.length_penalty > 0.0 => self.room.new_tokens,
            EarlyStopping::Never | EarlyStopping::Unlikely => self.new_tokens(best),
        };
        score(best.log_probability, length, config) <= worst.score
    }

    fn into_texts(self, config: &GenerationConfig) -> Vec<Generated> {
        let text = |ended: Ended| Generated {
            tokens: self.room.added(&ended.tokens).to_vec(),
            finish: ended.finish,
            score: Some(ended.score),
        };
        self.ended.into_iter().take(config.num_return_sequences).map(text).collect()
    }

    fn new_tokens(&self, beam: &Beam) -> usize {
        self.room.added(&beam.tokens).len()
    }
}

/// The score by which texts of different lengths are compared.
fn score(log_probability: f64, new_tokens: usize, config: &GenerationConfig) -> f64 {
    log_probability / (new_tokens as f64).powf(config.length_penalty)
}

impl Eq for Candidate {}

impl Ord for Candidate {
    /// The likelier is greater; of equals, the one that comes first.
    fn cmp(&self, other: &Self) -> Ordering {
        let place = |candidate: &Self| Reverse((candidate.beam, candidate.token));
        self.log_probability.total_cmp(&other.log_probability).then_with(|| place(self).cmp(&place(other)))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::fake::{Fake, prompts};
    use super::super::generate;
    use super::*;

    fn beams(num_beams: usize) -> GenerationConfig {
        GenerationConfig {
            num_beams,
            num_return_sequences: num_beams,
            max_new_tokens: 8,
            ..GenerationConfig::default()
        }
    }

    /// Compares with the three best texts of transformers 5.24.0 on the same logits.
    fn assert_golden(prompt: &[u32], config: GenerationConfig, expected: [(&[u32], f64); 3]) {
        let config = GenerationConfig { num_return_sequences: 3, ..config };
        let texts = generate(&mut Fake::new(12), &prompts(&[prompt.to_vec()]), &config).unwrap();
        for (text, (tokens, score)) in texts[0].iter().zip(expected) {
            assert_eq!(text.tokens, tokens);
            let found = text.score.unwrap();
            assert!((found - score).abs() <= 1e-6 * score.abs().max(1.0), "{found} is not {score}");
        }
        assert_eq!(texts[0].len(), 3);
    }

    #[test]
    fn without_end_tokens_the_texts_are_those_of_transformers() {
        assert_golden(
            &[7, 1, 7],
            GenerationConfig { length_penalty: 0.8, ..beams(4) },
            [
                (&[1, 5, 2, 7, 9, 11, 10, 8], -1.9624054431915283),
                (&[1, 5, 2, 7, 3, 8, 1, 4], -2.0037357807159424),
                (&[1, 5, 2, 7, 10, 9, 9, 11], -2.013200044631958),
            ],
        );
    }

    fn stopping(early_stopping: EarlyStopping) -> GenerationConfig {
        GenerationConfig { eos_token_id: vec![2, 5], max_new_tokens: 12, early_stopping, ..beams(3) }
    }

    #[test]
    fn a_search_that_stops_when_a_better_text_is_unlikely_finds_what_transformers_does() {
        assert_golden(
            &[1, 0],
            stopping(EarlyStopping::Unlikely),
            [
                (&[2], -0.5756040215492249),
                (&[9, 7, 0, 9, 2], -1.4297382831573486),
                (&[9, 7, 0, 11, 1, 6, 2], -1.461010217666626),
            ],
        );
    }

    #[test]
    fn a_search_that_stops_when_full_finds_what_transformers_does() {
        assert_golden(
            &[1, 0],
            stopping(EarlyStopping::Full),
            [(&[2], -0.5756040215492249), (&[0, 2], -2.12015962600708), (&[5], -2.6482527256011963)],
        );
    }

    #[test]
    fn a_search_that_never_stops_early_finds_what_transformers_does() {
        assert_golden(
            &[1, 0],
            stopping(EarlyStopping::Never),
            [
                (&[2], -0.5756040215492249),
                (&[9, 7, 0, 9, 8, 1, 1, 1, 0, 6, 7, 9], -1.4198201894760132),
                (&[9, 7, 0, 9, 2], -1.4297382831573486),
            ],
        );
    }

    #[test]
    fn with_penalties_and_no_stopping_the_texts_are_those_of_transformers() {
        assert_golden(
            &[7, 1, 7],
            GenerationConfig {
                eos_token_id: vec![2],
                length_penalty: 2.0,
                early_stopping: EarlyStopping::Never,
                repetition_penalty: 1.25,
                no_repeat_ngram_size: 2,
                ..beams(4)
            },
            [
                (&[5, 4, 9, 10, 11, 5, 5, 1], -0.19084830582141876),
                (&[5, 4, 9, 10, 8, 7, 11, 10], -0.19188153743743896),
                (&[5, 4, 9, 10, 8, 7, 11, 11], -0.19242490828037262),
            ],
        );
    }

    #[test]
    fn where_short_texts_are_favoured_they_are_those_of_transformers() {
        assert_golden(
            &[7, 1, 7],
            GenerationConfig {
                eos_token_id: vec![1, 2, 3],
                length_penalty: -1.0,
                early_stopping: EarlyStopping::Never,
                ..beams(3)
            },
            [(&[1], -1.373008370399475), (&[5, 2], -6.744692325592041), (&[0, 5, 7, 3], -23.914196014404297)],
        );
    }

    #[test]
    fn where_length_is_no_gain_the_hope_of_a_search_is_to_end_now() {
        let config = GenerationConfig {
            length_penalty: -1.0,
            early_stopping: EarlyStopping::Never,
            max_new_tokens: 100,
            ..beams(1)
        };
        let mut search = Search::new(0, &prompts(&[vec![7]])[0], &config, usize::MAX);
        search.open = vec![Beam { tokens: vec![7, 1, 1], log_probability: -1.0 }];
        let mut worst_is = |score| {
            search.ended = vec![Ended { tokens: vec![7, 2], score, finish: Finish::Eos }];
            search.is_over(&config)
        };
        assert!(!worst_is(-2.1));
        assert!(worst_is(-1.9));
    }

    /// Every text that can follow, with its score, best first.
    fn exhaustive(model: &Fake, prompt: &[u32], config: &GenerationConfig) -> Vec<(Vec<u32>, f64)> {
        let (mut open, mut ended) = (vec![(Vec::new(), 0.0)], Vec::new());
        while let Some((text, sum)) = open.pop() {
            let mut logs = model.after(&[prompt, &text].concat());
            logits::log_softmax(&mut logs);
            for (token, log) in (0..).zip(logs) {
                let text = [text.as_slice(), &[token]].concat();
                let sum = sum + f64::from(log);
                if config.eos_token_id.contains(&token) || text.len() == config.max_new_tokens {
                    let score = sum / (text.len() as f64).powf(config.length_penalty);
                    ended.push((text, score));
                } else {
                    open.push((text, sum));
                }
            }
        }
        ended.sort_by(|one, other| other.1.total_cmp(&one.1));
        ended
    }

    proptest! {
        #[test]
        fn with_beams_for_every_text_the_search_is_exhaustive(
            prompt in prop::collection::vec(0..4u32, 1..5),
            length_penalty in -1.0..2.0f64,
            eos_token_id in prop::sample::subsequence(vec![0, 1, 2, 3], 0..3),
        ) {
            let config = GenerationConfig { max_new_tokens: 3, length_penalty, eos_token_id, ..beams(64) };
            let mut model = Fake::new(4);
            let texts = generate(&mut model, &prompts(std::slice::from_ref(&prompt)), &config).unwrap();
            let expected = exhaustive(&model, &prompt, &config);
            prop_assert_eq!(texts[0].len(), expected.len());
            for (text, (_, score)) in texts[0].iter().zip(&expected) {
                prop_assert!((text.score.unwrap() - score).abs() < 1e-9);
            }
            prop_assert_eq!(&texts[0][0].tokens, &expected[0].0);
        }

        #[test]
        fn one_beam_that_stops_with_its_text_is_greedy(tokens in prop::collection::vec(0..12u32, 1..6)) {
            let greedy = GenerationConfig { eos_token_id: vec![2, 5], ..beams(1) };
            let config = GenerationConfig { early_stopping: EarlyStopping::Full, ..greedy.clone() };
            let prompts = prompts(&[tokens]);
            let expected = generate(&mut Fake::new(12), &prompts, &greedy).unwrap();
            let texts = run(&mut Fake::new(12), &prompts, &config).unwrap();
            prop_assert_eq!(&texts[0][0].tokens, &expected[0][0].tokens);
            prop_assert_eq!(texts[0][0].finish, expected[0][0].finish);
        }

        #[test]
        fn texts_come_best_first_and_all_differ(tokens in prop::collection::vec(0..12u32, 1..6)) {
            let config = GenerationConfig { eos_token_id: vec![2, 5], ..beams(5) };
            let texts = generate(&mut Fake::new(12), &prompts(&[tokens]), &config).unwrap().remove(0);
            prop_assert!(texts.is_sorted_by(|one, other| one.score >= other.score));
            for (place, text) in texts.iter().enumerate() {
                prop_assert!(texts[..place].iter().all(|other| other.tokens != text.tokens));
            }
        }
    }

    #[test]
    fn a_prompt_is_read_once_for_all_its_beams_and_leaves_with_its_search() {
        let mut model = Fake::new(12);
        model.changed = |row, logits| {
            if row[0] == 4 {
                logits[2] = 9.0;
            }
        };
        let config = GenerationConfig {
            eos_token_id: vec![2],
            early_stopping: EarlyStopping::Full,
            max_new_tokens: 4,
            ..beams(2)
        };
        generate(&mut model, &prompts(&[vec![4], vec![7]]), &config).unwrap();
        assert_eq!(model.passes, [2, 4, 2, 2]);
    }

    #[test]
    fn a_text_that_ended_says_why() {
        let config = GenerationConfig { eos_token_id: vec![2], ..beams(4) };
        let texts = generate(&mut Fake::new(12), &prompts(&[vec![7, 1, 7]]), &config).unwrap().remove(0);
        assert_eq!(texts[0].finish, Finish::MaxNewTokens);
        assert_eq!(texts[1].finish, Finish::Eos);
    }
}
