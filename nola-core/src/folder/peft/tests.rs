//! Folders of a toy whose modules transformers would name and fuse as GPT-2's.

mod vera;

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::{Module, Param};
use burn::nn::{Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::{Device, Tensor, TensorData};
use proptest::prelude::*;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::adapted::floats;
use crate::adapter::{Factor, NolaConfig, Plan};
use crate::folder::Description;
use crate::params::linear_sites;
use crate::shared::shared;
use crate::{Adapted, AdapterConfig, Error, Site, Targets, adapted, float_params, read_params};

#[derive(Module, Debug)]
struct Block {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    down: Linear,
}

#[derive(Module, Debug)]
struct Toy {
    tokens: Embedding,
    scale: Param<Tensor<1>>,
    blocks: Vec<Block>,
    norm: LayerNorm,
}

const D_MODEL: usize = 4;

fn device() -> Device {
    Device::flex().autodiff()
}

impl Toy {
    fn new(d_model: usize, n_blocks: usize) -> Self {
        let device = device();
        let layer = |d_in| LinearConfig::new(d_in, d_model).init(&device);
        let block = |_| Block {
            query: layer(d_model),
            key: layer(d_model),
            value: layer(d_model),
            output: layer(d_model),
            down: layer(4 * d_model),
        };
        Self {
            tokens: EmbeddingConfig::new(7, d_model).init(&device),
            scale: Param::from_tensor(Tensor::ones([3], &device)),
            blocks: (0..n_blocks).map(block).collect(),
            norm: LayerNormConfig::new(d_model).init(&device),
        }
    }
}

fn modules(path: &str) -> ForeignModule {
    let whole = |name: &str, layout| ForeignModule {
        layout,
        ..ForeignModule::whole([name.to_owned(), name.to_owned()])
    };
    let Some((number, module)) = path.strip_prefix("blocks.").and_then(|inside| inside.split_once('.'))
    else {
        return match path {
            "tokens" => whole("transformer.wte", Layout::Linear),
            "norm" => whole("transformer.ln_f", Layout::Linear),
            other => panic!("no name for {other}"),
        };
    };
    let fused = |index| ForeignModule {
        part: Part::Outputs(Shares::nth(index, 3)),
        part_before: Part::Outputs(Shares::nth(index, 3)),
        ..whole(&format!("transformer.h.{number}.attn.c_attn"), Layout::Conv1d)
    };
    match module {
        "query" => fused(0),
        "key" => fused(1),
        "value" => fused(2),
        "output" => whole(&format!("transformer.h.{number}.attn.c_proj"), Layout::Conv1d),
        "down" => whole(&format!("transformer.h.{number}.mlp.c_proj"), Layout::Conv1d),
        other => panic!("no name for {other}"),
    }
}

/// Numbers that differ from each other and are no fractions of a power of two.
fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|n| ((n * 7 + seed * 13 + 1) as f32 * 0.61).sin()).collect()
}

fn description() -> Description {
    let name = "base".to_owned();
    let base = BaseIdentity {
        name,
        config_sha256: "c".to_owned(),
        weights_sha256: "w".to_owned(),
        tensors_sha256: None,
        quantization: None,
    };
    Description { base, labels: Vec::new(), summary: String::new(), data: serde_json::Value::Null }
}

fn plan(site: &Site, rank: usize, scale: f64, seed: usize) -> Plan {
    let a = Factor::Learned(numbers(site.d_in * rank, seed));
    let b = Factor::Learned(numbers(rank * site.d_out, seed + 1));
    Plan::low_rank(a, b, rank, scale)
}

/// A toy with adapters on the sites for which `plan` gives one, by number of the site.
fn with_plans(toy: Toy, also_train: &[&str], plan: impl Fn(usize, &Site) -> Option<Plan>) -> Adapted<Toy> {
    let (sites, plans) = (linear_sites(&toy).into_iter().enumerate())
        .filter_map(|(index, site)| plan(index, &site).map(|plan| (site, plan)))
        .unzip();
    Adapted::attach_plans(toy, sites, plans, also_train, &device()).expect("sites that exist")
}

fn written(adapted: &Adapted<Toy>) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    try_write(folder.path(), adapted).expect("a folder that can be written");
    folder
}

fn try_write(folder: &Path, adapted: &Adapted<Toy>) -> Result<u64, Error> {
    let generation = Generation::default();
    write(folder, adapted, &modules, generation, Task::CausalLanguageModel, &description())
}

fn attached(folder: &Path, toy: Toy) -> Result<Adapted<Toy>, Error> {
    read(folder).expect("a LoRA").attach(toy, &modules, &device())
}

fn config(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join(CONFIG)).expect("a file")).expect("JSON")
}

type Tensors = BTreeMap<String, (Vec<usize>, Vec<u8>)>;

fn tensors(file: &Path) -> Tensors {
    let bytes = std::fs::read(file).expect("a file");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    (tensors.iter())
        .map(|(name, view)| {
            let name = name.strip_prefix(PREFIX).unwrap_or(name).to_owned();
            (name, (view.shape().to_vec(), view.data().to_vec()))
        })
        .collect()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A folder as PEFT writes it, with these tensors.
fn foreign(settings: Value, tensors: &[(&str, &[usize], Vec<f32>)]) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut config = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 3, "target_modules": ["c_attn"]});
    config.as_object_mut().expect("an object").extend(settings.as_object().expect("an object").clone());
    std::fs::write(folder.path().join(CONFIG), config.to_string()).expect("a written file");
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = (tensors.iter())
        .map(|(name, shape, values)| (format!("{PREFIX}{name}"), shape.to_vec(), bytes(values)))
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        (name, TensorView::new(Dtype::F32, shape.clone(), bytes).expect("bytes that fit the shape"))
    });
    let weights = safetensors::serialize(views, None).expect("safetensors");
    std::fs::write(folder.path().join(WEIGHTS), weights).expect("a written file");
    folder
}

const C_ATTN_A: &str = "transformer.h.0.attn.c_attn.lora_A.weight";
const C_ATTN_B: &str = "transformer.h.0.attn.c_attn.lora_B.weight";
const C_ATTN_BIAS: &str = "transformer.h.0.attn.c_attn.base_layer.bias";

/// One fused LoRA of rank 2, as PEFT writes it.
fn fused(settings: Value) -> TempDir {
    let a = numbers(2 * D_MODEL, 5);
    let b = numbers(3 * D_MODEL * 2, 6);
    foreign(settings, &[(C_ATTN_A, &[2, D_MODEL], a), (C_ATTN_B, &[3 * D_MODEL, 2], b)])
}

/// What every adapted layer makes of some inputs.
fn outputs(model: &Adapted<Toy>) -> Vec<f32> {
    let outputs = model.model.blocks.iter().flat_map(|block| {
        [&block.query, &block.key, &block.value, &block.output, &block.down].map(|layer| {
            let d_in = layer.weight.lazy_shape().to_vec()[0];
            let x = Tensor::<2>::from_data(TensorData::new(numbers(3 * d_in, 9), [3, d_in]), &device());
            floats(adapted(layer, x).into_data())
        })
    });
    outputs.flatten().collect()
}

fn values(model: &Toy, path: &str) -> Vec<f32> {
    let id = float_params(model).into_iter().find(|param| param.path == path).expect("a parameter").id;
    floats(read_params(model, &[id]).remove(&id).expect("its value"))
}

/// `scale · A·B` of every site that has one, in `f64`, and the sum of the sizes of its terms.
fn updates(model: &Adapted<Toy>) -> BTreeMap<String, Vec<(f64, f64)>> {
    let update = |factors: crate::SiteFactors| {
        let (d_out, rank) = (factors.site.d_out, factors.rank);
        let entry = |row: usize, col: usize| {
            let terms = (0..rank).map(|r| {
                factors.scale
                    * f64::from(factors.low_rank_a()[row * rank + r])
                    * f64::from(factors.b[r * d_out + col])
            });
            (terms.clone().sum::<f64>(), terms.map(f64::abs).sum::<f64>())
        };
        let entries = (0..factors.site.d_in).flat_map(|row| (0..d_out).map(move |col| (row, col)));
        (factors.site.path.clone(), entries.map(|(row, col)| entry(row, col)).collect())
    };
    model.factors().into_iter().map(update).collect()
}

#[test]
fn every_part_of_a_fused_lora_gets_a_and_its_own_outputs_of_b() {
    let folder = fused(json!({}));
    let model = attached(folder.path(), Toy::new(D_MODEL, 1)).expect("a LoRA that fits");
    let factors = model.factors();
    let paths: Vec<&str> = factors.iter().map(|f| f.site.path.as_str()).collect();
    assert_eq!(paths, ["blocks.0.query", "blocks.0.key", "blocks.0.value"]);
    let (a, b) = (numbers(2 * D_MODEL, 5), numbers(3 * D_MODEL * 2, 6));
    for (part, factors) in factors.iter().enumerate() {
        assert_eq!(factors.scale, 1.5);
        for n in 0..D_MODEL {
            for r in 0..2 {
                assert_eq!(factors.low_rank_a()[n * 2 + r], a[r * D_MODEL + n], "A of part {part}");
                assert_eq!(factors.b[r * D_MODEL + n], b[(part * D_MODEL + n) * 2 + r], "B of part {part}");
            }
        }
    }
}

#[test]
fn a_fused_lora_is_written_back_to_the_bit() {
    let folder = fused(json!({}));
    let model = attached(folder.path(), Toy::new(D_MODEL, 1)).expect("a LoRA that fits");
    let again = written(&model);
    assert_eq!(tensors(&again.path().join(WEIGHTS)), tensors(&folder.path().join(WEIGHTS)));
    let config = config(again.path());
    assert_eq!([&config["r"], &config["lora_alpha"]], [2, 3]);
    assert_eq!(config["target_modules"], json!(["transformer.h.0.attn.c_attn"]));
}

#[test]
fn rslora_is_written_as_a_plain_lora_of_the_same_scale() {
    let folder = fused(json!({"use_rslora": true}));
    let model = attached(folder.path(), Toy::new(D_MODEL, 1)).expect("a LoRA that fits");
    let again = written(&model);
    assert_eq!(config(again.path())["use_rslora"], false);
    let back = attached(again.path(), model.merge().expect("finite weights")).expect("a LoRA that fits");
    assert_eq!(back.factors()[0].scale, 3.0 / 2.0_f64.sqrt());
}

#[test]
fn patterns_are_asked_for_the_foreign_name() {
    let settings = json!({"r": 9, "rank_pattern": {"attn.c_attn": 2}, "alpha_pattern": {"c_attn": 5}});
    let model = attached(fused(settings).path(), Toy::new(D_MODEL, 1)).expect("a LoRA that fits");
    assert_eq!((model.factors()[2].rank, model.factors()[2].scale), (2, 2.5));
}

#[test]
fn query_and_value_trained_apart_are_stacked_and_key_gets_zeros() {
    let model = with_plans(Toy::new(D_MODEL, 1), &[], |index, site| {
        [0, 2].contains(&index).then(|| plan(site, 1 + index / 2, 2.0, index))
    });
    let folder = written(&model);
    let tensors = tensors(&folder.path().join(WEIGHTS));
    let factors = model.factors();
    let (query, value) = (&factors[0], &factors[1]);
    // PEFT's [rank, d_in]: the row of query's A, then the two of value's.
    let value_row = |r| value.low_rank_a().iter().skip(r).step_by(2).copied();
    let a: Vec<f32> = query.low_rank_a().iter().copied().chain(value_row(0)).chain(value_row(1)).collect();
    assert_eq!(tensors[C_ATTN_A], (vec![3, D_MODEL], bytes(&a)));
    let b: Vec<f32> = (0..D_MODEL)
        .map(|n| [query.b[n], 0.0, 0.0])
        .chain([[0.0; 3]; D_MODEL])
        .chain((0..D_MODEL).map(|n| [0.0, value.b[n], value.b[D_MODEL + n]]))
        .flatten()
        .collect();
    assert_eq!(tensors[C_ATTN_B], (vec![3 * D_MODEL, 3], bytes(&b)));
    let config = config(folder.path());
    assert_eq!([&config["r"], &config["lora_alpha"]], [3, 6]);
}

#[test]
fn parts_with_one_a_share_it_though_a_part_is_missing() {
    let model = with_plans(Toy::new(D_MODEL, 1), &[], |index, site| {
        let b = Factor::Learned(numbers(2 * site.d_out, index));
        [0, 2].contains(&index).then(|| Plan { b, ..plan(site, 2, 1.0, 3) })
    });
    let folder = written(&model);
    assert_eq!(tensors(&folder.path().join(WEIGHTS))[C_ATTN_A].0, [2, D_MODEL]);
}

#[test]
fn parts_with_different_scales_keep_the_larger_one() {
    let model = with_plans(Toy::new(D_MODEL, 1), &[], |index, site| {
        [0, 2].contains(&index).then(|| plan(site, 1, if index == 0 { 0.5 } else { -2.0 }, index))
    });
    let folder = written(&model);
    assert_eq!(config(folder.path())["lora_alpha"], -4);
    let b = &tensors(&folder.path().join(WEIGHTS))[C_ATTN_B].1;
    assert_eq!(b[..4], (model.factors()[0].b[0] * -0.25).to_le_bytes());
}

#[test]
fn nola_on_query_and_value_reads_back_to_the_same_outputs() {
    let nola = NolaConfig { rank: 2, k: 5, ..NolaConfig::default() };
    let targets = Targets::matching("query|value");
    let toy = Toy::new(D_MODEL, 2);
    let model = Adapted::attach(toy.clone(), &AdapterConfig::Nola(nola), &targets, &[], &device());
    let model = model.expect("sites that exist");
    let mut state = model.state();
    for (seed, data) in state.values_mut().enumerate() {
        *data = TensorData::new(numbers(data.num_elements(), seed), data.shape());
    }
    let model = model.with_state(state).expect("the same names and shapes");
    let back = attached(written(&model).path(), toy.clone()).expect("a LoRA that fits");
    assert_eq!(back.sites().len(), 6, "key is a part of what PEFT adapts");
    let plain = outputs(&with_plans(toy, &[], |_, _| None));
    let (expected, found) = (outputs(&model), outputs(&back));
    assert!(expected.iter().zip(&plain).any(|(e, p)| (e - p).abs() > 1e-2), "an adapter that does something");
    for (expected, found) in expected.iter().zip(&found) {
        assert!((expected - found).abs() <= 1e-6 * expected.abs().max(1.0), "{expected} became {found}");
    }
}

#[test]
fn the_configuration_names_the_conv1d_layout_and_the_task() {
    let config =
        config(written(&with_plans(Toy::new(D_MODEL, 1), &[], |_, site| Some(plan(site, 1, 1.0, 1)))).path());
    assert_eq!(config["fan_in_fan_out"], true);
    assert_eq!(config["task_type"], "CAUSAL_LM");
    let targets =
        json!(["attn.c_attn", "attn.c_proj", "mlp.c_proj"].map(|name| format!("transformer.h.0.{name}")));
    assert_eq!(config["target_modules"], targets);
}

#[test]
fn a_fused_bias_is_taken_apart_and_put_together() {
    let bias = numbers(3 * D_MODEL, 4);
    let tensors_there = [
        (C_ATTN_A, &[2, D_MODEL][..], numbers(2 * D_MODEL, 5)),
        (C_ATTN_B, &[3 * D_MODEL, 2][..], numbers(6 * D_MODEL, 6)),
        (C_ATTN_BIAS, &[3 * D_MODEL][..], bias.clone()),
    ];
    let folder = foreign(json!({"bias": "lora_only"}), &tensors_there);
    let model = attached(folder.path(), Toy::new(D_MODEL, 1)).expect("a LoRA that fits");
    assert_eq!(values(&model.model, "blocks.0.key.bias"), bias[D_MODEL..2 * D_MODEL]);
    let again = written(&model);
    assert_eq!(tensors(&again.path().join(WEIGHTS)), tensors(&folder.path().join(WEIGHTS)));
    assert_eq!(config(again.path())["bias"], "lora_only");
}

#[test]
fn a_bias_trained_in_one_part_is_written_with_the_base_s_in_the_others() {
    let trained = ["blocks.0.query.bias"];
    let model =
        with_plans(Toy::new(D_MODEL, 1), &trained, |index, site| (index == 2).then(|| plan(site, 1, 1.0, 1)));
    let parts = ["query", "key", "value"].map(|part| values(&model.model, &format!("blocks.0.{part}.bias")));
    let folder = written(&model);
    assert_eq!(
        tensors(&folder.path().join(WEIGHTS))[C_ATTN_BIAS],
        (vec![3 * D_MODEL], bytes(&parts.concat()))
    );
}

/// The tensors of a folder that are no factors.
fn others(folder: &Path) -> Vec<String> {
    tensors(&folder.join(WEIGHTS)).into_keys().filter(|name| !name.contains(".lora_")).collect()
}

#[test]
fn biases_of_modules_without_an_adapter_are_written_under_their_own_names() {
    let cases: [(&[&str], &str, &[&str]); 4] = [
        (&["norm.beta"], "all", &["transformer.ln_f.bias"]),
        (
            &["norm.beta", "blocks.0.down.bias"],
            "all",
            &["transformer.h.0.mlp.c_proj.bias", "transformer.ln_f.bias"],
        ),
        (&["blocks.0.output.bias"], "lora_only", &["transformer.h.0.attn.c_proj.base_layer.bias"]),
        (&[], "none", &[]),
    ];
    for (trained, bias, names) in cases {
        let model = with_plans(Toy::new(D_MODEL, 1), trained, |index, site| {
            (index == 3).then(|| plan(site, 1, 1.0, 1))
        });
        let folder = written(&model);
        let config = config(folder.path());
        assert_eq!(
            (&config["bias"], &config["modules_to_save"]),
            (&json!(bias), &Value::Null),
            "{trained:?}"
        );
        assert_eq!(others(folder.path()), names);
        let back = attached(folder.path(), Toy::new(D_MODEL, 1)).expect("a LoRA that fits");
        for path in trained {
            assert_eq!(values(&back.model, path), values(&model.model, path), "{path}");
        }
    }
}

#[test]
fn a_module_of_which_the_weight_was_trained_is_written_whole() {
    let cases: [(&[&str], &str, &[&str]); 3] = [
        (&["norm.gamma"], "transformer.ln_f", &["bias", "weight"]),
        (&["blocks.0.down.weight"], "transformer.h.0.mlp.c_proj", &["bias", "weight"]),
        (&["tokens"], "transformer.wte", &["weight"]),
    ];
    for (trained, module, leaves) in cases {
        let model = with_plans(Toy::new(D_MODEL, 1), trained, |index, site| {
            (index == 3).then(|| plan(site, 1, 1.0, 1))
        });
        let folder = written(&model);
        let config = config(folder.path());
        assert_eq!(
            (&config["bias"], &config["modules_to_save"]),
            (&json!("none"), &json!([module])),
            "{trained:?}"
        );
        let names: Vec<String> = leaves.iter().map(|leaf| format!("{module}.{leaf}")).collect();
        assert_eq!(others(folder.path()), names);
    }
}

#[test]
fn one_adapter_is_always_the_same_bytes() {
    let model = with_plans(Toy::new(D_MODEL, 1), &["norm"], |_, site| Some(plan(site, 1, 1.0, 1)));
    let bytes = || std::fs::read(written(&model).path().join(WEIGHTS)).expect("a file");
    let first = bytes();
    assert!((0..12).all(|_| bytes() == first));
}

#[test]
fn a_setting_that_was_edited_after_it_was_written_is_refused() {
    let edits = [
        ("lora_alpha", json!(9)),
        ("r", json!(1)),
        ("use_rslora", json!(true)),
        ("target_modules", json!(["c_attn"])),
    ];
    for (key, value) in edits {
        let folder = written(&with_plans(Toy::new(D_MODEL, 1), &[], |_, site| Some(plan(site, 2, 1.0, 1))));
        let mut config = config(folder.path());
        config[key] = value;
        std::fs::write(folder.path().join(CONFIG), config.to_string()).expect("a written file");
        let error = read(folder.path()).expect_err("it was edited").to_string();
        assert!(error.contains(&format!("adapter_config.json: `{key}` is ")), "{error}");
    }
}

#[test]
fn whole_modules_trained_beside_the_adapters_come_back_to_the_bit() {
    let trained = ["tokens", "norm", "blocks.0.key", "blocks.1.output"];
    let toy = Toy::new(D_MODEL, 2);
    // Only the last layer has an adapter, so `c_attn` of the first block is saved as it is.
    let model = with_plans(toy.clone(), &trained, |index, site| (index == 9).then(|| plan(site, 1, 1.0, 1)));
    let folder = written(&model);
    let stored = tensors(&folder.path().join(WEIGHTS));
    let tokens = values(&model.model, "tokens.weight");
    assert_eq!(stored["transformer.wte.weight"], (vec![7, D_MODEL], bytes(&tokens)));
    assert_eq!(stored["transformer.ln_f.bias"].0, [D_MODEL]);
    let c_attn = &stored["transformer.h.0.attn.c_attn.weight"];
    assert_eq!(c_attn.0, [D_MODEL, 3 * D_MODEL]);
    let (key, row) = (values(&model.model, "blocks.0.key.weight"), 4 * D_MODEL);
    assert_eq!(c_attn.1[row..2 * row], bytes(&key[..D_MODEL]), "outputs of the key in the first row");
    let to_save =
        ["h.0.attn.c_attn", "h.1.attn.c_proj", "ln_f", "wte"].map(|name| format!("transformer.{name}"));
    assert_eq!(config(folder.path())["modules_to_save"], json!(to_save));
    let back = attached(folder.path(), Toy::new(D_MODEL, 2)).expect("a LoRA that fits");
    for path in [
        "tokens.weight",
        "norm.gamma",
        "blocks.0.key.weight",
        "blocks.0.query.bias",
        "blocks.1.output.weight",
    ] {
        assert_eq!(values(&back.model, path), values(&model.model, path), "{path}");
    }
}

#[test]
fn a_trained_parameter_outside_every_module_is_refused_by_name() {
    let model = with_plans(Toy::new(D_MODEL, 1), &["scale"], |_, site| Some(plan(site, 1, 1.0, 1)));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let error = try_write(folder.path(), &model).expect_err("PEFT has no place for it");
    assert!(matches!(&error, Error::NoPeftModule { name } if name == "scale"), "{error}");
}

#[test]
fn an_adapter_that_is_not_finite_is_not_written() {
    let model = with_plans(Toy::new(D_MODEL, 1), &[], |_, site| {
        let b = Factor::Learned(vec![f32::NAN; site.d_out]);
        Some(Plan { b, ..plan(site, 1, 1.0, 1) })
    });
    let folder = tempfile::tempdir().expect("a temporary folder");
    let error = try_write(folder.path(), &model).expect_err("a NaN");
    assert!(matches!(&error, Error::NotFinite { count, .. } if *count == 3 * D_MODEL), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0);
}

#[test]
fn a_missing_factor_of_a_fused_module_is_named_once() {
    let folder = foreign(json!({}), &[(C_ATTN_A, &[2, D_MODEL], numbers(2 * D_MODEL, 5))]);
    let error = attached(folder.path(), Toy::new(D_MODEL, 1)).expect_err("B is missing").to_string();
    assert_eq!(error.matches(C_ATTN_B).count(), 1, "{error}");
}

#[test]
fn a_fused_b_for_one_part_only_is_told_the_shape_of_all() {
    let tensors = [
        (C_ATTN_A, &[2, D_MODEL][..], numbers(2 * D_MODEL, 5)),
        (C_ATTN_B, &[D_MODEL, 2][..], numbers(2 * D_MODEL, 6)),
    ];
    let error = attached(foreign(json!({}), &tensors).path(), Toy::new(D_MODEL, 1)).expect_err("a part of B");
    assert!(error.to_string().contains("has shape [4, 2], expected [12, 2]"), "{error}");
}

#[test]
fn a_rank_of_zero_is_refused() {
    let error = attached(fused(json!({"r": 0})).path(), Toy::new(D_MODEL, 1)).expect_err("no rank");
    assert!(error.to_string().contains("the rank 0"), "{error}");
}

#[test]
fn a_head_that_the_model_lacks_is_named_with_the_task_it_was_trained_for() {
    let Some(folder) = shared("assets/parity/peft-lora-gpt2") else { return };
    // GPT-2's widths; nothing is allocated before the tensors fit.
    let error = attached(&folder, Toy::new(768, 12)).expect_err("there is no `score`").to_string();
    let problem = "`base_model.model.score.weight` belongs to nothing in this model (the adapter was made for the \
                   task SEQ_CLS)";
    assert!(error.ends_with(&format!("adapter_model.safetensors: {problem}")), "{error}");
}

#[test]
fn folders_that_peft_wrote_for_gpt2_are_written_back_to_the_bit() {
    let Some(folder) = shared("fixtures/peft") else { return };
    for name in ["gpt2_lora", "gpt2_rslora", "gpt2_lora_bias", "gpt2_lora_xs"] {
        let folder = folder.join(name);
        let model = attached(&folder, Toy::new(48, 3)).unwrap_or_else(|error| panic!("{error}"));
        let again = written(&model);
        assert_eq!(tensors(&again.path().join(WEIGHTS)), tensors(&folder.join(WEIGHTS)), "{name}");
        let (ours, theirs) = (config(again.path()), config(&folder));
        for key in ["r", "bias", "fan_in_fan_out", "peft_type"] {
            assert_eq!(ours[key], theirs[key], "{name}: {key}");
        }
    }
}

#[test]
fn the_merged_weight_of_a_fused_module_is_peft_s() {
    let Some(fixtures) = shared("fixtures") else { return };
    let folder = fixtures.join("peft/gpt2_lora");
    let base = tensors(&fixtures.join("models/gpt2_tiny/model.safetensors"));
    let merged = tensors(&folder.join("expected.safetensors"));
    let name = "transformer.h.0.attn.c_attn.weight";
    let f32s = |tensors: &Tensors, name: &str| -> Vec<f32> {
        tensors[name].1.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    };
    let (base, merged) = (f32s(&base, name), f32s(&merged, &format!("merged_weight.{name}")));
    let updates = updates(&attached(&folder, Toy::new(48, 3)).expect("a LoRA that fits"));
    for (part, path) in ["query", "key", "value"].iter().enumerate() {
        for (index, (update, _)) in updates[&format!("blocks.0.{path}")].iter().enumerate() {
            let place = index / 48 * 144 + part * 48 + index % 48;
            let found = f64::from(base[place]) + update;
            assert!((found - f64::from(merged[place])).abs() < 1e-6, "{path} {index}: {found}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Per site of two blocks: whether it has an adapter, its rank, its scale, and whether its A is that of others.
    #[test]
    fn what_is_written_reads_back_as_the_same_update(
        sites in prop::collection::vec((any::<bool>(), 1_usize..4, 0_usize..4, any::<bool>()), 10)
    ) {
        prop_assume!(sites.iter().any(|site| site.0));
        let scales = [1.0, 1.0 / 3.0, -0.7, 16.0 / 5.0];
        let toy = Toy::new(D_MODEL, 2);
        let model = with_plans(toy.clone(), &[], |index, site| {
            let (is_adapted, rank, scale, shares) = sites[index];
            let own = plan(site, rank, scales[scale], index);
            let a = Factor::Learned(numbers(site.d_in * rank, 77));
            is_adapted.then_some(if shares { Plan { a, ..own } } else { own })
        });
        let back = attached(written(&model).path(), toy).expect("a LoRA that fits");
        let (before, after) = (updates(&model), updates(&back));
        for (path, after) in after {
            let nothing = vec![(0.0, 0.0); after.len()];
            for ((before, size), (after, _)) in before.get(&path).unwrap_or(&nothing).iter().zip(after) {
                // B is rounded at most once.
                let bound = size * f64::from(f32::EPSILON);
                prop_assert!((before - after).abs() <= bound, "{path}: {before} became {after}");
            }
        }
        prop_assert!(before.keys().all(|path| back.sites().iter().any(|site| site.path == *path)));
    }
}
