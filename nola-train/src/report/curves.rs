//! Loss and accuracy over the steps, as one SVG that reads on light and on dark pages.

use plotters::coord::Shift;
use plotters::prelude::*;

use super::{History, HistoryPoint};

/// Text and axes: legible on white and on black.
pub(super) const INK: RGBColor = RGBColor(0x80, 0x88, 0x94);

/// Colours of the runs, in turn.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0x3b, 0x82, 0xf6),
    RGBColor(0xf9, 0x73, 0x16),
    RGBColor(0x10, 0xb9, 0x81),
    RGBColor(0xa8, 0x55, 0xf7),
    RGBColor(0xef, 0x44, 0x44),
    RGBColor(0x64, 0x74, 0x8b),
];

/// Pixels.
const SIZE: (u32, u32) = (1000, 340);

/// Points of a curve; longer ones are averaged down to it.
const POINTS: usize = 400;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;
type Line = Vec<(f64, f64)>;

/// Draws training and validation loss on the left, the share of right validation answers on the right.
pub(super) fn draw(histories: &[History]) -> String {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let (left, right) = root.split_horizontally(SIZE.0 / 2);
        let losses = Panel {
            title: "loss (nats); dots: validation",
            lines: lines(histories, |point| Some(point.train_loss.into())),
            dots: lines(histories, |point| point.validation.map(|scores| scores.loss.into())),
        };
        let accuracies = lines(histories, |point| point.validation.map(|scores| 100.0 * scores.accuracy));
        let accuracies =
            Panel { title: "right answers in validation (%)", lines: accuracies.clone(), dots: accuracies };
        let drawn = losses.draw(&left, histories).and_then(|()| accuracies.draw(&right, histories));
        drawn.and_then(|()| root.present()).expect("drawing into memory does not fail");
    }
    svg
}

/// One curve for each history.
fn lines(histories: &[History], value: impl Fn(&HistoryPoint) -> Option<f64>) -> Vec<Line> {
    let line = |history: &History| {
        let points = history.points.iter().filter_map(|point| Some((point.step as f64, value(point)?)));
        thinned(points.filter(|(_, value)| value.is_finite()).collect())
    };
    histories.iter().map(line).collect()
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

struct Panel {
    title: &'static str,
    lines: Vec<Line>,
    dots: Vec<Line>,
}

impl Panel {
    fn draw<'a>(&self, area: &Area<'a>, histories: &[History]) -> Drawn<'a> {
        let all = || self.lines.iter().chain(&self.dots).flatten();
        let last_step = all().map(|point| point.0).fold(1.0, f64::max);
        let highest = all().map(|point| point.1).fold(1e-6, f64::max);
        let mut chart = ChartBuilder::on(area)
            .caption(self.title, ("sans-serif", 15, &INK))
            .margin(12)
            .x_label_area_size(34)
            .y_label_area_size(44)
            .build_cartesian_2d(0.0..last_step, 0.0..1.05 * highest)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(INK.mix(0.2))
            .axis_style(INK.mix(0.6))
            .label_style(("sans-serif", 12, &INK))
            .x_desc("optimizer steps")
            .x_label_formatter(&|step| format!("{step:.0}"))
            .draw()?;
        for (index, history) in histories.iter().enumerate() {
            let colour = COLOURS[index % COLOURS.len()];
            chart
                .draw_series(LineSeries::new(self.lines[index].iter().copied(), colour.stroke_width(2)))?
                .label(&history.name)
                .legend(move |(x, y)| Rectangle::new([(x, y - 4), (x + 14, y + 4)], colour.filled()));
            chart
                .draw_series(self.dots[index].iter().map(|&point| Circle::new(point, 3, colour.filled())))?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::MiddleRight)
            .label_font(("sans-serif", 13, &INK))
            .draw()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_curve_is_averaged() {
        let line: Line = (0..4000).map(|step| (f64::from(step), 1.0)).collect();
        let thin = thinned(line);
        assert_eq!(thin.len(), POINTS);
        assert_eq!(thin[0], (4.5, 1.0));
    }
}
