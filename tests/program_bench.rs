//! `bench` as a user runs it: every measurement yields its lines. No test looks at a time, but for its being one.

use serde_json::Value;

use crate::program::{Outcome, Workshop, keys};

const METHODS: [&str; 15] = [
    "frozen",
    "full",
    "lora",
    "dora",
    "alora",
    "lora-xs",
    "olora",
    "pissa",
    "pc-lora",
    "vera",
    "pranc",
    "nola",
    "nola-shared",
    "nola-sign",
    "nola-shared-sign",
];
const MODELS: [&str; 3] = ["tiny-gpt2", "tiny-llama", "tiny-vit"];

/// The lines of JSON of a run that must have gone well.
fn lines(outcome: &Outcome) -> Vec<Value> {
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    json_lines(outcome)
}

fn json_lines(outcome: &Outcome) -> Vec<Value> {
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    outcome.stdout.lines().map(parse).collect()
}

fn bench(arguments: &[&str]) -> Outcome {
    Workshop::empty().run(&[&["bench"], arguments].concat())
}

fn is_time(line: &Value, key: &str) -> bool {
    line[key].as_f64().is_some_and(|seconds| seconds >= 0.0 && seconds.is_finite())
}

#[test]
fn steps_of_every_method_are_measured_on_every_kind_of_model() {
    let models = MODELS.join(",");
    let options = ["--steps", "2", "--rounds", "2", "--json"];
    let lines = lines(&bench(&[&["steps", "--models", &models, "--methods", "all"], &options[..]].concat()));
    let expected: Vec<(&str, &str)> =
        MODELS.iter().flat_map(|model| METHODS.map(|method| (*model, method))).collect();
    let found: Vec<(&str, &str)> =
        lines.iter().map(|line| (text(line, "model"), text(line, "method"))).collect();
    assert_eq!(found, expected);
    for line in &lines {
        assert!(["median_s", "p10", "p90", "build_s"].iter().all(|key| is_time(line, key)), "{line}");
        assert_eq!(line["n"], 4, "two steps in each of two rounds");
        assert!(line["loss_last"].as_f64().is_some_and(f64::is_finite), "{line}");
        assert_eq!(line["trainable"] == 0, line["method"] == "frozen", "{line}");
        assert_eq!(line["expand_s"].is_number(), line["method"] != "frozen", "{line}");
    }
}

fn text<'a>(line: &'a Value, key: &str) -> &'a str {
    line[key].as_str().unwrap_or_else(|| panic!("no {key} in {line}"))
}

#[test]
fn the_keys_of_a_case_are_pinned() {
    let workshop = Workshop::empty();
    let arguments = [
        "bench",
        "steps",
        "--models",
        "tiny-gpt2",
        "--methods",
        "nola",
        "--steps",
        "1",
        "--samples",
        "--json",
    ];
    // On a GPU there is one more.
    let lines = lines(&workshop.run_on("cpu", &arguments));
    insta::assert_snapshot!("bench_steps_json", keys(&lines[0]));
}

#[test]
fn options_change_what_a_step_is() {
    let options =
        ["--batch", "3", "--seq", "7", "--accumulate", "2", "--k", "5", "--rank", "2", "--threads", "1"];
    let case = ["steps", "--models", "tiny-llama", "--methods", "nola", "--steps", "1", "--json"];
    let line = lines(&bench(&[&case[..], &options].concat())).remove(0);
    for (key, expected) in
        [("batch", 3), ("seq", 7), ("accumulate", 2), ("k", 5), ("rank", 2), ("threads", 1)]
    {
        assert_eq!(line[key], expected, "{key}");
    }
    assert_eq!(line["trainable"], 2 * 2 * (5 + 5), "query and value of two blocks");
}

#[test]
fn a_case_that_fails_says_why_and_the_others_are_measured() {
    let case = ["steps", "--models", "tiny-gpt2", "--methods", "lora,nola", "--steps", "1", "--json"];
    let outcome = bench(&[&case[..], &["--rank", "100000"]].concat());
    outcome.assert_refused(1, &["1 of 2 cases were not measured"]);
    let lines = json_lines(&outcome);
    assert_eq!(lines[0]["n"], 1);
    assert!(text(&lines[1], "error").contains("`rank` is 100000"), "{}", lines[1]);
}

#[test]
fn a_case_that_does_not_fit_the_memory_is_skipped() {
    let arguments =
        ["bench", "steps", "--models", "llama-7b", "--methods", "full", "--batch", "100000", "--json"];
    let lines = lines(&Workshop::empty().run_on("cpu", &arguments));
    assert!(text(&lines[0], "skipped").starts_with("needs about "), "{}", lines[0]);
}

#[test]
fn more_tokens_than_a_model_reads_are_refused() {
    let arguments = ["steps", "--models", "tiny-gpt2", "--seq", "65"];
    bench(&arguments).assert_refused(2, &["tiny-gpt2 reads at most 64 tokens, not 65"]);
}

#[test]
fn a_model_of_images_cannot_be_started_on_text() {
    for what in ["start", "adapters"] {
        let outcome = bench(&[what, "--model", "vit-b16"]);
        assert_eq!(outcome.code, 2, "{}", outcome.stderr);
        assert!(outcome.stderr.contains("a language model is needed"), "{}", outcome.stderr);
    }
}

#[test]
fn kernels_are_measured_beside_the_machine() {
    let only = ["--only", "expand,project,mm_fp32_788x768x4,uniform,philox,compose"];
    let options = ["kernels", "--models", "tiny-gpt2,tiny-vit", "--repeats", "2", "--json"];
    let lines = lines(&bench(&[&options[..], &only].concat()));
    let named = |what: &str| lines.iter().filter(|line| text(line, "what").starts_with(what)).count();
    assert_eq!([named("expand_"), named("project_")], [8, 8], "four methods of two models");
    for what in ["mm_fp32_788x768x4", "uniform_1024x6144", "philox_words", "compose_gemv_1024x6144"] {
        assert_eq!(named(what), 1, "{what}");
    }
    assert!(lines.iter().all(|line| line["probe"] == true), "they can be told from cases");
    let expand = lines.iter().find(|line| line["what"] == "expand_tiny-gpt2_nola").expect("it is there");
    assert_eq!(expand["numbers"], f64::from(32 * 4 * 4 * (64 + 64)), "k x rank x sites x widths");
}

#[test]
fn the_start_of_a_run_is_timed() {
    let line = lines(&bench(&["start", "--model", "tiny-gpt2", "--runs", "2", "--json"])).remove(0);
    insta::assert_snapshot!("bench_start_json", keys(&line));
    assert_eq!(line["n"], 2);
    let seconds = |key: &str| line[key].as_f64().expect("a number");
    assert!(0.0 < seconds("first_step_s") && seconds("first_step_s") <= seconds("total_s"), "{line}");
}

#[test]
fn adapters_are_loaded_exchanged_and_merged() {
    let options = ["adapters", "--model", "tiny-gpt2", "--methods", "lora,nola", "--repeats", "1", "--json"];
    let lines = lines(&bench(&options));
    insta::assert_snapshot!("bench_adapters_json", keys(&lines[0]));
    let bytes = |line: &Value| line["adapter_bytes"].as_u64().expect("a number");
    assert!(bytes(&lines[1]) < bytes(&lines[0]), "NOLA's folder is the smaller one: {lines:?}");
    for key in ["attach_s", "save_s", "load_s", "swap_s", "merge_s"] {
        assert!(lines.iter().all(|line| is_time(line, key)), "{key}");
    }
}

#[test]
fn adapters_of_a_method_without_one_are_refused() {
    bench(&["adapters", "--model", "tiny-gpt2", "--methods", "frozen"]).assert_refused(8, &["`frozen`"]);
}

#[test]
fn many_adapters_are_served_and_timed() {
    let sizes = ["--requests", "6", "--running", "3", "--prompt-tokens", "5", "--new-tokens", "3", "--json"];
    let lines =
        lines(&bench(&[&["serve", "--model", "tiny-gpt2", "--adapters", "1,4"], &sizes[..]].concat()));
    assert_eq!(lines.len(), 8, "two methods, two numbers of adapters, two kinds of traffic");
    insta::assert_snapshot!("bench_serve_json", keys(&lines[0]));
    for line in &lines {
        assert!(line["tokens_per_second"].as_f64().is_some_and(|rate| rate > 0.0), "{line}");
        assert_eq!(
            (&line["requests"], &line["made"]),
            (&6.into(), &0.into()),
            "all matrices were there: {line}"
        );
    }
    assert!(lines.iter().all(|line| line["simulated_made"] == line["made"]), "{lines:?}");
    assert!(lines.iter().all(|line| line["found"] == 6), "{lines:?}");
    let bytes = |line: &Value, key: &str| line[key].as_u64().expect("a number");
    let four = lines.iter().find(|line| line["adapters"] == 4 && line["method"] == "nola").expect("its line");
    assert_eq!(bytes(four, "coefficient_bytes") % 4, 0, "four times that of one");
    assert!(bytes(four, "coefficient_bytes") < bytes(four, "matrix_bytes"), "{four}");
}

#[test]
fn a_bundle_is_timed_beside_folders() {
    let sizes = ["--requests", "6", "--running", "3", "--prompt-tokens", "5", "--new-tokens", "3", "--json"];
    let kinds = ["--as", "bundle,folders", "--methods", "lora", "--traffic", "uniform", "--clusters", "2"];
    let arguments = [&["serve", "--model", "tiny-gpt2", "--adapters", "5"], &kinds[..], &sizes].concat();
    let lines = lines(&bench(&arguments));
    let methods: Vec<&str> = lines.iter().map(|line| text(line, "method")).collect();
    assert_eq!(methods, ["bundle", "lora"]);
    let bytes = |line: &Value| line["matrix_bytes"].as_u64().expect("a number");
    assert!(bytes(&lines[0]) < bytes(&lines[1]), "small matrices instead of whole LoRAs: {lines:?}");
    assert!(lines.iter().all(|line| line["tokens_per_second"].as_f64().is_some_and(|rate| rate > 0.0)));
}

#[test]
fn the_cache_of_the_server_is_simulated() {
    let arguments =
        ["simulate", "--adapters", "100,100000", "--replicas", "1,2", "--requests", "2000", "--json"];
    let lines = lines(&bench(&arguments));
    assert_eq!(lines.len(), 4);
    insta::assert_snapshot!("bench_simulate_json", keys(&lines[0]));
    for line in &lines {
        let count = |key: &str| line[key].as_u64().expect("a number");
        assert_eq!(count("found") + count("made"), 2000, "{line}");
    }
    let share = |place: usize| lines[place]["found_share"].as_f64().expect("a share");
    assert!(share(0) > share(2), "{lines:?}");
}

#[test]
fn two_results_stand_side_by_side() {
    let workshop = Workshop::empty();
    let measured = workshop.run(&[
        "bench",
        "steps",
        "--models",
        "tiny-gpt2",
        "--methods",
        "lora,nola",
        "--steps",
        "1",
        "--json",
    ]);
    workshop.write("a.jsonl", &measured.stdout);
    let table = workshop.run(&["bench", "table", "a.jsonl", "a.jsonl"]);
    assert_eq!(table.code, 0, "{}", table.stderr);
    let row = table.stdout.lines().find(|row| row.contains("tiny-gpt2 2 x 16, nola")).expect("its row");
    assert!(row.starts_with('|') && row.contains(" 1.00 "), "{row}");
    let lines = lines(&workshop.run(&["bench", "table", "a.jsonl", "a.jsonl", "--json"]));
    insta::assert_snapshot!("bench_table_json", keys(&lines[1]));
    assert_eq!(lines[1]["a_to_b"]["wall"], 1.0);
    assert_eq!(lines[0]["a_to_lora"]["wall"], 1.0, "LoRA itself");
}

#[test]
fn a_file_of_results_that_is_none_is_named() {
    let workshop = Workshop::empty();
    workshop.write("a.jsonl", "no JSON\n");
    workshop.run(&["bench", "table", "a.jsonl", "a.jsonl"]).assert_refused(4, &["a.jsonl:1: not a line of"]);
    workshop.run(&["bench", "table", "b.jsonl", "a.jsonl"]).assert_refused(4, &["b.jsonl: cannot be read"]);
}

#[test]
fn without_json_there_is_a_table() {
    let table = bench(&["steps", "--models", "tiny-gpt2", "--methods", "frozen", "--steps", "1"]).stdout;
    assert!(table.starts_with("| model") && table.contains("| tiny-gpt2 | frozen |"), "{table}");
}

#[cfg(target_os = "linux")]
#[test]
fn the_memory_of_a_run_is_told_for_every_kind_of_model() {
    let outcome = Workshop::empty().run_on("cpu", &["bench", "memory", "--steps", "40", "--json"]);
    let lines = json_lines(&outcome);
    let models: Vec<&str> = lines.iter().map(|line| text(line, "model")).collect();
    assert_eq!(models, ["vit", "gpt2", "llama"], "{}", outcome.stderr);
    // So early pools still fill, which is told as growth.
    let grows = lines.iter().any(|line| line["growth_mib"].as_f64() > line["allowed_mib"].as_f64());
    assert_eq!(outcome.code, i32::from(grows), "{}", outcome.stderr);
    for line in &lines {
        let steps: Vec<u64> = line["used"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|used| used["step"].as_u64().expect("a step"))
            .collect();
        assert_eq!(steps, [4, 40], "{line}");
        assert!(line["growth_mib"].is_number() && line["allowed_mib"] == 4.0, "{line}");
    }
}
