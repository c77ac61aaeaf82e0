//! What is done to the logits of one row before a token is chosen, each as transformers' processor of the same name.
//!
//! A token that may not follow has the logit minus infinity.

use std::collections::BTreeSet;

use super::{GenerateError, GenerationConfig};

const NEVER: f32 = f32::NEG_INFINITY;

/// Applies repetition penalty, no-repeat and suppressed tokens to the scores after `tokens`, prompt and text together, of
/// which `new_tokens` are text.
pub(super) fn restrain(scores: &mut [f32], tokens: &[u32], new_tokens: usize, config: &GenerationConfig) {
    if config.repetition_penalty != 1.0 {
        penalize_repetition(scores, tokens, config.repetition_penalty as f32);
    }
    if config.no_repeat_ngram_size > 0 {
        ban_repeated_ngrams(scores, tokens, config.no_repeat_ngram_size);
    }
    let at_start = config.begin_suppress_tokens.iter().filter(|_| new_tokens == 0);
    for &token in config.suppress_tokens.iter().chain(at_start) {
        // One beyond the vocabulary never comes.
        if let Some(score) = scores.get_mut(token as usize) {
            *score = NEVER;
        }
    }
}

/// Applies what shapes the draw, in transformers' order: temperature, top-k, top-p, min-p.
pub(super) fn warp(scores: &mut [f32], config: &GenerationConfig) {
    // Counted from the largest, so that no temperature, however low, overflows.
    let largest = f64::from(largest(scores));
    for score in scores.iter_mut() {
        *score = ((f64::from(*score) - largest) / config.temperature) as f32;
    }
    if config.top_k > 0 {
        keep_top_k(scores, config.top_k);
    }
    if config.top_p < 1.0 {
        keep_top_p(scores, config.top_p);
    }
    if config.min_p > 0.0 {
        keep_min_p(scores, config.min_p);
    }
}

/// Divides the score of every token seen before by `penalty`, or multiplies it if it is below zero.
fn penalize_repetition(scores: &mut [f32], tokens: &[u32], penalty: f32) {
    for token in tokens.iter().collect::<BTreeSet<_>>() {
        let score = &mut scores[*token as usize];
        *score = if *score < 0.0 { *score * penalty } else { *score / penalty };
    }
}

/// Bans every token that would end a run of `size` tokens that was there before.
fn ban_repeated_ngrams(scores: &mut [f32], tokens: &[u32], size: usize) {
    let Some(start) = (tokens.len() + 1).checked_sub(size) else { return };
    let begun = &tokens[start..];
    for run in tokens.windows(size).filter(|run| &run[..size - 1] == begun) {
        scores[run[size - 1] as usize] = NEVER;
    }
}

/// Bans what scores below the `count` best; of equals at the border all stay.
fn keep_top_k(scores: &mut [f32], count: usize) {
    if count >= scores.len() {
        return;
    }
    let mut order = scores.to_vec();
    let (_, &mut border, _) = order.select_nth_unstable_by(count - 1, |one, other| other.total_cmp(one));
    ban(scores, |score| score < border);
}

/// Keeps the smallest set of likeliest tokens whose probabilities reach `mass`.
fn keep_top_p(scores: &mut [f32], mass: f64) {
    let probabilities = softmax(scores);
    let mut order: Vec<usize> = (0..scores.len()).filter(|&token| scores[token] > NEVER).collect();
    order.sort_by(|&one, &other| scores[other].total_cmp(&scores[one]));
    let mut reached = 0.0;
    let last = order.iter().position(|&token| {
        reached += probabilities[token];
        reached >= mass
    });
    for &token in order.iter().skip(last.map_or(order.len(), |last| last + 1)) {
        scores[token] = NEVER;
    }
}

/// Bans what has less than `part` of the likeliest token's probability.
fn keep_min_p(scores: &mut [f32], part: f64) {
    let border = f64::from(largest(scores)) + part.ln();
    ban(scores, |score| f64::from(score) < border);
}

fn ban(scores: &mut [f32], is_banned: impl Fn(f32) -> bool) {
    for score in scores.iter_mut().filter(|score| is_banned(**score)) {
        *score = NEVER;
    }
}

fn largest(scores: &[f32]) -> f32 {
    scores.iter().copied().fold(NEVER, f32::max)
}

/// Probabilities of the tokens; at least one score is finite.
pub(super) fn softmax(scores: &[f32]) -> Vec<f64> {
    let largest = f64::from(largest(scores));
    let weights: Vec<f64> = scores.iter().map(|&score| (f64::from(score) - largest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

/// Turns logits into log-probabilities; at least one is finite.
pub(super) fn log_softmax(scores: &mut [f32]) {
    let largest = f64::from(largest(scores));
    let sum: f64 = scores.iter().map(|&score| (f64::from(score) - largest).exp()).sum();
    let shift = largest + sum.ln();
    for score in scores.iter_mut() {
        *score = (f64::from(*score) - shift) as f32;
    }
}

/// The token of the largest score, the first of equals; `None` if no token may follow.
pub(super) fn argmax(scores: &[f32]) -> Option<usize> {
    let mut best = None;
    for (token, &score) in scores.iter().enumerate() {
        if score > best.map_or(NEVER, |best: usize| scores[best]) {
            best = Some(token);
        }
    }
    best
}

/// Refuses logits of which no probabilities can be made.
///
/// A model may rule out some tokens with minus infinity, but not all.
pub(super) fn check(logits: &[f32], row: u64, new_tokens: usize) -> Result<(), GenerateError> {
    let wrong = |logit: &f32| logit.is_nan() || *logit == f32::INFINITY;
    let token = match logits.iter().position(wrong) {
        Some(token) => token,
        None if largest(logits) == NEVER => 0,
        None => return Ok(()),
    };
    Err(GenerateError::Logit { row, new_tokens, token, logit: logits[token] })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kept(scores: &[f32]) -> Vec<usize> {
        (0..scores.len()).filter(|&token| scores[token] > NEVER).collect()
    }

    #[test]
    fn a_repeated_token_is_divided_above_zero_and_multiplied_below_and_only_once() {
        let mut scores = [3.0, -3.0, 3.0, -3.0, 0.0];
        penalize_repetition(&mut scores, &[0, 1, 0, 0, 4], 1.5);
        assert_eq!(scores, [2.0, -4.5, 3.0, -3.0, 0.0]);
    }

    #[test]
    fn a_token_that_would_end_a_known_run_is_banned() {
        let mut scores = [0.0; 6];
        ban_repeated_ngrams(&mut scores, &[1, 2, 3, 1, 2, 4, 1, 2], 3);
        assert_eq!(kept(&scores), [0, 1, 2, 5]);
    }

    #[test]
    fn runs_of_one_ban_every_token_that_was_there() {
        let mut scores = [0.0; 4];
        ban_repeated_ngrams(&mut scores, &[3, 1], 1);
        assert_eq!(kept(&scores), [0, 2]);
    }

    #[test]
    fn a_row_shorter_than_a_run_bans_nothing() {
        for size in [3, 4, usize::MAX] {
            let mut scores = [0.0; 4];
            ban_repeated_ngrams(&mut scores, &[1, 1], size);
            assert_eq!(kept(&scores).len(), 4);
        }
    }

    #[test]
    fn top_k_keeps_equals_at_the_border() {
        let mut scores = [1.0, 4.0, 2.0, 2.0, 0.0];
        keep_top_k(&mut scores, 2);
        assert_eq!(kept(&scores), [1, 2, 3]);
    }

    #[test]
    fn of_equals_top_p_keeps_the_first() {
        let mut scores = [0.0; 4];
        keep_top_p(&mut scores, 0.5);
        assert_eq!(kept(&scores), [0, 1]);
    }

    #[test]
    fn min_p_keeps_what_has_that_part_of_the_best_probability() {
        let mut scores = [0.0, 0.26f32.ln(), 0.24f32.ln()];
        keep_min_p(&mut scores, 0.25);
        assert_eq!(kept(&scores), [0, 1]);
    }

    #[test]
    fn temperature_and_top_k_come_before_top_p() {
        // Probabilities 0.4, 0.3, 0.2, 0.1. Of the first two, 0.57 is the first's part, so top-p at 0.5 keeps one;
        // before top-k it would keep two.
        let mut scores = [0.4f32.ln(), 0.3f32.ln(), 0.2f32.ln(), 0.1f32.ln()];
        let config = GenerationConfig { top_k: 2, top_p: 0.5, ..GenerationConfig::default() };
        warp(&mut scores, &config);
        assert_eq!(kept(&scores), [0]);
        // At temperature 2 the first's part is 0.536, the second's 0.464: both are needed for 0.54.
        let mut scores = [0.4f32.ln(), 0.3f32.ln(), 0.2f32.ln(), 0.1f32.ln()];
        warp(&mut scores, &GenerationConfig { temperature: 2.0, top_p: 0.54, ..config });
        assert_eq!(kept(&scores), [0, 1]);
    }

    #[test]
    fn the_first_of_equals_is_the_likeliest() {
        assert_eq!(argmax(&[0.0, 2.0, 2.0]), Some(1));
        assert_eq!(argmax(&[NEVER, NEVER]), None);
    }

    #[test]
    fn huge_logits_still_have_probabilities() {
        let mut scores = [1e30, 0.0, NEVER];
        assert_eq!(softmax(&scores), [1.0, 0.0, 0.0]);
        log_softmax(&mut scores);
        assert_eq!(scores, [0.0, -1e30, NEVER]);
    }

    fn scores() -> impl Strategy<Value = Vec<f32>> {
        prop::collection::vec(-8.0..8.0f32, 1..40)
    }

    proptest! {
        #[test]
        fn top_p_keeps_the_smallest_set_that_reaches_the_mass(scores in scores(), mass in 0.01..0.99f64) {
            let probabilities = softmax(&scores);
            let mut left = scores.clone();
            keep_top_p(&mut left, mass);
            let kept: Vec<f64> = kept(&left).into_iter().map(|token| probabilities[token]).collect();
            let (sum, least) = (kept.iter().sum::<f64>(), kept.iter().copied().fold(1.0, f64::min));
            prop_assert!(sum >= mass - 1e-9);
            prop_assert!(sum - least < mass + 1e-9);
            let dropped = (0..scores.len()).filter(|&token| left[token] == NEVER);
            prop_assert!(dropped.into_iter().all(|token| probabilities[token] <= least));
        }

        #[test]
        fn top_k_keeps_the_largest_of_a_sorted_list(scores in scores(), count in 1..50usize) {
            let mut sorted = scores.clone();
            sorted.sort_by(|one, other| other.total_cmp(one));
            let border = sorted[count.min(sorted.len()) - 1];
            let mut left = scores.clone();
            keep_top_k(&mut left, count);
            let expected: Vec<usize> = (0..scores.len()).filter(|&token| scores[token] >= border).collect();
            prop_assert_eq!(kept(&left), expected);
        }

        #[test]
        fn probabilities_and_log_probabilities_agree_and_sum_to_one(scores in scores()) {
            let probabilities = softmax(&scores);
            prop_assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            let mut logs = scores.clone();
            log_softmax(&mut logs);
            for (log, probability) in logs.iter().zip(probabilities) {
                prop_assert!((f64::from(*log) - probability.ln()).abs() < 1e-5);
            }
        }
    }
}
