//! The key map of ViT: our parameter paths, and the names of Hugging Face (both generations), PEFT and timm.

use nola_core::folder::peft::ForeignModule;
use std::path::Path;

use super::{Pooling, Positions, Vit, VitConfig};
use crate::checkpoint::{Checkpoint, ModelFolder, NamedTensor, Part, Shares, Source, collect, save};
use crate::{Error, Preprocessor, WeightDtype};

/// Stored tensors that are no part of the classifier: the pooler of `ViTModel`, mask tokens, pretraining decoders.
pub(super) const IGNORED: &[&str] =
    &["pooler.", "vit.pooler.", "embeddings.mask_token", "vit.embeddings.mask_token", "decoder."];

/// One module of ours with its names elsewhere.
struct Names {
    ours: &'static str,
    /// As stored by every release, and in memory before transformers 5.
    hf: &'static str,
    /// In memory since transformers 5.
    hf5: &'static str,
    timm: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Weight `[d_out, d_in]` there, `[d_in, d_out]` here.
    Linear,
    /// The same, and in timm rows of the fused `qkv`.
    Fused(usize),
    /// Stored as we have it.
    Plain,
}

const fn names(
    ours: &'static str,
    hf: &'static str,
    hf5: &'static str,
    timm: &'static str,
    kind: Kind,
) -> Names {
    Names { ours, hf, hf5, timm, kind }
}

/// Inside `blocks.N`, `encoder.layer.N` (transformers 5: `layers.N`) and `blocks.N`.
const BLOCK: [Names; 8] = [
    names("norm_attention", "layernorm_before", "layernorm_before", "norm1", Kind::Plain),
    names("attention.query", "attention.attention.query", "attention.q_proj", "attn.qkv", Kind::Fused(0)),
    names("attention.key", "attention.attention.key", "attention.k_proj", "attn.qkv", Kind::Fused(1)),
    names("attention.value", "attention.attention.value", "attention.v_proj", "attn.qkv", Kind::Fused(2)),
    names("attention.output", "attention.output.dense", "attention.o_proj", "attn.proj", Kind::Linear),
    names("norm_mlp", "layernorm_after", "layernorm_after", "norm2", Kind::Plain),
    names("mlp.up", "intermediate.dense", "mlp.fc1", "mlp.fc1", Kind::Linear),
    names("mlp.down", "output.dense", "mlp.fc2", "mlp.fc2", Kind::Linear),
];

const PATCHES: &str = "embeddings.patch_embeddings.projection";

/// Outside the blocks; whole parameters first, then modules.
const OUTER: [Names; 5] = [
    names("class_token", "embeddings.cls_token", "embeddings.cls_token", "cls_token", Kind::Plain),
    names(
        "positions",
        "embeddings.position_embeddings",
        "embeddings.position_embeddings",
        "pos_embed",
        Kind::Plain,
    ),
    names("patches", PATCHES, PATCHES, "patch_embed.proj", Kind::Plain),
    names("norm", "layernorm", "layernorm", "norm", Kind::Plain),
    names("head", "classifier", "classifier", "head", Kind::Linear),
];

/// Whose names a checkpoint uses.
#[derive(Clone, Copy, PartialEq)]
enum Layout {
    /// With this prefix before everything but the head.
    HuggingFace {
        prefix: &'static str,
    },
    Timm {
        pooling: Pooling,
    },
}

/// A parameter path taken apart.
struct Place<'a> {
    names: &'static Names,
    block: Option<&'a str>,
    /// `weight` or `bias` there, `gamma` or `beta` too here; none for a whole parameter.
    leaf: Option<&'a str>,
}

impl<'a> Place<'a> {
    /// # Panics
    /// If `path` is no parameter of a [`Vit`]: the table above is then incomplete.
    fn of(path: &'a str) -> Self {
        Self::parse(path).unwrap_or_else(|| panic!("no name is known for the parameter `{path}`"))
    }

    fn parse(path: &'a str) -> Option<Self> {
        let (block, rest, table) = match path.strip_prefix("blocks.") {
            Some(inside) => {
                let (number, rest) = inside.split_once('.')?;
                (Some(number), rest, &BLOCK[..])
            }
            None => (None, path, &OUTER[..]),
        };
        let inside = |names: &'static Names| {
            let leaf = rest.strip_prefix(names.ours)?;
            Some(Self {
                names,
                block,
                leaf: if leaf.is_empty() { None } else { Some(leaf.strip_prefix('.')?) },
            })
        };
        table.iter().find_map(inside)
    }

    fn leaf_there(&self) -> &'static str {
        match self.leaf {
            None => "",
            Some("gamma" | "weight") => ".weight",
            Some(_) => ".bias",
        }
    }

    /// Names in Hugging Face's files: as stored by every release first.
    fn hugging_face(&self, prefix: &str) -> [String; 2] {
        let leaf = self.leaf_there();
        let prefix = if self.names.ours == "head" { "" } else { prefix };
        match self.block {
            Some(number) => [
                format!("{prefix}encoder.layer.{number}.{}{leaf}", self.names.hf),
                format!("{prefix}layers.{number}.{}{leaf}", self.names.hf5),
            ],
            None => [format!("{prefix}{}{leaf}", self.names.hf), format!("{prefix}{}{leaf}", self.names.hf5)],
        }
    }

    fn timm(&self, pooling: Pooling) -> String {
        let leaf = self.leaf_there();
        match self.block {
            Some(number) => format!("blocks.{number}.{}{leaf}", self.names.timm),
            None if self.names.ours == "norm" && pooling == Pooling::MeanThenNorm => {
                format!("fc_norm{leaf}")
            }
            None => format!("{}{leaf}", self.names.timm),
        }
    }

    fn source(&self, layout: Layout) -> Source {
        let transposed = self.names.kind != Kind::Plain && self.leaf == Some("weight");
        let (names, part) = match (layout, self.names.kind) {
            (Layout::HuggingFace { prefix }, _) => (self.hugging_face(prefix).into(), Part::Whole),
            (Layout::Timm { pooling }, Kind::Fused(index)) => {
                (vec![self.timm(pooling)], Part::Rows(Shares::nth(index, 3)))
            }
            (Layout::Timm { pooling }, Kind::Linear | Kind::Plain) => (vec![self.timm(pooling)], Part::Whole),
        };
        let mut names: Vec<String> = names;
        names.dedup();
        Source { names, part, transposed }
    }
}

/// Where a checkpoint keeps each parameter; none for fixed positions that it leaves out.
pub(super) fn source_in(checkpoint: &Checkpoint, config: &VitConfig) -> impl Fn(&str) -> Option<Source> {
    let layout = if checkpoint.config()["architecture"].is_string() {
        Layout::Timm { pooling: config.pooling }
    } else if checkpoint.tensor_names().any(|name| name.starts_with("vit.")) {
        Layout::HuggingFace { prefix: "vit." }
    } else {
        Layout::HuggingFace { prefix: "" }
    };
    let stored =
        Place::of("positions").source(layout).names.iter().any(|name| checkpoint.shape(name).is_some());
    let generated = config.positions == Positions::Fixed && !stored;
    move |path| (!(generated && path == "positions")).then(|| Place::of(path).source(layout))
}

/// Where transformers keeps a module of [`Vit`], such as `blocks.0.attention.query`.
///
/// # Panics
/// If `module` is none.
pub fn peft_module(module: &str) -> ForeignModule {
    let [old, new] = Place::of(module).hugging_face("vit.");
    ForeignModule::whole([new, old])
}

impl Vit {
    /// Every weight under the names of the configuration that [`VitConfig::to_json`] writes; adapters are merged in.
    pub fn to_tensors(&self) -> Vec<NamedTensor> {
        let layout = match self.config().pooling {
            Pooling::ClassToken if self.head.is_some() => Layout::HuggingFace { prefix: "vit." },
            Pooling::ClassToken => Layout::HuggingFace { prefix: "" },
            pooling @ (Pooling::Mean | Pooling::MeanThenNorm) => Layout::Timm { pooling },
        };
        collect(self.clone(), &|path| Place::of(path).source(layout))
    }

    /// Writes a model folder that transformers loads, or timm where the patches are averaged.
    ///
    /// # Errors
    /// If `folder` exists and is not empty, or cannot be written.
    pub fn save(&self, folder: &Path, preprocessor: &Preprocessor, dtype: WeightDtype) -> Result<(), Error> {
        let mut config = self.config().to_json();
        if self.config().pooling != Pooling::ClassToken {
            config["pretrained_cfg"] = preprocessor.to_timm_json();
        }
        save(
            folder,
            &ModelFolder {
                config: &config,
                preprocessor: Some(&preprocessor.to_json()),
                tensors: &self.to_tensors(),
                dtype,
                companions: &[],
            },
        )
    }
}
