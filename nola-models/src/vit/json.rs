//! Sizes of a ViT, read from and written to the `config.json` of Hugging Face and of timm.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::config::{Pooling, Positions, Problem, VitConfig, numbered_labels};
use super::timm;
use crate::checkpoint::read_config;
use crate::fields::Fields;
use crate::{Activation, Checkpoint, Error};

/// What transformers calls [`Problem::MultiLabel`].
const MULTI_LABEL: &str = "multi_label_classification";

impl VitConfig {
    /// Whether a `config.json` is one of a vision transformer this program knows.
    pub fn is_named_by(config: &Value) -> bool {
        let is_timm = |name: &str| name.starts_with("vit_") || name == "timm.VisionTransformer";
        matches!(config["model_type"].as_str(), Some("vit" | "vit_mae"))
            || config["architecture"].as_str().is_some_and(is_timm)
    }

    /// Reads the configuration of a checkpoint; sizes that timm's hub files leave out come from the tensors' shapes.
    ///
    /// # Errors
    /// If it is no ViT's, or holds a value that cannot be.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<Self, Error> {
        let file = checkpoint.config_file();
        let config = checkpoint.config();
        match config["architecture"].as_str() {
            Some(name) if name.starts_with("vit_") => timm::from_hub(checkpoint, name, &file),
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
            Some(name) if name.starts_with("vit_") => Self::from_checkpoint(&Checkpoint::open(folder)?),
            Some(_) | None => Self::from_json(&config, &folder.join("config.json")),
        }
    }

    /// Reads a `config.json` of Hugging Face (`vit`, `vit_mae`) or one that holds timm's constructor arguments.
    ///
    /// # Errors
    /// If it is no ViT's, or holds a value that cannot be. The error names `file`.
    pub fn from_json(config: &Value, file: &Path) -> Result<Self, Error> {
        if config["architecture"] == "timm.VisionTransformer" {
            return timm::from_arguments(config, config, file);
        }
        let fields = Fields { json: config, file };
        let positions = match config["model_type"].as_str() {
            Some("vit") => Positions::Learned,
            Some("vit_mae") => Positions::Fixed,
            Some(_) | None => {
                return Err(
                    fields.wrong("model_type", "`vit`, `vit_mae`, or timm's `architecture`: `vit_...`")
                );
            }
        };
        let labels = hf_labels(&fields, positions)?;
        let sizes = Self {
            d_model: fields.number("hidden_size", 768, 1..=16384)?,
            n_layers: fields.number("num_hidden_layers", 12, 1..=512)?,
            n_heads: fields.number("num_attention_heads", 12, 1..=1024)?,
            d_mlp: fields.number("intermediate_size", 3072, 1..=65536)?,
            image_size: fields.number("image_size", 224, 1..=16384)?,
            patch_size: fields.number("patch_size", 16, 1..=16384)?,
            channels: fields.number("num_channels", 3, 1..=64)?,
            layer_norm_eps: fields.float("layer_norm_eps", 1e-12)?,
            activation: hf_activation(&fields)?,
            qkv_bias: fields.flag("qkv_bias", true)?,
            n_classes: labels.len(),
            pooling: Pooling::ClassToken,
            positions,
            labels,
            problem: hf_problem(&fields)?,
        };
        sizes.checked(&fields, ["num_attention_heads", "patch_size", "image_size", "hidden_size"])
    }

    /// The `config.json` that other programs read: Hugging Face's, or timm's where the patches are averaged, which
    /// Hugging Face's ViT cannot do.
    ///
    /// Fixed positions are written as what they are in the file, weights.
    pub fn to_json(&self) -> Value {
        match self.pooling {
            Pooling::ClassToken => self.to_hf_json(),
            Pooling::Mean | Pooling::MeanThenNorm => timm::to_json(self),
        }
    }

    fn to_hf_json(&self) -> Value {
        let architecture = if self.n_classes > 0 { "ViTForImageClassification" } else { "ViTModel" };
        let mut config = json!({
            "architectures": [architecture],
            "model_type": "vit",
            "hidden_size": self.d_model,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "intermediate_size": self.d_mlp,
            "hidden_act": self.activation.hugging_face(),
            "image_size": self.image_size,
            "patch_size": self.patch_size,
            "num_channels": self.channels,
            "layer_norm_eps": self.layer_norm_eps,
            "qkv_bias": self.qkv_bias,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        });
        if self.problem == Problem::MultiLabel {
            config["problem_type"] = MULTI_LABEL.into();
        }
        if self.n_classes > 0 {
            let names = || self.labels.iter().enumerate();
            config["id2label"] = names()
                .map(|(id, name)| (id.to_string(), name.clone().into()))
                .collect::<Map<_, Value>>()
                .into();
            config["label2id"] =
                names().map(|(id, name)| (name.clone(), id.into())).collect::<Map<_, Value>>().into();
        }
        config
    }
}

fn hf_activation(fields: &Fields) -> Result<Activation, Error> {
    let Some(name) = fields.json.get("hidden_act").filter(|name| !name.is_null()) else {
        return Ok(Activation::Gelu);
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
fn hf_labels(fields: &Fields, positions: Positions) -> Result<Vec<String>, Error> {
    let named = fields.json["architectures"].as_array().and_then(|names| names.first()?.as_str());
    let has_head = match named {
        Some(name) => name.ends_with("ForImageClassification"),
        None => positions == Positions::Learned && fields.json.get("id2label").is_some(),
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
