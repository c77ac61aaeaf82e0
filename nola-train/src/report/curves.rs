//! Loss and accuracy over the steps.

use super::chart::{Chart, Kind, Line, Series, WIDTH};
use crate::history::{History, HistoryPoint};
use crate::progress::Target;

/// Points of a curve; longer ones are averaged down to it.
const POINTS: usize = 400;

/// Pixels between two charts of one image.
const GAP: f64 = 30.0;

/// The charts of the runs, each an image of its own, and an image of all of them.
pub(super) struct Curves {
    pub charts: Vec<String>,
    pub all: String,
}

/// Draws the losses and the share of right validation answers.
///
/// The losses of one run are in one chart; of several runs, training and validation have a chart each.
pub(super) fn draw(histories: &[History]) -> Curves {
    let charts = match histories {
        [one] => vec![losses_of(one), accuracy(histories)],
        _ => vec![training(histories), validation(histories), accuracy(histories)],
    };
    let drawn: Vec<(String, f64)> =
        charts.iter().zip(0..).map(|(chart, number)| chart.draw(f64::from(number) * (WIDTH + GAP))).collect();
    let width = drawn.len() as f64 * (WIDTH + GAP) - GAP;
    let height = drawn.iter().map(|(_, height)| *height).fold(0.0, f64::max);
    let charts: Vec<String> = drawn.into_iter().map(|(svg, _)| svg).collect();
    let parts = charts.concat();
    let all = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         role=\"group\" aria-label=\"Training\">\n{parts}</svg>\n"
    );
    Curves { charts, all }
}

fn losses_of(run: &History) -> Chart {
    let runs = std::slice::from_ref(run);
    let mut series = series(runs, Kind::EveryStep, train_loss);
    series.extend(self::series(runs, Kind::Evaluations, validation_loss));
    for (number, (series, label)) in series.iter_mut().zip(["training", "validation"]).enumerate() {
        (series.number, series.label) = (number, label.to_owned());
    }
    with_baseline_loss(chart("loss", "Loss (nats)", series, runs), runs)
}

fn training(runs: &[History]) -> Chart {
    chart("training", "Training loss (nats)", series(runs, Kind::EveryStep, train_loss), runs)
}

fn validation(runs: &[History]) -> Chart {
    let series = series(runs, Kind::Evaluations, validation_loss);
    with_baseline_loss(chart("validation", "Validation loss (nats)", series, runs), runs)
}

fn accuracy(runs: &[History]) -> Chart {
    let percent = |point: &HistoryPoint| point.validation.map(|scores| 100.0 * scores.accuracy);
    let mut series = series(runs, Kind::Evaluations, percent);
    if let [one] = &mut series[..] {
        // As in the chart of the losses.
        (one.number, one.label) = (1, "validation".to_owned());
    }
    let scores = runs.iter().flat_map(|run| &run.points).find_map(|point| point.validation);
    let title = match scores.map(|scores| scores.target) {
        Some(Target::Token) => "Token accuracy (%)",
        Some(Target::Image) | None => "Accuracy (%)",
    };
    let mut chart = chart("accuracy", title, series, runs);
    chart.limits[1] = 100.0;
    chart.baseline = runs.first().map(|run| {
        let value = 100.0 * run.baseline.accuracy();
        (format!("{} {value:.1} %", run.baseline.name()), value)
    });
    chart.described()
}

fn with_baseline_loss(mut chart: Chart, runs: &[History]) -> Chart {
    chart.baseline = runs.first().and_then(|run| {
        let value = f64::from(run.baseline.scores()?.loss);
        Some((format!("{} {value:.2}", run.baseline.name()), value))
    });
    chart.described()
}

fn train_loss(point: &HistoryPoint) -> Option<f64> {
    Some(point.train_loss.into())
}

fn validation_loss(point: &HistoryPoint) -> Option<f64> {
    point.validation.map(|scores| scores.loss.into())
}

fn chart(id: &'static str, title: &'static str, series: Vec<Series>, runs: &[History]) -> Chart {
    let kept_step = match runs {
        [one] => Some(one.kept_step),
        _ => None,
    };
    let (description, limits) = (String::new(), [0.0, f64::INFINITY]);
    Chart { id, title, description, series, baseline: None, kept_step, limits }.described()
}

/// One series for each run; evaluations begin with what was measured before the first step.
fn series(runs: &[History], kind: Kind, value: impl Fn(&HistoryPoint) -> Option<f64>) -> Vec<Series> {
    let one = |(number, run): (usize, &History)| {
        let before = run.baseline.scores().filter(|_| kind == Kind::Evaluations).map(|&scores| {
            HistoryPoint { step: 0, train_loss: f32::NAN, learning_rate: 0.0, validation: Some(scores) }
        });
        let points = before.iter().chain(&run.points);
        let points = points.filter_map(|point| Some((point.step as f64, value(point)?)));
        let line: Line = points.filter(|(_, value)| value.is_finite()).collect();
        let kept = line.iter().find(|(step, _)| *step == run.kept_step as f64).copied();
        let kept = kept.filter(|_| kind == Kind::Evaluations);
        Series { label: run.name.clone(), line: thinned(line), kind, number, kept }
    };
    runs.iter().enumerate().map(one).collect()
}

/// Averages neighbours until at most [`POINTS`] are left.
fn thinned(line: Line) -> Line {
    let group = line.len().div_ceil(POINTS).max(1);
    let mean = |points: &[(f64, f64)]| {
        let count = points.len() as f64;
        let sum = points.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
        (sum.0 / count, sum.1 / count)
    };
    line.chunks(group).map(mean).collect()
}

impl Chart {
    /// With a description of its series.
    fn described(mut self) -> Self {
        let mut sentences: Vec<String> = self.series.iter().filter_map(Series::sentence).collect();
        sentences.extend(self.baseline.iter().map(|(name, _)| format!("Baseline: {name}.")));
        self.description = sentences.join(" ");
        self
    }
}

impl Series {
    fn sentence(&self) -> Option<String> {
        let (first, last) = (self.line.first()?, self.line.last()?);
        let step = |step: f64| format!("step {step:.0}");
        let kept = self
            .kept
            .map_or(String::new(), |kept| format!("; {:.3} at {}, which is kept", kept.1, step(kept.0)));
        let (from, to) = (step(first.0), step(last.0));
        Some(format!("{}: {:.3} at {from}, {:.3} at {to}{kept}.", self.label, first.1, last.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::baseline::Baseline;
    use crate::progress::Scores;

    fn run(name: &str, baseline: Baseline) -> History {
        let point = |step: usize| HistoryPoint {
            step,
            train_loss: 2.0 / step as f32,
            learning_rate: 1e-3,
            validation: step.is_multiple_of(10).then(|| scores(1.0 + step as f32 / 100.0)),
        };
        History { name: name.to_owned(), points: (1..=40).map(point).collect(), kept_step: 10, baseline }
    }

    fn scores(loss: f32) -> Scores {
        Scores { target: Target::Token, loss, accuracy: 0.5, answers: 100 }
    }

    #[test]
    fn validation_has_another_colour_and_markers() {
        let chart = losses_of(&run("nola", Baseline::BeforeTraining(scores(3.0))));
        let [training, validation] = &chart.series[..] else { panic!("two series") };
        assert_eq!((training.kind, validation.kind), (Kind::EveryStep, Kind::Evaluations));
        assert_ne!(training.number, validation.number);
        assert_eq!(validation.line[0], (0.0, 3.0), "it begins before the first step");
        assert_eq!(validation.kept, Some((10.0, f64::from(1.1f32))));
        assert_eq!(chart.baseline, Some(("before training 3.00".to_owned(), 3.0)));
    }

    #[test]
    fn the_curves_of_several_runs_are_apart_and_each_has_its_kept_step() {
        let baseline = Baseline::MostFrequentClass { accuracy: 0.1 };
        let runs = ["lora", "nola"].map(|name| run(name, baseline));
        let curves = draw(&runs);
        assert_eq!(curves.charts.len(), 3);
        assert!(curves.charts[1].matches("r=\"7\"").count() == 2, "two rings");
        assert!(curves.charts[2].contains("most frequent class 10.0 %"));
        assert_eq!(curves.all.matches("<svg").count(), 4);
    }

    #[test]
    fn a_screen_reader_hears_where_a_curve_goes() {
        let chart = losses_of(&run("nola", Baseline::BeforeTraining(scores(3.0))));
        assert_eq!(
            chart.description,
            "training: 2.000 at step 1, 0.050 at step 40. validation: 3.000 at step 0, 1.400 at step 40; 1.100 at step 10, \
             which is kept. Baseline: before training 3.00."
        );
    }

    #[test]
    fn a_long_curve_is_averaged() {
        let line: Line = (0..4000).map(|step| (f64::from(step), 1.0)).collect();
        let thin = thinned(line);
        assert_eq!(thin.len(), POINTS);
        assert_eq!(thin[0], (4.5, 1.0));
    }
}
