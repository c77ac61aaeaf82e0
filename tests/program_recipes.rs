//! What the program says about recipes, and how shells complete it.

use std::path::Path;
use std::process::Command;

use nola_core::AdapterConfig;
use serde_json::Value;

use crate::program::Workshop;
use crate::text_workshop::text_workshop;

#[test]
fn a_shipped_recipe_is_trained_by_its_name_from_any_folder() {
    let workshop = Workshop::empty();
    let few = ["--set", "train.steps=1", "--set", "data.shots=1", "--json"];
    let result = workshop.run(&[&["train", "vit-digits-linear"][..], &few].concat()).json();
    assert_eq!(result["method"], "linear");
    assert!(workshop.at("runs/vit-digits-linear/recipe.toml").is_file());
}

#[test]
fn a_file_wins_over_a_shipped_recipe_of_its_name() {
    let workshop = Workshop::new();
    std::fs::rename(workshop.at("colours.toml"), workshop.at("vit-digits-nola")).expect("a free name");
    let result = workshop.run(&["train", "vit-digits-nola", "--set", "train.steps=1", "--json"]).json();
    assert!(result["adapter"].as_str().expect("a path").starts_with("runs/vit-digits-nola"));
    let resolved =
        std::fs::read_to_string(workshop.at("runs/vit-digits-nola/recipe.toml")).expect("a recipe");
    assert!(resolved.contains("path = \"base\""), "{resolved}");
}

#[test]
fn what_is_neither_a_file_nor_shipped_suggests_a_name() {
    let workshop = Workshop::empty();
    for command in ["train", "compare"] {
        for typed in ["vit-digit-nola", "vit-digits-nola.toml", "recipes/vit-digits-nola.toml"] {
            let parts = [typed, "no such file", "did you mean `vit-digits-nola`?", "nola-train recipes"];
            workshop.run(&[command, typed]).assert_refused(3, &parts);
        }
    }
}

#[test]
fn shipped_recipes_are_listed_as_json_with_what_they_need() {
    let list = Workshop::empty().run(&["recipes", "--json"]).json();
    let recipes = list["recipes"].as_array().expect("a list");
    let named =
        |name: &str| recipes.iter().find(|recipe| recipe["name"] == name).expect("a shipped one").clone();
    assert!(recipes.len() > 20);
    let digits = named("vit-digits-nola");
    assert_eq!(digits["method"], "nola");
    assert_eq!(digits["model"], "assets/vit-micro");
    assert_eq!(digits["format"], "folder");
    assert_eq!(digits["needs"], serde_json::json!([]));
    let llama = named("llama2-7b-alpaca-nola");
    let needs = ["meta-llama/Llama-2-7b-hf", "tatsu-lab/alpaca"];
    assert_eq!(llama["needs"], serde_json::json!(needs));
    assert!(llama["purpose"].as_str().expect("text").contains("Alpaca"));
}

#[test]
fn one_recipe_is_printed_as_json_with_its_text() {
    let printed = Workshop::empty().run(&["recipes", "text-museum-lora", "--json"]).json();
    assert_eq!(printed["method"], "lora");
    assert!(printed["text"].as_str().expect("text").contains("[train]"));
}

#[test]
fn the_schema_is_printed_for_editors() {
    let workshop = Workshop::empty();
    let printed = workshop.run(&["recipes", "--schema"]).stdout;
    let schema: Value = serde_json::from_str(&printed).expect("JSON");
    assert_eq!(schema["properties"]["train"]["properties"]["batch"]["minimum"], 1.0);
    assert_eq!(schema["required"], serde_json::json!(["model", "data"]));
    assert_eq!(workshop.run(&["recipes", "--schema", "--json"]).json(), schema);
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/recipe.schema.json");
    assert_eq!(std::fs::read_to_string(shipped).expect("the schema").replace("\r\n", "\n"), printed);
}

#[test]
fn a_key_is_explained_and_a_typo_suggests_the_likely_one() {
    let workshop = Workshop::empty();
    let text = workshop.run(&["recipes", "--explain", "train.warmup"]).stdout;
    for part in ["train.warmup", "whole number", "optimizer steps", "default  0", "warmup = 100"] {
        assert!(text.contains(part), "no `{part}` in {text}");
    }
    let text = workshop.run(&["recipes", "--explain", "train"]).stdout;
    assert!(text.contains("  learning_rate ") && text.contains("  warmup "), "{text}");
    let key = workshop.run(&["recipes", "--explain", "method.alpha", "--json"]).json();
    let has_alpha =
        |config: &AdapterConfig| serde_json::to_value(config).expect("settings").get("alpha").is_some();
    let with_alpha = AdapterConfig::every().iter().filter(|config| has_alpha(config)).count();
    let sections = key["sections"].as_array().map(Vec::len);
    assert_eq!(sections, Some(with_alpha), "one for each adapter that has it: {key}");
    workshop
        .run(&["recipes", "--explain", "train.warmpu"])
        .assert_refused(3, &["did you mean `train.warmup`?"]);
    workshop.run(&["recipes", "vit-digits-nola", "--schema"]).assert_refused(2, &["cannot be used with"]);
}

#[test]
fn every_wrong_type_of_a_recipe_is_listed_with_its_line() {
    let workshop = Workshop::empty();
    workshop.write(
        "wrong.toml",
        "[model]\npath = 3\n[train]\nsteps = \"many\"\nbatch = 1.5\noptimizer = \"adamm\"\n",
    );
    workshop.run(&["train", "wrong.toml", "--set", "train.seed=x"]).assert_refused(
        3,
        &[
            "wrong.toml:2: `model.path` is 3; expected text",
            "wrong.toml:4: `train.steps` is the text \"many\"; expected a whole number",
            "wrong.toml:5: `train.batch` is 1.5; expected a whole number",
            "wrong.toml:6: `train.optimizer` cannot be `adamm`; did you mean `adam",
            "--set train.seed=x: `train.seed` is the text \"x\"; expected a whole number",
            "`data.train` is missing",
        ],
    );
}

#[test]
fn targets_that_the_model_calls_otherwise_suggest_its_names() {
    let workshop = text_workshop();
    let train = |set: &str| workshop.run(&["train", "food.toml", "--set", set]);
    let named =
        ["targets `q_proj`, `v_proj`", "match no linear weight; here they are called `query`, `value`"];
    train("method.targets=[\"q_proj\", \"v_proj\"]").assert_refused(6, &named);
    let many: Vec<String> = (0..300).map(|block| format!("\"h.{block}.c_attn\"")).collect();
    let refused = train(&format!("method.targets=[{}]", many.join(", ")));
    refused.assert_refused(6, &["`h.0.c_attn`", "and 292 more", "`query`, `key`, `value`"]);
    assert!(refused.stderr.len() < 1000, "{}", refused.stderr);
}

#[test]
fn manual_pages_are_printed_and_written_for_every_command() {
    let workshop = Workshop::empty();
    let page = workshop.run(&["man"]).stdout;
    assert!(page.contains(".TH nola") && page.contains("evaluate"), "{page}");
    let folder = workshop.at("pages/man1");
    assert_eq!(workshop.run(&["man", "--out", "pages/man1"]).code, 0);
    let page = |name: &str| std::fs::read_to_string(folder.join(name)).expect("a page");
    assert!(page("nola-train.1").contains("nola\\-train"));
    assert!(page("nola-train-train.1").contains("KEY=VALUE"));
    assert!(page("nola-train-bench-steps.1").contains("models"));
    workshop.write("file", "");
    workshop.run(&["man", "--out", "file"]).assert_refused(9, &["file: cannot be written"]);
}

/// What bash offers for the last of `words`, with the script that the program prints; none where there is no bash.
fn bash_offers(workshop: &Workshop, words: &[&str]) -> Option<Vec<String>> {
    let script = workshop.run(&["completions", "bash"]).stdout;
    workshop.write("completions.sh", script);
    let [.., last] = words else { panic!("a word to complete") };
    let typed: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let ask = format!(
        "source ./completions.sh\n\
         specification=$(complete -p nola-train) || exit 3\n\
         [[ $specification =~ '-F '([^ ]+) ]] && function=${{BASH_REMATCH[1]}}\n\
         COMP_WORDS=({}); COMP_CWORD={}; COMP_TYPE=9\n\
         $function nola-train '{last}' '{}'\n\
         printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        typed.join(" "),
        words.len() - 1,
        words[words.len() - 2],
    );
    let mut bash = Command::new("bash");
    let bash = bash.args(["--norc", "-c", &ask]).current_dir(workshop.at("")).output();
    let output = match bash {
        Ok(output) => output,
        Err(error) => {
            println!("skipped: bash cannot be started: {error}");
            return None;
        }
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let offered = String::from_utf8(output.stdout).expect("text");
    Some(offered.lines().map(|line| line.trim_end().to_owned()).collect())
}

#[test]
fn bash_completes_commands_options_and_values() {
    let workshop = Workshop::empty();
    workshop.write("mine.toml", "");
    let cases: [(&[&str], &[&str]); 14] = [
        (&["nola-train", "ev"], &["evaluate"]),
        (&["nola-train", "train", "--"], &["--set", "--device", "--quiet", "--json"]),
        (&["nola-train", "evaluate", "--format", ""], &["alpaca", "cifar10", "fashion-mnist", "webnlg"]),
        (&["nola-train", "evaluate", "--format", "fash"], &["fashion-mnist"]),
        (&["nola-train", "generate", "--format", "sh"], &["sharegpt"]),
        (&["nola-train", "train", "--device", ""], &["auto", "cpu", "wgpu", "cuda"]),
        (&["nola-train", "predict", "--dtype", ""], &["f32", "bf16", "f16"]),
        (&["nola-train", "merge", "--dtype", "b"], &["bf16"]),
        (&["nola-train", "train", ""], &["vit-digits-nola", "text-museum-lora", "mine.toml"]),
        (&["nola-train", "compare", "mine.toml", "vit-digits-l"], &["vit-digits-linear", "vit-digits-lora"]),
        (&["nola-train", "recipes", "llama2-7"], &["llama2-7b-alpaca-nola"]),
        (&["nola-train", "recipes", "--explain", "train.war"], &["train.warmup"]),
        (&["nola-train", "train", "mine.toml", "--set", "train.war"], &["train.warmup="]),
        (&["nola-train", "bench", "steps", "--dt"], &["--dtype"]),
    ];
    for (words, expected) in cases {
        let Some(offered) = bash_offers(&workshop, words) else { return };
        for candidate in expected {
            assert!(offered.iter().any(|one| one == candidate), "{words:?}: no {candidate} in {offered:?}");
        }
        let typed = words.last().expect("a word");
        assert!(offered.iter().all(|one| one.starts_with(typed)), "{words:?}: {offered:?}");
    }
}

#[test]
fn data_that_is_not_there_is_missed_with_where_to_get_it() {
    let workshop = Workshop::empty();
    let run = workshop.run(&["train", "gpt2-medium-e2e-nola-qv"]);
    run.assert_refused(4, &["data/e2e/trainset.csv: there is no such file", "tuetschek/e2e-dataset", "curl"]);
    let run = workshop.run(&["compare", "vit-cifar10-pretrain"]);
    run.assert_refused(4, &["data/cifar-10-batches-bin", "cifar-10-binary.tar.gz"]);
}
