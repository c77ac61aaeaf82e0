//! The sizes of a model, told without its weights.

use std::path::Path;

use nola_core::{FoundParam, Site, Targets, Unmatched, float_params};
use nola_models::{CausalLm, Gpt2, Gpt2Config, Llama, LlamaConfig, Preprocessor, Vit, VitConfig, checkpoint};

use crate::attach::HEAD;
use crate::settings::Modality;
use crate::{Error, device, session};

/// Sizes of a model.
#[expect(clippy::large_enum_variant, reason = "there is one of it at a time")]
pub(crate) enum Sizes {
    Vit(VitConfig),
    Gpt2(Gpt2Config),
    Llama(LlamaConfig),
}

/// One weight of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Weight {
    pub(crate) numbers: usize,
    pub(crate) place: Place,
}

/// Where a weight is in its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a block, a matrix of a linear layer.
    Linear,
    /// In the head of a classifier, which is always stored in f32.
    Classifier,
    /// Anywhere else: embeddings, norms, biases, the head of a language model.
    Elsewhere,
}

/// `$result` of whichever model has the sizes, with weights that take no memory.
macro_rules! of_any {
    ($sizes:expr, $model:ident => $result:expr) => {{
        let device = device::cpu().device;
        match $sizes {
            Sizes::Vit(config) => {
                let $model = Vit::uninitialized(config, &device);
                $result
            }
            Sizes::Gpt2(config) => {
                let $model = Gpt2::uninitialized(config, &device);
                $result
            }
            Sizes::Llama(config) => {
                let $model = Llama::uninitialized(config, &device);
                $result
            }
        }
    }};
}

impl Sizes {
    /// Those of the model in a folder, which need not hold weights unless its `config.json` leaves sizes to them.
    ///
    /// # Errors
    /// If `config.json` is absent, or names a model that this program does not compute.
    pub(crate) fn read(folder: &Path) -> Result<Self, Error> {
        if session::modality(folder)? == Modality::Images {
            let config = VitConfig::read(folder)?;
            let preprocessor = Preprocessor::of_folder(folder)?;
            let followed = preprocessor.and_then(|preprocessor| config.followed_size(&preprocessor));
            return Ok(Self::Vit(VitConfig { image_size: followed.unwrap_or(config.image_size), ..config }));
        }
        let (config, file) = (checkpoint::read_config(folder)?, folder.join("config.json"));
        Ok(match CausalLm::uninitialized(&config, &file, &device::cpu().device)? {
            CausalLm::Gpt2(model) => Self::Gpt2(model.config().clone()),
            CausalLm::Llama(model) => Self::Llama(model.config().clone()),
        })
    }

    /// What kind of model it is.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Vit(_) => "vit",
            Self::Gpt2(_) => "gpt2",
            Self::Llama(_) => "llama",
        }
    }

    /// Tokens of the longest sample; of a model of images, those of every sample.
    pub(crate) fn max_tokens(&self) -> usize {
        match self {
            Self::Vit(config) => config.n_tokens(),
            Self::Gpt2(config) => config.max_tokens,
            Self::Llama(config) => config.max_tokens,
        }
    }

    /// Each weight, in the order of the model.
    pub(crate) fn weights(&self) -> Vec<Weight> {
        let is_classifier = matches!(self, Self::Vit(_));
        let weight = |param: FoundParam| Weight {
            numbers: param.shape.iter().product(),
            place: if param.path.starts_with("blocks.") && param.shape.len() == 2 {
                Place::Linear
            } else if is_classifier && param.path.starts_with(HEAD) {
                Place::Classifier
            } else {
                Place::Elsewhere
            },
        };
        of_any!(self, model => float_params(&model)).into_iter().map(weight).collect()
    }

    /// Numbers of all weights together.
    pub(crate) fn parameters(&self) -> usize {
        self.weights().iter().map(|weight| weight.numbers).sum()
    }

    /// The weights that an adapter on `targets` is attached to.
    ///
    /// # Errors
    /// If a pattern is no regular expression, or nothing is chosen.
    pub(crate) fn sites(&self, targets: &Targets) -> Result<Vec<Site>, Error> {
        Ok(of_any!(self, model => targets.choose(&model))?)
    }

    /// What of `targets` fits no weight.
    ///
    /// # Errors
    /// If a pattern is no regular expression.
    pub(crate) fn unmatched(&self, targets: &Targets) -> Result<Unmatched, Error> {
        Ok(of_any!(self, model => targets.unmatched(&model))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_matrices_of_blocks_are_told_from_all_else() {
        let numbers = |place| {
            let weights = Sizes::Llama(LlamaConfig::llama2_7b()).weights();
            weights.iter().filter(|weight| weight.place == place).map(|weight| weight.numbers).sum::<usize>()
        };
        assert_eq!(numbers(Place::Linear), 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008));
        // Embedding and head, and 65 norms.
        assert_eq!(numbers(Place::Elsewhere), 2 * 32000 * 4096 + 65 * 4096);
    }

    #[test]
    fn a_head_of_classes_is_told_apart() {
        let sizes = VitConfig { n_classes: 10, labels: vec![String::new(); 10], ..VitConfig::base16() };
        let weights = Sizes::Vit(sizes).weights();
        let head = weights.iter().filter(|weight| weight.place == Place::Classifier);
        assert_eq!(head.map(|weight| weight.numbers).sum::<usize>(), 768 * 10 + 10);
    }

    #[test]
    fn a_folder_with_nothing_but_a_configuration_is_enough() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config = Gpt2Config::medium().to_json().to_string();
        std::fs::write(folder.path().join("config.json"), config).expect("a file");
        let sizes = Sizes::read(folder.path()).expect("a configuration");
        assert_eq!((sizes.kind(), sizes.parameters()), ("gpt2", 354_823_168));
    }
}
