//! The confusion matrix as SVG: rows are the true classes, columns what the model said.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::curves::INK;

/// Filled in proportion to the share of the row.
const FILL: RGBColor = RGBColor(0x3b, 0x82, 0xf6);

/// Classes beyond which cells are too small to see.
const DRAWN: usize = 200;

/// Classes beyond which cells are too small for numbers.
const NUMBERED: usize = 20;

/// Classes beyond which names would overlap.
const NAMED: usize = 60;

/// Pixels of the names' margin, and of the matrix.
const MARGIN: i32 = 120;
const SIDE: i32 = 560;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

/// Draws the matrix, unless it has no classes or too many.
pub(super) fn draw(classes: &[String], confusion: &[Vec<u32>]) -> Option<String> {
    if classes.is_empty() || classes.len() > DRAWN {
        return None;
    }
    let mut svg = String::new();
    {
        let size = (MARGIN + SIDE + 10) as u32;
        let root = SVGBackend::with_string(&mut svg, (size, size)).into_drawing_area();
        let drawn = draw_cells(&root, confusion).and_then(|()| draw_names(&root, classes));
        drawn.and_then(|()| root.present()).expect("drawing into memory does not fail");
    }
    Some(svg)
}

/// Where a row or column starts, in pixels.
fn edge(index: usize, count: usize) -> i32 {
    MARGIN + (index as i32 * SIDE) / count as i32
}

fn draw_cells<'a>(root: &Area<'a>, confusion: &[Vec<u32>]) -> Drawn<'a> {
    let count = confusion.len();
    let frame = [(MARGIN, MARGIN), (MARGIN + SIDE, MARGIN + SIDE)];
    root.draw(&Rectangle::new(frame, INK.mix(0.5)))?;
    for (row, counts) in confusion.iter().enumerate() {
        let total: u32 = counts.iter().sum();
        for (column, &pictures) in counts.iter().enumerate().filter(|(_, pictures)| **pictures > 0) {
            let share = f64::from(pictures) / f64::from(total);
            let corners =
                [(edge(column, count), edge(row, count)), (edge(column + 1, count), edge(row + 1, count))];
            // A faint floor, so that a single mistake shows too.
            root.draw(&Rectangle::new(corners, FILL.mix(0.08 + 0.92 * share).filled()))?;
            if count <= NUMBERED {
                let ink = if share > 0.45 { WHITE } else { INK };
                let style =
                    ("sans-serif", 13).into_font().color(&ink).pos(Pos::new(HPos::Center, VPos::Center));
                let middle = ((corners[0].0 + corners[1].0) / 2, (corners[0].1 + corners[1].1) / 2);
                root.draw(&Text::new(pictures.to_string(), middle, style))?;
            }
        }
    }
    Ok(())
}

fn draw_names<'a>(root: &Area<'a>, classes: &[String]) -> Drawn<'a> {
    let count = classes.len();
    let font = |size: i32| ("sans-serif", size).into_font().color(&INK);
    let centre = Pos::new(HPos::Center, VPos::Center);
    let middle = MARGIN + SIDE / 2;
    root.draw(&Text::new("predicted", (middle, 12), font(14).pos(centre)))?;
    let upwards = font(14).transform(FontTransform::Rotate270).pos(centre);
    root.draw(&Text::new("true", (12, middle), upwards))?;
    if count > NAMED {
        return Ok(());
    }
    let size = (SIDE / count as i32 - 1).clamp(6, 13);
    for (index, class) in classes.iter().enumerate() {
        let along = (edge(index, count) + edge(index + 1, count)) / 2;
        let name = shortened(class);
        let row = font(size).pos(Pos::new(HPos::Right, VPos::Center));
        root.draw(&Text::new(name.clone(), (MARGIN - 6, along), row))?;
        let column = font(size).transform(FontTransform::Rotate270).pos(Pos::new(HPos::Left, VPos::Center));
        root.draw(&Text::new(name, (along, MARGIN - 6), column))?;
    }
    Ok(())
}

/// A name that fits the margin.
fn shortened(class: &str) -> String {
    const CHARACTERS: usize = 14;
    if class.chars().count() <= CHARACTERS {
        return class.to_owned();
    }
    class.chars().take(CHARACTERS - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes(count: usize) -> Vec<String> {
        (0..count).map(|class| format!("class {class}")).collect()
    }

    fn identity(count: usize) -> Vec<Vec<u32>> {
        (0..count).map(|row| (0..count).map(|column| u32::from(row == column)).collect()).collect()
    }

    #[test]
    fn names_and_counts_are_shown_while_they_fit() {
        let few = draw(&classes(3), &[vec![77, 1, 0], vec![0, 5, 0], vec![0, 0, 0]]).unwrap();
        assert!(few.contains("77") && few.contains("class 2"));
        assert!(!draw(&classes(100), &identity(100)).unwrap().contains("class 2"));
    }

    #[test]
    fn too_many_classes_are_not_drawn() {
        assert_eq!(draw(&classes(1000), &identity(1000)), None);
    }

    #[test]
    fn a_long_name_is_cut_at_a_character() {
        assert_eq!(shortened("ÄÖÜäöüßÄÖÜäöüßÄ").chars().count(), 14);
    }
}
