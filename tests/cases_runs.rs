//! Training that cannot end well: what is refused, what is said, and what is left.

use crate::cases::{assert_refused, case, run};

#[test]
fn fault_21_a_run_on_one_class_is_refused() {
    let train = "train recipe.toml --set model.path=model --set data.train=data --set data.validation=data";
    assert_refused("fault-one-class", train, 4, &["one class"]);
}

#[test]
fn fault_23_a_loss_far_above_guessing_is_said() {
    let train = "train recipe.toml --set model.path=model --set data.train=data --set data.validation=val";
    let trained = run(&case("fault-finite-divergence"), train);
    assert!(trained.code == 8 || trained.stderr.contains("warning: "), "{}", trained.stderr);
}

#[test]
fn fault_23_an_evaluation_of_nan_is_never_the_best() {
    let workshop = case("fault-nan-evaluation-kept");
    let train = "train recipe.toml --set model.path=model --set data.train=train --set data.validation=val \
                 --set output.dir=run";
    run(&workshop, train).assert_refused(8, &["diverged"]);
    assert!(!workshop.at("run/adapter").exists());
}

#[test]
fn fault_17_rows_of_a_parquet_file_that_unpack_to_gigabytes_are_read_one_by_one_or_refused() {
    let evaluate = "evaluate --model model --data rows.parquet --format prompt-completion";
    let outcome = run(&case("fault-parquet-bomb"), evaluate);
    assert!(outcome.code == 4, "{}", outcome.stderr);
}
