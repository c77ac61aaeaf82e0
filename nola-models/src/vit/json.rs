//! Sizes of a ViT, read from and written to the `config.json` of Hugging Face and of timm.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::config::{Format, MlpKind, Problem, VitConfig, numbered_labels};
use super::family::{Family, MlpWidth, Pooling, Positions};
use super::{families, timm};
use crate::checkpoint::read_config;
use crate::fields::Fields;
use crate::{Activation, Checkpoint, Error};

/// What transformers calls [`Problem::MultiLabel`].
const MULTI_LABEL: &str = "multi_label_classification";
/// Ends the name of a class with a second head, for the distillation token.
const WITH_TEACHER: &str = "WithTeacher";

impl VitConfig {
    /// Whether a `config.json` is one of a vision transformer this program knows.
    pub fn is_named_by(config: &Value) -> bool {
        families::named_by(config).is_some()
            || config["architecture"].as_str().is_some_and(|name| timm::is_known(name) || name == timm::CLASS)
    }

    /// Reads the configuration of a checkpoint; sizes that timm's hub files leave out come from the tensors' shapes.
    ///
    /// # Errors
    /// If it is no ViT's, or holds a value that cannot be.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<Self, Error> {
        let file = checkpoint.config_file();
        let config = checkpoint.config();
        match config["architecture"].as_str() {
            Some(name) if timm::is_known(name) => timm::from_hub(checkpoint, name, &file),
            Some(_) | None => Self::from_json(config, &file),
        }
    }

    /// Reads the `config.json` of a folder that may hold no weights, unless it is one of timm's hub, which leaves sizes to
    /// their shapes.
    ///
    /// # Errors
    /// If there is none, or as [`VitConfig::from_json`] and [`Checkpoint::open`].
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let config = read_config(folder)?;
        match config["architecture"].as_str() {
            Some(name) if timm::is_known(name) => Self::from_checkpoint(&Checkpoint::open(folder)?),
            Some(_) | None => Self::from_json(&config, &folder.join("config.json")),
        }
    }

    /// Reads a `config.json` of Hugging Face or one that holds timm's constructor arguments.
    ///
    /// # Errors
    /// If it is no ViT's, or holds a value that cannot be. The error names `file`.
    pub fn from_json(config: &Value, file: &Path) -> Result<Self, Error> {
        if config["architecture"] == timm::CLASS {
            return timm::from_arguments(config, config, file);
        }
        let outer = Fields { json: config, file };
        let family = families::of(&outer)?;
        let fields = Fields { json: tower(&outer, family)?, file };
        let absent = family.absent;
        let d_model = fields.number("hidden_size", 768, 1..=16384)?;
        let (mlp, d_mlp) = hf_mlp(&fields, family, d_model)?;
        let labels = hf_labels(&outer, family)?;
        let qkv_bias = !family.states_qkv_bias || fields.flag("qkv_bias", true)?;
        let sizes = Self {
            // An MAE is written as a ViT, its positions as what they are in the file, weights.
            family: if family.positions == Positions::Fixed { &Family::VIT } else { family },
            d_model,
            n_layers: fields.number("num_hidden_layers", 12, 1..=512)?,
            n_heads: fields.number("num_attention_heads", 12, 1..=1024)?,
            d_mlp,
            mlp,
            image_size: fields.number("image_size", 224, 1..=16384)?,
            patch_size: fields.number("patch_size", absent.patch_size, 1..=16384)?,
            channels: fields.number("num_channels", 3, 1..=64)?,
            layer_norm_eps: fields.float("layer_norm_eps", absent.layer_norm_eps)?,
            activation: hf_activation(&fields, absent.activation)?,
            qkv_bias,
            patch_bias: family.patch_bias,
            class_token: family.class_token,
            distillation_token: family.distillation_token,
            n_registers: if family.registers {
                fields.number("num_register_tokens", 4, 1..=1024)?
            } else {
                0
            },
            n_positioned: usize::from(family.class_token) + usize::from(family.distillation_token),
            embedding_norm: family.embedding_norm,
            layer_scale: family.layer_scale.then(|| fields.float("layerscale_value", 1.0)).transpose()?,
            n_classes: labels.len(),
            pooling: hf_pooling(&outer, family),
            positions: family.positions,
            labels,
            problem: hf_problem(&outer)?,
        };
        sizes.checked(&fields, ["num_attention_heads", "patch_size", "image_size", "hidden_size"])
    }

    /// The `config.json` that other programs read: Hugging Face's, or timm's where only that can say what the model computes.
    ///
    /// Fixed positions are written as what they are in the file, weights.
    pub fn to_json(&self) -> Value {
        match self.format() {
            Format::HuggingFace => self.to_hf_json(),
            Format::Timm => timm::to_json(self),
        }
    }

    fn to_hf_json(&self) -> Value {
        let family = self.family;
        let mut config = self.hf_sizes();
        if self.n_classes == 0 {
            config["architectures"] = json!([family.bare_class]);
            return config;
        }
        if let Some(whole) = family.whole {
            config = json!({ "model_type": whole, "vision_config": config });
        }
        let with_teacher = self.pooling == Pooling::ClassAndDistillation;
        let class = family.classifier_class;
        config["architectures"] =
            if with_teacher { json!([format!("{class}{WITH_TEACHER}")]) } else { json!([class]) };
        if self.problem == Problem::MultiLabel {
            config["problem_type"] = MULTI_LABEL.into();
        }
        let names = || self.labels.iter().enumerate();
        config["id2label"] =
            names().map(|(id, name)| (id.to_string(), name.clone().into())).collect::<Map<_, Value>>().into();
        config["label2id"] =
            names().map(|(id, name)| (name.clone(), id.into())).collect::<Map<_, Value>>().into();
        config
    }

    /// What a tower's configuration says.
    fn hf_sizes(&self) -> Value {
        let family = self.family;
        let mut config = json!({
            "model_type": family.model_type,
            "hidden_size": self.d_model,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "hidden_act": self.activation.hugging_face(),
            "image_size": self.image_size,
            "patch_size": self.patch_size,
            "num_channels": self.channels,
            "layer_norm_eps": self.layer_norm_eps,
        });
        match family.mlp_width {
            MlpWidth::Stated => config["intermediate_size"] = self.d_mlp.into(),
            MlpWidth::Ratio => {
                config["mlp_ratio"] = self.hf_mlp_ratio();
                config["use_swiglu_ffn"] = (self.mlp == MlpKind::Gated).into();
            }
        }
        if family.states_qkv_bias {
            config["qkv_bias"] = self.qkv_bias.into();
            config["hidden_dropout_prob"] = 0.0.into();
            config["attention_probs_dropout_prob"] = 0.0.into();
        }
        if family.registers {
            config["num_register_tokens"] = self.n_registers.into();
        }
        if let Some(scale) = self.layer_scale {
            config["layerscale_value"] = scale.into();
        }
        if !family.class_token {
            // Its pooling head is not written.
            config["vision_use_head"] = false.into();
        }
        config
    }

    /// The `mlp_ratio` that gives the MLP its width: a whole number if one does, since transformers 5 takes no other.
    fn hf_mlp_ratio(&self) -> Value {
        let whole = (1..=64_u32).find(|&ratio| mlp_width(self.mlp, self.d_model, ratio.into()) == self.d_mlp);
        let exact = match self.mlp {
            MlpKind::Plain => self.d_mlp as f64 / self.d_model as f64,
            MlpKind::Gated => 1.5 * self.d_mlp as f64 / self.d_model as f64,
        };
        whole.map_or(json!(exact), Value::from)
    }
}

/// What holds the sizes: the file itself, or in it the part of the vision tower.
fn tower<'a>(outer: &Fields<'a>, family: &Family) -> Result<&'a Value, Error> {
    if family.whole.is_none_or(|whole| outer.json["model_type"] != whole) {
        return Ok(outer.json);
    }
    // The older field overrules the newer one, as in transformers.
    let parts = ["vision_config_dict", "vision_config"].map(|field| &outer.json[field]);
    let part = parts.into_iter().find(|part| part.is_object());
    part.ok_or_else(|| outer.wrong("vision_config", "the sizes of the vision tower"))
}

/// What the head of a classifier sees, or would see.
fn hf_pooling(fields: &Fields, family: &Family) -> Pooling {
    let with_teacher =
        family.distillation_token && named_class(fields).is_some_and(|class| class.ends_with(WITH_TEACHER));
    if with_teacher { Pooling::ClassAndDistillation } else { family.pooling }
}

/// Kind and inner width of the MLP.
fn hf_mlp(fields: &Fields, family: &Family, d_model: usize) -> Result<(MlpKind, usize), Error> {
    if family.mlp_width == MlpWidth::Stated {
        return Ok((MlpKind::Plain, fields.number("intermediate_size", 3072, 1..=65536)?));
    }
    let gated = fields.flag("use_swiglu_ffn", false)?;
    let kind = if gated { MlpKind::Gated } else { MlpKind::Plain };
    match mlp_width(kind, d_model, fields.float("mlp_ratio", 4.0)?) {
        0 => Err(fields.wrong("mlp_ratio", "a number that gives the MLP at least one channel")),
        width => Ok((kind, width)),
    }
}

/// Width inside an MLP that is `ratio` times as wide; one with a gate has two thirds of it, rounded up to a multiple of 8.
fn mlp_width(kind: MlpKind, d_model: usize, ratio: f64) -> usize {
    let width = (d_model as f64 * ratio) as usize;
    match kind {
        MlpKind::Plain => width,
        MlpKind::Gated => (width * 2 / 3).next_multiple_of(8),
    }
}

/// The first class that `architectures` names.
fn named_class<'a>(fields: &Fields<'a>) -> Option<&'a str> {
    fields.json["architectures"].as_array()?.first()?.as_str()
}

fn hf_activation(fields: &Fields, absent: Activation) -> Result<Activation, Error> {
    let Some(name) = fields.json.get("hidden_act").filter(|name| !name.is_null()) else {
        return Ok(absent);
    };
    let activation = name.as_str().and_then(Activation::of_hugging_face);
    activation
        .ok_or_else(|| fields.wrong("hidden_act", &format!("one of {}", Activation::known_to_hugging_face())))
}

fn hf_problem(fields: &Fields) -> Result<Problem, Error> {
    match fields.json["problem_type"].as_str() {
        None if fields.json["problem_type"].is_null() => Ok(Problem::SingleLabel),
        Some("single_label_classification") => Ok(Problem::SingleLabel),
        Some(MULTI_LABEL) => Ok(Problem::MultiLabel),
        Some(_) | None => Err(fields.wrong(
            "problem_type",
            "`single_label_classification` or `multi_label_classification`: this program tells classes, not numbers",
        )),
    }
}

/// Labels of a Hugging Face configuration; none for one of a model without head.
fn hf_labels(fields: &Fields, family: &Family) -> Result<Vec<String>, Error> {
    let has_head = match named_class(fields) {
        Some(name) => name.trim_end_matches(WITH_TEACHER).ends_with("ForImageClassification"),
        None => family.positions == Positions::Learned && fields.json.get("id2label").is_some(),
    };
    if !has_head {
        return Ok(Vec::new());
    }
    let Some(named) = fields.json.get("id2label").filter(|labels| !labels.is_null()) else {
        // Transformers leaves the map out only for its own default of two classes.
        return Ok(numbered_labels(fields.number("num_labels", 2, 1..=1_000_000)?));
    };
    let parsed: Option<BTreeMap<usize, String>> = named.as_object().and_then(|labels| {
        // Names may be numbers, as those of digits are.
        let text = |name: &Value| match name {
            Value::String(name) => Some(name.clone()),
            Value::Number(name) => Some(name.to_string()),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        };
        labels.iter().map(|(id, name)| Some((id.parse().ok()?, text(name)?))).collect()
    });
    let dense = parsed.filter(|labels| !labels.is_empty() && labels.keys().copied().eq(0..labels.len()));
    dense
        .map(|labels| labels.into_values().collect())
        .ok_or_else(|| fields.wrong("id2label", "a name for each of 0, 1, 2, ..."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(config: Value) -> Result<VitConfig, String> {
        VitConfig::from_json(&config, Path::new("config.json")).map_err(|error| error.to_string())
    }

    fn vit(more: Value) -> Value {
        let mut config = json!({ "model_type": "vit", "architectures": ["ViTForImageClassification"] });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    }

    #[test]
    fn the_activation_is_the_one_that_is_named() {
        for (name, expected) in [
            ("gelu", Activation::Gelu),
            ("gelu_new", Activation::GeluTanh),
            ("gelu_pytorch_tanh", Activation::GeluTanh),
            ("quick_gelu", Activation::QuickGelu),
            ("relu", Activation::Relu),
            ("silu", Activation::Silu),
            ("tanh", Activation::Tanh),
        ] {
            let config = read(vit(json!({ "hidden_act": name }))).unwrap();
            assert_eq!(config.activation, expected);
            assert_eq!(read(config.to_json()).unwrap(), config, "what is written is read back");
        }
        assert!(read(vit(json!({ "hidden_act": "mish" }))).unwrap_err().contains("`hidden_act`"));
    }

    #[test]
    fn the_problem_type_is_read_and_written() {
        for (stated, expected) in [
            (Value::Null, Problem::SingleLabel),
            (json!("single_label_classification"), Problem::SingleLabel),
            (json!("multi_label_classification"), Problem::MultiLabel),
        ] {
            let config = read(vit(json!({ "problem_type": stated }))).unwrap();
            assert_eq!(config.problem, expected);
            assert_eq!(read(config.to_json()).unwrap().problem, expected);
        }
        for refused in [json!("regression"), json!("ranking"), json!(1)] {
            let message = read(vit(json!({ "problem_type": refused }))).unwrap_err();
            assert!(message.contains("`problem_type`"), "{message}");
        }
    }
}
