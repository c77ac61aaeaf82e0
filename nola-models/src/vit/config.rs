//! Sizes of a ViT, read from and written to the `config.json` of Hugging Face and of timm.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::checkpoint::{parse_json, read_bounded};
use crate::fields::Fields;
use crate::{Checkpoint, Error};

/// LayerNorm epsilon of timm's vision transformers.
const TIMM_EPS: f64 = 1e-6;

/// A model with more numbers than this is refused; the largest published ViTs that fit a GPU have fewer.
const MAX_NUMBERS: f64 = 8e9;

/// Sizes and variants of a ViT.
#[derive(Debug, Clone, PartialEq)]
pub struct VitConfig {
    /// Width of the residual stream.
    pub d_model: usize,
    /// Number of blocks.
    pub n_layers: usize,
    /// Heads per block; divides `d_model`.
    pub n_heads: usize,
    /// Width inside the MLP.
    pub d_mlp: usize,
    /// Side of the square image, in pixels.
    pub image_size: usize,
    /// Side of a square patch, in pixels; divides `image_size`.
    pub patch_size: usize,
    /// Colour channels.
    pub channels: usize,
    /// Added to the variance in every norm.
    pub layer_norm_eps: f64,
    /// Whether query, key and value have biases.
    pub qkv_bias: bool,
    /// Classes of the head; 0 for a model without one.
    pub n_classes: usize,
    /// What of the last block the head sees.
    pub pooling: Pooling,
    /// Where position embeddings come from.
    pub positions: Positions,
    /// Name of each class.
    pub labels: Vec<String>,
}

/// What of the last block the head sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The class token, after the final norm.
    ClassToken,
    /// The mean of the patch tokens, after the final norm.
    Mean,
    /// The mean of the patch tokens, and the norm after it (timm's `fc_norm`).
    MeanThenNorm,
}

/// Where position embeddings come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Positions {
    /// Trained with the rest.
    Learned,
    /// Sines and cosines of row and column, never trained (MAE).
    Fixed,
}

impl VitConfig {
    /// The sizes of a published model: ViT-B/16 for 224 pixels, without head.
    pub fn base16() -> Self {
        Self {
            d_model: 768,
            n_layers: 12,
            n_heads: 12,
            d_mlp: 3072,
            image_size: 224,
            patch_size: 16,
            channels: 3,
            layer_norm_eps: 1e-12,
            qkv_bias: true,
            n_classes: 0,
            pooling: Pooling::ClassToken,
            positions: Positions::Learned,
            labels: Vec::new(),
        }
    }

    /// The sizes of a published model: ViT-L/16 for 224 pixels, without head.
    pub fn large16() -> Self {
        Self { d_model: 1024, n_layers: 24, n_heads: 16, d_mlp: 4096, ..Self::base16() }
    }

    /// Patches along a side.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// Patches of an image.
    pub fn n_patches(&self) -> usize {
        self.grid() * self.grid()
    }

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
            Some(name) if name.starts_with("vit_") => {
                Self::from_timm(&hub_arguments(checkpoint, name)?, config, &file)
            }
            Some(_) | None => Self::from_json(config, &file),
        }
    }

    /// Reads the `config.json` of a folder that may hold no weights, to train a model from scratch.
    ///
    /// # Errors
    /// If there is none, or as [`VitConfig::from_json`].
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let file = folder.join("config.json");
        Self::from_json(&parse_json(&file, &read_bounded(&file)?)?, &file)
    }

    /// Reads a `config.json` of Hugging Face (`vit`, `vit_mae`) or one that holds timm's constructor arguments.
    ///
    /// # Errors
    /// If it is no ViT's, or holds a value that cannot be. The error names `file`.
    pub fn from_json(config: &Value, file: &Path) -> Result<Self, Error> {
        if config["architecture"] == "timm.VisionTransformer" {
            return Self::from_timm(config, config, file);
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
        if !matches!(config["hidden_act"].as_str(), Some("gelu") | None) {
            return Err(fields.wrong("hidden_act", "`gelu`"));
        }
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
            qkv_bias: fields.flag("qkv_bias", true)?,
            n_classes: labels.len(),
            pooling: Pooling::ClassToken,
            positions,
            labels,
        };
        sizes.checked(&fields, ["num_attention_heads", "patch_size", "image_size", "hidden_size"])
    }

    /// Reads timm's constructor arguments; `outer` is the whole file, which may name the labels.
    fn from_timm(arguments: &Value, outer: &Value, file: &Path) -> Result<Self, Error> {
        let fields = Fields { json: arguments, file };
        let mean = match arguments["global_pool"].as_str() {
            Some("token") | None => false,
            Some("avg") => true,
            Some(_) => return Err(fields.wrong("global_pool", "`token` or `avg`")),
        };
        let pooling = match (mean, fields.flag("fc_norm", mean)?) {
            (true, true) => Pooling::MeanThenNorm,
            (true, false) => Pooling::Mean,
            (false, false) => Pooling::ClassToken,
            (false, true) => {
                return Err(fields.wrong("fc_norm", "false with `global_pool`: `token`"));
            }
        };
        let d_model = fields.number("embed_dim", 768, 1..=16384)?;
        let n_classes = fields.number("num_classes", 1000, 0..=1_000_000)?;
        let sizes = Self {
            d_model,
            n_layers: fields.number("depth", 12, 1..=512)?,
            n_heads: fields.number("num_heads", 12, 1..=1024)?,
            d_mlp: (d_model as f64 * fields.float("mlp_ratio", 4.0)?) as usize,
            image_size: fields.number("img_size", 224, 1..=16384)?,
            patch_size: fields.number("patch_size", 16, 1..=16384)?,
            channels: fields.number("in_chans", 3, 1..=64)?,
            layer_norm_eps: TIMM_EPS,
            qkv_bias: fields.flag("qkv_bias", true)?,
            n_classes,
            pooling,
            positions: Positions::Learned,
            labels: timm_labels(outer, n_classes),
        };
        sizes.checked(&fields, ["num_heads", "patch_size", "img_size", "embed_dim"])
    }

    /// The sizes must divide as they should; `names` are the fields for heads, patch, image and width.
    fn checked(self, fields: &Fields, names: [&'static str; 4]) -> Result<Self, Error> {
        let [heads, patch, image, width] = names;
        if !self.d_model.is_multiple_of(self.n_heads) {
            return Err(fields.wrong(heads, &format!("a divisor of {width} = {}", self.d_model)));
        }
        if !self.image_size.is_multiple_of(self.patch_size) {
            return Err(fields.wrong(patch, &format!("a divisor of {image} = {}", self.image_size)));
        }
        if self.numbers() > MAX_NUMBERS {
            return Err(fields.wrong(width, "sizes of a model of less than eight thousand million numbers"));
        }
        if self.positions == Positions::Fixed && !self.d_model.is_multiple_of(4) {
            return Err(fields.wrong(width, "a multiple of 4, for sine-cosine positions"));
        }
        Ok(self)
    }

    /// About how many numbers a model of these sizes has; in floats, since lies overflow integers.
    fn numbers(&self) -> f64 {
        let [d_model, d_mlp] = [self.d_model, self.d_mlp].map(|size| size as f64);
        let patch = self.channels as f64 * (self.patch_size as f64).powi(2);
        let block = 4.0 * d_model * d_model + 2.0 * d_model * d_mlp;
        d_model * (self.n_patches() as f64 + patch + self.n_classes as f64) + self.n_layers as f64 * block
    }

    /// The `config.json` that other programs read: Hugging Face's, or timm's where the patches are averaged, which
    /// Hugging Face's ViT cannot do.
    ///
    /// Fixed positions are written as what they are in the file, weights.
    pub fn to_json(&self) -> Value {
        match self.pooling {
            Pooling::ClassToken => self.to_hf_json(),
            Pooling::Mean | Pooling::MeanThenNorm => self.to_timm_json(),
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
            "hidden_act": "gelu",
            "image_size": self.image_size,
            "patch_size": self.patch_size,
            "num_channels": self.channels,
            "layer_norm_eps": self.layer_norm_eps,
            "qkv_bias": self.qkv_bias,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        });
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

    fn to_timm_json(&self) -> Value {
        json!({
            // timm builds from the arguments; of the name it needs only the family.
            "architecture": "vit_base_patch16_224",
            "num_classes": self.n_classes,
            "num_features": self.d_model,
            "global_pool": "avg",
            "label_names": self.labels,
            "model_args": {
                "img_size": self.image_size,
                "patch_size": self.patch_size,
                "in_chans": self.channels,
                "embed_dim": self.d_model,
                "depth": self.n_layers,
                "num_heads": self.n_heads,
                "mlp_ratio": self.d_mlp as f64 / self.d_model as f64,
                "qkv_bias": self.qkv_bias,
                "fc_norm": self.pooling == Pooling::MeanThenNorm,
                "global_pool": "avg",
            },
        })
    }
}

/// timm's constructor arguments for a file of its hub, which names an architecture and leaves the rest to the code.
///
/// What `model_args` does not say is read from the shapes of the tensors, and the number of heads from the name.
fn hub_arguments(checkpoint: &Checkpoint, name: &str) -> Result<Value, Error> {
    let config = checkpoint.config();
    let mut arguments = Map::new();
    let mut known =
        |key: &str, value: Option<Value>| value.map(|value| arguments.insert(key.to_string(), value));
    if let Some(&[d_model, channels, patch_size, _]) = checkpoint.shape("patch_embed.proj.weight") {
        known("embed_dim", Some(d_model.into()));
        known("in_chans", Some(channels.into()));
        known("patch_size", Some(patch_size.into()));
        let heads = timm_heads(name);
        known("num_heads", Some(heads.unwrap_or(d_model / 64).into()));
        let mlp = checkpoint.shape("blocks.0.mlp.fc1.weight").and_then(|shape| shape.first());
        known("mlp_ratio", mlp.map(|&d_mlp| (d_mlp as f64 / d_model.max(1) as f64).into()));
        let tokens = checkpoint.shape("pos_embed").and_then(|shape| shape.get(1));
        known("img_size", tokens.map(|&tokens| (tokens.saturating_sub(1).isqrt() * patch_size).into()));
    }
    let block = |tensor: &str| tensor.strip_prefix("blocks.")?.split('.').next()?.parse::<usize>().ok();
    known(
        "depth",
        checkpoint.tensor_names().filter_map(block).max().map(|last| (last.saturating_add(1)).into()),
    );
    known("qkv_bias", Some(checkpoint.shape("blocks.0.attn.qkv.bias").is_some().into()));
    for key in ["num_classes", "global_pool"] {
        known(key, config.get(key).cloned());
    }
    if let Some(stated) = config["model_args"].as_object() {
        arguments.extend(stated.clone());
    }
    Ok(Value::Object(arguments))
}

/// Heads of timm's named sizes.
fn timm_heads(name: &str) -> Option<usize> {
    let size = name.strip_prefix("vit_")?.split('_').next()?;
    Some(match size {
        "tiny" => 3,
        "small" => 6,
        "base" => 12,
        "large" | "huge" | "giant" | "gigantic" => 16,
        _ => return None,
    })
}

/// The label names of timm's file, if it names all of them, else numbered ones.
fn timm_labels(config: &Value, n_classes: usize) -> Vec<String> {
    let named: Vec<String> = config["label_names"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|name| name.as_str().map(str::to_string))
        .collect();
    if named.len() == n_classes { named } else { numbered_labels(n_classes) }
}

fn numbered_labels(n_classes: usize) -> Vec<String> {
    (0..n_classes).map(|class| format!("LABEL_{class}")).collect()
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
        labels.iter().map(|(id, name)| Some((id.parse().ok()?, name.as_str()?.to_string()))).collect()
    });
    let dense = parsed.filter(|labels| !labels.is_empty() && labels.keys().copied().eq(0..labels.len()));
    dense
        .map(|labels| labels.into_values().collect())
        .ok_or_else(|| fields.wrong("id2label", "a name for each of 0, 1, 2, ..."))
}
