//! The built program on text, as a user runs it, on tiny language models that read bytes.

use serde_json::{Value, json};

use crate::program::{Workshop, bytes_of, keys};
use crate::program_generate::texts;
use crate::text_workshop::{
    END, FORMATS, e2e_context, e2e_row, llama_json, loss, model, sets, text_workshop, train, trained,
};

const PROMPT: &str = "name : Zizzi | food : Thai";

fn scored(workshop: &Workshop, arguments: &[&str]) -> Value {
    workshop.run(&[&["evaluate", "--json"], arguments].concat()).json()
}

fn adapter(workshop: &Workshop, run: &str) -> Vec<u8> {
    bytes_of(&workshop.at(run).join("adapter/adapter_model.safetensors"))
}

fn near(left: f64, right: f64) -> bool {
    (left - right).abs() < 1e-4 * (1.0 + left.abs())
}

#[test]
fn training_on_text_learns_and_leaves_what_the_readme_lists() {
    let workshop = text_workshop();
    let before = loss(&scored(&workshop, &["--model", "base", "--format", "e2e", "--data", "val.txt"]));
    let result = trained(&workshop);
    assert!(loss(&result) < before - 0.5, "{before} before, {result}");
    insta::assert_snapshot!("train_text_json", keys(&result));
    let left = [
        "recipe.toml",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "adapter/README.md",
        "adapter-last/adapter_config.json",
        "result.json",
        "report.html",
        "curves.svg",
    ];
    for file in left {
        assert!(workshop.at("runs/food").join(file).is_file(), "{file}");
    }
    let page = String::from_utf8(bytes_of(&workshop.at("runs/food/report.html"))).expect("text");
    assert!(page.contains("name : Aromi | food : French"), "the report shows how prompts are completed");
}

#[test]
fn every_method_learns_every_format() {
    let workshop = text_workshop();
    for (format, data) in FORMATS {
        let before = loss(&scored(&workshop, &["--model", "base", "--format", format, "--data", data]));
        for method in ["nola", "lora", "full"] {
            let [format, method, dir] = [
                format!("data.format={format}"),
                format!("method.kind={method}"),
                format!("output.dir=runs/{format}-{method}"),
            ];
            let [from, to] = [format!("data.train={data}"), format!("data.validation={data}")];
            let changes = [&format, &method, &dir, &from, &to].map(String::as_str);
            let result = train(&workshop, &sets(&changes)).json();
            assert!(loss(&result) < before - 0.2, "{format} {method}: {before} before, {result}");
        }
    }
}

#[test]
fn a_llama_learns_too() {
    let workshop = text_workshop();
    let before = loss(&scored(&workshop, &["--model", "llama", "--format", "e2e", "--data", "val.txt"]));
    let result = train(&workshop, &sets(&["model.path=llama"])).json();
    assert!(loss(&result) < before - 0.5, "{before} before, {result}");
}

#[test]
fn random_weights_are_trained_in_full_and_make_a_model_of_their_own() {
    let workshop = text_workshop();
    let result = train(&workshop, &sets(&["model.init=random", "method.kind=full"])).json();
    std::fs::remove_dir_all(workshop.at("base")).expect("the base is no longer needed");
    let again = scored(&workshop, &["--run", "runs/food"]);
    assert!(near(loss(&again), loss(&result)), "{again} and {result}");
    assert!(workshop.at("runs/food/model/tokenizer.json").is_file());
}

#[test]
fn a_resolved_text_recipe_repeats_the_run_to_the_bit() {
    let workshop = text_workshop();
    trained(&workshop);
    let again = ["train", "runs/food/recipe.toml", "--set", "output.dir=runs/again", "--json"];
    workshop.run(&again).json();
    assert_eq!(adapter(&workshop, "runs/food"), adapter(&workshop, "runs/again"));
}

#[test]
fn a_language_model_has_no_linear_probe() {
    let workshop = text_workshop();
    let parts = ["`method.kind` is linear", "an adapter or full"];
    train(&workshop, &sets(&["method.kind=linear"])).assert_refused(3, &parts);
}

#[test]
fn passes_over_the_text_become_steps() {
    let workshop = text_workshop();
    let result = train(&workshop, &sets(&["train.epochs=1.5", "train.batch=4"])).json();
    // Twelve rows make three steps of four.
    assert_eq!(result["steps"], 5, "{result}");
    let recipe = String::from_utf8(bytes_of(&workshop.at("runs/food/recipe.toml"))).expect("text");
    assert!(recipe.contains("steps = 5\n") && !recipe.contains("epochs"), "{recipe}");
}

#[test]
fn a_text_run_scores_the_same_again_merged_and_exported() {
    let workshop = text_workshop();
    for base in ["base", "llama"] {
        for method in ["nola", "lora"] {
            let (kind, run) = (format!("method.kind={method}"), format!("runs/{base}-{method}"));
            let (path, dir) = (format!("model.path={base}"), format!("output.dir={run}"));
            let result = train(&workshop, &sets(&[&kind, &path, &dir])).json();
            let (merged, exported) = (format!("{run}-merged"), format!("{run}-exported"));
            assert_eq!(workshop.run(&["merge", "--run", &run, "--out", &merged]).code, 0);
            assert_eq!(workshop.run(&["export", "--run", &run, "--out", &exported]).code, 0);
            let data = ["--data", "val.txt", "--format", "e2e"];
            for again in [
                scored(&workshop, &["--run", &run]),
                scored(&workshop, &[&["--model", &merged], &data[..]].concat()),
                scored(&workshop, &[&["--model", base, "--adapter", &exported], &data[..]].concat()),
            ] {
                assert!(near(loss(&again), loss(&result)), "{base} {method}: {again} and {result}");
            }
        }
    }
}

#[test]
fn a_run_on_a_token_embedding_scores_the_same_again_merged_and_exported() {
    let workshop = text_workshop();
    let mut tied = llama_json();
    tied["tie_word_embeddings"] = true.into();
    model(&workshop, "tied-llama", &tied);
    for (base, is_tied, name) in
        [("base", true, "wte"), ("llama", false, "embed_tokens"), ("tied-llama", true, "embed_tokens")]
    {
        let (path, run) = (format!("model.path={base}"), format!("runs/{base}"));
        let (dir, targets) =
            (format!("output.dir={run}"), "method.targets=[\"query\", \"value\", \"tokens\"]");
        let changes = ["method.kind=lora", &path, &dir, targets];
        let before = ["evaluate", "--model", base, "--format", "e2e", "--data", "val.txt", "--json"];
        let before = loss(&workshop.run(&before).json());
        let trained = train(&workshop, &sets(&changes));
        let notices = |stderr: &str| stderr.matches("tied embedding: ").count();
        assert_eq!(notices(&trained.stderr), usize::from(is_tied), "{}", trained.stderr);
        let result = trained.json();
        assert!(loss(&result) < before - 0.2, "{base}: {before} before, {result}");
        let (merged, exported) = (format!("{run}-merged"), format!("{run}-exported"));
        let merge = workshop.run(&["merge", "--run", &run, "--out", &merged]);
        assert_eq!((merge.code, notices(&merge.stderr)), (0, usize::from(is_tied)), "{}", merge.stderr);
        assert_eq!(workshop.run(&["export", "--run", &run, "--out", &exported]).code, 0);
        let config: Value =
            serde_json::from_slice(&bytes_of(&workshop.at(&merged).join("config.json"))).expect("JSON");
        assert_ne!(config["tie_word_embeddings"], true);
        let inspected = workshop.run(&["inspect", &exported, "--json"]).json();
        assert!(inspected.to_string().contains(&format!("{name}.lora_embedding_A")), "{inspected}");
        let data = ["--data", "val.txt", "--format", "e2e"];
        for again in [
            scored(&workshop, &["--run", &run]),
            scored(&workshop, &[&["--model", &merged], &data[..]].concat()),
            scored(&workshop, &[&["--model", base, "--adapter", &exported], &data[..]].concat()),
        ] {
            assert!(near(loss(&again), loss(&result)), "{base}: {again} and {result}");
        }
        let prompt = e2e_context("Zizzi", "Thai");
        let of_run = texts(&workshop, &["--run", &run, &prompt]);
        assert_eq!(of_run, texts(&workshop, &["--model", &merged, "--format", "e2e", &prompt]), "{base}");
    }
}

#[test]
fn an_adapter_that_takes_no_embedding_is_refused_by_the_target_s_name() {
    let workshop = text_workshop();
    let refused = train(&workshop, &sets(&["method.targets=[\"query\", \"tokens\"]"]));
    refused.assert_refused(6, &["`tokens` is an embedding", "only `lora`", "take it out of `targets`"]);
    let refused = train(&workshop, &sets(&["method.kind=lora", "method.targets=[\"wte\"]"]));
    refused.assert_refused(6, &["`wte`", "here they are called `tokens`"]);
}

#[test]
fn evaluate_counts_every_token_that_is_told_once() {
    let workshop = text_workshop();
    let scored = scored(&workshop, &["--model", "base", "--format", "e2e", "--data", "rows/e2e.txt"]);
    insta::assert_snapshot!("evaluate_text_json", keys(&scored));
    let rows = String::from_utf8(bytes_of(&workshop.at("rows/e2e.txt"))).expect("text");
    // A space before each completion and the end token after it; a token is a byte.
    let learned_tokens = |row: &str| row.split_once("||").expect("a row").1.len() + 2;
    assert_eq!(scored["tokens"], rows.lines().map(learned_tokens).sum::<usize>());
}

#[test]
fn metrics_compare_one_text_for_each_prompt_with_all_its_references() {
    let workshop = text_workshop();
    let arguments = ["--model", "base", "--format", "e2e", "--data", "val.txt", "--metrics"];
    let files = ["--save-texts", "texts.txt", "--max-new-tokens", "8"];
    let scored = scored(&workshop, &[&arguments[..], &files].concat());
    insta::assert_snapshot!("evaluate_metrics_json", keys(&scored));
    assert_eq!(scored["prompts"], 4);
    let texts = String::from_utf8(bytes_of(&workshop.at("texts.txt"))).expect("text");
    assert_eq!(texts.lines().count(), 4, "{texts}");
}

#[test]
fn texts_that_are_the_references_have_the_best_scores() {
    let workshop = text_workshop();
    workshop.write("one.txt", format!("{}\n", e2e_row("Zizzi", "Thai")));
    let by_heart = ["data.train=one.txt", "data.validation=one.txt", "train.batch=1", "method.kind=full"];
    let long = ["train.steps=150", "train.learning_rate=1e-2", "train.evaluate_every=50"];
    train(&workshop, &sets(&[by_heart, [long[0], long[1], long[2], "train.schedule=constant"]].concat()))
        .json();
    let scored = scored(&workshop, &["--run", "runs/food", "--metrics"]);
    assert_eq!([&scored["metrics"]["bleu"], &scored["metrics"]["rouge_l"]], [1.0, 1.0], "{scored}");
    assert_eq!(scored["metrics"]["ter"], 0.0, "{scored}");
    assert_eq!(
        texts(&workshop, &["--run", "runs/food", PROMPT, "--max-new-tokens", "60"]),
        [" Zizzi serves Thai food ."]
    );
}

#[test]
fn a_prompt_longer_than_the_context_is_left_out_of_the_metrics_and_counted() {
    let workshop = text_workshop();
    workshop.write(
        "long.txt",
        format!("{}\n{}\n", e2e_row(&"long ".repeat(60), "Thai"), e2e_row("Zizzi", "Thai")),
    );
    let arguments = ["--model", "base", "--format", "e2e", "--data", "long.txt", "--metrics"];
    let scored = scored(&workshop, &[&arguments[..], &["--max-new-tokens", "4"]].concat());
    assert_eq!((&scored["prompts"], &scored["prompts_too_long"]), (&1.into(), &1.into()), "{scored}");
}

/// Questions of two subjects, of which one of three choices is right.
fn questions(workshop: &Workshop, file: &str, count: usize) {
    let row = |number: usize| {
        let subject = ["arithmetic", "geometry"][number % 2];
        let choices = [number, number + 1, number + 2].map(|choice| choice.to_string());
        json!({"subject": subject, "question": format!("{number} + 1?"), "choices": choices, "answer": "B"})
    };
    workshop.write(file, (0..count).map(|number| format!("{}\n", row(number))).collect::<String>());
}

#[test]
fn choices_are_answered_for_each_subject_and_after_examples() {
    let workshop = text_workshop();
    questions(&workshop, "questions.jsonl", 6);
    questions(&workshop, "examples.jsonl", 4);
    let asked = ["--model", "base", "--choices", "questions.jsonl"];
    let zero_shot = scored(&workshop, &asked);
    insta::assert_snapshot!("evaluate_choices_json", keys(&zero_shot));
    assert_eq!(zero_shot["choices"]["questions"], 6);
    let subjects = zero_shot["choices"]["subjects"].as_object().expect("a table");
    assert_eq!(subjects.keys().collect::<Vec<_>>(), ["arithmetic", "geometry"]);
    let shots = |count| [&asked[..], &["--examples", "examples.jsonl", "--shots", count]].concat();
    assert_eq!(scored(&workshop, &shots("1"))["choices"]["cut"], 0);
    let evaluate = [&["evaluate"], &shots("3")[..]].concat();
    workshop.run(&evaluate).assert_refused(4, &["subject `arithmetic` has 2 examples", "3 shots"]);
}

#[test]
fn a_question_longer_than_the_context_is_cut_at_its_start_and_counted() {
    let workshop = text_workshop();
    let row = json!({"question": "long ".repeat(60), "choices": ["a", "b"], "answer": 0});
    workshop.write("questions.jsonl", row.to_string());
    let scored = scored(&workshop, &["--model", "base", "--choices", "questions.jsonl"]);
    assert_eq!(scored["choices"]["cut"], 1, "{scored}");
}

#[test]
fn compare_scores_what_the_runs_of_each_seed_write() {
    let workshop = text_workshop();
    let sets = sets(&["train.steps=2", "method.k=4"]);
    let arguments =
        [&["compare", "food.toml", "--seeds", "2", "--metrics", "val.txt", "--json"], &sets[..]].concat();
    let comparison = workshop.run(&arguments).json();
    insta::assert_snapshot!("compare_text_json", keys(&comparison));
    assert_eq!(comparison["rows"][0]["metrics"].as_array().expect("a list").len(), 2);
}

#[test]
fn each_command_keeps_to_its_kind_of_model() {
    let images = Workshop::new();
    images.trained();
    for named in [["--model", "base"], ["--run", "runs/colours"]] {
        let run = images.run(&[&["generate"], &named[..], &["Hi"]].concat());
        run.assert_refused(2, &["`generate` needs a model of text", "use `predict`"]);
    }
    let run = images.run(&["evaluate", "--run", "runs/colours", "--metrics"]);
    run.assert_refused(2, &["--metrics", "needs a model of text"]);
    let text = text_workshop();
    trained(&text);
    for named in [["--model", "base"], ["--run", "runs/food"]] {
        let run = text.run(&[&["predict"], &named[..], &["image.png"]].concat());
        run.assert_refused(2, &["`predict` needs a model of images", "use `generate`"]);
    }
}

#[test]
fn inspect_says_what_training_takes_in_each_storage_from_a_configuration_alone() {
    let workshop = Workshop::empty();
    workshop.write("sizes/config.json", llama_json().to_string());
    let inspect = |more: &[&str]| workshop.run(&[&["inspect", "sizes", "--batch", "2"], more].concat());
    let report = inspect(&["--tokens", "64", "--json"]).json();
    insta::assert_snapshot!("inspect_memory_json", keys(&report));
    let storages = report["storages"].as_array().expect("a list");
    let weights: Vec<u64> =
        storages.iter().map(|row| row["weights_bytes"].as_u64().expect("bytes")).collect();
    assert_eq!(weights[0], 4 * report["parameters"].as_u64().expect("a number"));
    assert!(weights.is_sorted_by(|more, less| more >= less), "{weights:?}");
    let bytes = |report: &Value| report["storages"][0]["bytes"].as_u64().expect("bytes");
    let all = inspect(&["--tokens", "64", "--targets", "all-linear", "--rank", "16", "--json"]).json();
    assert!(bytes(&all) > bytes(&report), "{all}");
    let shown = inspect(&["--tokens", "64"]).stdout;
    assert!(shown.contains("| nf4-double ") && shown.contains("2 x 64 tokens in a pass"), "{shown}");
}

#[test]
fn inspect_refuses_lengths_that_a_model_does_not_take() {
    let workshop = text_workshop();
    for (more, parts) in
        [(&[][..], ["--tokens", "language model"]), (&["--tokens", "257"], ["context", "256"])]
    {
        workshop.run(&[&["inspect", "base", "--batch", "2"], more].concat()).assert_refused(2, &parts);
    }
    workshop.run(&["inspect", "base", "--tokens", "2"]).assert_refused(2, &["--batch"]);
    workshop.run(&["inspect", "rows", "--batch", "2", "--tokens", "2"]).assert_refused(5, &["config.json"]);
    let unknown = ["inspect", "base", "--batch", "2", "--tokens", "2", "--targets", "valeu"];
    workshop.run(&unknown).assert_refused(6, &["valeu"]);
}

#[test]
fn inspect_knows_every_kind_of_folder_of_a_text_run() {
    let workshop = text_workshop();
    trained(&workshop);
    assert_eq!(workshop.run(&["export", "--run", "runs/food", "--out", "peft"]).code, 0);
    let inspected = |folder| workshop.run(&["inspect", folder, "--json"]).json();
    let adapter = inspected("runs/food/adapter");
    assert_eq!((&adapter["nola"]["k"], &adapter["hashes"]), (&32.into(), &"fit".into()), "{adapter}");
    assert_eq!(inspected("peft")["peft_type"], "LORA");
    let base = inspected("base");
    assert_eq!((&base["kind"], &base["config"]["model_type"]), (&"model".into(), &"gpt2".into()));
    assert_eq!(base["config"]["eos_token_id"], END);
}

#[test]
fn packing_grouping_and_small_passes_change_no_step_of_the_whole_data() {
    let workshop = text_workshop();
    // Rounded coefficients would show less.
    let bits = "output.coefficient_bits=32";
    let plain = loss(&train(&workshop, &sets(&[bits])).json());
    // A step learns from all rows, however they are put together: 12 alone, or packed in 4 rows of 256 tokens.
    for (name, changes) in [
        ("packed", &["data.text.packing=on", "train.batch=4"][..]),
        ("grouped", &["data.text.group_by_length=true"]),
        ("in small passes", &["train.micro_batch=3"]),
        ("all of it", &["data.text.packing=on", "train.batch=4", "train.micro_batch=1"]),
    ] {
        let dir = format!("output.dir=runs/{name}");
        let found = loss(&train(&workshop, &sets(&[changes, &[&dir, bits]].concat())).json());
        assert!((found - plain).abs() < 1e-3 * plain, "{name}: {found}, but {plain} without");
    }
}

#[test]
fn tokenised_text_is_kept_and_gives_the_same_bits() {
    let workshop = text_workshop();
    trained(&workshop);
    let run = |dir: &str| train(&workshop, &sets(&["data.text.cache=kept", &format!("output.dir={dir}")]));
    let (first, second) = (run("runs/first"), run("runs/second"));
    assert!(first.code == 0 && !first.stderr.contains("from the cache"), "{}", first.stderr);
    assert_eq!(second.stderr.matches("from the cache").count(), 2, "{}", second.stderr);
    assert_eq!(std::fs::read_dir(workshop.at("kept")).expect("the cache").count(), 2);
    for dir in ["runs/first", "runs/second"] {
        assert_eq!(adapter(&workshop, dir), adapter(&workshop, "runs/food"), "{dir}");
    }
}

#[test]
fn data_example_and_memory_are_shown_before_the_first_step() {
    let workshop = text_workshop();
    let stderr = train(&workshop, &[]).stderr;
    let at = |part: &str| stderr.find(part).unwrap_or_else(|| panic!("no `{part}` in: {stderr}"));
    let order = [
        at("data: training: 12 rows read, 0 bad; 12 samples"),
        at("data: validation: 8 rows read"),
        at("name : Aromi | food : French<|endoftext|>⟦ Aromi serves French food .<|endoftext|>⟧"),
        at("memory: the largest pass (12 x "),
        at("step 8/16"),
    ];
    assert!(order.is_sorted(), "{stderr}");
}

#[cfg(unix)]
#[test]
fn an_interrupt_keeps_what_was_learned_of_a_text() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    let workshop = text_workshop();
    let endless = sets(&["train.steps=1000000", "train.evaluate_every=5"]);
    let mut running = workshop
        .command("cpu")
        .args(["train", "food.toml"])
        .args(endless)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut lines = BufReader::new(running.stderr.take().expect("it is piped")).lines();
    assert!(lines.any(|line| line.expect("text").contains("step 5/")), "it ended before its fifth step");
    let interrupt = Command::new("kill").args(["-INT", &running.id().to_string()]).status();
    assert!(interrupt.expect("kill runs").success());
    // A reader that goes away now would not be told of the end; this one reads on.
    let last: Vec<String> = lines.map(|line| line.expect("text")).collect();
    assert_eq!(running.wait().expect("a child").code(), Some(130), "{last:?}");
    let result: Value =
        serde_json::from_slice(&bytes_of(&workshop.at("runs/food/result.json"))).expect("JSON");
    assert_eq!(result["interrupted"], true);
    let again = scored(&workshop, &["--run", "runs/food"]);
    assert!(near(loss(&again), loss(&result)), "{again} and {result}");
    assert_eq!(texts(&workshop, &["--run", "runs/food", &e2e_context("Zizzi", "Thai")]).len(), 1);
}

#[test]
fn options_of_writing_need_something_that_is_written() {
    let workshop = text_workshop();
    let evaluate = ["evaluate", "--model", "base", "--data", "val.txt", "--beams", "4"];
    workshop.run(&evaluate).assert_refused(2, &["--beams", "--metrics"]);
}
