//! A text that grows by a token at a time, for who runs the model: a server, in whose batch rows come and go.

use super::single::Line;
use super::{Finish, GenerateError, GenerationConfig, Prompt, check_prompt, check_settings, logits};

/// A text with its own settings; it becomes what [`generate`](super::generate) makes of the same prompt, in any batch.
#[derive(Debug)]
pub struct GrowingText {
    line: Line,
    config: GenerationConfig,
}

impl GrowingText {
    /// Text number `sequence` of `prompt`, without a new token yet, by a model with so many tokens of context and vocabulary.
    ///
    /// # Errors
    /// If a setting or the prompt is not usable, or the settings say beam search.
    pub fn new(
        prompt: &Prompt,
        sequence: usize,
        config: GenerationConfig,
        max_tokens: usize,
        vocabulary: usize,
    ) -> Result<Self, GenerateError> {
        check_settings(&config, vocabulary)?;
        check_prompt(prompt, &config, max_tokens, vocabulary)?;
        if config.num_beams > 1 {
            return Err(GenerateError::StreamedBeams { num_beams: config.num_beams });
        }
        Ok(Self { line: Line::new(prompt, 0, sequence, &config, max_tokens), config })
    }

    /// Prompt and text.
    pub fn tokens(&self) -> &[u32] {
        self.line.tokens()
    }

    /// The text without its prompt.
    pub fn added(&self) -> &[u32] {
        self.line.added()
    }

    /// Most tokens that prompt and text can have together.
    pub fn most_tokens(&self) -> usize {
        self.line.most_tokens()
    }

    /// Chooses the next token by the logits after the last one, `[vocabulary]`, which are used up, and adds it.
    ///
    /// # Errors
    /// If the logits are not numbers, or no token may follow.
    pub fn choose(&mut self, scores: &mut [f32]) -> Result<u32, GenerateError> {
        self.line.push(scores, &self.config)
    }

    /// Why the text ends here, if it does.
    pub fn finish(&self) -> Option<Finish> {
        self.line.finish(&self.config)
    }
}

/// The logarithms of the probabilities that logits give, `[vocabulary]`.
///
/// # Errors
/// If the logits are not numbers; `new_tokens` stand before them.
pub fn log_probabilities(scores: &[f32], new_tokens: usize) -> Result<Vec<f32>, GenerateError> {
    logits::check(scores, 0, new_tokens)?;
    let mut scores = scores.to_vec();
    logits::log_softmax(&mut scores);
    Ok(scores)
}

#[cfg(test)]
mod tests {
    use super::super::fake::{Fake, prompts};
    use super::super::generate;
    use super::*;

    #[test]
    fn a_text_that_grows_becomes_what_generate_makes() {
        let sampled = GenerationConfig { do_sample: true, seed: 5, max_new_tokens: 7, ..Default::default() };
        let greedy = GenerationConfig { max_new_tokens: 7, eos_token_id: vec![2], ..Default::default() };
        for config in [sampled, greedy] {
            let model = Fake::new(12);
            let prompt = &prompts(&[vec![3, 1, 4]])[0];
            let mut text = GrowingText::new(prompt, 0, config.clone(), model.max_tokens, 12).unwrap();
            while text.finish().is_none() {
                let mut scores = model.after(text.tokens());
                text.choose(&mut scores).unwrap();
            }
            let expected = generate(&mut Fake::new(12), std::slice::from_ref(prompt), &config).unwrap();
            assert_eq!(text.added(), expected[0][0].tokens);
            assert_eq!(text.finish(), Some(expected[0][0].finish));
        }
    }

    #[test]
    fn a_prompt_that_does_not_fit_is_refused() {
        let prompt = Prompt { row: 0, tokens: vec![1; 8] };
        let refused = GrowingText::new(&prompt, 0, GenerationConfig::default(), 8, 12);
        assert!(matches!(refused, Err(GenerateError::LongPrompt { tokens: 8, limit: 8, .. })));
    }

    #[test]
    fn probabilities_sum_to_one() {
        let logs = log_probabilities(&[1.0, -2.0, 0.5], 0).unwrap();
        assert!((logs.iter().map(|log| log.exp()).sum::<f32>() - 1.0).abs() < 1e-6);
    }
}
