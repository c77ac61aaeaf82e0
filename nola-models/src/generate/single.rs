//! One text at a time: the likeliest token, or one drawn at random.

use std::ops::ControlFlow;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    Batch, Finish, GenerateError, Generated, GenerationConfig, NewToken, NextToken, Prompt, Room, logits,
};

/// Keeps these random numbers apart from those drawn for other purposes with the same seed.
const PURPOSE: u64 = u64::from_le_bytes(*b"generate");

/// A text that grows.
#[derive(Debug)]
pub(super) struct Line {
    row: u64,
    place: usize,
    sequence: usize,
    tokens: Vec<u32>,
    room: Room,
    random: ChaCha8Rng,
}

/// Continues every prompt until its last text has ended.
pub(super) fn run<M: NextToken>(
    model: &mut M,
    prompts: &[Prompt],
    config: &GenerationConfig,
    on_token: &mut dyn FnMut(NewToken) -> ControlFlow<()>,
) -> Result<Vec<Vec<Generated>>, GenerateError> {
    let mut lines = lines(prompts, config, model.max_tokens());
    let mut batch = Batch::start(model, prompts)?;
    batch.spread(&lines.iter().map(|line| line.place).collect::<Vec<_>>());
    let mut ended: Vec<Vec<(usize, Generated)>> = prompts.iter().map(|_| Vec::new()).collect();
    while !lines.is_empty() {
        let (mut from, mut chosen) = (Vec::new(), Vec::new());
        let mut open = Vec::with_capacity(lines.len());
        for (index, mut line) in lines.into_iter().enumerate() {
            let token = line.push(&mut batch.logits[index], config)?;
            let flow = on_token(NewToken { row: line.row, sequence: line.sequence, token });
            let stopped = flow.is_break().then_some(Finish::Stopped);
            match line.finish(config).or(stopped) {
                Some(finish) => ended[line.place].push((line.sequence, line.into_generated(finish))),
                None => {
                    from.push(index);
                    chosen.push(token);
                    open.push(line);
                }
            }
        }
        lines = open;
        batch.advance(&from, &chosen)?;
    }
    Ok(ended.into_iter().map(in_order).collect())
}

/// The texts of a prompt by their number; they may end in any order.
fn in_order(mut texts: Vec<(usize, Generated)>) -> Vec<Generated> {
    texts.sort_by_key(|(sequence, _)| *sequence);
    texts.into_iter().map(|(_, text)| text).collect()
}

fn lines(prompts: &[Prompt], config: &GenerationConfig, max_tokens: usize) -> Vec<Line> {
    let line = move |place, prompt, sequence| Line::new(prompt, place, sequence, config, max_tokens);
    let of_prompt = |(place, prompt)| (0..config.num_return_sequences).map(move |n| line(place, prompt, n));
    prompts.iter().enumerate().flat_map(of_prompt).collect()
}

/// The random numbers of one text: the same in any batch.
fn random(seed: u64, row: u64, sequence: usize) -> ChaCha8Rng {
    let mut key = [0; 32];
    for (bytes, word) in key.chunks_exact_mut(8).zip([seed, PURPOSE, row, sequence as u64]) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

impl Line {
    pub(super) fn new(
        prompt: &Prompt,
        place: usize,
        sequence: usize,
        config: &GenerationConfig,
        max_tokens: usize,
    ) -> Self {
        Self {
            row: prompt.row,
            place,
            sequence,
            tokens: prompt.tokens.clone(),
            room: Room::after(prompt, config, max_tokens),
            random: random(config.seed, prompt.row, sequence),
        }
    }

    /// Prompt and text.
    pub(super) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    pub(super) fn added(&self) -> &[u32] {
        self.room.added(&self.tokens)
    }

    /// Of prompt and text.
    pub(super) fn most_tokens(&self) -> usize {
        self.room.prompt_tokens + self.room.new_tokens
    }

    /// Chooses a token and adds it.
    pub(super) fn push(
        &mut self,
        scores: &mut [f32],
        config: &GenerationConfig,
    ) -> Result<u32, GenerateError> {
        let token = self.choose(scores, config)?;
        self.tokens.push(token);
        Ok(token)
    }

    fn choose(&mut self, scores: &mut [f32], config: &GenerationConfig) -> Result<u32, GenerateError> {
        let new_tokens = self.added().len();
        logits::check(scores, self.row, new_tokens)?;
        logits::restrain(scores, &self.tokens, new_tokens, config);
        let likeliest =
            logits::argmax(scores).ok_or(GenerateError::NothingLeft { row: self.row, new_tokens })?;
        if !config.do_sample {
            return Ok(likeliest as u32);
        }
        logits::warp(scores, config);
        Ok(self.draw(scores) as u32)
    }

    /// A token by its probability: the first at which the running sum exceeds a uniform number.
    fn draw(&mut self, scores: &[f32]) -> usize {
        let probabilities = logits::softmax(scores);
        let uniform = (self.random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let mut below = 0.0;
        let mut last = 0;
        for (token, &probability) in probabilities.iter().enumerate().filter(|(_, part)| **part > 0.0) {
            below += probability;
            last = token;
            if below > uniform {
                break;
            }
        }
        last
    }

    pub(super) fn finish(&self, config: &GenerationConfig) -> Option<Finish> {
        self.room.finish(&self.tokens, config)
    }

    fn into_generated(self, finish: Finish) -> Generated {
        Generated { tokens: self.added().to_vec(), finish, score: None }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{Fake, prompts};
    use super::super::{generate, stream};
    use super::*;

    fn drawn(seed: u64) -> GenerationConfig {
        GenerationConfig { do_sample: true, seed, max_new_tokens: 8, ..GenerationConfig::default() }
    }

    fn texts(prompts: &[Prompt], config: &GenerationConfig) -> Vec<Vec<u32>> {
        let texts = generate(&mut Fake::new(12), prompts, config).unwrap();
        texts.into_iter().flatten().map(|text| text.tokens).collect()
    }

    #[test]
    fn what_is_drawn_follows_from_seed_and_row_alone() {
        let prompt = |row| Prompt { row, tokens: vec![3] };
        let first = texts(&[prompt(7)], &drawn(1));
        assert_eq!(first, texts(&[prompt(7)], &drawn(1)));
        assert_ne!(first, texts(&[prompt(7)], &drawn(2)));
        assert_ne!(first, texts(&[prompt(8)], &drawn(1)));
    }

    #[test]
    fn what_a_seed_draws_stays_the_same_between_versions() {
        assert_eq!(texts(&[Prompt { row: 7, tokens: vec![3] }], &drawn(1)), [[8, 7, 11, 8, 2, 4, 5, 2]]);
    }

    #[test]
    fn several_texts_of_a_prompt_differ() {
        let config = GenerationConfig { num_return_sequences: 4, ..drawn(1) };
        let mut all = texts(&prompts(&[vec![3]]), &config);
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 4);
    }

    #[test]
    fn tokens_are_drawn_as_often_as_their_probability_says() {
        let draws = 4000;
        let prompts: Vec<Prompt> = (0..draws).map(|row| Prompt { row, tokens: vec![3] }).collect();
        let config = GenerationConfig { max_new_tokens: 1, temperature: 0.7, top_k: 0, ..drawn(5) };
        let mut counts = [0.0; 12];
        for text in texts(&prompts, &config) {
            counts[text[0] as usize] += 1.0;
        }
        let mut scores = Fake::new(12).after(&[3]);
        logits::warp(&mut scores, &config);
        for (count, probability) in counts.iter().zip(logits::softmax(&scores)) {
            let expected = probability * draws as f64;
            let deviation = (expected * (1.0 - probability)).sqrt();
            assert!((count - expected).abs() < 4.0 * deviation, "{count} of {expected}");
        }
    }

    #[test]
    fn every_token_is_handed_out_as_it_is_made() {
        let config = GenerationConfig { num_return_sequences: 2, eos_token_id: vec![2], ..drawn(3) };
        let mut streamed = vec![vec![Vec::new(); 2]; 3];
        let texts = stream(&mut Fake::new(12), &prompts(&[vec![1], vec![2], vec![3]]), &config, |new| {
            streamed[new.row as usize][new.sequence].push(new.token);
            ControlFlow::Continue(())
        });
        let texts: Vec<Vec<Vec<u32>>> = texts
            .unwrap()
            .into_iter()
            .map(|texts| texts.into_iter().map(|text| text.tokens).collect())
            .collect();
        assert_eq!(texts, streamed);
    }

    #[test]
    fn a_receiver_that_had_enough_ends_that_text_only() {
        let config = GenerationConfig { max_new_tokens: 5, ..GenerationConfig::default() };
        let mut seen = 0;
        let texts = stream(&mut Fake::new(12), &prompts(&[vec![1], vec![2]]), &config, |new| {
            seen += usize::from(new.row == 1);
            if new.row == 1 && seen == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
        assert_eq!((texts[0][0].tokens.len(), texts[0][0].finish), (5, Finish::MaxNewTokens));
        assert_eq!((texts[1][0].tokens.len(), texts[1][0].finish), (2, Finish::Stopped));
    }

    #[test]
    fn beams_cannot_be_streamed() {
        let config = GenerationConfig { num_beams: 2, ..GenerationConfig::default() };
        let refused =
            stream(&mut Fake::new(12), &prompts(&[vec![1]]), &config, |_| ControlFlow::Continue(()));
        assert!(matches!(refused, Err(GenerateError::StreamedBeams { num_beams: 2 })));
    }
}
