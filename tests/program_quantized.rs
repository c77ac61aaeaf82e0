//! Runs over a base in few bits, as a user meets them.

use serde_json::Value;

use crate::program::Workshop;
use crate::text_workshop::{loss, sets, text_workshop, train};

/// The result of `food.toml` with these changes.
fn trained(workshop: &Workshop, changes: &[&str]) -> Value {
    train(workshop, &sets(changes)).json()
}

fn scored(workshop: &Workshop, arguments: &[&str]) -> Value {
    workshop.run(&[&["evaluate", "--json"], arguments].concat()).json()
}

#[test]
fn a_run_over_a_quantised_base_learns_and_is_scored_as_it_was_trained() {
    let workshop = text_workshop();
    for (base, quantization) in [("base", "int8"), ("llama", "nf4"), ("llama", "nf4-double")] {
        let (path, quantize) = (format!("model.path={base}"), format!("model.quantize={quantization}"));
        let dir = format!("output.dir=runs/{base}-{quantization}");
        let data = ["--format", "e2e", "--data", "val.txt", "--quantize", quantization];
        let before = loss(&scored(&workshop, &[&["--model", base], &data[..]].concat()));
        let result = trained(&workshop, &[&path, &quantize, &dir]);
        assert!(loss(&result) < before - 0.5, "{base} in {quantization}: {before} before, {result}");
        let of_run = scored(&workshop, &["--run", &format!("runs/{base}-{quantization}")]);
        assert!((loss(&of_run) - loss(&result)).abs() < 1e-4, "{of_run} and {result}");
    }
}

#[test]
fn an_adapter_that_was_trained_over_few_bits_says_so_where_its_base_has_more() {
    let workshop = text_workshop();
    for kind in ["lora", "nola"] {
        let (method, dir) = (format!("method.kind={kind}"), format!("output.dir=runs/{kind}"));
        trained(&workshop, &["model.quantize=nf4", &method, &dir]);
        let adapter = format!("runs/{kind}/adapter");
        let evaluate = ["evaluate", "--model", "base", "--adapter", &adapter, "--data", "val.txt"];
        let dense = workshop.run(&evaluate);
        assert!(
            dense.stderr.contains("trained over weights in nf4") && dense.stderr.contains("--quantize nf4"),
            "{}",
            dense.stderr
        );
        let packed = workshop.run(&[&evaluate[..], &["--quantize", "nf4"]].concat());
        assert!(!packed.stderr.contains("trained over"), "{}", packed.stderr);
    }
}

#[test]
fn a_merge_over_a_quantised_base_asks_how_to_store_the_result() {
    let workshop = text_workshop();
    trained(&workshop, &["model.quantize=nf4"]);
    let merge = ["merge", "--run", "runs/food", "--out", "merged"];
    workshop.run(&merge).assert_refused(2, &["the base is quantised", "--dtype f32, bf16 or f16"]);
    workshop.run(&[&merge[..], &["--dtype", "f32", "--json"]].concat()).json();
    let of_merged = scored(&workshop, &["--model", "merged", "--format", "e2e", "--data", "val.txt"]);
    let of_run = scored(&workshop, &["--run", "runs/food"]);
    assert!((loss(&of_merged) - loss(&of_run)).abs() < 1e-3, "{of_merged} and {of_run}");
}

#[test]
fn training_all_of_a_quantised_base_is_refused() {
    let outcome = train(&text_workshop(), &sets(&["model.quantize=int8", "method.kind=full"]));
    outcome.assert_refused(3, &["`model.quantize` is int8", "weights in few bits cannot be trained"]);
}

#[test]
fn training_a_quantised_layer_beside_an_adapter_is_refused_by_name() {
    let changes =
        ["model.quantize=int8", "method.modules_to_save=[\"blocks.0.mlp.up\"]", "method.targets=[\"query\"]"];
    let outcome = train(&text_workshop(), &sets(&changes));
    outcome.assert_refused(6, &["`blocks.0.mlp.up.weight` is stored in few bits"]);
}

#[test]
fn images_are_learned_over_a_quantised_base() {
    let workshop = Workshop::new();
    let result = workshop.run(&["train", "colours.toml", "--json", "--set", "model.quantize=nf4"]).json();
    assert!(result["accuracy"].as_f64().is_some_and(|accuracy| accuracy > 0.6), "{result}");
}

#[test]
fn an_unknown_quantisation_is_refused_with_the_known_ones() {
    let outcome = text_workshop().run(&["generate", "--model", "base", "--quantize", "int4", "Zizzi"]);
    outcome
        .assert_refused(2, &["invalid value 'int4'", "possible values: none, dense, int8, nf4, nf4-double"]);
}

#[test]
fn steps_are_measured_over_quantised_weights() {
    let models =
        ["bench", "steps", "--models", "tiny-gpt2,tiny-llama,tiny-vit", "--methods", "frozen,lora,nola"];
    for quantization in ["int8", "nf4", "nf4-double"] {
        let options = ["--steps", "1", "--quantize", quantization, "--json"];
        let outcome = Workshop::empty().run(&[&models[..], &options].concat());
        assert_eq!(outcome.code, 0, "{}{}", outcome.stdout, outcome.stderr);
        for line in outcome.stdout.lines() {
            let line: Value = serde_json::from_str(line).expect("JSON");
            assert_eq!(line["param_dtype"], quantization, "{line}");
        }
    }
}

#[test]
fn a_run_over_a_quantised_base_is_scored_without_quantisation_where_that_is_asked_for() {
    let workshop = text_workshop();
    trained(&workshop, &["model.quantize=nf4"]);
    let dense = scored(&workshop, &["--run", "runs/food", "--quantize", "none"]);
    let by_folder =
        ["--model", "base", "--adapter", "runs/food/adapter", "--format", "e2e", "--data", "val.txt"];
    assert_eq!(loss(&dense), loss(&scored(&workshop, &by_folder)));
    assert_ne!(loss(&dense), loss(&scored(&workshop, &["--run", "runs/food"])));
}

#[test]
fn images_are_predicted_by_the_weights_that_are_asked_for() {
    let workshop = Workshop::new();
    workshop.run(&["train", "colours.toml", "--json"]).json();
    let predicted = |quantize: &str| {
        let predict = ["predict", "--run", "runs/colours", "--quantize", quantize, "--json", "val/red/0.png"];
        workshop.run(&predict).json()["predictions"][0]["classes"][0]["probability"].as_f64()
    };
    assert_ne!(predicted("nf4").expect("a probability"), predicted("none").expect("a probability"));
}
