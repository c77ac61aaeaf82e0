//! What of a folder that PEFT wrote is read, and what is refused: a toy with LLaMA's names, tied or not.

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::{Device, TensorData};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::adapted::floats;
use crate::{Adapted, float_params, read_params, write_params};

#[derive(Module, Debug)]
struct Block {
    query: Linear,
    value: Linear,
}

#[derive(Module, Debug)]
struct Toy {
    tokens: Embedding,
    patches: Conv2d,
    blocks: Vec<Block>,
    norm: LayerNorm,
    head: Option<Linear>,
}

const WIDTH: usize = 3;
const TOKENS: usize = 5;
const TIED: TiedHead = TiedHead { embedding: "tokens", head: "head" };

fn device() -> Device {
    Device::flex()
}

impl Toy {
    fn untied() -> Self {
        let layer = |d_out| LinearConfig::new(WIDTH, d_out).init(&device());
        let block = |_| Block { query: layer(WIDTH), value: layer(WIDTH) };
        Self {
            tokens: EmbeddingConfig::new(TOKENS, WIDTH).init(&device()),
            patches: Conv2dConfig::new([2, WIDTH], [2, 2]).init(&device()),
            blocks: (0..2).map(block).collect(),
            norm: LayerNormConfig::new(WIDTH).init(&device()),
            head: Some(LinearConfig::new(WIDTH, TOKENS).with_bias(false).init(&device())),
        }
    }

    /// A toy whose head has the numbers of its embedding.
    fn once_tied() -> Self {
        let toy = Self::untied();
        let head = transposed_table(&values(&toy, "tokens.weight"));
        let id = float_params(&toy).into_iter().find(|param| param.path == "head.weight").expect("a head").id;
        write_params(toy, [(id, TensorData::new(head, [WIDTH, TOKENS]))].into())
    }
}

/// `[TOKENS, WIDTH]` turned round.
fn transposed_table(table: &[f32]) -> Vec<f32> {
    super::matrix::transposed(table, WIDTH)
}

fn modules(path: &str) -> ForeignModule {
    let name = match path.strip_prefix("blocks.").and_then(|inside| inside.split_once('.')) {
        Some((number, "query")) => format!("model.layers.{number}.self_attn.q_proj"),
        Some((number, "value")) => format!("model.layers.{number}.self_attn.v_proj"),
        Some((_, other)) => panic!("no name for {other}"),
        None => match path {
            "tokens" => "model.embed_tokens".to_owned(),
            "patches" => "vision.projection".to_owned(),
            "norm" => "model.norm".to_owned(),
            "head" => "lm_head".to_owned(),
            other => panic!("no name for {other}"),
        },
    };
    ForeignModule::whole([name.clone(), name])
}

fn values(model: &Toy, path: &str) -> Vec<f32> {
    let id = float_params(model).into_iter().find(|param| param.path == path).expect("a parameter").id;
    floats(read_params(model, &[id]).remove(&id).expect("its value"))
}

fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|n| ((n * 7 + seed * 13 + 1) as f32 * 0.61).sin()).collect()
}

/// Name, shape and numbers.
type Stored = (String, Vec<usize>, Vec<f32>);

fn stored(name: &str, shape: &[usize], seed: usize) -> Stored {
    (name.to_owned(), shape.to_vec(), numbers(shape.iter().product(), seed))
}

/// The LoRA of a module of the blocks in both layers.
fn loras(module: &str) -> Vec<Stored> {
    let of_layer = |number: usize| {
        let name = format!("model.layers.{number}.self_attn.{module}");
        [("lora_A", [2, WIDTH]), ("lora_B", [WIDTH, 2])]
            .map(|(factor, shape)| stored(&format!("{name}.{factor}.weight"), &shape, number + factor.len()))
    };
    (0..2).flat_map(of_layer).collect()
}

/// A folder with the LoRAs of `q_proj` and these settings and tensors.
fn folder(settings: Value, tensors: Vec<Stored>) -> TempDir {
    let mut all = loras("q_proj");
    all.extend(tensors);
    folder_of(settings, all)
}

fn folder_of(settings: Value, tensors: Vec<Stored>) -> TempDir {
    let f32s = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let bytes = tensors.into_iter().map(|(name, shape, values)| (name, shape, Dtype::F32, f32s(&values)));
    folder_in(settings, bytes.collect())
}

fn folder_in(settings: Value, tensors: Vec<(String, Vec<usize>, Dtype, Vec<u8>)>) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut config = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 3, "target_modules": ["q_proj"]});
    config.as_object_mut().expect("an object").extend(settings.as_object().expect("an object").clone());
    std::fs::write(folder.path().join(CONFIG), config.to_string()).expect("a written file");
    let views = tensors.iter().map(|(name, shape, dtype, bytes)| {
        let view = TensorView::new(*dtype, shape.clone(), bytes).expect("bytes that fit the shape");
        (format!("{PREFIX}{name}"), view)
    });
    let weights = safetensors::serialize(views, None).expect("safetensors");
    std::fs::write(folder.path().join(WEIGHTS), weights).expect("a written file");
    folder
}

fn attached(folder: &TempDir, toy: Toy) -> Result<Adapted<Toy>, String> {
    let read = read(folder.path()).map_err(|error| error.to_string())?;
    read.attach(toy, &modules, &device()).map_err(|error| error.to_string())
}

/// Attached to a model whose base is tied.
fn on_tied(folder: &TempDir, toy: Toy) -> Result<Adapted<Toy>, String> {
    let read = read(folder.path()).map_err(|error| error.to_string())?.for_tied(TIED);
    assert!(read.unties(&modules), "it holds something of head or embedding");
    read.attach(toy, &modules, &device()).map_err(|error| error.to_string())
}

fn refused(folder: &TempDir) -> String {
    attached(folder, Toy::untied()).expect_err("it should be refused")
}

/// `base + 3/2 · A·B` with PEFT's factors of an embedding.
fn with_update(base: &[f32], a: &[f32], b: &[f32], scale: f32) -> Vec<f32> {
    let update = |row: usize, col: usize| (0..2).map(|r| b[col * 2 + r] * a[r * TOKENS + row]).sum::<f32>();
    (0..TOKENS * WIDTH).map(|n| base[n] + scale * update(n / WIDTH, n % WIDTH)).collect()
}

fn assert_near(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    assert!(found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 1e-6), "{found:?} is not {expected:?}");
}

#[test]
fn a_folder_without_a_tensor_is_refused() {
    for targets in [json!(["q_proj"]), json!(r".*\.(?!o_)(q|v)_proj"), json!(["query"]), json!([])] {
        let error = refused(&folder_of(json!({"target_modules": targets}), Vec::new()));
        assert!(error.contains("adapter_model.safetensors") && error.contains("holds no tensor"), "{error}");
    }
}

#[test]
fn a_target_without_its_tensors_is_refused() {
    for targets in [json!(["q_proj", "v_proj"]), json!(r".*(?<!k)_proj"), json!("all-linear")] {
        let error = refused(&folder(json!({"target_modules": targets}), Vec::new()));
        for number in 0..2 {
            let missing =
                format!("`base_model.model.model.layers.{number}.self_attn.v_proj.lora_A.weight` is missing");
            assert!(error.contains(&missing), "{error}");
        }
    }
    let half: Vec<Stored> =
        loras("q_proj").into_iter().filter(|(name, ..)| !name.contains("lora_B")).collect();
    assert!(refused(&folder_of(json!({}), half)).contains("q_proj.lora_B.weight` is missing"));
    let first: Vec<Stored> = loras("q_proj").into_iter().take(2).collect();
    assert!(refused(&folder_of(json!({}), first.clone())).contains("layers.1.self_attn.q_proj.lora_A"));
    let in_layer = json!({"layers_to_transform": [0]});
    assert_eq!(attached(&folder_of(in_layer, first), Toy::untied()).expect("all of it").sites().len(), 1);
}

#[test]
fn tensors_of_a_module_that_the_settings_leave_out_are_refused() {
    for settings in [
        json!({"target_modules": ["q_proj"], "exclude_modules": ["q_proj"]}),
        json!({"target_modules": ["q_proj"], "layers_to_transform": [0]}),
        json!({"target_modules": r".*layers\.0\..*q_proj"}),
        json!({"target_modules": ["query"]}),
    ] {
        let error = refused(&folder_of(settings.clone(), loras("q_proj")));
        let found = "layers.1.self_attn.q_proj.lora_A.weight` is there, but by `target_modules`";
        assert!(error.contains(found), "{settings}: {error}");
    }
}

#[test]
fn settings_that_name_no_layer_of_the_model_are_refused() {
    let saved = || vec![stored("lm_head.weight", &[TOKENS, WIDTH], 1)];
    for settings in [
        json!({"target_modules": ["query"]}),
        json!({"target_modules": ".*layer\\.(?!q).*"}),
        json!({"target_modules": ["q_proj"], "layers_to_transform": [5]}),
        json!({"target_modules": ["lm_head"]}),
    ] {
        let mut settings = settings;
        settings["modules_to_save"] = json!(["lm_head"]);
        let error = refused(&folder_of(settings, saved()));
        assert!(error.contains("`target_modules`") && error.contains("names no layer"), "{error}");
    }
}

#[test]
fn a_module_that_is_saved_whole_needs_no_lora() {
    let settings = json!({"target_modules": ["q_proj", "lm_head"], "modules_to_save": ["lm_head"]});
    let model =
        attached(&folder(settings, vec![stored("lm_head.weight", &[TOKENS, WIDTH], 1)]), Toy::untied());
    let head = values(&model.expect("a usual recipe").model, "head.weight");
    assert_eq!(head, transposed_table(&numbers(TOKENS * WIDTH, 1)));
}

#[test]
fn a_saved_module_that_is_not_there_is_refused() {
    for (module, missing) in [
        ("lm_head", "lm_head.weight"),
        ("embed_tokens", "embed_tokens.weight"),
        ("norm", "model.norm.bias"),
        ("model.norm", "model.norm.weight"),
    ] {
        let error = refused(&folder(json!({"modules_to_save": [module]}), Vec::new()));
        assert!(
            error.contains(&format!("{missing}` is missing")) && error.contains("modules_to_save"),
            "{error}"
        );
    }
    let other = folder(json!({"modules_to_save": ["score"]}), Vec::new());
    attached(&other, Toy::untied()).expect("a module that the model lacks is none of its own");
}

#[test]
fn the_second_names_of_a_saved_bias_are_no_surplus() {
    let names = ["model.norm.weight", "model.norm.bias", "model.norm.original_module.bias"];
    let mut tensors: Vec<Stored> =
        names.iter().enumerate().map(|(n, name)| stored(name, &[WIDTH], n)).collect();
    tensors.push(stored("model.norm.modules_to_save.bias", &[WIDTH], 1));
    let settings = json!({"modules_to_save": ["norm"], "bias": "all"});
    let model = attached(&folder(settings, tensors), Toy::untied()).expect("as PEFT writes it").model;
    assert_eq!(values(&model, "norm.beta"), numbers(WIDTH, 1));
}

#[test]
fn biases_of_the_base_are_read_with_and_without_a_wrapper() {
    let tensors = vec![
        stored("model.layers.0.self_attn.q_proj.base_layer.bias", &[WIDTH], 1),
        stored("model.layers.1.self_attn.v_proj.bias", &[WIDTH], 2),
    ];
    let model = attached(&folder(json!({"bias": "all"}), tensors), Toy::untied()).expect("two biases").model;
    assert_eq!(values(&model, "blocks.0.query.bias"), numbers(WIDTH, 1));
    assert_eq!(values(&model, "blocks.1.value.bias"), numbers(WIDTH, 2));
}

fn embedding_lora() -> Vec<Stored> {
    vec![
        stored("model.embed_tokens.lora_embedding_A", &[2, TOKENS], 3),
        stored("model.embed_tokens.lora_embedding_B", &[WIDTH, 2], 4),
    ]
}

#[test]
fn a_lora_of_an_embedding_is_attached_to_its_table() {
    let (a, b) = (numbers(2 * TOKENS, 3), numbers(WIDTH * 2, 4));
    for (settings, scale) in [
        (json!({}), 1.5),
        (json!({"use_rslora": true}), 3.0 / 2.0_f32.sqrt()),
        (json!({"alpha_pattern": {"(?!q).*tokens": 8}}), 4.0),
    ] {
        let mut settings = settings;
        settings["target_modules"] = json!(["q_proj", "embed_tokens"]);
        let toy = Toy::untied();
        let base = values(&toy, "tokens.weight");
        let model =
            attached(&folder(settings.clone(), embedding_lora()), toy).expect("a LoRA of an embedding");
        assert_eq!(values(&model.model, "tokens.weight"), base);
        let merged = |model: Adapted<Toy>| values(&model.merge().expect("finite weights"), "tokens.weight");
        assert_near(&merged(model), &with_update(&base, &a, &b, scale));

        let table = stored("model.embed_tokens.base_layer.weight", &[TOKENS, WIDTH], 9);
        let tensors = [embedding_lora(), vec![table.clone()]].concat();
        let model = attached(&folder(settings, tensors), Toy::untied()).expect("with the base's table");
        assert_near(&merged(model), &with_update(&table.2, &a, &b, scale));
    }
}

#[test]
fn a_lora_of_an_embedding_a_head_or_a_convolution_that_is_no_target_is_refused() {
    let head = || {
        vec![
            stored("lm_head.lora_A.weight", &[2, WIDTH], 1),
            stored("lm_head.lora_B.weight", &[TOKENS, 2], 2),
        ]
    };
    let kernel = || {
        vec![
            stored("vision.projection.lora_A.weight", &[2, 2, 2, 2], 3),
            stored("vision.projection.lora_B.weight", &[WIDTH, 2, 1, 1], 4),
        ]
    };
    for (tensors, found) in [
        (embedding_lora(), "model.embed_tokens.lora_embedding_A"),
        (head(), "lm_head.lora_A.weight"),
        (kernel(), "vision.projection.lora_A.weight"),
    ] {
        for settings in [
            json!({}),
            json!({"target_modules": r".*\.q_proj"}),
            json!({"target_modules": ["q_proj", "embed_tokens", "lm_head", "projection"],
                "exclude_modules": ["embed_tokens", "lm_head", "projection"]}),
        ] {
            let error = refused(&folder(settings.clone(), tensors.clone()));
            let expected = format!("{found}` is there, but by `target_modules`");
            assert!(error.contains(&expected), "{settings}: {error}");
        }
        let both = [tensors, loras("v_proj")].concat();
        let error = refused(&folder(json!({"target_modules": "all-linear"}), both));
        assert!(error.contains(&format!("{found}` is there, but")), "{error}");
    }
}

#[test]
fn with_weight_tying_a_lora_of_the_embedding_is_one_of_the_head_too() {
    let head = [("lm_head.lora_A.weight", [2, WIDTH]), ("lm_head.lora_B.weight", [TOKENS, 2])]
        .map(|(name, shape)| stored(name, &shape, 7));
    for (ties, targets) in [(true, "embed_tokens"), (true, "model.embed_tokens"), (false, "embed_tokens")] {
        let settings = json!({"target_modules": ["q_proj", targets], "ensure_weight_tying": ties});
        let tensors = [embedding_lora(), head.to_vec()].concat();
        let read = on_tied(&folder(settings, tensors), Toy::once_tied());
        assert_eq!(read.map(|model| model.sites().len()).ok(), ties.then_some(4));
    }
}

#[test]
fn a_table_beside_its_lora_that_is_the_base_s_counts_as_unchanged() {
    let toy = Toy::once_tied();
    let table = values(&toy, "tokens.weight");
    let tensors = [
        embedding_lora(),
        vec![("model.embed_tokens.base_layer.weight".to_owned(), vec![TOKENS, WIDTH], table)],
    ];
    let settings = json!({"target_modules": ["q_proj", "embed_tokens"]});
    let model = on_tied(&folder(settings, tensors.concat()), toy).expect("a LoRA of the embedding");
    assert_eq!(model.trainable_parameters().other, 0);
}

#[test]
fn rows_that_were_trained_beside_a_lora_take_the_place_of_updated_ones() {
    let rows = stored(&format!("model.embed_tokens.{ROWS}"), &[1, WIDTH], 5);
    let settings = json!({"target_modules": ["q_proj", "embed_tokens"], "trainable_token_indices": {"embed_tokens": [2]}});
    let toy = Toy::untied();
    let base = values(&toy, "tokens.weight");
    let model = attached(&folder(settings, [embedding_lora(), vec![rows.clone()]].concat()), toy);
    let found = values(&model.expect("both").model, "tokens.weight");
    let mut expected = with_update(&base, &numbers(2 * TOKENS, 3), &numbers(WIDTH * 2, 4), 1.5);
    expected[2 * WIDTH..3 * WIDTH].copy_from_slice(&rows.2);
    assert_near(&found, &expected);
}

#[test]
fn half_a_lora_of_an_embedding_is_refused() {
    let settings = || json!({"target_modules": ["q_proj", "embed_tokens"]});
    assert!(refused(&folder(settings(), Vec::new())).contains("embed_tokens.lora_embedding_A` is missing"));
    let error = refused(&folder(settings(), embedding_lora()[..1].to_vec()));
    assert!(error.contains("embed_tokens.lora_embedding_B` is missing"), "{error}");
}

#[test]
fn a_lora_of_a_convolution_becomes_a_change_of_its_kernel() {
    let (a, b) = (numbers(2 * 8, 3), numbers(WIDTH * 2, 4));
    let tensors = vec![
        stored("vision.projection.lora_A.weight", &[2, 2, 2, 2], 3),
        stored("vision.projection.lora_B.weight", &[WIDTH, 2, 1, 1], 4),
    ];
    let toy = Toy::untied();
    let base = values(&toy, "patches.weight");
    let settings = json!({"target_modules": ["q_proj", "projection"]});
    let model = attached(&folder(settings, tensors), toy).expect("a LoRA of a convolution").model;
    let update = |out: usize, inside: usize| (0..2).map(|r| b[out * 2 + r] * a[r * 8 + inside]).sum::<f32>();
    let expected: Vec<f32> = (0..WIDTH * 8).map(|n| base[n] + 1.5 * update(n / 8, n % 8)).collect();
    assert_near(&values(&model, "patches.weight"), &expected);
}

const ROWS: &str = "token_adapter.trainable_tokens_delta";

#[test]
fn trained_rows_take_the_place_of_the_base_s() {
    for indices in [json!([3, 1]), json!({"embed_tokens": [3, 1]}), json!({"model.embed_tokens": [3, 1]})] {
        let toy = Toy::untied();
        let (mut expected, head) = (values(&toy, "tokens.weight"), values(&toy, "head.weight"));
        let rows = stored(&format!("model.embed_tokens.{ROWS}"), &[2, WIDTH], 5);
        expected[3 * WIDTH..4 * WIDTH].copy_from_slice(&rows.2[..WIDTH]);
        expected[WIDTH..2 * WIDTH].copy_from_slice(&rows.2[WIDTH..]);
        let model = attached(&folder(json!({"trainable_token_indices": indices}), vec![rows]), toy);
        let model = model.expect("rows of the embedding").model;
        assert_eq!(values(&model, "tokens.weight"), expected);
        assert_eq!(values(&model, "head.weight"), head, "an untied head stays");
    }
}

#[test]
fn trained_rows_that_do_not_fit_the_settings_are_refused() {
    let rows = |count: usize| vec![stored(&format!("model.embed_tokens.{ROWS}"), &[count, WIDTH], 5)];
    let error =
        |indices: Value, tensors| refused(&folder(json!({"trainable_token_indices": indices}), tensors));
    assert!(error(json!([1]), Vec::new()).contains(ROWS));
    assert!(error(json!([1, 2]), rows(1)).contains("expected [2, 3]"));
    assert!(error(json!([1, TOKENS]), rows(2)).contains("names row 5"));
    assert!(error(Value::Null, rows(1)).contains("`trainable_token_indices` does not name it"));
    assert!(error(json!({"lm_head": [1]}), rows(1)).contains("does not name it"));
}

/// Embedding and head, the latter as `[TOKENS, WIDTH]`, with their adapters.
fn tables(model: &Adapted<Toy>) -> [Vec<f32>; 2] {
    let merged = model.clone().merge().expect("finite weights");
    let head = super::matrix::transposed(&values(&merged, "head.weight"), TOKENS);
    [values(&merged, "tokens.weight"), head]
}

#[test]
fn of_a_tied_base_only_what_is_saved_changes() {
    let (embedding, head) = ("model.embed_tokens.weight", "lm_head.weight");
    for (saved, tensors, changed) in [
        (vec!["embed_tokens"], vec![embedding], [true, false]),
        (vec!["lm_head"], vec![head], [false, true]),
        (vec!["lm_head", "embed_tokens"], vec![embedding, head], [true, true]),
    ] {
        let toy = Toy::once_tied();
        let base = values(&toy, "tokens.weight");
        let tensors = tensors.into_iter().map(|name| stored(name, &[TOKENS, WIDTH], name.len())).collect();
        let model = on_tied(&folder(json!({"modules_to_save": saved}), tensors), toy).expect("whole copies");
        let of =
            |name: &str, changed| if changed { numbers(TOKENS * WIDTH, name.len()) } else { base.clone() };
        assert_eq!(tables(&model), [of(embedding, changed[0]), of(head, changed[1])], "{saved:?}");
    }
}

#[test]
fn with_weight_tying_the_head_s_copy_is_there_without_being_named() {
    let settings =
        json!({"modules_to_save": ["embed_tokens", "model.embed_tokens"], "ensure_weight_tying": true});
    let tensors =
        ["model.embed_tokens.weight", "lm_head.weight"].map(|name| stored(name, &[TOKENS, WIDTH], 6));
    let model = on_tied(&folder(settings, tensors.to_vec()), Toy::once_tied()).expect("one copy for both");
    assert_eq!(tables(&model), [numbers(TOKENS * WIDTH, 6), numbers(TOKENS * WIDTH, 6)]);
}

#[test]
fn a_table_that_is_no_copy_replaces_the_base_s_on_both_sides() {
    for name in
        ["model.embed_tokens.base_layer.weight", "model.embed_tokens.weight", "lm_head.base_layer.weight"]
    {
        let tensors = vec![stored(name, &[TOKENS, WIDTH], 6)];
        let model = on_tied(&folder(json!({}), tensors), Toy::once_tied()).expect("a table");
        assert_eq!(tables(&model), [numbers(TOKENS * WIDTH, 6), numbers(TOKENS * WIDTH, 6)], "{name}");
    }
}

#[test]
fn a_lora_of_a_tied_head_leaves_the_embedding_as_it_is() {
    let toy = Toy::once_tied();
    let base = values(&toy, "tokens.weight");
    let tensors = vec![
        stored("lm_head.lora_A.weight", &[2, WIDTH], 1),
        stored("lm_head.lora_B.weight", &[TOKENS, 2], 2),
        ("lm_head.base_layer.weight".to_owned(), vec![TOKENS, WIDTH], base.clone()),
    ];
    let settings = json!({"target_modules": ["q_proj", "lm_head"]});
    let model = on_tied(&folder(settings, tensors), toy).expect("a LoRA of the head");
    assert_eq!(model.sites().len(), 3);
    assert_eq!(values(&model.model, "tokens.weight"), base);
    let merged = values(&model.merge().expect("finite weights"), "head.weight");
    assert_ne!(merged, transposed_table(&base));
}

#[test]
fn a_lora_of_a_tied_embedding_leaves_the_head_as_it_is() {
    let toy = Toy::once_tied();
    let base = values(&toy, "tokens.weight");
    let settings = json!({"target_modules": ["q_proj", "embed_tokens"]});
    let model = on_tied(&folder(settings, embedding_lora()), toy).expect("a LoRA of the embedding");
    assert_eq!(model.sites().len(), 3);
    let [tokens, head] = tables(&model);
    assert_near(&tokens, &with_update(&base, &numbers(2 * TOKENS, 3), &numbers(WIDTH * 2, 4), 1.5));
    assert_eq!(head, base);
}

#[test]
fn trained_rows_of_a_tied_embedding_are_the_head_s_too_unless_it_has_its_own() {
    let rows = |module: &str, seed| stored(&format!("{module}.{ROWS}"), &[1, WIDTH], seed);
    let with_row = |base: &[f32], index: usize, seed| {
        let mut table = base.to_vec();
        table[index * WIDTH..(index + 1) * WIDTH].copy_from_slice(&numbers(WIDTH, seed));
        table
    };
    for (indices, tensors, [of_tokens, of_head]) in [
        (json!([2]), vec![rows("model.embed_tokens", 1)], [Some((2, 1)), Some((2, 1))]),
        (
            json!({"embed_tokens": [2], "lm_head": [2]}),
            vec![rows("model.embed_tokens", 1)],
            [Some((2, 1)), Some((2, 1))],
        ),
        (
            json!({"embed_tokens": [2], "lm_head": [4]}),
            vec![rows("model.embed_tokens", 1), rows("lm_head", 2)],
            [Some((2, 1)), Some((4, 2))],
        ),
        (json!({"lm_head": [4]}), vec![rows("lm_head", 2)], [None, Some((4, 2))]),
    ] {
        let toy = Toy::once_tied();
        let base = values(&toy, "tokens.weight");
        let expected = [of_tokens, of_head]
            .map(|row| row.map_or(base.clone(), |(index, seed)| with_row(&base, index, seed)));
        let model =
            on_tied(&folder(json!({"trainable_token_indices": indices}), tensors), toy).expect("rows");
        assert_eq!(tables(&model), expected, "{indices}");
    }
}

#[test]
fn an_adapter_of_the_blocks_alone_leaves_a_base_tied() {
    let read = read(folder(json!({}), Vec::new()).path()).expect("a LoRA").for_tied(TIED);
    assert!(!read.unties(&modules));
}

#[test]
fn tensors_of_every_float_type_are_read_as_their_numbers() {
    let halves = [0.5_f32, -1.25, 3.0, 0.0, 2.5, -0.125];
    for (dtype, bytes) in [
        (Dtype::F64, halves.map(|value| f64::from(value).to_le_bytes().to_vec()).concat()),
        (Dtype::F32, halves.map(|value| value.to_le_bytes().to_vec()).concat()),
        (Dtype::F16, halves.map(|value| half::f16::from_f32(value).to_le_bytes().to_vec()).concat()),
        (Dtype::BF16, halves.map(|value| half::bf16::from_f32(value).to_le_bytes().to_vec()).concat()),
    ] {
        let name =
            |number: usize, factor: &str| format!("model.layers.{number}.self_attn.q_proj.{factor}.weight");
        let tensors = (0..2).flat_map(|number| {
            [("lora_A", vec![2, WIDTH]), ("lora_B", vec![WIDTH, 2])]
                .map(|(factor, shape)| (name(number, factor), shape, dtype, bytes.clone()))
        });
        let folder = folder_in(json!({}), tensors.collect());
        let factors = attached(&folder, Toy::untied()).expect("a LoRA").factors();
        assert_eq!(factors[0].a, Some(super::matrix::transposed(&halves, WIDTH)), "{dtype:?}");
    }
    let whole = folder_in(json!({}), vec![("x".to_owned(), vec![1], Dtype::I32, vec![0; 4])]);
    assert!(read(whole.path()).expect_err("no float").to_string().contains("I32"));
}

#[test]
fn what_acts_in_training_alone_is_no_surplus() {
    let tensors = vec![
        stored("model.layers.0.self_attn.q_proj.lora_velora_embed", &[4], 1),
        stored("model.layers.0.self_attn.q_proj.lora_monteclora_sampler.std", &[2, 4], 1),
    ];
    let settings = json!({"velora_config": {"num_groups": 1}});
    attached(&folder(settings, tensors), Toy::untied()).expect("the LoRA that it is when it answers");
}

#[test]
fn lora_xs_folders_of_its_authors_are_plain_loras_with_r_in_b() {
    for latent in ["_lora_latent_mapping.weight", ".default_lora_latent_mapping.weight"] {
        let r = |number: usize| {
            stored(&format!("model.layers.{number}.self_attn.q_proj{latent}"), &[2, 2], 20 + number)
        };
        let plain = attached(&folder(json!({}), Vec::new()), Toy::untied()).expect("a LoRA").factors();
        let read =
            attached(&folder(json!({}), vec![r(0), r(1)]), Toy::untied()).expect("a LoRA-XS").factors();
        for (number, (plain, read)) in plain.iter().zip(&read).enumerate() {
            assert_eq!(read.a, plain.a);
            // PyTorch's B·R is our Rᵀ·B.
            let r = r(number).2;
            let entry = |row: usize, column: usize| {
                (0..2).map(|n| r[n * 2 + row] * plain.b[n * WIDTH + column]).sum::<f32>()
            };
            let expected: Vec<f32> = (0..2 * WIDTH).map(|n| entry(n / WIDTH, n % WIDTH)).collect();
            assert_near(&read.b, &expected);
        }
        let misshapen = vec![r(0), stored(&format!("model.layers.1.self_attn.q_proj{latent}"), &[3, 3], 1)];
        let error = refused(&folder(json!({}), misshapen));
        assert!(error.contains(latent) && error.contains("expected [2, 2]"), "{error}");
    }
}

/// The update of every site, dense.
fn updates(model: Adapted<Toy>) -> Vec<Vec<f32>> {
    let bases = ["blocks.0.query.weight", "blocks.1.query.weight"].map(|path| values(&model.model, path));
    let merged = model.merge().expect("finite weights");
    let updates = bases.iter().zip(["blocks.0.query.weight", "blocks.1.query.weight"]).map(|(base, path)| {
        values(&merged, path).iter().zip(base).map(|(merged, base)| merged - base).collect()
    });
    updates.collect()
}

#[test]
fn what_an_adapter_started_at_is_taken_away_with_the_scale_of_its_module() {
    // With all its rank, either decomposition is the whole weight: what is left is the adapter alone.
    let a = |number: usize| {
        stored(&format!("model.layers.{number}.self_attn.q_proj.lora_A.weight"), &[3, WIDTH], 3)
    };
    let b = |number: usize| {
        stored(&format!("model.layers.{number}.self_attn.q_proj.lora_B.weight"), &[WIDTH, 3], 4)
    };
    for init in ["olora", "pissa", "pissa_niter_4"] {
        for settings in [
            json!({"r": 3, "lora_alpha": 3}),
            json!({"r": 5, "lora_alpha": 6, "use_rslora": true, "rank_pattern": {"q_proj": 3}}),
            json!({"r": 3, "lora_alpha": 3, "alpha_pattern": {"layers.1.self_attn.q_proj": 12}}),
        ] {
            let with = |init: Value| {
                let mut settings = settings.clone();
                settings["init_lora_weights"] = init;
                folder_of(settings, vec![a(0), a(1), b(0), b(1)])
            };
            let toy = Toy::untied();
            let scales: Vec<f32> = attached(&with(json!(init)), toy.clone())
                .expect("a start that is known")
                .factors()
                .iter()
                .map(|factors| factors.scale as f32)
                .collect();
            let plain = updates(attached(&with(json!(true)), toy.clone()).expect("a LoRA"));
            let read = updates(attached(&with(json!(init)), toy.clone()).expect("a start that is known"));
            for (number, (plain, read)) in plain.iter().zip(&read).enumerate() {
                let base = values(&toy, &format!("blocks.{number}.query.weight"));
                // OLoRA's first product is multiplied by the scale; PiSSA's is divided by it before.
                let scale = if init == "olora" { scales[number] } else { 1.0 };
                let expected: Vec<f32> =
                    plain.iter().zip(&base).map(|(plain, base)| plain - scale * base).collect();
                let difference =
                    read.iter().zip(&expected).fold(0.0_f32, |most, (r, e)| most.max((r - e).abs()));
                assert!(difference < 1e-5, "{init}, {settings}: {difference}");
            }
        }
    }
}

#[test]
fn a_start_of_a_rank_that_the_base_does_not_have_is_refused_with_the_site() {
    let tensors = (0..2).flat_map(|number| {
        let name = format!("model.layers.{number}.self_attn.q_proj");
        [
            stored(&format!("{name}.lora_A.weight"), &[4, WIDTH], 3),
            stored(&format!("{name}.lora_B.weight"), &[WIDTH, 4], 4),
        ]
    });
    let error = refused(&folder_of(json!({"r": 4, "init_lora_weights": "pissa"}), tensors.collect()));
    assert!(error.contains("`blocks.0.query`") && error.contains("rank 4"), "{error}");
}
