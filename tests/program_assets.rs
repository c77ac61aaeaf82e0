//! What is shipped is there wherever the program runs.

use crate::program::{Workshop, bytes_of};

#[test]
fn shipped_models_data_and_recipes_are_found_from_any_folder() {
    let elsewhere = Workshop::empty();
    let recipe = elsewhere.run(&["recipes", "vit-digits-linear"]).stdout;
    elsewhere.write("mine.toml", recipe);
    let train = ["train", "mine.toml", "--set", "train.steps=2", "--set", "data.shots=1"];
    let outcome = elsewhere.run(&train);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    // The run names what is shipped as the recipe does, so that it is found again in another place.
    let resolved = String::from_utf8(bytes_of(&elsewhere.at("runs/mine/recipe.toml"))).expect("text");
    assert!(resolved.contains("path = \"assets/vit-micro\""), "{resolved}");
    assert_eq!(elsewhere.run(&["evaluate", "--run", "runs/mine"]).code, 0);
    assert_eq!(elsewhere.run(&["predict", "--run", "runs/mine", "assets/digits/val/0/1297.png"]).code, 0);
    assert_eq!(elsewhere.run(&["inspect", "assets/vit-micro"]).code, 0);
}

#[test]
fn a_folder_of_that_name_in_the_working_directory_wins() {
    let elsewhere = Workshop::empty();
    elsewhere.write("assets/vit-micro/config.json", "{}");
    let outcome = elsewhere.run(&["inspect", "assets/vit-micro"]);
    assert_eq!(outcome.code, 5, "{}", outcome.stdout);
}
