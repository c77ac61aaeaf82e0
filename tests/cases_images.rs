//! Images, their classes and the models that read them.

use crate::cases::{assert_number, assert_probabilities, assert_refused, case, json, run};

fn assert_compass(name: &str, image: &str, [north, east, south, west]: [f64; 4]) {
    let expected = [("north", north), ("east", east), ("south", south), ("west", west)];
    assert_probabilities(name, image, &expected);
}

fn assert_labels(name: &str, image: &str, probabilities: [f64; 4]) {
    let names = ["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"];
    let expected: Vec<_> = names.into_iter().zip(probabilities).collect();
    assert_probabilities(name, image, &expected);
}

#[test]
fn an_odd_cut_is_made_where_transformers_makes_it() {
    assert_compass("crop-odd-columns", "image.png", [0.6121, 0.00254, 0.09165, 0.29371]);
}

#[test]
fn an_odd_cut_is_made_where_timm_makes_it() {
    assert_labels("crop-odd-timm", "image.png", [0.30719, 0.15434, 0.14968, 0.38879]);
}

#[test]
fn the_activation_of_a_timm_model_is_the_one_it_names() {
    assert_labels("timm-activation-relu", "image.png", [0.02057, 0.12018, 0.26607, 0.59317]);
}

#[test]
fn fault_20_a_gif_frame_inside_its_canvas_is_filled_as_pillow_fills_it() {
    assert_compass("gif-frame-inside-canvas", "image.gif", [0.04027, 0.0185, 0.06225, 0.87899]);
}

#[test]
fn fault_20_a_cmyk_image_that_lies_on_its_side_is_read_as_pillow_reads_it() {
    assert_compass("jpeg-cmyk-upright", "image.jpg", [0.04995, 0.41843, 0.29627, 0.23535]);
}

#[test]
fn fault_20_a_grey_image_of_16_bits_is_read_as_pillow_reads_it() {
    assert_compass("png-16-bit-grey", "image.png", [0.06697, 0.11838, 0.66445, 0.15021]);
}

#[test]
fn a_head_of_several_labels_gives_each_its_own_probability() {
    let expected = [("sharp", 0.90146), ("bright", 0.63301), ("tilted", 0.88757)];
    assert_probabilities("predict-several-labels", "image.png", &expected);
}

#[test]
fn classes_are_matched_by_name() {
    let scored = json("evaluate-classes-in-the-models-order", "evaluate --model base --data images");
    assert_number(&scored, "loss", 1.51719, 1e-4);
    assert_number(&scored, "accuracy", 5.0 / 9.0, 1e-6);
    let scored = json("interop-label-order", "evaluate --model model --data data");
    assert_number(&scored, "loss", 1.273_529_6, 1e-4);
    assert_number(&scored, "accuracy", 5.0 / 12.0, 1e-6);
}

#[test]
fn fault_21_one_class_is_refused_with_the_folders_inside_it() {
    assert_refused("pictures-one-class", "train recipe.toml", 4, &["one class", "fruit", "apple", "pear"]);
    assert_refused(
        "pictures-one-class-linear",
        "train recipe.toml",
        4,
        &["one class", "photos", "apple", "pear"],
    );
}

#[test]
fn fault_02_a_base_whose_answers_are_nan_is_refused() {
    assert_refused("fault-nan-answers", "predict --model model image.png", 5, &["NaN"]);
    assert_refused("fault-nan-answers", "evaluate --model model --data val", 5, &["NaN"]);
}

#[test]
fn control_characters_of_a_name_do_not_reach_the_terminal() {
    let workshop = case("fault-control-characters-in-names");
    let found = run(&workshop, "predict --model model --adapter adapter image.png");
    assert!(!found.stdout.contains('\u{1b}') && !found.stderr.contains('\u{1b}'), "{}", found.stdout);
}

#[test]
fn class_names_in_two_unicode_forms_are_one_class() {
    run(&case("pictures-unicode-forms"), "train recipe.toml --json").json();
}
