//! Configurations of models.

use std::path::Path;

use burn::module::Module;
use burn::tensor::Device;
use image::RgbImage;
use nola_models::checkpoint::read_config;
use nola_models::generate::GenerationConfig;
use nola_models::vit::Format;
use nola_models::{Architecture, CausalLm, Gpt2Config, LlamaConfig, Preprocessor, Vit, VitConfig};
use serde_json::Value;

use super::input::{accepted, in_folder};

const FILE: &str = "config.json";
/// Deeper models are described as well, but it takes long.
const MOST_LAYERS: usize = 16;
/// Pixels of a picture that is made to try a preprocessor.
const MOST_PIXELS: usize = 1 << 16;

/// The JSON in a file, read as that of a model folder.
fn parsed(bytes: &[u8]) -> Option<Value> {
    in_folder(&[(FILE, Some(bytes))], |folder| accepted(read_config(folder), bytes))
}

/// `config.json` of a language model.
pub fn language(bytes: &[u8]) {
    let (Some(json), file) = (parsed(bytes), Path::new(FILE)) else { return };
    let Some(architecture) = accepted(Architecture::of(&json, file), bytes) else { return };
    let layers = match architecture {
        Architecture::Gpt2 => accepted(Gpt2Config::from_json(&json, file), bytes).map(|config| {
            let again = Gpt2Config::from_json(&config.to_json(), file).expect("it was written just now");
            assert_eq!(again, config);
            config.n_layers
        }),
        Architecture::Llama(family) => {
            accepted(LlamaConfig::from_json(&json, file, family), bytes).map(|config| {
                let again =
                    LlamaConfig::from_json(&config.to_json(), file, family).expect("it was written just now");
                assert_eq!(again, config);
                config.n_layers
            })
        }
    };
    if layers.is_none_or(|layers| layers <= MOST_LAYERS) {
        let model = accepted(CausalLm::uninitialized(&json, file, &Device::flex()), bytes);
        assert!(model.is_none_or(|model| model.num_params() > 0));
    }
}

/// `config.json` of a vision transformer.
pub fn vit(bytes: &[u8]) {
    let (Some(json), file) = (parsed(bytes), Path::new(FILE)) else { return };
    let Some(config) = accepted(VitConfig::from_json(&json, file), bytes) else { return };
    // timm's form is read beside its weights.
    let again = if config.format() == Format::HuggingFace {
        VitConfig::from_json(&config.to_json(), file)
    } else {
        Ok(config.clone())
    };
    again.unwrap_or_else(|error| panic!("{error}: {}", config.to_json()));
    if config.n_layers <= MOST_LAYERS {
        assert!(Vit::uninitialized(&config, &Device::flex()).num_params() > 0);
    }
}

/// `generation_config.json`.
pub fn generation(bytes: &[u8]) {
    let file = Path::new("generation_config.json");
    accepted(GenerationConfig::end_tokens(file, bytes), bytes);
    let config = accepted(GenerationConfig::from_json(file, bytes), bytes);
    assert!(
        config.is_none_or(|config| config.check().is_ok()),
        "settings that are accepted and then refused"
    );
}

/// `preprocessor_config.json`.
pub fn preprocessor(bytes: &[u8]) {
    let (Some(json), file) = (parsed(bytes), Path::new("preprocessor_config.json")) else { return };
    let Some(preprocessor) = accepted(Preprocessor::from_json(&json, file), bytes) else { return };
    let again = Preprocessor::from_json(&preprocessor.to_json(), file).expect("it was written just now");
    assert_eq!(again.output_size(), preprocessor.output_size());
    let [width, height] = preprocessor.output_size();
    if width * height <= MOST_PIXELS {
        assert_eq!(preprocessor.evaluate(&RgbImage::new(5, 7)).len(), 3 * width * height);
    }
}
