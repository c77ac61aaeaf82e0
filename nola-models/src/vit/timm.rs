//! Sizes of a ViT as timm writes them: the arguments of its `VisionTransformer`.

mod hub;

use std::path::Path;

use serde_json::{Map, Value, json};

use super::config::{MlpKind, Problem, VitConfig, numbered_labels};
use super::families;
use super::family::{Family, Pooling, Positions};
use crate::fields::Fields;
use crate::{Activation, Checkpoint, Error};
pub(super) use hub::is_known;

/// The `architecture` of files that hold the arguments of the constructor themselves.
pub(super) const CLASS: &str = "timm.VisionTransformer";

/// LayerNorm epsilon of timm's vision transformers.
const EPS: f64 = 1e-6;
/// The same of those of CLIP.
const CLIP_EPS: f64 = 1e-5;

/// Arguments that are read.
const READ: [&str; 18] = [
    "img_size",
    "patch_size",
    "in_chans",
    "num_classes",
    "global_pool",
    "embed_dim",
    "depth",
    "num_heads",
    "mlp_ratio",
    "qkv_bias",
    "fc_norm",
    "final_norm",
    "act_layer",
    "init_values",
    "class_token",
    "no_embed_class",
    "reg_tokens",
    "pre_norm",
];

/// Arguments without a trace in what a model answers: how it is trained, started, or fed with other sizes.
const WITHOUT_EFFECT: [&str; 15] = [
    "drop_rate",
    "pos_drop_rate",
    "patch_drop_rate",
    "proj_drop_rate",
    "attn_drop_rate",
    "drop_path_rate",
    "weight_init",
    "fix_init",
    "dynamic_img_size",
    "dynamic_img_pad",
    "strict_img_size",
    "pretrained_strict",
    "out_indices",
    "device",
    "dtype",
];

/// Arguments of which this program computes one value only, mostly the default; what is absent or null has it.
const FIXED: [(&str, &[Fixed]); 12] = [
    ("qk_norm", &[Fixed::Flag(false)]),
    ("scale_attn_norm", &[Fixed::Flag(false)]),
    ("scale_mlp_norm", &[Fixed::Flag(false)]),
    ("proj_bias", &[Fixed::Flag(true)]),
    ("pos_embed", &[Fixed::Word("learn")]),
    ("pool_include_prefix", &[Fixed::Flag(false)]),
    ("use_naflex", &[Fixed::Flag(false)]),
    ("embed_norm_layer", &[]),
    ("norm_layer", &[Fixed::Word("layernorm"), Fixed::Word("layernormfp32")]),
    ("block_fn", &[]),
    ("mlp_layer", &[]),
    ("attn_layer", &[]),
];

/// A value that an argument may have.
enum Fixed {
    Flag(bool),
    Word(&'static str),
}

impl Fixed {
    fn is(&self, value: &Value) -> bool {
        match self {
            Self::Flag(flag) => value.as_bool() == Some(*flag),
            Self::Word(word) => value.as_str().is_some_and(|found| found.to_lowercase() == *word),
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::Flag(flag) => flag.to_string(),
            Self::Word(word) => format!("`{word}`"),
        }
    }
}

/// Reads a file of timm's hub, which names an architecture; what `model_args` leaves out is in the tensors' shapes.
pub(super) fn from_hub(checkpoint: &Checkpoint, name: &str, file: &Path) -> Result<VitConfig, Error> {
    let config = checkpoint.config();
    if let Some(stated) = config["model_args"].as_object() {
        check_arguments(stated, file)?;
    }
    let sizes = from_arguments(&hub::arguments(checkpoint, name), config, file)?;
    let layer_norm_eps = if hub::is_clip(name) { CLIP_EPS } else { EPS };
    let distillation_token = checkpoint.shape("dist_token").is_some();
    let mlp = hub::mlp_kind(checkpoint);
    if mlp == MlpKind::Gated && sizes.pooling == Pooling::Attention {
        let expected = "`token` or `avg` where the MLP has a gate: this program computes no other";
        return Err(Fields { json: config, file }.wrong("global_pool", expected));
    }
    let d_mlp = match mlp {
        MlpKind::Plain => sizes.d_mlp,
        // The ratio counts both ways up.
        MlpKind::Gated => sizes.d_mlp / 2,
    };
    if !distillation_token {
        return Ok(VitConfig { layer_norm_eps, mlp, d_mlp, ..sizes });
    }
    let has_head = sizes.n_classes > 0;
    Ok(VitConfig {
        family: &families::DEIT,
        layer_norm_eps,
        mlp,
        d_mlp,
        distillation_token,
        n_positioned: if sizes.n_positioned > 0 { sizes.n_positioned + 1 } else { 0 },
        pooling: if has_head { Pooling::ClassAndDistillation } else { Pooling::ClassToken },
        ..sizes
    })
}

/// Every argument must be one that is honoured or changes nothing.
fn check_arguments(stated: &Map<String, Value>, file: &Path) -> Result<(), Error> {
    for (name, value) in stated.iter().filter(|(_, value)| !value.is_null()) {
        if READ.contains(&name.as_str()) || WITHOUT_EFFECT.contains(&name.as_str()) {
            continue;
        }
        let fixed = FIXED.iter().find(|(known, _)| known == name);
        let wrong = |expected: String| Error::Argument {
            file: file.to_owned(),
            argument: name.clone(),
            found: nola_core::foreign_json::shown(value),
            expected,
        };
        match fixed {
            Some((_, allowed)) if allowed.iter().any(|allowed| allowed.is(value)) => {}
            Some((_, [])) => return Err(wrong("only null".to_owned())),
            Some((_, allowed)) => {
                let shown: Vec<String> = allowed.iter().map(Fixed::shown).collect();
                return Err(wrong(format!("only {} or null", shown.join(", "))));
            }
            None => return Err(wrong("no argument of this name".to_owned())),
        }
    }
    Ok(())
}

/// Reads the constructor's arguments; `outer` is the whole file, which may name the labels.
pub(super) fn from_arguments(arguments: &Value, outer: &Value, file: &Path) -> Result<VitConfig, Error> {
    let fields = Fields { json: arguments, file };
    let d_model = fields.number("embed_dim", 768, 1..=16384)?;
    let n_classes = fields.number("num_classes", 1000, 0..=1_000_000)?;
    let class_token = fields.flag("class_token", true)?;
    let n_registers = fields.number("reg_tokens", 0, 0..=1024)?;
    let no_positions = fields.flag("no_embed_class", false)?;
    let embedding_norm = fields.flag("pre_norm", false)?;
    let scales = fields.json.get("init_values").is_some_and(|value| !value.is_null());
    let sizes = VitConfig {
        family: &Family::VIT,
        d_model,
        n_layers: fields.number("depth", 12, 1..=512)?,
        n_heads: fields.number("num_heads", 12, 1..=1024)?,
        d_mlp: d_mlp(&fields, d_model)?,
        mlp: MlpKind::Plain,
        image_size: fields.number("img_size", 224, 1..=16384)?,
        patch_size: fields.number("patch_size", 16, 1..=16384)?,
        channels: fields.number("in_chans", 3, 1..=64)?,
        layer_norm_eps: EPS,
        activation: activation(&fields)?,
        qkv_bias: fields.flag("qkv_bias", true)?,
        patch_bias: !embedding_norm,
        class_token,
        distillation_token: false,
        n_registers,
        n_positioned: if no_positions { 0 } else { usize::from(class_token) + n_registers },
        embedding_norm,
        layer_scale: scales.then(|| fields.float("init_values", 1.0)).transpose()?,
        n_classes,
        pooling: pooling(&fields, class_token)?,
        positions: Positions::Learned,
        labels: labels(outer, n_classes),
        problem: Problem::SingleLabel,
    };
    sizes.checked(&fields, ["num_heads", "patch_size", "img_size", "embed_dim"])
}

fn pooling(fields: &Fields, class_token: bool) -> Result<Pooling, Error> {
    let pool = &fields.json["global_pool"];
    let (named, norm_comes_later) = match pool.as_str() {
        Some("avg") => (Pooling::Mean, true),
        Some("map") => (Pooling::Attention, false),
        Some("token") => (Pooling::ClassToken, false),
        None if pool.is_null() => (Pooling::ClassToken, false),
        Some(_) | None => return Err(fields.wrong("global_pool", "`token`, `avg` or `map`")),
    };
    if named == Pooling::ClassToken && !class_token {
        return Err(fields.wrong("global_pool", "`avg` or `map` with `class_token`: false"));
    }
    match (named, fields.flag("final_norm", true)?, fields.flag("fc_norm", norm_comes_later)?) {
        (Pooling::Mean, false, _) => Ok(Pooling::MeanWithoutNorm),
        (_, false, _) => Err(fields.wrong("final_norm", "true, but with `global_pool`: `avg`")),
        (Pooling::Mean, true, true) => Ok(Pooling::MeanThenNorm),
        (_, true, true) => Err(fields.wrong("fc_norm", "false, but with `global_pool`: `avg`")),
        (named, true, false) => Ok(named),
    }
}

/// Width inside the MLP, which must have one.
fn d_mlp(fields: &Fields, d_model: usize) -> Result<usize, Error> {
    match (d_model as f64 * fields.float("mlp_ratio", 4.0)?) as usize {
        0 => Err(fields.wrong("mlp_ratio", "a number that gives the MLP at least one channel")),
        width => Ok(width),
    }
}

/// The ratio of which timm, which cuts the product off, makes this width.
fn mlp_ratio(d_mlp: usize, d_model: usize) -> f64 {
    let (width, d_model) = (d_mlp as f64, d_model.max(1) as f64);
    let ratio = width / d_model;
    if d_model * ratio < width { ratio.next_up() } else { ratio }
}

fn activation(fields: &Fields) -> Result<Activation, Error> {
    // timm takes its default for an empty text too.
    let Some(name) = fields.json.get("act_layer").filter(|name| !name.is_null() && *name != "") else {
        return Ok(Activation::Gelu);
    };
    let activation = name.as_str().and_then(Activation::of_timm);
    activation.ok_or_else(|| fields.wrong("act_layer", &format!("one of {}", Activation::known_to_timm())))
}

/// The file of a model. Of the architecture's name timm takes what no argument can say: epsilon, second head, gate of the MLP.
pub(super) fn to_json(config: &VitConfig) -> Value {
    let pool = match config.pooling {
        Pooling::ClassToken | Pooling::ClassAndDistillation | Pooling::ClassAndMean => "token",
        Pooling::Mean | Pooling::MeanThenNorm | Pooling::MeanWithoutNorm => "avg",
        Pooling::Attention => "map",
    };
    let architecture = match config.mlp {
        MlpKind::Gated => "vit_giant_patch14_dinov2",
        MlpKind::Plain if config.distillation_token => "deit_base_distilled_patch16_224",
        MlpKind::Plain if config.layer_norm_eps == CLIP_EPS => "vit_base_patch16_clip_224",
        MlpKind::Plain => "vit_base_patch16_224",
    };
    let (ways_up, activation) = match config.mlp {
        MlpKind::Plain => (1, config.activation),
        MlpKind::Gated => (2, Activation::Silu),
    };
    json!({
        "architecture": architecture,
        "num_classes": config.n_classes,
        "num_features": config.d_model,
        "global_pool": pool,
        "label_names": config.labels,
        "model_args": {
            "img_size": config.image_size,
            "patch_size": config.patch_size,
            "in_chans": config.channels,
            "embed_dim": config.d_model,
            "depth": config.n_layers,
            "num_heads": config.n_heads,
            "mlp_ratio": mlp_ratio(ways_up * config.d_mlp, config.d_model),
            "qkv_bias": config.qkv_bias,
            "act_layer": activation.timm(),
            "fc_norm": config.pooling == Pooling::MeanThenNorm,
            "final_norm": config.pooling != Pooling::MeanWithoutNorm,
            "global_pool": pool,
            "init_values": config.layer_scale,
            "class_token": config.class_token,
            "no_embed_class": config.n_prefix() > 0 && config.n_positioned == 0,
            "reg_tokens": config.n_registers,
            "pre_norm": config.embedding_norm,
        },
    })
}

/// The label names of a file, if it names all of them, else numbered ones.
fn labels(config: &Value, n_classes: usize) -> Vec<String> {
    let places = [&config["label_names"], &config["pretrained_cfg"]["label_names"], &config["labels"]];
    let named = places.into_iter().find_map(Value::as_array).into_iter().flatten();
    let named: Vec<String> = named.filter_map(|name| name.as_str().map(str::to_string)).collect();
    if named.len() == n_classes { named } else { numbered_labels(n_classes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(arguments: Value) -> Result<(), String> {
        let arguments = arguments.as_object().unwrap();
        check_arguments(arguments, Path::new("config.json")).map_err(|error| error.to_string())
    }

    #[test]
    fn arguments_that_change_what_is_computed_are_refused_by_name() {
        for (name, value) in [
            ("qk_norm", json!(true)),
            ("scale_attn_norm", json!(true)),
            ("scale_mlp_norm", json!(true)),
            ("proj_bias", json!(false)),
            ("pos_embed", json!("none")),
            ("pool_include_prefix", json!(true)),
            ("embed_norm_layer", json!("layernorm")),
            ("norm_layer", json!("rmsnorm")),
            ("block_fn", json!("parallel")),
            ("mlp_layer", json!("swiglu")),
            ("attn_layer", json!("diff")),
            ("norm_eps", json!(1e-3)),
        ] {
            let message = checked(json!({ name: value })).unwrap_err();
            assert!(message.starts_with(&format!("config.json: `model_args.{name}` is ")), "{message}");
        }
    }

    #[test]
    fn an_mlp_without_a_channel_is_refused() {
        let arguments = json!({ "mlp_ratio": 0.0 });
        let fields = Fields { json: &arguments, file: Path::new("config.json") };
        let message = d_mlp(&fields, 768).expect_err("no width").to_string();
        assert!(message.contains("`mlp_ratio`") && message.contains("at least one channel"), "{message}");
        assert_eq!(
            d_mlp(&Fields { json: &json!({}), file: Path::new("config.json") }, 48).expect("a width"),
            192
        );
    }

    #[test]
    fn a_width_is_read_back_from_its_ratio() {
        for (d_mlp, d_model) in [(960, 1408), (3904, 896), (6144, 1408), (4304, 1152), (8192, 1536), (49, 7)]
        {
            let arguments = json!({ "mlp_ratio": mlp_ratio(d_mlp, d_model) });
            let fields = Fields { json: &arguments, file: Path::new("config.json") };
            assert_eq!(super::d_mlp(&fields, d_model).expect("a width"), d_mlp, "{d_model}");
        }
    }

    #[test]
    fn defaults_and_what_only_training_sees_are_taken() {
        for arguments in [
            json!({ "qk_norm": false, "proj_bias": true, "init_values": null, "class_token": true }),
            json!({ "norm_layer": "LayerNorm", "pos_embed": "learn", "reg_tokens": 0, "final_norm": true }),
            json!({ "drop_rate": 0.1, "drop_path_rate": 0.2, "weight_init": "jax", "dynamic_img_size": true }),
        ] {
            assert_eq!(checked(arguments), Ok(()));
        }
    }

    #[test]
    fn the_activation_is_the_one_that_is_named() {
        let read = |arguments: Value| from_arguments(&arguments, &json!({}), Path::new("config.json"));
        for (name, expected) in [
            ("gelu", Activation::Gelu),
            ("relu", Activation::Relu),
            ("silu", Activation::Silu),
            ("swish", Activation::Silu),
            ("gelu_tanh", Activation::GeluTanh),
            ("quick_gelu", Activation::QuickGelu),
            ("", Activation::Gelu),
        ] {
            assert_eq!(read(json!({ "act_layer": name })).unwrap().activation, expected, "{name}");
        }
        for unknown in [json!("mish"), json!("hard_swish"), json!(3)] {
            let message = read(json!({ "act_layer": unknown })).unwrap_err().to_string();
            assert!(message.contains("`act_layer`"), "{message}");
        }
    }

    #[test]
    fn pooling_is_what_the_arguments_say_together() {
        let read = |arguments: Value| from_arguments(&arguments, &json!({}), Path::new("config.json"));
        for (arguments, expected) in [
            (json!({}), Pooling::ClassToken),
            (json!({ "global_pool": "avg" }), Pooling::MeanThenNorm),
            (json!({ "global_pool": "avg", "fc_norm": false }), Pooling::Mean),
            (json!({ "global_pool": "avg", "final_norm": false }), Pooling::MeanWithoutNorm),
            (json!({ "global_pool": "map", "class_token": false }), Pooling::Attention),
        ] {
            assert_eq!(read(arguments.clone()).expect("a ViT").pooling, expected, "{arguments}");
        }
        for (arguments, field) in [
            (json!({ "global_pool": "max" }), "`global_pool`"),
            (json!({ "class_token": false }), "`global_pool`"),
            (json!({ "final_norm": false }), "`final_norm`"),
            (json!({ "global_pool": "map", "final_norm": false }), "`final_norm`"),
            (json!({ "global_pool": "map", "fc_norm": true }), "`fc_norm`"),
        ] {
            let message = read(arguments.clone()).expect_err("not computed").to_string();
            assert!(message.contains(field), "{arguments}: {message}");
        }
    }

    #[test]
    fn tokens_and_norms_are_those_of_the_arguments() {
        let read = |arguments: Value| {
            from_arguments(&arguments, &json!({}), Path::new("config.json")).expect("a ViT")
        };
        let clip = read(json!({ "pre_norm": true }));
        assert_eq!((clip.embedding_norm, clip.patch_bias), (true, false));
        let registers = read(json!({ "reg_tokens": 4, "no_embed_class": true, "init_values": 1e-5 }));
        assert_eq!((registers.n_prefix(), registers.n_positioned), (5, 0));
        assert_eq!(registers.layer_scale, Some(1e-5));
        let siglip = read(json!({ "class_token": false, "global_pool": "avg", "fc_norm": false }));
        assert_eq!((siglip.n_tokens(), siglip.pooling), (196, Pooling::Mean));
    }

    #[test]
    fn labels_are_found_in_both_places() {
        assert_eq!(labels(&json!({ "label_names": ["a", "b"] }), 2), ["a", "b"]);
        assert_eq!(labels(&json!({ "pretrained_cfg": { "label_names": ["a", "b"] } }), 2), ["a", "b"]);
        assert_eq!(labels(&json!({ "label_names": ["a"] }), 2), ["LABEL_0", "LABEL_1"]);
    }
}
