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
    let steps = task.steps(recipe, steps, 0..recipe.train.shards(), &device);
    steps
        .map(|passes| passes.expect("rows of memory").into_passes().into_iter().map(numbers).collect())
        .collect()
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
fn shards_of_a_step_hold_its_rows_in_their_order_and_no_wider_than_they_are() {
    let (mut whole, mut in_shards) = (Vec::new(), Vec::new());
    for (shards, found) in [(None, &mut whole), (Some(3), &mut in_shards)] {
        let found = std::cell::RefCell::new(found);
        with_task(
            |recipe| recipe.train.shards = shards,
            |task, recipe| found.borrow_mut().extend(passes(task, recipe, 0..6)),
        );
    }
    for (whole, in_shards) in whole.iter().zip(&in_shards) {
        let rows: Vec<usize> = in_shards.iter().map(|([rows, _], _)| *rows).collect();
        assert_eq!(rows, [1, 1, 2], "four rows in three shards");
        let (wide, narrow) = (whole[0].0[1], in_shards.iter().map(|([_, tokens], _)| *tokens));
        assert!(narrow.clone().all(|tokens| tokens <= wide) && narrow.clone().any(|tokens| tokens == wide));
        let row = |passes: &[([usize; 2], Vec<i64>)]| -> Vec<Vec<i64>> {
            let rows = |(shape, ids): &([usize; 2], Vec<i64>)| {
                ids.chunks(shape[1]).map(<[i64]>::to_vec).collect::<Vec<_>>()
            };
            let padded = passes.iter().flat_map(rows);
            padded.map(|ids| ids.into_iter().rev().skip_while(|id| *id == 0).collect()).collect()
        };
        assert_eq!(row(whole), row(in_shards));
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
