//! A run on text, before the loop sees it: the passes of its steps, and the largest of them.

use burn::tensor::Device;
use nola_train::Error;
use nola_train::model_with_loss::TextBatch;
use nola_train::progress::Style;
use nola_train::recipe::Recipe;
use nola_train::task::{LargestPass, Task, Text};
use nola_train::text::TextError;

use crate::program::Workshop;
use crate::text_workshop::text_workshop;

/// The recipe of the workshop, whatever folder the process is in; `micro_batch` is less than its batch.
pub fn recipe(workshop: &Workshop) -> Recipe {
    let mut recipe = Recipe::read(&workshop.at("food.toml"), &[]).expect("a recipe").into_inner();
    recipe.model.path = workshop.at("base");
    recipe.data.train = workshop.at("rows/e2e.txt").into();
    recipe.data.validation = workshop.at("val.txt").into();
    recipe.train.batch = 4;
    recipe.train.micro_batch = Some(2);
    recipe
}

fn with_task(change: impl Fn(&mut Recipe), check: impl Fn(&Text, &Recipe)) {
    let workshop = text_workshop();
    let mut recipe = recipe(&workshop);
    change(&mut recipe);
    check(&Text::open(&recipe, &Device::flex(), Style::Quiet).expect("a text task"), &recipe);
}

/// Rows, width and tokens of every pass of these steps.
fn passes(task: &Text, recipe: &Recipe, steps: std::ops::Range<usize>) -> Vec<Vec<([usize; 2], Vec<i64>)>> {
    let numbers = |pass: TextBatch| (pass.ids.dims(), pass.ids.into_data().iter::<i64>().collect());
    let device = Device::flex();
    let steps = task.steps(recipe, steps, &device);
    steps.map(|passes| passes.expect("rows of memory").into_iter().map(numbers).collect()).collect()
}

#[test]
fn steps_from_the_middle_of_a_run_are_those_of_the_whole() {
    for by_length in [false, true] {
        with_task(
            |recipe| recipe.data.text.group_by_length = by_length,
            |task, recipe| {
                let whole = passes(task, recipe, 0..40);
                assert_eq!(passes(task, recipe, 17..40), whole[17..]);
            },
        );
    }
}

#[test]
fn the_largest_pass_is_the_widest_of_the_run_and_the_first_of_them() {
    for (steps, by_length) in [(1, false), (3, false), (40, false), (40, true)] {
        with_task(
            |recipe| {
                recipe.train.steps = steps;
                recipe.data.text.group_by_length = by_length;
            },
            |task, recipe| {
                let LargestPass { step, size } = task.largest_pass(recipe);
                let of_step = |step: Vec<([usize; 2], Vec<i64>)>| step[0].0[1];
                let widths: Vec<usize> = passes(task, recipe, 0..steps).into_iter().map(of_step).collect();
                let widest = *widths.iter().max().expect("steps");
                assert_eq!(size, format!("2 x {widest} tokens"));
                assert_eq!(widths.iter().position(|width| *width == widest), Some(step));
            },
        );
    }
}

#[test]
fn bad_rows_are_told_before_a_weight_is_read() {
    let workshop = text_workshop();
    let mut recipe = recipe(&workshop);
    workshop.write("bad.txt", "a row without what follows its prompt\n");
    recipe.data.train = workshop.at("bad.txt").into();
    let weights = workshop.at("base/model.safetensors");
    std::fs::remove_file(&weights).expect("the weights");
    let error = || {
        Text::open(&recipe, &Device::flex(), Style::Quiet).expect_err("neither data nor weights can be used")
    };
    assert!(matches!(error(), Error::Text(TextError::BadRows(_))), "{}", error());
    std::fs::write(&weights, "no safetensors").expect("a file");
    assert!(matches!(error(), Error::Text(TextError::BadRows(_))), "{}", error());
}
