//! Text from a model: greedy, drawn at random, or by beam search.
//!
//! Decoding works on logits in host memory and knows a model only as [`NextToken`]. What comes out is what transformers'
//! `generate` gives for the same settings, but for two things: padding is not seen, so a prompt gives the same text in
//! any batch, and random numbers are the project's own.

mod beam;
mod cached;
mod config;
mod error;
#[cfg(test)]
mod fake;
mod growing;
mod logits;
mod single;

use std::ops::ControlFlow;

pub use cached::Cached;
pub use config::{EarlyStopping, GenerationConfig};
pub use error::GenerateError;
pub use growing::{GrowingText, log_probabilities};

/// A model as decoding sees it: a batch of rows, each with all its tokens so far, that gives the next token's logits.
pub trait NextToken {
    /// Forgets all rows and begins new ones; their prompts differ in length.
    ///
    /// Returns the logits of the token after each row.
    ///
    /// # Shapes
    /// Returned: `[rows][vocabulary]`
    ///
    /// # Errors
    /// [`GenerateError::Model`] if the model fails.
    fn start(&mut self, prompts: &[&[u32]]) -> Result<Vec<Vec<f32>>, GenerateError>;

    /// Adds one token to each row and returns the logits of the token after it.
    ///
    /// # Shapes
    /// `tokens`: `[rows]`; returned: `[rows][vocabulary]`
    ///
    /// # Errors
    /// [`GenerateError::Model`] if the model fails.
    fn advance(&mut self, tokens: &[u32]) -> Result<Vec<Vec<f32>>, GenerateError>;

    /// Row `i` becomes a copy of what row `from[i]` was; there may be more or fewer rows than before.
    fn reorder(&mut self, from: &[usize]);

    /// Longest row, in tokens.
    fn max_tokens(&self) -> usize;

    /// Number of different tokens, and of logits.
    fn vocabulary(&self) -> usize;
}

/// What is to be continued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Number of the prompt among all that the caller has: names it in errors and, with the seed, fixes what is drawn.
    pub row: u64,
    /// Its tokens; at least one.
    pub tokens: Vec<u32>,
}

/// A text that a model made.
#[derive(Debug, Clone, PartialEq)]
pub struct Generated {
    /// The new tokens, the end token with them if there is one.
    pub tokens: Vec<u32>,
    /// Why there are no more.
    pub finish: Finish,
    /// Of a beam search: the log-probability over the number of new tokens to the power of `length_penalty`.
    pub score: Option<f64>,
}

impl Generated {
    /// The new tokens, but not the end token.
    pub fn without_end(&self) -> &[u32] {
        match self.finish {
            Finish::Eos => &self.tokens[..self.tokens.len() - 1],
            Finish::MaxNewTokens | Finish::ContextFull | Finish::Stopped => &self.tokens,
        }
    }
}

/// Why a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// With an end token.
    Eos,
    /// At the number of new tokens asked for.
    MaxNewTokens,
    /// Before that: the model takes no longer sequence.
    ContextFull,
    /// The receiver of its tokens had enough.
    Stopped,
}

/// A token just made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewToken {
    /// [`Prompt::row`].
    pub row: u64,
    /// Which of the prompt's texts, from 0.
    pub sequence: usize,
    /// The token; an end token comes too.
    pub token: u32,
}

/// Continues every prompt; the result has the texts of each, best or first first.
///
/// A beam search returns fewer than `num_return_sequences` only where so many different texts cannot be made.
///
/// # Errors
/// If a setting or a prompt is not usable, or the model fails or gives logits that are NaN.
pub fn generate<M: NextToken>(
    model: &mut M,
    prompts: &[Prompt],
    config: &GenerationConfig,
) -> Result<Vec<Vec<Generated>>, GenerateError> {
    if config.num_beams == 1 {
        return stream(model, prompts, config, |_| ControlFlow::Continue(()));
    }
    check(model, prompts, config)?;
    beam::run(model, prompts, config)
}

/// As [`generate`] with one beam, and hands out each token as soon as it is made; a break ends that token's text.
///
/// # Errors
/// As [`generate`], and for more than one beam.
pub fn stream<M: NextToken>(
    model: &mut M,
    prompts: &[Prompt],
    config: &GenerationConfig,
    mut on_token: impl FnMut(NewToken) -> ControlFlow<()>,
) -> Result<Vec<Vec<Generated>>, GenerateError> {
    check(model, prompts, config)?;
    if config.num_beams > 1 {
        return Err(GenerateError::StreamedBeams { num_beams: config.num_beams });
    }
    single::run(model, prompts, config, &mut on_token)
}

fn check<M: NextToken>(
    model: &M,
    prompts: &[Prompt],
    config: &GenerationConfig,
) -> Result<(), GenerateError> {
    check_settings(config, model.vocabulary())?;
    prompts.iter().try_for_each(|prompt| check_prompt(prompt, config, model.max_tokens(), model.vocabulary()))
}

fn check_settings(config: &GenerationConfig, vocabulary: usize) -> Result<(), GenerateError> {
    config.check()?;
    match config.eos_token_id.iter().find(|&&token| token as usize >= vocabulary) {
        Some(&token) => Err(GenerateError::UnknownEnd { token, vocabulary }),
        None => Ok(()),
    }
}

fn check_prompt(
    Prompt { row, tokens }: &Prompt,
    config: &GenerationConfig,
    max_tokens: usize,
    vocabulary: usize,
) -> Result<(), GenerateError> {
    let (row, limit) = (*row, max_tokens.min(config.max_length));
    if tokens.is_empty() {
        return Err(GenerateError::EmptyPrompt { row });
    }
    if tokens.len() >= limit {
        return Err(GenerateError::LongPrompt { row, tokens: tokens.len(), limit });
    }
    match tokens.iter().position(|&token| token as usize >= vocabulary) {
        Some(place) => Err(GenerateError::UnknownToken { row, place, token: tokens[place], vocabulary }),
        None => Ok(()),
    }
}

/// The rows of a model with the logits after each.
struct Batch<'m, M> {
    model: &'m mut M,
    logits: Vec<Vec<f32>>,
}

impl<'m, M: NextToken> Batch<'m, M> {
    fn start(model: &'m mut M, prompts: &[Prompt]) -> Result<Self, GenerateError> {
        let tokens: Vec<&[u32]> = prompts.iter().map(|prompt| prompt.tokens.as_slice()).collect();
        let logits = if tokens.is_empty() { Vec::new() } else { model.start(&tokens)? };
        let batch = Self { model, logits };
        batch.check_shape(tokens.len());
        Ok(batch)
    }

    /// Makes each prompt's row into one for each text; `from` names the prompt of each text.
    fn spread(&mut self, from: &[usize]) {
        if !is_unchanged(from, self.logits.len()) {
            self.model.reorder(from);
            self.logits = from.iter().map(|&row| self.logits[row].clone()).collect();
        }
    }

    /// Keeps row `from[i]` as row `i` and adds `tokens[i]` to it; rows that nobody names leave.
    fn advance(&mut self, from: &[usize], tokens: &[u32]) -> Result<(), GenerateError> {
        if tokens.is_empty() {
            return Ok(());
        }
        if !is_unchanged(from, self.logits.len()) {
            self.model.reorder(from);
        }
        self.logits = self.model.advance(tokens)?;
        self.check_shape(tokens.len());
        Ok(())
    }

    fn check_shape(&self, rows: usize) {
        assert_eq!(self.logits.len(), rows, "the model gives logits for each row");
        let vocabulary = self.model.vocabulary();
        let whole = self.logits.iter().all(|logits| logits.len() == vocabulary);
        assert!(whole, "the model gives a logit for each of its {vocabulary} tokens");
    }
}

fn is_unchanged(from: &[usize], rows: usize) -> bool {
    from.len() == rows && from.iter().enumerate().all(|(new, &old)| new == old)
}

/// How far a prompt can be continued.
#[derive(Debug)]
struct Room {
    prompt_tokens: usize,
    new_tokens: usize,
    full: Finish,
}

impl Room {
    fn after(prompt: &Prompt, config: &GenerationConfig, max_tokens: usize) -> Self {
        let prompt_tokens = prompt.tokens.len();
        let left = max_tokens - prompt_tokens;
        let wanted = config.max_new_tokens.min(config.max_length - prompt_tokens);
        let (new_tokens, full) =
            if wanted <= left { (wanted, Finish::MaxNewTokens) } else { (left, Finish::ContextFull) };
        Self { prompt_tokens, new_tokens, full }
    }

    /// What was added to the prompt.
    fn added<'t>(&self, tokens: &'t [u32]) -> &'t [u32] {
        &tokens[self.prompt_tokens..]
    }

    /// Why the text ends here, if it does.
    fn finish(&self, tokens: &[u32], config: &GenerationConfig) -> Option<Finish> {
        if tokens.last().is_some_and(|last| config.eos_token_id.contains(last)) {
            return Some(Finish::Eos);
        }
        (self.added(tokens).len() >= self.new_tokens).then_some(self.full)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::fake::{Fake, prompts};
    use super::*;

    fn ending(config: GenerationConfig) -> GenerationConfig {
        GenerationConfig { eos_token_id: vec![2, 5], max_new_tokens: 9, ..config }
    }

    fn sampling() -> GenerationConfig {
        GenerationConfig { do_sample: true, num_return_sequences: 3, seed: 4, ..Default::default() }
    }

    fn beams() -> GenerationConfig {
        GenerationConfig { num_beams: 3, num_return_sequences: 3, ..Default::default() }
    }

    /// Greedy choice written as plainly as can be.
    fn greedy(model: &Fake, prompt: &[u32], config: &GenerationConfig) -> Vec<u32> {
        let mut row = prompt.to_vec();
        while row.len() < prompt.len() + config.max_new_tokens {
            let logits = model.after(&row);
            let best = (0..logits.len()).max_by(|&one, &other| logits[one].total_cmp(&logits[other]));
            row.push(best.unwrap() as u32);
            if config.eos_token_id.contains(row.last().unwrap()) {
                break;
            }
        }
        row.split_off(prompt.len())
    }

    fn any_prompts() -> impl Strategy<Value = Vec<Vec<u32>>> {
        prop::collection::vec(prop::collection::vec(0..12u32, 1..6), 1..6)
    }

    proptest! {
        #[test]
        fn a_prompt_gives_the_same_text_in_any_batch(tokens in any_prompts()) {
            for config in [Default::default(), sampling(), beams()].map(ending) {
                let all = prompts(&tokens);
                let together = generate(&mut Fake::new(12), &all, &config).unwrap();
                for (prompt, texts) in all.iter().zip(together) {
                    let alone = generate(&mut Fake::new(12), std::slice::from_ref(prompt), &config).unwrap();
                    prop_assert_eq!(&alone[0], &texts);
                }
            }
        }

        #[test]
        fn greedy_takes_the_likeliest_token_until_one_ends_the_text(tokens in any_prompts()) {
            let config = ending(GenerationConfig::default());
            let mut model = Fake::new(12);
            let texts = generate(&mut model, &prompts(&tokens), &config).unwrap();
            for (prompt, texts) in tokens.iter().zip(texts) {
                prop_assert_eq!(&texts[0].tokens, &greedy(&model, prompt, &config));
            }
        }

        #[test]
        fn drawing_among_one_or_without_warmth_is_greedy(tokens in any_prompts(), seed: u64) {
            let greedy = ending(GenerationConfig::default());
            let drawn = GenerationConfig { do_sample: true, seed, ..greedy.clone() };
            let cold = GenerationConfig { temperature: 1e-310, ..drawn.clone() };
            let narrow = GenerationConfig { top_k: 1, ..drawn.clone() };
            let thin = GenerationConfig { top_p: 1e-9, ..drawn.clone() };
            let strict = GenerationConfig { min_p: 1.0, ..drawn };
            let run = |config: &GenerationConfig| generate(&mut Fake::new(12), &prompts(&tokens), config).unwrap();
            for config in [cold, narrow, thin, strict] {
                prop_assert_eq!(run(&config), run(&greedy));
            }
        }

        #[test]
        fn no_run_of_tokens_comes_twice_if_none_may(tokens in any_prompts(), size in 2..4usize) {
            for config in [Default::default(), sampling(), beams()] {
                let config = GenerationConfig { no_repeat_ngram_size: size, max_new_tokens: 30, ..config };
                let texts = generate(&mut Fake::new(12), &prompts(&tokens), &config).unwrap();
                for (prompt, text) in tokens.iter().zip(&texts).flat_map(|(p, all)| all.iter().map(move |t| (p, t))) {
                    let whole = [prompt.as_slice(), &text.tokens].concat();
                    let first_new = prompt.len().saturating_sub(size - 1);
                    let runs: Vec<_> = whole.windows(size).collect();
                    let repeated = (first_new..runs.len()).any(|place| runs[..place].contains(&runs[place]));
                    prop_assert!(!repeated, "{:?}", whole);
                }
            }
        }
    }

    #[test]
    fn rows_that_have_ended_leave_the_batch() {
        let mut model = Fake::new(12);
        // Prompts that begin with an even token end at once, the others never.
        model.changed = |row, logits| logits[2] = if row[0] % 2 == 0 { 9.0 } else { -9.0 };
        let config =
            GenerationConfig { eos_token_id: vec![2], max_new_tokens: 4, ..GenerationConfig::default() };
        let texts = generate(&mut model, &prompts(&[vec![4], vec![7], vec![0]]), &config).unwrap();
        assert_eq!(model.passes, [3, 1, 1, 1]);
        let finishes: Vec<Finish> = texts.iter().map(|texts| texts[0].finish).collect();
        assert_eq!(finishes, [Finish::Eos, Finish::MaxNewTokens, Finish::Eos]);
    }

    #[test]
    fn a_text_ends_with_the_models_context_and_says_so() {
        for config in [Default::default(), beams()] {
            let mut model = Fake::new(12);
            model.max_tokens = 6;
            let texts = generate(&mut model, &prompts(&[vec![1, 1, 1], vec![1]]), &config).unwrap();
            let lengths: Vec<usize> = texts.iter().map(|texts| texts[0].tokens.len()).collect();
            assert_eq!(lengths, [3, 5]);
            assert!(texts.iter().flatten().all(|text| text.finish == Finish::ContextFull));
        }
    }

    #[test]
    fn prompt_and_text_together_keep_the_length_that_counts_both() {
        for config in [Default::default(), beams()] {
            let config = GenerationConfig { max_length: 5, max_new_tokens: usize::MAX, ..config };
            let texts = generate(&mut Fake::new(12), &prompts(&[vec![1, 1, 1], vec![1]]), &config).unwrap();
            let lengths: Vec<usize> = texts.iter().map(|texts| texts[0].tokens.len()).collect();
            assert_eq!(lengths, [2, 4]);
            assert!(texts.iter().flatten().all(|text| text.finish == Finish::MaxNewTokens));
            let long = generate(&mut Fake::new(12), &prompts(&[vec![1; 5]]), &config);
            assert!(matches!(long, Err(GenerateError::LongPrompt { tokens: 5, limit: 5, .. })));
        }
    }

    #[test]
    fn suppressed_tokens_never_come_or_not_first() {
        for config in [Default::default(), beams(), sampling()] {
            let config = GenerationConfig { max_new_tokens: 30, ..config };
            let all = |config: &GenerationConfig| {
                let texts = generate(&mut Fake::new(12), &prompts(&[vec![3], vec![4, 4]]), config).unwrap();
                texts.into_iter().flatten().map(|text| text.tokens).collect::<Vec<_>>()
            };
            let before = all(&config);
            let first = before[0][0];
            let tokens = vec![first, 99];
            let never = all(&GenerationConfig { suppress_tokens: tokens.clone(), ..config.clone() });
            assert!(never.iter().all(|text| !text.contains(&first)));
            let not_first = all(&GenerationConfig { begin_suppress_tokens: tokens, ..config.clone() });
            assert!(not_first.iter().all(|text| text[0] != first));
            let unused = all(&GenerationConfig { suppress_tokens: vec![99], ..config });
            assert_eq!(unused, before);
        }
    }

    #[test]
    fn the_end_token_can_be_left_out() {
        let text = |finish| Generated { tokens: vec![7, 2], finish, score: None };
        assert_eq!(text(Finish::Eos).without_end(), [7]);
        assert_eq!(text(Finish::MaxNewTokens).without_end(), [7, 2]);
    }

    #[test]
    fn nothing_to_continue_gives_nothing() {
        for config in [Default::default(), beams()] {
            assert_eq!(generate(&mut Fake::new(12), &[], &config).unwrap(), Vec::<Vec<Generated>>::new());
        }
    }

    fn message(model: &mut Fake, prompt: &[u32], config: &GenerationConfig) -> String {
        let prompt = Prompt { row: 31, tokens: prompt.to_vec() };
        generate(model, &[prompt], config).expect_err("this cannot be continued").to_string()
    }

    #[test]
    fn a_prompt_that_cannot_be_continued_is_named_by_its_row() {
        let config = GenerationConfig::default();
        let mut model = Fake::new(12);
        model.max_tokens = 3;
        assert!(message(&mut model, &[], &config).starts_with("prompt 32 is empty"));
        assert!(message(&mut model, &[1, 2, 3], &config).contains("prompt 32 has 3 tokens"));
        assert!(message(&mut model, &[1, 12], &config).starts_with("token 12 at place 1 of prompt 32"));
    }

    #[test]
    fn an_end_token_that_the_model_does_not_have_is_refused() {
        let config = GenerationConfig { eos_token_id: vec![3, 50256], ..GenerationConfig::default() };
        assert!(message(&mut Fake::new(12), &[1], &config).contains("50256"));
    }

    #[test]
    fn logits_that_are_no_numbers_are_an_error_with_their_place() {
        for config in [Default::default(), sampling(), beams()] {
            let mut model = Fake::new(12);
            model.changed = |row, logits| logits[8] = if row.len() < 4 { 0.0 } else { f32::NAN };
            let text = message(&mut model, &[1, 1], &config);
            assert!(
                text.starts_with("prompt 32: after 2 new tokens the model gives NaN for token 8"),
                "{text}"
            );
        }
    }

    #[test]
    fn a_model_that_rules_out_every_token_is_an_error() {
        let mut model = Fake::new(12);
        model.changed = |_, logits| logits.fill(f32::NEG_INFINITY);
        assert!(message(&mut model, &[1], &GenerationConfig::default()).contains("gives -inf for token 0"));
    }

    #[test]
    fn if_no_token_may_follow_the_setting_to_change_is_named() {
        for config in [Default::default(), sampling(), beams()] {
            let config = GenerationConfig { no_repeat_ngram_size: 1, num_return_sequences: 1, ..config };
            let text = message(&mut Fake::new(3), &[1], &config);
            assert!(text.starts_with("prompt 32: after 2 new tokens none may follow"), "{text}");
            assert!(text.contains("no_repeat_ngram_size"), "{text}");
        }
    }

    #[test]
    fn settings_are_checked_before_the_model_is_asked() {
        let mut model = Fake::new(12);
        let config = GenerationConfig { num_beams: 0, ..GenerationConfig::default() };
        assert!(message(&mut model, &[1], &config).starts_with("`num_beams` is 0"));
        assert!(model.passes.is_empty());
    }
}
