//! Where data comes from: a share that is held out, several files with weights, and folders of images to look at.

use serde_json::Value;

use crate::program::{Outcome, Workshop, bytes_of};
use crate::text_workshop::{loss, sets, text_workshop, train};

/// The numbers under `data` of a run.
fn data(result: &Value) -> &Value {
    &result["data"]
}

fn train_images(workshop: &Workshop, changes: &[&str]) -> Outcome {
    let sets: Vec<&str> = changes.iter().flat_map(|change| ["--set", change]).collect();
    workshop.run(&[&["train", "colours.toml", "--json"], &sets[..]].concat())
}

#[test]
fn a_share_of_the_rows_is_held_out_said_and_scored_again() {
    let workshop = text_workshop();
    let run = train(&workshop, &sets(&["data.validation_split=0.25"]));
    let result = run.json();
    assert!(run.stderr.contains("data: 3 of 12 rows are held out for validation"), "{}", run.stderr);
    assert!(!run.stderr.contains("learning by heart") && !run.stderr.contains("9 of 12"), "{}", run.stderr);
    let held_out = serde_json::json!({"used": 3, "of": 12, "unit": "rows"});
    assert_eq!(data(&result)["held_out"], held_out);
    assert_eq!(data(&result)["training"][0]["rows"], 9);
    let page = String::from_utf8(bytes_of(&workshop.at("runs/food/report.html"))).expect("text");
    assert!(page.contains("3 of 12 rows, held out"), "the report says so");
    let scored = workshop.run(&["evaluate", "--run", "runs/food", "--json"]);
    assert!(scored.stderr.contains("data: 3 of 12 rows are held out"), "{}", scored.stderr);
    assert!((loss(&scored.json()) - loss(&result)).abs() < 1e-5, "{} and {result}", scored.stdout);
    let metrics = ["evaluate", "--run", "runs/food", "--metrics", "--max-new-tokens", "2", "--json"];
    assert!(workshop.run(&metrics).json()["prompts"].as_u64().expect("a number") <= 3);
    let first = workshop.run(&["evaluate", "--run", "runs/food", "--limit", "1", "--json"]).json();
    assert!(first["tokens"].as_u64() < scored.json()["tokens"].as_u64(), "{first}");
    let other = scored_on_val(&workshop);
    assert_ne!(other["tokens"], scored.json()["tokens"]);
    let rows = String::from_utf8(bytes_of(&workshop.at("rows/e2e.txt"))).expect("text");
    workshop.write("rows/e2e.txt", format!("{rows}more||rows\n"));
    let changed = workshop.run(&["evaluate", "--run", "runs/food", "--json"]).stderr;
    assert!(changed.contains("warning: 3 of 13 rows are held out now, and 3 of 12 rows were"), "{changed}");
}

fn scored_on_val(workshop: &Workshop) -> Value {
    workshop.run(&["evaluate", "--run", "runs/food", "--data", "val.txt", "--json"]).json()
}

#[test]
fn the_same_seed_holds_out_the_same_rows_and_another_seed_others() {
    let workshop = text_workshop();
    let adapter = |run: &str, seed: &str| {
        let changes =
            ["data.validation_split=0.25", &format!("train.seed={seed}"), &format!("output.dir={run}")];
        train(&workshop, &sets(&changes)).json();
        bytes_of(&workshop.at(run).join("adapter-last/adapter_model.safetensors"))
    };
    assert_eq!(adapter("runs/a", "1"), adapter("runs/b", "1"));
    assert_ne!(adapter("runs/a2", "1"), adapter("runs/c", "2"));
}

#[test]
fn validation_data_and_a_share_together_are_refused() {
    let workshop = text_workshop();
    let recipe = String::from_utf8(bytes_of(&workshop.at("food.toml"))).expect("text");
    workshop.write("both.toml", recipe.replace("[data]", "[data]\nvalidation_split = 0.1"));
    let parts = ["`data.validation_split` has no effect with data.validation"];
    workshop.run(&["train", "both.toml"]).assert_refused(3, &parts);
}

#[test]
fn files_come_as_often_as_their_weights_say() {
    let workshop = text_workshop();
    let files = "data.train=[{ path = \"rows/e2e.txt\", weight = 2 }, { path = \"val.txt\", weight = 0.5 }]";
    let run =
        train(&workshop, &sets(&[files, "data.validation=val.txt", "train.epochs=2", "train.batch=14"]));
    let result = run.json();
    let line = "data: an epoch has 28 samples: 24 of rows/e2e.txt (12 with weight 2); 4 of val.txt (8 with weight 0.5)";
    assert!(run.stderr.contains(line), "{}", run.stderr);
    assert!(run.stderr.contains("the first sample of val.txt, what is learned marked"), "{}", run.stderr);
    assert!(run.stderr.contains("learning by heart"), "one of them is the validation data: {}", run.stderr);
    assert_eq!(result["steps"], 4);
    let part = |path: &str, weight: f64, rows: usize, samples: usize| serde_json::json!({"path": path, "weight": weight, "rows": rows, "samples_in_epoch": samples});
    let expected = serde_json::json!([part("rows/e2e.txt", 2.0, 12, 24), part("val.txt", 0.5, 8, 4)]);
    assert_eq!(data(&result)["training"], expected);
    let page = String::from_utf8(bytes_of(&workshop.at("runs/food/report.html"))).expect("text");
    assert!(page.contains("(12 with weight 2); 4 of val.txt (8 with weight 0.5)"), "the report says so");
    workshop.run(&["train", "runs/food/recipe.toml", "--set", "output.dir=runs/again", "--json"]).json();
    let adapter = |run: &str| bytes_of(&workshop.at(run).join("adapter-last/adapter_model.safetensors"));
    assert_eq!(adapter("runs/food"), adapter("runs/again"));
}

#[test]
fn bad_rows_of_all_files_are_listed_with_their_files() {
    let workshop = text_workshop();
    workshop.write("first.txt", "no separator\na||b\n");
    workshop.write("second.txt", "a||b\nnone here\n");
    let files = "data.train=[\"first.txt\", \"second.txt\"]";
    let parts = ["2 rows cannot be used", "2 rows: no `||`", "(first.txt:1, second.txt:2)"];
    train(&workshop, &sets(&[files])).assert_refused(4, &parts);
    let missing = "data.train=[\"rows/e2e.txt\", \"nowhere.txt\"]";
    train(&workshop, &sets(&[missing])).assert_refused(4, &["nowhere.txt"]);
}

#[test]
fn a_share_of_each_class_of_images_is_held_out_before_shots_are_taken() {
    let workshop = Workshop::new();
    let run = train_images(&workshop, &["data.validation_split=0.4", "data.shots=2"]);
    let result = run.json();
    let line = format!(
        "data: {} of {} images are held out",
        data(&result)["held_out"]["used"],
        data(&result)["held_out"]["of"]
    );
    assert!(run.stderr.contains(&line), "{line}: {}", run.stderr);
    assert_eq!(data(&result)["training"][0]["rows"], 6);
    let scored = workshop.run(&["evaluate", "--run", "runs/colours", "--json"]).json();
    assert_eq!(scored["accuracy"], result["accuracy"]);
    assert_eq!(scored["images"], data(&result)["held_out"]["used"]);
    let many =
        train_images(&workshop, &["data.validation_split=0.4", "data.shots=500", "output.dir=runs/many"]);
    many.assert_refused(4, &["images to learn from, data.shots = 500"]);
}

#[test]
fn a_class_of_one_image_cannot_be_parted() {
    let workshop = Workshop::new();
    let alone = workshop.at("train/yellow");
    std::fs::create_dir_all(&alone).expect("a folder");
    std::fs::copy(workshop.at("train/red/0.png"), alone.join("0.png")).expect("an image");
    let run = train_images(&workshop, &["data.validation_split=0.4"]);
    run.assert_refused(4, &["only one image in yellow", "data.validation"]);
}

#[test]
fn folders_of_images_come_as_often_as_their_weights_say() {
    let workshop = Workshop::new();
    let folders = "data.train=[{ path = \"train\", weight = 1.5 }, \"val\"]";
    let run = train_images(&workshop, &[folders]);
    let result = run.json();
    let [first, second] = [0, 1].map(|part| data(&result)["training"][part].clone());
    let number = |value: &Value| value.as_u64().expect("a number");
    assert_eq!(2 * number(&first["samples_in_epoch"]), 3 * number(&first["rows"]));
    assert_eq!(second["samples_in_epoch"], second["rows"]);
    assert!(run.stderr.contains("with weight 1.5); "), "{}", run.stderr);
    std::fs::rename(workshop.at("val/red"), workshop.at("val/crimson")).expect("a folder");
    let parts = ["crimson", "red"];
    train_images(&workshop, &[folders, "data.validation=train", "output.dir=runs/b"])
        .assert_refused(4, &parts);
}

/// A run, and a folder `photos` with good images, one that is cut short, and a note.
fn photos() -> Workshop {
    let workshop = Workshop::new();
    workshop.trained();
    std::fs::create_dir_all(workshop.at("photos/deep")).expect("a folder");
    for (from, to) in [("val/red/0.png", "photos/b.png"), ("val/green/0.png", "photos/deep/a.png")] {
        std::fs::copy(workshop.at(from), workshop.at(to)).expect("an image");
    }
    workshop.write("photos/notes.txt", "not an image");
    workshop
}

#[test]
fn predict_looks_at_every_image_of_a_folder() {
    let workshop = photos();
    let run = workshop.run(&["classify", "--run", "runs/colours", "photos", "val/blue/0.png", "--top", "1"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let lines: Vec<&str> = run.stdout.lines().filter_map(|line| line.split(" 9").next()).collect();
    assert!(lines[0].starts_with("photos/b.png: red"), "{lines:?}");
    assert!(lines[1].starts_with("photos/deep/a.png: green"), "{lines:?}");
    assert!(lines[2].starts_with("val/blue/0.png: blue"), "{lines:?}");
    assert!(run.stderr.contains("photos: passed over as no images: 1"), "{}", run.stderr);
    let help = workshop.run(&["--help"]).stdout;
    assert!(help.contains("classify"), "{help}");
}

#[test]
fn fault_18_images_that_cannot_be_read_are_listed_and_the_others_answered() {
    let workshop = photos();
    workshop.write("photos/a cut.png", &bytes_of(&workshop.at("val/red/0.png"))[..40]);
    workshop.write("photos/empty.jpg", "");
    let run = workshop.run(&["predict", "--run", "runs/colours", "photos", "nowhere.png"]);
    assert_eq!(run.code, 4, "{}", run.stderr);
    assert_eq!(run.stdout.lines().count(), 2, "{}", run.stdout);
    for part in ["3 of 5 images cannot be used", "a cut.png", "empty.jpg: the file is empty", "nowhere.png"] {
        assert!(run.stderr.contains(part), "{part}: {}", run.stderr);
    }
    let json = workshop.run(&["predict", "--run", "runs/colours", "photos", "--json"]);
    assert_eq!(json.code, 4);
    let found: Value = serde_json::from_str(&json.stdout).expect("JSON");
    let problems: Vec<bool> = found["predictions"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| one["problem"].is_string())
        .collect();
    assert_eq!(problems, [true, false, false, true]);
    workshop.run(&["predict", "--run", "runs/colours", "nowhere.png"]).assert_refused(4, &["nowhere.png"]);
}

#[test]
fn a_folder_is_answered_as_its_images_one_by_one() {
    let workshop = Workshop::new();
    workshop.trained();
    let answers = |arguments: &[&str]| {
        let run = workshop.run(&[&["predict", "--run", "runs/colours", "--json"], arguments].concat()).json();
        run["predictions"].as_array().expect("a list").clone()
    };
    let whole = answers(&["val"]);
    for one in &whole {
        let alone = answers(&[one["image"].as_str().expect("a path")]);
        let probability = |answer: &Value| answer["classes"][0]["probability"].as_f64().expect("a number");
        assert_eq!(alone[0]["classes"][0]["name"], one["classes"][0]["name"]);
        assert!((probability(&alone[0]) - probability(one)).abs() < 1e-5, "{one}");
    }
    workshop.write("nothing/notes.txt", "");
    let run = workshop.run(&["predict", "--run", "runs/colours", "nothing"]);
    run.assert_refused(4, &["nothing: no image in this folder, and other files: 1"]);
}
