//! `nola-train compress`, and what other commands make of a bundle.

use std::fs;

use serde_json::Value;

use crate::program::{Outcome, Workshop, keys};
use crate::program_generate::texts;
use crate::text_workshop::{loss, sets, text_workshop, train};

const PROMPT: &str = "name : Zizzi | food : Thai";

/// Trains a run of the method for a moment, in `runs/METHOD`.
fn trained(workshop: &Workshop, method: &str, more: &[&str]) {
    let (kind, dir) = (format!("method.kind={method}"), format!("output.dir=runs/{method}"));
    let set = sets(&[&kind, &dir, "train.steps=4", "train.evaluate_every=4"]);
    train(workshop, &[&set[..], &sets(more)].concat()).json();
}

fn compressed(workshop: &Workshop, arguments: &[&str]) -> Outcome {
    workshop.run(&[&["compress", "--model", "base", "--json"], arguments].concat())
}

fn near(left: f64, right: f64) -> bool {
    (left - right).abs() < 1e-3 * (1.0 + left.abs())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

#[test]
fn adapters_of_several_methods_become_a_bundle_that_every_command_takes() {
    let workshop = text_workshop();
    for method in ["nola", "lora", "lora-xs", "vera"] {
        trained(&workshop, method, &[]);
    }
    // As wide as the narrowest side of every weight, so that nothing is lost.
    let made = compressed(&workshop, &["runs", "--out", "all", "--rank", "24", "--evaluate"]);
    let report = made.json();
    insta::assert_snapshot!("compress_json", keys(&report));
    let members = report["members"].as_array().expect("a list");
    let names: Vec<&str> = members.iter().map(|member| text(&member["name"])).collect();
    assert_eq!(names, ["lora", "lora-xs", "nola", "vera"]);
    for member in members {
        let number = |key: &str| member["quality"][key].as_f64().expect("a number");
        assert!(member["lost"].as_f64().expect("a share") < 1e-6, "{member}");
        assert!(near(number("loss"), number("loss_before")), "{member}");
    }
    let scored = |adapter: &str| {
        let of_data = ["--data", "val.txt", "--format", "e2e"];
        loss(
            &workshop
                .run(
                    &[&["evaluate", "--json", "--model", "base", "--adapter", adapter], &of_data[..]]
                        .concat(),
                )
                .json(),
        )
    };
    let generated = |adapter: &str| texts(&workshop, &["--model", "base", "--adapter", adapter, PROMPT]);
    for name in names {
        let member = format!("all/{name}");
        let exported = format!("exported/{name}");
        let export =
            workshop.run(&["export", "--model", "base", "--adapter", &member, "--out", &exported, "--json"]);
        assert!(export.json()["largest_difference"].as_f64().expect("a number") < 1e-5, "{name}");
        assert!(near(scored(&member), scored(&exported)), "{name}");
        assert_eq!(generated(&member), generated(&exported), "{name}");
    }
    let inspected = workshop.run(&["inspect", "all", "--json"]).json();
    insta::assert_snapshot!("inspect_bundle_json", keys(&inspected));
    assert_eq!((&inspected["kind"], &inspected["members"][1]["name"]), (&"bundle".into(), &"lora-xs".into()));
    let member = workshop.run(&["inspect", "all/lora-xs", "--json"]).json();
    assert_eq!(
        (&member["kind"], &member["method"], &member["bundle"]),
        (&"adapter".into(), &"lora-xs".into(), &"all".into())
    );
    let shown = workshop.run(&["inspect", "all"]).stdout;
    assert!(shown.contains("members (4)\n  lora (peft LORA): cluster 0, "), "{shown}");
}

#[test]
fn fewer_columns_lose_some_and_the_error_that_is_shown_falls() {
    let workshop = text_workshop();
    for method in ["nola", "lora", "vera"] {
        trained(&workshop, method, &[]);
    }
    for method in ["jd-full", "jd-diag"] {
        let made = compressed(
            &workshop,
            &["runs", "--out", method, "--method", method, "--rank", "3", "--clusters", "2"],
        );
        let report = made.json();
        let lost = report["lost"].as_f64().expect("a share");
        assert!(0.01 < lost && lost < 0.99, "{report}");
        assert_eq!((&report["method"], &report["rank"]), (&method.into(), &3.into()));
        let shares = made.stderr.lines().filter_map(|line| {
            line.strip_prefix("iteration ")?.split(": ").nth(1)?.split(' ').next()?.parse::<f64>().ok()
        });
        let shares: Vec<f64> = shares.collect();
        assert!(!shares.is_empty() && shares.is_sorted_by(|one, next| next <= one), "{}", made.stderr);
    }
}

#[test]
fn adapters_of_another_base_are_refused_by_name() {
    let workshop = text_workshop();
    trained(&workshop, "lora", &[]);
    trained(&workshop, "nola", &["model.path=llama"]);
    let refused = compressed(&workshop, &["runs/lora", "runs/nola", "--out", "all"]);
    refused.assert_refused(6, &["not adapters of `base`: nola (made for `llama`", "a bundle has one base"]);
    assert!(!workshop.at("all").exists());
    // The base is compared with the bundle's, too.
    compressed(&workshop, &["runs/lora", "--out", "all"]).json();
    let other = workshop.run(&["compress", "--model", "llama", "runs/nola", "--add-to", "all"]);
    other.assert_refused(6, &["all: made for the base `base`"]);
}

#[test]
fn what_is_no_low_rank_update_is_refused_by_name() {
    let workshop = text_workshop();
    trained(&workshop, "dora", &[]);
    let refused = compressed(&workshop, &["runs/dora", "--out", "all"]);
    refused.assert_refused(
        6,
        &["`dora`: at `blocks.0.", "lengths of the weight's columns", "leave this adapter out"],
    );
    fs::create_dir_all(workshop.at("empty/inside")).expect("folders");
    compressed(&workshop, &["empty", "--out", "all"])
        .assert_refused(6, &["empty", "neither an adapter nor a run"]);
}

#[test]
fn an_adapter_that_comes_later_is_added_without_a_new_fit() {
    let workshop = text_workshop();
    for method in ["nola", "lora"] {
        trained(&workshop, method, &[]);
    }
    compressed(&workshop, &["runs/nola", "--out", "all", "--rank", "24"]).json();
    let written =
        |name: &str| texts(&workshop, &["--model", "base", "--adapter", &format!("all/{name}"), PROMPT]);
    let before = written("nola");
    let added = compressed(&workshop, &["later=runs/nola/adapter", "runs/lora", "--add-to", "all"]).json();
    let members = added["members"].as_array().expect("a list");
    let names: Vec<&str> = members.iter().map(|member| text(&member["name"])).collect();
    assert_eq!(names, ["later", "lora"], "those that came");
    let lost = |place: usize| members[place]["lost"].as_f64().expect("a share");
    assert!(lost(0) < 1e-6 && lost(1) > lost(0), "the bases were made for one of them alone: {added}");
    assert_eq!([written("nola"), written("later")], [before.clone(), before]);
    assert_eq!(fs::read_dir(workshop.at("all")).expect("a folder").count(), 2);
    let again = compressed(&workshop, &["later=runs/lora/adapter", "--add-to", "all"]);
    again.assert_refused(6, &["two adapters are called `later`"]);
    let both = compressed(&workshop, &["runs/lora", "--add-to", "all", "--rank", "3"]);
    assert_eq!(both.code, 2, "{}", both.stderr);
}

#[test]
fn a_bundle_that_is_damaged_or_meant_as_one_adapter_is_refused() {
    let workshop = text_workshop();
    trained(&workshop, "nola", &[]);
    compressed(&workshop, &["runs/nola", "--out", "all"]).json();
    let generate =
        |adapter: &str| workshop.run(&["generate", "--model", "base", "--adapter", adapter, PROMPT]);
    generate("all").assert_refused(6, &["this is a bundle", "FOLDER/NAME", "nola"]);
    generate("all/other").assert_refused(6, &["no member `other`", "its members are nola"]);
    let mut manifest: Value =
        serde_json::from_slice(&fs::read(workshop.at("all/bundle.json")).expect("a file")).expect("JSON");
    manifest["members"][0]["lost"] = 0.into();
    manifest["rank"] = 3.into();
    workshop.write("all/bundle.json", manifest.to_string());
    for outcome in [
        generate("all/nola"),
        workshop.run(&["inspect", "all"]),
        compressed(&workshop, &["runs/nola", "--add-to", "all"]),
    ] {
        outcome.assert_refused(6, &["bundle.json", "`check`", "restore it"]);
    }
}

#[test]
fn adapters_of_images_keep_their_heads_in_a_bundle() {
    let workshop = Workshop::new();
    for method in ["nola", "lora"] {
        let (kind, dir) = (format!("method.kind={method}"), format!("output.dir=runs/{method}"));
        workshop.run(&["train", "colours.toml", "--json", "--set", &kind, "--set", &dir]).json();
    }
    let report = compressed(&workshop, &["runs", "--out", "all", "--rank", "24", "--evaluate"]).json();
    for member in report["members"].as_array().expect("a list") {
        let quality = &member["quality"];
        assert_eq!(quality["accuracy"], quality["accuracy_before"], "{member}");
    }
    let arguments = ["--model", "base", "--data", "val", "--json"];
    let scored = |adapter: &str| {
        workshop.run(&[&["evaluate", "--adapter", adapter], &arguments[..]].concat()).json()["accuracy"]
            .clone()
    };
    assert_eq!(scored("all/lora"), scored("runs/lora/adapter"));
}
