//! What became of the losses after the step that is kept.

use crate::history::{History, HistoryPoint};

/// A validation loss that has risen by so many nats, and by such a share, has risen by a lot.
const NATS: f32 = 0.2;
const SHARE: f32 = 0.2;
/// One that has risen by less than this share has hardly risen.
const HARDLY: f32 = 0.01;

/// The losses of the evaluation that is kept, and of the last one.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Losses {
    step: usize,
    validation: f32,
    /// Mean since the evaluation before.
    training: f32,
}

/// The warning of a run whose validation loss rose by a lot after the step that is kept; `kept` names what that is.
pub fn warning(history: &History, kept: &str) -> Option<String> {
    let (best, last) = kept_and_last(history)?;
    let step = best.step;
    let (from, to) = shown(best.validation, last.validation);
    has_risen_a_lot(best.validation, last.validation).then(|| {
        format!("the validation loss rose from {from} to {to} after step {step}; the {kept} of step {step} is kept")
    })
}

/// One sentence that says whether a run overfitted.
pub fn sentence(history: &History) -> String {
    let Some((best, last)) = kept_and_last(history) else {
        return "Whether it overfits cannot be said: it was not evaluated.".to_owned();
    };
    if last.step <= best.step {
        return format!(
            "No overfitting was seen: the last evaluation, after step {}, is the one that is kept.",
            best.step
        );
    }
    let validation = change(best.validation, last.validation);
    let training = change(best.training, last.training);
    let kept = best.step;
    let moved = format!(
        "after step {kept}, which is kept, the validation loss {validation} until step {}",
        last.step
    );
    match (last.validation > best.validation, last.training < best.training) {
        (false, _) => format!("No overfitting was seen: {moved}."),
        (true, true) => {
            let how = match (last.validation - best.validation) / best.validation {
                _ if has_risen_a_lot(best.validation, last.validation) => "It overfits",
                share if share < HARDLY => "It hardly overfits",
                _ => "It overfits a little",
            };
            format!("{how}: {moved}, while the training loss {training}.")
        }
        (true, false) => {
            format!("It got worse without overfitting: {moved}, and the training loss {training}.")
        }
    }
}

fn has_risen_a_lot(from: f32, to: f32) -> bool {
    to - from > NATS.max(SHARE * from)
}

fn change(from: f32, to: f32) -> String {
    let (shown_from, shown_to) = shown(from, to);
    if from == to {
        return format!("stayed at {shown_to}");
    }
    let verb = if to > from { "rose" } else { "fell" };
    let (by, _) = shown((to - from).abs(), 0.0);
    format!("{verb} by {by} nats, from {shown_from} to {shown_to}")
}

/// Two numbers with as many digits as they need to differ.
fn shown(a: f32, b: f32) -> (String, String) {
    let digits = if (a - b).abs() >= 0.05 { 2 } else { 4 };
    (format!("{a:.digits$}"), format!("{b:.digits$}"))
}

/// The evaluation that is kept and the last one, which may be the same.
fn kept_and_last(history: &History) -> Option<(Losses, Losses)> {
    let is_evaluated = |point: &HistoryPoint| point.validation.is_some();
    let last = history.points.iter().rposition(is_evaluated)?;
    let kept =
        history.points.iter().position(|point| point.step == history.kept_step && is_evaluated(point))?;
    Some((losses(&history.points, kept)?, losses(&history.points, last)?))
}

/// The losses of the evaluation at `place`.
fn losses(points: &[HistoryPoint], place: usize) -> Option<Losses> {
    let before = points[..place].iter().rposition(|point| point.validation.is_some());
    let since = &points[before.map_or(0, |before| before + 1)..=place];
    let losses: Vec<f32> =
        since.iter().filter(|point| !point.is_skipped()).map(|point| point.train_loss).collect();
    let training = losses.iter().sum::<f32>() / losses.len() as f32;
    Some(Losses { step: points[place].step, validation: points[place].validation?.loss, training })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::baseline::Baseline;
    use crate::progress::{Scores, Target};

    /// A run of ten steps for each evaluation, of which the one after `kept_step` is kept.
    fn run(kept_step: usize, training: &[f32], validation: &[f32]) -> History {
        let point = |step: usize| HistoryPoint {
            step,
            train_loss: training[(step - 1) / 10],
            learning_rate: 1e-3,
            validation: step.is_multiple_of(10).then(|| Scores {
                target: Target::Token,
                loss: validation[step / 10 - 1],
                accuracy: 0.5,
                answers: 100,
            }),
        };
        let points = (1..=10 * validation.len()).map(point).collect();
        let baseline = Baseline::MostFrequentClass { accuracy: 0.5 };
        History { name: "nola".to_owned(), points, kept_step, baseline }
    }

    #[test]
    fn a_loss_that_rises_while_training_falls_is_overfitting() {
        let history = run(20, &[2.0, 0.5, 0.2, 0.02], &[1.5, 0.8, 1.4, 3.93]);
        assert_eq!(
            sentence(&history),
            "It overfits: after step 20, which is kept, the validation loss rose by 3.13 nats, from 0.80 to 3.93 until \
             step 40, while the training loss fell by 0.48 nats, from 0.50 to 0.02."
        );
        assert_eq!(
            warning(&history, "adapter").expect("it rose by a lot"),
            "the validation loss rose from 0.80 to 3.93 after step 20; the adapter of step 20 is kept"
        );
    }

    #[test]
    fn a_small_rise_is_said_in_the_report_alone() {
        let history = run(20, &[2.0, 0.5, 0.2], &[1.5, 0.8, 0.804]);
        let text = sentence(&history);
        assert!(text.starts_with("It hardly overfits: "), "{text}");
        assert!(text.contains("rose by 0.0040 nats, from 0.8000 to 0.8040"), "{text}");
        assert_eq!(warning(&history, "adapter"), None);
        let history = run(20, &[2.0, 0.5, 0.2], &[1.5, 0.8, 0.9]);
        assert!(sentence(&history).starts_with("It overfits a little: "), "{}", sentence(&history));
        assert_eq!(warning(&history, "adapter"), None);
    }

    #[test]
    fn a_loss_that_falls_or_ends_at_its_best_is_none() {
        let last = sentence(&run(20, &[2.0, 0.5], &[1.5, 0.8]));
        assert!(last.contains("the last evaluation, after step 20, is the one that is kept"), "{last}");
        let fell = sentence(&run(10, &[2.0, 0.5], &[1.5, 0.8]));
        assert!(
            fell.starts_with("No overfitting was seen: ") && fell.contains("fell by 0.70 nats"),
            "{fell}"
        );
    }

    #[test]
    fn a_run_whose_training_loss_rises_too_does_not_overfit() {
        let history = run(10, &[0.5, 2.0], &[0.8, 3.0]);
        let text = sentence(&history);
        assert!(text.starts_with("It got worse without overfitting: "), "{text}");
        assert!(text.ends_with("and the training loss rose by 1.50 nats, from 0.50 to 2.00."), "{text}");
        assert!(
            warning(&history, "model").is_some_and(|text| text.ends_with("the model of step 10 is kept"))
        );
    }

    #[test]
    fn a_rise_by_a_lot_is_one_in_nats_and_in_share() {
        for (from, to, is_a_lot) in
            [(0.8, 3.93, true), (0.02, 0.2, false), (0.02, 0.3, true), (3.0, 3.5, false), (3.0, 3.7, true)]
        {
            assert_eq!(has_risen_a_lot(from, to), is_a_lot, "{from} {to}");
        }
    }

    #[test]
    fn a_run_that_was_not_evaluated_says_so() {
        assert!(sentence(&run(0, &[], &[])).contains("cannot be said"));
    }
}
