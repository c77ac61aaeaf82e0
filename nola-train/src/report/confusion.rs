//! The confusion matrix as SVG: rows are the true classes, columns what the model said. What it looks like is in
//! `confusion.svg`.
//!
//! A cell's shade and its percentage are of the images of its row. Short names of classes stand at the rows and columns; longer
//! ones have numbers there, and a key.

use console::measure_text_width;
use minijinja::Value;
use minijinja::value::Serde;
use serde::Serialize;

use super::chart::{CHARACTER, WIDTH, rendered};
use super::colour::Colour;
use crate::printable::name;

/// The shades of a cell: next to nothing of its row, and all of it.
const LEAST: Colour = Colour(0xdb, 0xea, 0xfe);
const MOST: Colour = Colour(0x1e, 0x3a, 0x8a);

/// Classes beyond which cells are too small to see.
const DRAWN: usize = 200;

/// Pixels of the widest matrix that a page shows at once; one of more classes has smaller cells.
const WIDEST: f64 = 960.0;
/// Pixels of a cell that holds a count above its percentage, of one that holds a percentage alone, and of the smallest.
const WITH_COUNT: f64 = 28.0;
const WITH_PERCENT: f64 = 22.0;
const SMALLEST: f64 = 5.0;
/// Pixels between the labels of two rows.
const LABEL: f64 = 14.0;
/// Pixels of a line of text.
const LINE: f64 = 17.0;

/// Characters of a name that stands at its row.
const SHORT_NAME: usize = 12;

/// Where the names of numbered classes are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    /// Below the matrix.
    Below,
    /// In the table of classes beside the matrix.
    Beside,
}

/// What the template is filled with.
#[derive(Serialize)]
struct Drawing {
    title: &'static str,
    description: String,
    caption: Vec<String>,
    width: f64,
    height: f64,
    left: f64,
    top: f64,
    side: f64,
    /// Whether a phone has to scroll to see all of it.
    scrolls: bool,
    cells: Vec<Cell>,
    rows: Vec<Label>,
    columns: Vec<Label>,
    turned: bool,
    key: Vec<KeyLine>,
}

#[derive(Serialize)]
struct Cell {
    x: f64,
    y: f64,
    side: f64,
    fill: String,
    ink: String,
    lines: Vec<CellLine>,
    meaning: String,
}

#[derive(Serialize)]
struct CellLine {
    y: f64,
    text: String,
}

#[derive(Serialize)]
struct Label {
    at: f64,
    text: String,
}

#[derive(Serialize)]
struct KeyLine {
    x: f64,
    y: f64,
    text: String,
}

/// Whether classes of these names are numbered.
pub(super) fn is_numbered(classes: &[String]) -> bool {
    classes.iter().any(|class| measure_text_width(&name(class)) > SHORT_NAME)
}

/// Draws the matrix, unless it has no classes or too many.
pub(super) fn draw(classes: &[String], confusion: &[Vec<u32>], key: Key) -> Option<String> {
    if classes.is_empty() || classes.len() > DRAWN {
        return None;
    }
    let layout = Layout::of(classes);
    let caption = layout.caption(key);
    let top = layout.top + LINE * caption.len() as f64;
    let cells = cells(classes, confusion, &layout, top);
    let bottom = top + layout.side() + 6.0;
    let key = if is_numbered(classes) && key == Key::Below {
        key_lines(classes, layout.width(), bottom)
    } else {
        Vec::new()
    };
    let drawing = Drawing {
        title: "Confusion matrix (%)",
        description: description(classes, confusion),
        caption,
        width: layout.width(),
        height: key.last().map_or(bottom, |line| line.y + 8.0),
        left: layout.left,
        top,
        side: layout.side(),
        scrolls: layout.width() > WIDTH,
        cells,
        rows: layout.labels(top),
        columns: layout.labels(layout.left),
        turned: layout.turned,
        key,
    };
    Some(rendered("confusion.svg", Value::from(Serde(drawing))))
}

/// Where everything lies, in pixels.
struct Layout {
    /// What stands at rows and columns.
    names: Vec<String>,
    is_numbered: bool,
    cell: f64,
    left: f64,
    /// Above the matrix, without the caption.
    top: f64,
    /// Whether the labels of columns read upwards.
    turned: bool,
}

impl Layout {
    fn of(classes: &[String]) -> Self {
        let count = classes.len() as f64;
        let is_numbered = is_numbered(classes);
        let name = |(index, class): (usize, &String)| {
            if is_numbered { (index + 1).to_string() } else { name(class).into_owned() }
        };
        let names: Vec<String> = classes.iter().enumerate().map(name).collect();
        let widest = names.iter().map(|name| measure_text_width(name)).max().unwrap_or(0);
        let label = CHARACTER * widest as f64;
        let left = label + 10.0;
        let fitting = (WIDTH - left - 2.0) / count;
        let cell = if fitting >= WITH_PERCENT {
            fitting.min(110.0)
        } else {
            (WIDEST / count).clamp(SMALLEST, WITH_PERCENT)
        };
        let cell = cell.floor();
        let turned = label > cell - 2.0;
        let top = 20.0 + if turned { label + 8.0 } else { LINE + 2.0 };
        Self { names, is_numbered, cell, left, top, turned }
    }

    fn side(&self) -> f64 {
        self.cell * self.names.len() as f64
    }

    fn width(&self) -> f64 {
        // The label of the last column may be wider than its cell.
        let beyond = if self.cell < WITH_PERCENT { 12.0 } else { 1.0 };
        (self.left + self.side() + beyond).max(WIDTH)
    }

    /// The labels of rows or columns that begin here: all, or as many as do not overlap.
    fn labels(&self, start: f64) -> Vec<Label> {
        let apart = (LABEL / self.cell).ceil().max(1.0) as usize;
        // Rounded up to what is easy to count in.
        let apart = [1, 2, 5, 10].into_iter().find(|&round| round >= apart).unwrap_or(apart);
        let at = |index: usize| start + self.cell * (index as f64 + 0.5);
        let is_shown = |index: usize| apart == 1 || (index + 1).is_multiple_of(apart) || index == 0;
        let names = self.names.iter().enumerate().filter(|(index, _)| is_shown(*index));
        names.map(|(index, text)| Label { at: at(index), text: text.clone() }).collect()
    }

    fn caption(&self, key: Key) -> Vec<String> {
        let cells = match self.cell {
            cell if cell >= WITH_COUNT => "In a cell: images, and their percentage of the row.",
            cell if cell >= WITH_PERCENT => "In a cell: the percentage of its row.",
            _ => "The darker a cell, the larger its part of the row.",
        };
        let numbers = match key {
            Key::Below => "Numbers are classes; their names are below.",
            Key::Beside => "Numbers are classes, as in the table.",
        };
        let axes = "Row: what it is. Column: what it was taken for.";
        let lines = [Some(axes), Some(cells), self.is_numbered.then_some(numbers)];
        lines.into_iter().flatten().map(str::to_owned).collect()
    }
}

fn cells(classes: &[String], confusion: &[Vec<u32>], layout: &Layout, top: f64) -> Vec<Cell> {
    let mut cells = Vec::new();
    for (row, counts) in confusion.iter().enumerate() {
        let total: u32 = counts.iter().sum();
        for (column, &images) in counts.iter().enumerate().filter(|(_, images)| **images > 0) {
            let share = f64::from(images) / f64::from(total);
            let fill = shade(share);
            let (x, y) = (layout.left + layout.cell * column as f64, top + layout.cell * row as f64);
            let names = (name(&classes[row]), name(&classes[column]));
            cells.push(Cell {
                x,
                y,
                side: layout.cell,
                fill: fill.to_string(),
                ink: fill.ink().to_string(),
                lines: cell_lines(images, share, y, layout.cell),
                meaning: format!(
                    "{} taken for {}: {images} of {total}, {:.1} %",
                    names.0,
                    names.1,
                    100.0 * share
                ),
            });
        }
    }
    cells
}

/// The colour of a cell with such a share of its row.
fn shade(share: f64) -> Colour {
    LEAST.towards(MOST, share)
}

/// What is written in a cell: as much as it has room for.
fn cell_lines(images: u32, share: f64, y: f64, side: f64) -> Vec<CellLine> {
    let percent = format!("{:.0}", 100.0 * share);
    let middle = y + side / 2.0 + 4.0;
    if side >= WITH_COUNT {
        let (count, percent) = (images.to_string(), format!("{percent}%"));
        return vec![CellLine { y: middle - 6.5, text: count }, CellLine { y: middle + 6.5, text: percent }];
    }
    if side >= WITH_PERCENT { vec![CellLine { y: middle, text: percent }] } else { Vec::new() }
}

/// The key, in lines that are no wider than the matrix.
fn key_lines(classes: &[String], width: f64, bottom: f64) -> Vec<KeyLine> {
    let characters = (width / CHARACTER) as usize;
    let lines = classes
        .iter()
        .enumerate()
        .flat_map(|(number, class)| wrapped(&format!("{}  {}", number + 1, name(class)), characters));
    let place =
        |(number, text): (usize, String)| KeyLine { x: 0.0, y: bottom + LINE * (number + 1) as f64, text };
    lines.enumerate().map(place).collect()
}

/// A text in lines of at most so many columns.
fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for char in text.chars() {
        let line = lines.last_mut().expect("there is always one");
        if measure_text_width(line) + measure_text_width(char.encode_utf8(&mut [0; 4])) > columns {
            lines.push(format!("    {char}"));
        } else {
            line.push(char);
        }
    }
    lines
}

/// What a screen reader says of the matrix.
fn description(classes: &[String], confusion: &[Vec<u32>]) -> String {
    let right: u32 = confusion.iter().enumerate().map(|(class, counts)| counts[class]).sum();
    let images: u32 = confusion.iter().flatten().sum();
    let mut text = format!("{right} of {images} images are recognised. By class:");
    for (number, (class, counts)) in classes.iter().zip(confusion).enumerate() {
        let total: u32 = counts.iter().sum();
        text.push_str(&format!(" {}: {} of {total};", name(class), counts[number]));
    }
    text.pop();
    text.push('.');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes(count: usize, name: &str) -> Vec<String> {
        (1..=count).map(|class| format!("{name}{class}")).collect()
    }

    fn identity(count: usize) -> Vec<Vec<u32>> {
        (0..count).map(|row| (0..count).map(|column| u32::from(row == column)).collect()).collect()
    }

    fn drawn(count: usize, name: &str) -> String {
        draw(&classes(count, name), &identity(count), Key::Below).expect("few enough")
    }

    #[test]
    fn digits_are_seen_on_every_cell() {
        for share in 0..=1000 {
            let fill = shade(f64::from(share) / 1000.0);
            assert!(fill.contrast(fill.ink()) >= 4.5, "{fill}: {}", fill.contrast(fill.ink()));
        }
    }

    #[test]
    fn cells_tell_counts_and_percentages_of_their_rows() {
        let few =
            draw(&classes(3, "c"), &[vec![77, 1, 0], vec![0, 5, 0], vec![0, 0, 0]], Key::Below).expect("few");
        for part in
            [">77</text>", ">99%</text>", ">1</text>", ">1%</text>", "c1 taken for c2: 1 of 78, 1.3 %"]
        {
            assert!(few.contains(part), "{part}");
        }
        assert!(!few.contains("NaN"), "a class without images is an empty row");
    }

    #[test]
    fn short_names_are_whole_and_long_ones_have_a_number_and_a_key() {
        assert!(drawn(2, "cat ").contains(">cat 2</text>"));
        let long = "a rather long name of a class that does not fit ";
        let svg = drawn(40, long);
        assert!(svg.contains(">40</text>") && svg.contains("Numbers are classes"));
        let text = svg.split('>').map(|part| part.split('<').next().unwrap_or_default()).collect::<String>();
        assert!(text.contains(&format!("40  {long}40")), "the key has the whole name");
        let beside = draw(&classes(40, long), &identity(40), Key::Beside).expect("few enough");
        assert!(!beside.contains(&format!(">40  {long}")), "the table has the names");
    }

    #[test]
    fn forty_classes_have_readable_percentages() {
        let svg = drawn(40, "class ");
        assert_eq!(svg.matches(">100</text>").count(), 40);
        assert!(svg.contains("min-width"), "a phone scrolls instead of shrinking it");
    }

    #[test]
    fn many_classes_have_fewer_labels_and_no_digits() {
        let svg = drawn(200, "c");
        assert!(!svg.contains("class=\"cell\""));
        assert!(svg.contains(">c200</text>") && !svg.contains(">c199</text>"));
        assert_eq!(draw(&classes(1000, "c"), &identity(1000), Key::Below), None);
    }

    #[test]
    fn names_are_escaped_and_broken_between_characters() {
        assert!(drawn(2, "<b>").contains("&lt;b&gt;1"));
        assert_eq!(wrapped("ÄÖÜäöüß", 4), ["ÄÖÜä", "    ö", "    ü", "    ß"]);
    }

    #[test]
    fn a_screen_reader_hears_how_each_class_does() {
        let svg = draw(&classes(2, "c"), &[vec![3, 1], vec![0, 2]], Key::Below).expect("few");
        assert!(svg.contains("5 of 6 images are recognised. By class: c1: 3 of 4; c2: 2 of 2."), "{svg}");
        assert!(svg.contains("role=\"img\" aria-labelledby=\"confusion-title confusion-desc\""));
    }
}
