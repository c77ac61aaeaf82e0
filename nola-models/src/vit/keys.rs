//! The key map of ViT: our parameter paths, and the names of Hugging Face (both generations), PEFT and timm.

use std::path::Path;

use nola_core::folder::peft::{self, ForeignModule, Layout};

use super::dialect::{Dialect, Kind, Name, TIMM};
use super::{Format, MlpKind, Pooling, Positions, Vit, VitConfig};
use crate::checkpoint::{Checkpoint, ModelFolder, NamedTensor, Part, Source, collect, save};
use crate::{Error, Preprocessor, WeightDtype};

/// How one file calls what a model has.
#[derive(Clone, Copy)]
struct Naming<'a> {
    dialect: &'static Dialect,
    /// Before every name but a head's.
    prefix: &'static str,
    config: &'a VitConfig,
}

/// A parameter or module of a model with its names in a file, and in memory since transformers 5.
struct Place {
    names: [String; 2],
    kind: Kind,
    /// What of the module it is, as it is called there; empty for a whole module.
    leaf: &'static str,
}

impl<'a> Naming<'a> {
    /// What the files of `config` hold without a head's prefix.
    fn written(config: &'a VitConfig) -> Self {
        let family = config.family;
        match config.format() {
            Format::HuggingFace if config.n_classes > 0 => {
                Self { dialect: family.dialect, prefix: family.prefix, config }
            }
            Format::HuggingFace => Self { dialect: family.dialect, prefix: family.bare_prefix, config },
            Format::Timm => Self { dialect: &TIMM, prefix: "", config },
        }
    }

    /// That of a file that is read.
    fn of(checkpoint: &Checkpoint, config: &'a VitConfig) -> Self {
        let family = config.family;
        if checkpoint.config()["architecture"].is_string() {
            return Self { dialect: &TIMM, prefix: "", config };
        }
        let is_prefixed = checkpoint.tensor_names().any(|name| name.starts_with(family.prefix));
        Self { dialect: family.dialect, prefix: if is_prefixed { family.prefix } else { "" }, config }
    }

    /// That of the classifier of transformers, which PEFT wraps.
    fn in_memory(config: &'a VitConfig) -> Self {
        Self { dialect: config.family.dialect, prefix: config.family.prefix, config }
    }

    /// # Panics
    /// If `path` is nothing of this model: the table is then incomplete.
    fn place(&self, path: &str) -> Place {
        self.find(path).unwrap_or_else(|| panic!("no name is known for `{path}`"))
    }

    fn find(&self, path: &str) -> Option<Place> {
        self.renamed(path).and_then(|ours| self.find_in_tables(&ours)).or_else(|| self.find_in_tables(path))
    }

    fn find_in_tables(&self, path: &str) -> Option<Place> {
        let (block, inside) = match path.strip_prefix("blocks.") {
            Some(inside) => inside.split_once('.').map(|(number, inside)| (Some(number), inside))?,
            None => (None, path),
        };
        let Dialect { in_block, gated, outside, blocks } = self.dialect;
        let tables = match (block, self.config.mlp) {
            (Some(_), MlpKind::Gated) => [*gated, *in_block],
            (Some(_), MlpKind::Plain) => [*in_block, &[]],
            (None, MlpKind::Plain | MlpKind::Gated) => [*outside, &[]],
        };
        let (name, leaf) = tables.into_iter().flatten().find_map(|name| of_name(name, inside))?;
        let prefix = if name.ours.ends_with("head") { "" } else { self.prefix };
        let full = |generation: usize| {
            let theirs = name.theirs[generation];
            match block {
                Some(number) => format!("{prefix}{}.{number}.{theirs}", blocks[generation]),
                None => format!("{prefix}{theirs}"),
            }
        };
        Some(Place { names: [full(0), full(1)], kind: name.kind, leaf })
    }

    /// What the tables call a part whose name depends on what another part does.
    fn renamed(&self, path: &str) -> Option<String> {
        match self.config.pooling {
            Pooling::ClassAndDistillation => {
                path.strip_prefix("head").map(|leaf| format!("class_head{leaf}"))
            }
            Pooling::MeanThenNorm => path.strip_prefix("norm").map(|leaf| format!("feature_norm{leaf}")),
            Pooling::ClassToken
            | Pooling::ClassAndMean
            | Pooling::Mean
            | Pooling::MeanWithoutNorm
            | Pooling::Attention => None,
        }
    }

    /// Whether its files have no last norm: in timm what no head reads does not exist.
    fn has_no_norm(&self) -> bool {
        std::ptr::eq(self.dialect, &TIMM) && self.config.pooling == Pooling::MeanWithoutNorm
    }

    /// Where a parameter is stored.
    fn source(&self, path: &str) -> Source {
        let Place { names, kind, leaf } = self.place(path);
        let (part, transposed) = match kind {
            Kind::Linear => (Part::Whole, leaf == ".weight"),
            Kind::Rows(shares) => (Part::Rows(shares), leaf == ".weight"),
            Kind::Module | Kind::Scale(_) | Kind::Parameter => (Part::Whole, false),
            Kind::LastAxes(axes) => (Part::LastAxes(axes), false),
        };
        let [stored, in_memory] = names.map(|name| format!("{name}{leaf}"));
        // A fused tensor of files is no longer one in memory.
        let is_one = stored == in_memory || matches!(kind, Kind::Rows(_));
        let names = if is_one { vec![stored] } else { vec![stored, in_memory] };
        Source { names, part, transposed }
    }
}

/// `name` if it is that of `ours`, with what of it `ours` is.
fn of_name<'n>(name: &'n Name, ours: &str) -> Option<(&'n Name, &'static str)> {
    let leaf = ours.strip_prefix(name.ours)?;
    let leaf = match (leaf, name.kind) {
        ("", _) => "",
        (".weight" | ".gamma", Kind::Linear | Kind::Rows(_) | Kind::Module) => ".weight",
        (".bias" | ".beta", Kind::Linear | Kind::Rows(_) | Kind::Module) => ".bias",
        (".lambda1", Kind::Scale(leaf)) => leaf,
        (
            _,
            Kind::Linear
            | Kind::Rows(_)
            | Kind::Module
            | Kind::Scale(_)
            | Kind::Parameter
            | Kind::LastAxes(_),
        ) => return None,
    };
    Some((name, leaf))
}

/// Where a checkpoint keeps each parameter; none for fixed positions and a norm that it leaves out.
pub(super) fn source_in(checkpoint: &Checkpoint, config: &VitConfig) -> impl Fn(&str) -> Option<Source> {
    let naming = Naming::of(checkpoint, config);
    let stored = naming.source("positions").names.iter().any(|name| checkpoint.shape(name).is_some());
    let generated = config.positions == Positions::Fixed && !stored;
    let without_norm = naming.has_no_norm();
    move |path| {
        let is_absent = generated && path == "positions" || without_norm && path.starts_with("norm.");
        (!is_absent).then(|| naming.source(path))
    }
}

impl VitConfig {
    /// Beginnings of the names of stored tensors that a user may miss: of a text tower, or of a pooling head.
    pub fn left_out_of(&self, checkpoint: &Checkpoint) -> Vec<String> {
        let is_stored = |beginning: &&str| checkpoint.tensor_names().any(|name| name.starts_with(*beginning));
        let left_out = self.family.left_out.iter().copied();
        left_out.filter(is_stored).map(|beginning| format!("`{beginning}`")).collect()
    }
}

impl Vit {
    /// Where transformers keeps one of its modules, such as `blocks.0.attention.query`.
    ///
    /// # Panics
    /// If `module` is none.
    pub fn peft_module(&self, module: &str) -> ForeignModule {
        let naming = Naming::in_memory(self.config());
        // What no class of transformers has is called as timm does.
        let timm = Naming { dialect: &TIMM, prefix: "", config: self.config() };
        // The classifier that PEFT wraps has one head, whatever its base had.
        let Place { names: [stored, in_memory], kind, .. } =
            naming.find_in_tables(module).unwrap_or_else(|| timm.place(module));
        let is_split_in_memory = stored != in_memory;
        let [part, part_before] = match kind {
            // Only transformers 4 has it fused.
            Kind::Rows(shares) if is_split_in_memory => [peft::Part::Whole, peft::Part::Outputs(shares)],
            Kind::Rows(shares) => [peft::Part::Outputs(shares); 2],
            Kind::Linear | Kind::Module | Kind::Scale(_) | Kind::Parameter | Kind::LastAxes(_) => {
                [peft::Part::Whole; 2]
            }
        };
        ForeignModule { names: [in_memory, stored], part, part_before, layout: Layout::Linear }
    }

    /// Every weight under the names of the configuration that [`VitConfig::to_json`] writes; adapters are merged in. A mask token
    /// that transformers always has, and no classifier uses, is zero.
    pub fn to_tensors(&self) -> Vec<NamedTensor> {
        let config = self.config();
        let naming = Naming::written(config);
        let mut tensors = collect(self.clone(), &|path| naming.source(path));
        if naming.has_no_norm() {
            tensors.retain(|tensor| !tensor.name.starts_with("norm."));
        }
        if let (Format::HuggingFace, Some(name)) = (config.format(), config.family.written_mask_token) {
            let (name, shape) = (format!("{}{name}", naming.prefix), vec![1, config.d_model]);
            tensors.push(NamedTensor { name, shape, values: vec![0.0; config.d_model] });
        }
        tensors
    }

    /// Writes a model folder that transformers loads, or timm where no class of transformers computes the same.
    ///
    /// # Errors
    /// If `folder` exists and is not empty, or cannot be written.
    pub fn save(&self, folder: &Path, preprocessor: &Preprocessor, dtype: WeightDtype) -> Result<(), Error> {
        let mut config = self.config().to_json();
        if self.config().format() == Format::Timm {
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
