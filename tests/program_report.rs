//! What a run shows to people: the report, the warning of overfitting, and the line of progress on a terminal.

use std::path::Path;

use image::{Rgb, RgbImage};
use serde_json::Value;

use crate::program::Workshop;
use crate::text_workshop::{text_workshop, train};

fn page(workshop: &Workshop, run: &str) -> String {
    let path = workshop.at(run).join("report.html");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn a_report_of_images_has_an_interval_and_the_most_frequent_class() {
    let workshop = Workshop::new();
    let result = workshop.trained();
    let [low, high] = [0, 1].map(|end| number(&result["accuracy_interval"][end]));
    let accuracy = number(&result["accuracy"]);
    assert!(low <= accuracy && accuracy <= high && high - low > 0.1, "{result}");
    assert_eq!(result["baseline"]["what"], "most frequent class");
    assert!((number(&result["baseline"]["accuracy"]) - 1.0 / 3.0).abs() < 1e-9);
    let page = page(&workshop, "runs/colours");
    for part in
        ["95\u{a0}% interval", "most frequent class: 33.3\u{a0}%", "kept: step", "<desc id=\"loss-desc\">"]
    {
        assert!(page.contains(part), "{part}");
    }
    assert!(
        ["No overfitting was seen: ", "It hardly overfits", "It overfits"]
            .iter()
            .any(|part| page.contains(part)),
        "one sentence says so"
    );
}

#[test]
fn a_report_of_text_starts_with_the_base() {
    let workshop = text_workshop();
    let evaluated = ["evaluate", "--model", "base", "--format", "e2e", "--data", "val.txt", "--json"];
    let before = number(&workshop.run(&evaluated).json()["loss"]);
    let run = train(&workshop, &[]);
    let result = run.json();
    assert_eq!(result["baseline"]["what"], "before training");
    assert!((number(&result["baseline"]["loss"]) - before).abs() < 1e-5, "{before} in {result}");
    assert!(result.get("accuracy_interval").is_none(), "tokens depend on each other");
    assert!(run.stderr.contains(": step 0/"), "{}", run.stderr);
    let page = page(&workshop, "runs/food");
    assert!(page.contains(&format!("before training {before:.2}")), "the curve begins there");
}

/// Labels of the validation data that contradict those of the training data.
fn contradicted() -> Workshop {
    let workshop = Workshop::new();
    for (class, colour) in [("blue", [0, 250, 0]), ("green", [250, 0, 0]), ("red", [0, 0, 250])] {
        for number in 0..6 {
            let path = workshop.at(&format!("val/{class}/{number}.png"));
            RgbImage::from_pixel(8, 8, Rgb(colour)).save(path).expect("an image");
        }
    }
    workshop
}

#[test]
fn a_validation_loss_that_rose_by_a_lot_is_told_once() {
    let workshop = contradicted();
    let sets = ["--set=train.steps=80", "--set=train.evaluate_every=10", "--json"];
    let run = workshop.run(&[&["train", "colours.toml"], &sets[..]].concat());
    let warnings: Vec<&str> =
        run.stderr.lines().filter(|line| line.contains("warning: the validation loss rose from ")).collect();
    assert_eq!(warnings.len(), 1, "{}", run.stderr);
    let result = run.json();
    let end = format!("after step {0}; the adapter of step {0} is kept", result["best_step"]);
    assert!(warnings[0].ends_with(&end), "{end}: {}", warnings[0]);
    let in_result = result["warnings"].as_array().expect("warnings").iter().filter_map(Value::as_str);
    assert_eq!(in_result.filter(|warning| warning.contains("rose from")).count(), 1);
    let page = page(&workshop, "runs/colours");
    assert!(
        page.contains("the validation loss rose from") && page.contains("It overfits: after step "),
        "{page}"
    );
    assert!(page.contains("while the training loss fell by "));
}

#[test]
fn long_names_of_forty_classes_are_in_the_table_and_numbered_in_the_matrix() {
    let workshop = Workshop::new();
    let name = |class: u8| format!("{class:02} a long name as people give to their folders of photographs");
    for class in 0..40 {
        for split in ["many/train", "many/val"] {
            let folder = workshop.at(split).join(name(class));
            std::fs::create_dir_all(&folder).expect("a folder");
            RgbImage::from_pixel(8, 8, Rgb([6 * class, 255 - 6 * class, 90]))
                .save(folder.join("0.png"))
                .expect("an image");
        }
    }
    let sets =
        ["--set=data.train=many/train", "--set=data.validation=many/val", "--set=train.steps=2", "--json"];
    workshop.run(&[&["train", "colours.toml"], &sets[..]].concat()).json();
    let page = page(&workshop, "runs/colours");
    assert!(page.contains("<td class=\"number\">40</td>"));
    assert!(page.matches(&name(39)).count() >= 2, "in the table, and in what a screen reader says");
    let svg = std::fs::read_to_string(workshop.at("runs/colours/confusion.svg")).expect("the matrix");
    assert!(svg.contains(&format!("40  {}", name(39))), "the file alone has the key");
}

/// What the program writes to a terminal of so many columns; absent where there is no program to make one.
#[cfg(target_os = "linux")]
fn on_terminal(workshop: &Workshop, columns: u16, variables: &[(&str, &str)]) -> Option<String> {
    let script = ["/usr/bin/script", "/bin/script"].into_iter().find(|path| Path::new(path).is_file())?;
    let program = env!("CARGO_BIN_EXE_nola-train-under-test");
    let line = format!(
        "stty rows 24 cols {columns}; {program} --device cpu train colours.toml --set train.steps=40"
    );
    let mut command = std::process::Command::new(script);
    command.current_dir(workshop.at("")).env_remove("NO_COLOR").env("TERM", "xterm-256color");
    command.envs(variables.iter().copied()).args(["-qec", &line, "/dev/null"]);
    let output = command.output().expect("script starts");
    assert!(output.status.success(), "{output:?}");
    Some(String::from_utf8(output.stdout).expect("text"))
}

/// The drawings of the status line, without colours.
fn drawings(written: &str) -> Vec<String> {
    let drawn = written.split("\u{1b}[J\r").filter_map(|before| before.rsplit(['\r', '\n']).next());
    drawn.filter(|drawn| drawn.contains("left")).map(without_colours).collect()
}

fn without_colours(text: &str) -> String {
    let mut parts = text.split('\u{1b}');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once('m').map_or("", |(_, rest)| rest))
}

#[cfg(target_os = "linux")]
#[test]
fn the_time_left_fits_every_terminal_and_evaluations_stay() {
    for columns in [50, 80, 120] {
        let workshop = Workshop::new();
        let Some(written) = on_terminal(&workshop, columns, &[]) else {
            return println!("skipped: no script");
        };
        let drawn = drawings(&written);
        assert!(!drawn.is_empty(), "{written:?}");
        for line in &drawn {
            assert!(line.chars().count() < usize::from(columns), "{line}");
            assert!(line.ends_with(" left") && line.contains(" lr "), "{line}");
        }
        for step in [20, 40] {
            let evaluated = format!("nola: step {step}/40  validation loss ");
            assert!(written.contains(&evaluated), "{evaluated} in {written:?}");
        }
        assert!(written.contains("\u{1b}[1m"), "in colour");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn colours_are_left_out_where_nobody_wants_them() {
    let workshop = Workshop::new();
    let Some(written) = on_terminal(&workshop, 80, &[("NO_COLOR", "1")]) else {
        return println!("skipped: no script");
    };
    assert!(
        !drawings(&written).is_empty() && !written.contains("\u{1b}[1m") && !written.contains("\u{1b}[3")
    );
}
