//! One chart of values over the optimizer steps, as SVG; what it looks like is in `chart.svg` and `chart.css`.
//!
//! It is as wide as a phone shows it, so that its labels are as large there as they are here.

use console::measure_text_width;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Value};
use serde::Serialize;

use super::colour::{Colour, OnBoth};

/// Size in pixels; more rows of the legend make it higher.
pub(super) const WIDTH: f64 = 340.0;
const PLOT_HEIGHT: f64 = 170.0;
const ROW_HEIGHT: f64 = 18.0;
/// Room for the title, and for the labels below the plot and on its right.
const HEAD: f64 = 22.0;
const FOOT: f64 = 38.0;
const RIGHT: f64 = WIDTH - 20.0;
/// Pixels of a character, and of the sign before an entry of the legend.
pub(super) const CHARACTER: f64 = 6.7;
const SIGN: f64 = 28.0;
/// Markers of a line at most.
const MARKERS: usize = 40;
/// Share of the range of the data that is left free above and below.
const FREE: f64 = 0.06;
/// A baseline so many times the range of the data away from it is written and not drawn, or the data would be a flat line.
const FAR: f64 = 1.0;

pub(super) const PAPER: OnBoth = OnBoth { light: Colour(0xff, 0xff, 0xff), dark: Colour(0x16, 0x1b, 0x22) };
pub(super) const INK: OnBoth = OnBoth { light: Colour(0x1b, 0x22, 0x30), dark: Colour(0xe6, 0xea, 0xf0) };
pub(super) const SOFT: OnBoth = OnBoth { light: Colour(0x5b, 0x65, 0x76), dark: Colour(0x9a, 0xa6, 0xb7) };
pub(super) const LINE: OnBoth = OnBoth { light: Colour(0xe3, 0xe6, 0xeb), dark: Colour(0x2a, 0x31, 0x3c) };

/// Colours of the series, in turn.
pub(super) const HUES: [OnBoth; 6] = [
    OnBoth { light: Colour(0x25, 0x63, 0xeb), dark: Colour(0x60, 0xa5, 0xfa) },
    OnBoth { light: Colour(0xc2, 0x41, 0x0c), dark: Colour(0xfb, 0x92, 0x3c) },
    OnBoth { light: Colour(0x04, 0x78, 0x57), dark: Colour(0x34, 0xd3, 0x99) },
    OnBoth { light: Colour(0x93, 0x33, 0xea), dark: Colour(0xc0, 0x84, 0xfc) },
    OnBoth { light: Colour(0xbe, 0x12, 0x3c), dark: Colour(0xfb, 0x71, 0x85) },
    OnBoth { light: Colour(0x47, 0x55, 0x69), dark: Colour(0x94, 0xa3, 0xb8) },
];

/// Dashes of the series, in turn: they are told apart without colours too.
const DASHES: [&str; 3] = ["", "6 3", "2 3"];

/// A line of values over the steps.
pub(super) type Line = Vec<(f64, f64)>;

/// A chart.
pub(super) struct Chart {
    /// Distinguishes it from the others of a page.
    pub id: &'static str,
    pub title: &'static str,
    /// What a screen reader says of it.
    pub description: String,
    pub series: Vec<Series>,
    pub baseline: Option<(String, f64)>,
    /// The step whose model is kept, where all series agree on it.
    pub kept_step: Option<usize>,
    /// What no value can be below or above.
    pub limits: [f64; 2],
}

/// A line of a chart.
pub(super) struct Series {
    pub label: String,
    pub line: Line,
    pub kind: Kind,
    /// Its number among the colours, dashes and shapes.
    pub number: usize,
    /// The point that is kept.
    pub kept: Option<(f64, f64)>,
}

/// What a line shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A value of every step.
    EveryStep,
    /// Evaluations, each with a marker.
    Evaluations,
}

/// What the template is filled with.
#[derive(Serialize)]
struct Drawing {
    id: &'static str,
    title: &'static str,
    description: String,
    x: f64,
    width: f64,
    height: f64,
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    legend: Vec<Entry>,
    x_ticks: Vec<Tick>,
    y_ticks: Vec<Tick>,
    series: Vec<DrawnSeries>,
    baseline: Option<f64>,
    kept_line: Option<f64>,
    rings: Vec<[f64; 2]>,
}

#[derive(Serialize)]
struct Entry {
    kind: &'static str,
    label: String,
    x: f64,
    y: f64,
    hue: usize,
    dashes: &'static str,
    marker: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Tick {
    at: f64,
    label: String,
}

#[derive(Serialize)]
struct DrawnSeries {
    hue: usize,
    dashes: &'static str,
    points: String,
    markers: Vec<String>,
}

impl Chart {
    /// Draws it, `x` pixels to the right of the others; returns the image and its height.
    pub(super) fn draw(&self, x: f64) -> (String, f64) {
        let scale = self.scale();
        let legend = self.legend(&scale);
        let rows = legend.last().map_or(0.0, |entry| (entry.y - HEAD) / ROW_HEIGHT).ceil();
        let top = HEAD + rows * ROW_HEIGHT + 10.0;
        let (bottom, labels) = (top + PLOT_HEIGHT, ticks(scale.y, 5));
        let widest = labels.iter().map(|(_, label)| measure_text_width(label)).max().unwrap_or(0);
        let place = Place { x: [10.0 + CHARACTER * widest as f64, RIGHT], y: [bottom, top], scale };
        let x_ticks = ticks(scale.x, 4).into_iter().filter(|(step, _)| step.fract() == 0.0);
        let drawing = Drawing {
            id: self.id,
            title: self.title,
            description: self.description.clone(),
            x,
            width: WIDTH,
            height: bottom + FOOT,
            left: place.x[0],
            right: RIGHT,
            top,
            bottom,
            legend,
            x_ticks: x_ticks.map(|(step, label)| Tick { at: place.along(step), label }).collect(),
            y_ticks: labels.into_iter().map(|(value, label)| Tick { at: place.up(value), label }).collect(),
            series: self.series.iter().map(|series| series.drawn(&place)).collect(),
            baseline: self
                .baseline
                .as_ref()
                .filter(|(_, value)| scale.holds(*value))
                .map(|(_, value)| place.up(*value)),
            kept_line: self.kept_step.map(|step| place.along(step as f64)),
            rings: self.series.iter().filter_map(|series| Some(place.of(series.kept?))).collect(),
        };
        let height = drawing.height;
        (rendered("chart.svg", Value::from(Serde(drawing))), height)
    }

    /// Which values are shown: those of the data, and a baseline that is not far from them.
    fn scale(&self) -> Scale {
        let points = || self.series.iter().flat_map(|series| &series.line);
        let (steps, values) = (points().map(|point| point.0), points().map(|point| point.1));
        let [low, high] = range(values).unwrap_or([0.0, 1.0]);
        let far = FAR * (high - low);
        let near = self.baseline.iter().map(|(_, value)| *value);
        let near = near.filter(|&value| value >= low - far && value <= high + far);
        let [low, high] = range(near.chain([low, high])).expect("there are two");
        let free = if high > low { FREE * (high - low) } else { 0.1 * high.abs().max(0.1) };
        let [least, most] = self.limits;
        Scale {
            x: widened(range(steps).unwrap_or([0.0, 1.0])),
            y: [(low - free).max(least), (high + free).min(most)],
        }
    }

    fn legend(&self, scale: &Scale) -> Vec<Entry> {
        let mut entries = Vec::new();
        for series in &self.series {
            let (hue, dashes) = (series.hue(), series.dashes());
            entries.push(("series", series.label.clone(), hue, dashes, series.kind));
        }
        if let Some((name, value)) = &self.baseline {
            let where_ = match value {
                _ if scale.holds(*value) => "",
                value if *value < scale.y[0] => ", below",
                _ => ", above",
            };
            entries.push(("baseline", format!("{name}{where_}"), 0, "", Kind::EveryStep));
        }
        match self.kept_step {
            Some(step) => entries.push(("kept", format!("kept: step {step}"), 0, "", Kind::EveryStep)),
            None if self.series.iter().any(|series| series.kept.is_some()) => {
                entries.push(("kept", "kept".to_owned(), 0, "", Kind::EveryStep));
            }
            None => {}
        }
        let (mut x, mut y) = (0.0, HEAD + ROW_HEIGHT - 4.0);
        let mut placed = Vec::new();
        for (number, (kind, label, hue, dashes, of)) in entries.into_iter().enumerate() {
            let width = SIGN + CHARACTER * measure_text_width(&label) as f64;
            if x > 0.0 && x + width > WIDTH {
                (x, y) = (0.0, y + ROW_HEIGHT);
            }
            let marker =
                (of == Kind::Evaluations).then(|| marker(self.series[number].number, [x + 11.0, y - 4.0]));
            placed.push(Entry { kind, label, x, y, hue, dashes, marker });
            x += width + 14.0;
        }
        placed
    }
}

impl Series {
    fn hue(&self) -> usize {
        self.number % HUES.len()
    }

    fn dashes(&self) -> &'static str {
        DASHES[self.number % DASHES.len()]
    }

    fn drawn(&self, place: &Place) -> DrawnSeries {
        let points: Vec<[f64; 2]> = self.line.iter().map(|&point| place.of(point)).collect();
        let markers = match self.kind {
            Kind::EveryStep => Vec::new(),
            Kind::Evaluations => {
                let apart = points.len().div_ceil(MARKERS).max(1);
                points.iter().step_by(apart).map(|&point| marker(self.number, point)).collect()
            }
        };
        let points: Vec<String> = points.iter().map(|[x, y]| format!("{x},{y}")).collect();
        DrawnSeries { hue: self.hue(), dashes: self.dashes(), points: points.join(" "), markers }
    }
}

/// The least and the largest value of both axes.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Scale {
    x: [f64; 2],
    y: [f64; 2],
}

impl Scale {
    fn holds(&self, value: f64) -> bool {
        (self.y[0]..=self.y[1]).contains(&value)
    }
}

/// Where a scale lies in the image: its ends, in pixels.
struct Place {
    x: [f64; 2],
    y: [f64; 2],
    scale: Scale,
}

impl Place {
    fn along(&self, step: f64) -> f64 {
        between(self.x, self.scale.x, step)
    }

    fn up(&self, value: f64) -> f64 {
        between(self.y, self.scale.y, value)
    }

    fn of(&self, point: (f64, f64)) -> [f64; 2] {
        [self.along(point.0), self.up(point.1)]
    }
}

/// Pixels of a value, to a tenth.
fn between(pixels: [f64; 2], scale: [f64; 2], value: f64) -> f64 {
    let share = (value - scale[0]) / (scale[1] - scale[0]);
    (10.0 * (pixels[0] + share * (pixels[1] - pixels[0]))).round() / 10.0
}

fn range(values: impl Iterator<Item = f64>) -> Option<[f64; 2]> {
    let wider = |range: Option<[f64; 2]>, value: f64| {
        let [low, high] = range.unwrap_or([value, value]);
        Some([low.min(value), high.max(value)])
    };
    values.fold(None, wider)
}

/// A range that is not empty.
fn widened([low, high]: [f64; 2]) -> [f64; 2] {
    if high > low { [low, high] } else { [low - 1.0, high + 1.0] }
}

/// About so many round values in a range, with their labels.
fn ticks([low, high]: [f64; 2], count: usize) -> Vec<(f64, String)> {
    let rough = (high - low) / count as f64;
    let power = 10f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].map(|times| times * power).into_iter().find(|&step| step >= rough * 0.999);
    let step = step.unwrap_or(10.0 * power);
    let digits = (-step.log10().floor()).max(0.0) as usize;
    let (first, last) = ((low / step).ceil() as i64, (high / step).floor() as i64);
    (first..=last)
        .map(|number| number as f64 * step)
        .map(|value| (value, format!("{value:.digits$}")))
        .collect()
}

/// The outline of a marker: circle, square, triangle or diamond.
fn marker(number: usize, [x, y]: [f64; 2]) -> String {
    let at = |dx: f64, dy: f64| format!("{:.1},{:.1}", x + dx, y + dy);
    match number % 4 {
        0 => format!("M{} a3.5,3.5 0 1,0 7,0 a3.5,3.5 0 1,0 -7,0 z", at(-3.5, 0.0)),
        1 => format!("M{} l4.5,4.5 l-4.5,4.5 l-4.5,-4.5 z", at(0.0, -4.5)),
        2 => format!("M{} h6.4 v6.4 h-6.4 z", at(-3.2, -3.2)),
        _ => format!("M{} l4.2,7.4 h-8.4 z", at(0.0, -4.6)),
    }
}

/// Fills a template of this folder; all that is filled in is escaped.
pub(super) fn rendered(name: &str, values: Value) -> String {
    let mut environment = Environment::new();
    let style = minijinja::context! { paper => shades(PAPER), ink => shades(INK), soft => shades(SOFT), line => shades(LINE), hues => HUES.map(shades).to_vec() };
    environment.set_auto_escape_callback(|name| {
        if name.ends_with(".css") { AutoEscape::None } else { AutoEscape::Html }
    });
    for (name, text) in [
        ("chart.css", include_str!("chart.css")),
        ("chart.svg", include_str!("chart.svg")),
        ("confusion.svg", include_str!("confusion.svg")),
        ("page.html", include_str!("page.html")),
    ] {
        environment.add_template(name, text).expect("the template is part of the program");
    }
    environment.add_filter("unbroken", |text: &str| crate::amounts::unbroken(text));
    let template = environment.get_template(name).expect("it was just added");
    template
        .render(minijinja::context! { ..style, ..values })
        .expect("the template uses only what it is given")
}

fn shades(colour: OnBoth) -> Value {
    minijinja::context! { light => colour.light.to_string(), dark => colour.dark.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(lines: &[&[(f64, f64)]], baseline: Option<(String, f64)>) -> Chart {
        let series = lines.iter().enumerate().map(|(number, line)| Series {
            label: format!("run {number}"),
            line: line.to_vec(),
            kind: Kind::Evaluations,
            number,
            kept: line.first().copied(),
        });
        Chart {
            id: "loss",
            title: "Loss (nats)",
            description: "It falls.".to_owned(),
            series: series.collect(),
            baseline,
            kept_step: Some(20),
            limits: [0.0, f64::INFINITY],
        }
    }

    #[test]
    fn an_axis_starts_where_the_data_is() {
        let scale = chart(&[&[(50.0, 60.0), (200.0, 70.0)]], None).scale();
        assert_eq!((scale.x, scale.y), ([50.0, 200.0], [59.4, 70.6]));
        let small = chart(&[&[(1.0, 0.01), (9.0, 1.01)]], None).scale();
        assert_eq!(small.y[0], 0.0, "no loss is below 0");
    }

    #[test]
    fn a_single_point_and_no_point_have_a_range_too() {
        for lines in [&[&[(40.0, 0.0)][..]][..], &[&[][..]], &[]] {
            let scale = chart(lines, None).scale();
            assert!(scale.x[0] < scale.x[1] && scale.y[0] < scale.y[1], "{scale:?}");
            assert!(!chart(lines, None).draw(0.0).0.contains("NaN"));
        }
    }

    #[test]
    fn a_baseline_near_the_data_is_drawn_and_one_far_away_is_written() {
        let line: &[(f64, f64)] = &[(50.0, 60.0), (200.0, 70.0)];
        let at = |value: f64| chart(&[line], Some((format!("before {value}"), value)));
        assert_eq!(at(55.0).scale().y[0], 54.1);
        assert_eq!(at(10.0).scale().y[0], 59.4);
        assert!(at(10.0).draw(0.0).0.contains("before 10, below<"));
        assert!(at(55.0).draw(0.0).0.contains("before 55<"));
    }

    #[test]
    fn ticks_are_round_and_inside_the_range() {
        let labels =
            |range, count| -> Vec<String> { ticks(range, count).into_iter().map(|tick| tick.1).collect() };
        assert_eq!(labels([59.4, 70.6], 5), ["60", "65", "70"]);
        assert_eq!(labels([0.0, 0.031], 5), ["0.00", "0.01", "0.02", "0.03"]);
        assert_eq!(labels([1.0, 2000.0], 4), ["500", "1000", "1500", "2000"]);
    }

    #[test]
    fn series_differ_in_colour_dashes_or_shape() {
        let looks: std::collections::BTreeSet<String> = (0..12)
            .map(|number| format!("{} {} {}", number % 6, DASHES[number % 3], marker(number, [0.0; 2])))
            .collect();
        assert_eq!(looks.len(), 12);
    }

    #[test]
    fn all_that_is_drawn_is_seen_on_light_and_dark_pages() {
        for (shade, least) in [(INK, 4.5), (SOFT, 4.5)].into_iter().chain(HUES.map(|hue| (hue, 3.0))) {
            assert!(shade.light.contrast(PAPER.light) >= least, "{}", shade.light);
            assert!(shade.dark.contrast(PAPER.dark) >= least, "{}", shade.dark);
        }
    }

    #[test]
    fn a_screen_reader_hears_what_is_drawn() {
        let (svg, _) = chart(&[&[(1.0, 2.0), (2.0, 1.0)]], None).draw(0.0);
        for part in [
            "role=\"img\" aria-labelledby=\"loss-title loss-desc\"",
            "<title id=\"loss-title\">Loss (nats)</title>",
            "<desc id=\"loss-desc\">It falls.</desc>",
        ] {
            assert!(svg.contains(part), "{part} in {svg}");
        }
    }

    #[test]
    fn names_are_escaped() {
        let mut chart = chart(&[&[(1.0, 2.0)]], None);
        chart.series[0].label = "<b>&".to_owned();
        assert!(chart.draw(0.0).0.contains("&lt;b&gt;&amp;"));
    }
}
