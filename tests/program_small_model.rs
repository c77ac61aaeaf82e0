//! What a base that fades leaves: a run, and a small model of its own, as a user meets them.

use crate::program::Workshop;

/// A run of forty steps whose base is gone after twenty.
fn trained() -> Workshop {
    let workshop = Workshop::new();
    let recipe = std::fs::read_to_string(workshop.at("colours.toml")).expect("a recipe");
    let method = "[method]\nkind = \"pc-lora\"\nrank = 6\nfade_share = 0.5\ntargets = \"all-linear\"\n";
    let (before, rest) = recipe.split_once("[method]").expect("a method");
    let after = rest.split_once("[train]").expect("a training").1;
    workshop.write("small.toml", format!("{before}{method}[train]{after}"));
    workshop.run(&["train", "small.toml", "--json"]).json();
    workshop
}

#[test]
fn a_small_model_scores_as_its_run_without_the_base() {
    let workshop = trained();
    let of_run = workshop.run(&["evaluate", "--run", "runs/small", "--json"]).json();
    workshop.run(&["merge", "--run", "runs/small", "--out", "little", "--json"]).json();
    std::fs::remove_dir_all(workshop.at("base")).expect("the base is not needed any more");
    let of_model = workshop.run(&["evaluate", "--model", "little", "--data", "val", "--json"]).json();
    assert_eq!(of_model["accuracy"], of_run["accuracy"]);
    let losses = [&of_model, &of_run].map(|scores| scores["loss"].as_f64().expect("a loss"));
    assert!((losses[0] - losses[1]).abs() < 1e-5, "{losses:?}");
    let predicted = workshop.run(&["predict", "--model", "little", "val/red/0.png", "--json"]).json();
    assert_eq!(predicted["predictions"][0]["classes"].as_array().map(Vec::len), Some(3));
}

#[test]
fn inspect_says_what_a_small_model_saves() {
    let workshop = trained();
    workshop.run(&["merge", "--run", "runs/small", "--out", "little", "--json"]).json();
    assert_eq!(workshop.run(&["inspect", "runs/small", "--json"]).json()["base_left"], 0.0);
    let inspected = workshop.run(&["inspect", "little", "--json"]).json();
    let layers = &inspected["low_rank_layers"];
    // Two blocks of 24 channels with an MLP of 40.
    assert_eq!(layers["layers"], 12);
    assert_eq!(layers["numbers"], 2 * 6 * (4 * 48 + 2 * 64));
    assert_eq!(layers["dense_numbers"], 2 * (4 * 24 * 24 + 2 * 24 * 40));
    assert_eq!(layers["flops_per_token"].as_u64(), layers["numbers"].as_u64().map(|numbers| 2 * numbers));
}

#[test]
fn a_small_model_is_not_adapted_again() {
    let workshop = trained();
    workshop.run(&["merge", "--run", "runs/small", "--out", "little", "--json"]).json();
    let again = ["train", "colours.toml", "--set", "model.path=little", "--set", "output.dir=runs/again"];
    workshop.run(&again).assert_refused(6, &["low-rank layer", "adapt the model that it was made of"]);
}
