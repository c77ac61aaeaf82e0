//! The vision transformers there are, by the `model_type` of their `config.json`. Who differs from ViT by configuration alone is
//! one entry of this table.

use serde_json::Value;

use super::dialect;
use super::family::{Absent, Family, Interpolation, MlpWidth, Pooling, Positions};
use crate::fields::Fields;
use crate::{Activation, Error};

/// All of them, in the order in which errors list them.
const ALL: [&Family; 7] = [&Family::VIT, &MAE, &DEIT, &DINOV2, &DINOV2_WITH_REGISTERS, &CLIP, &SIGLIP];

/// The encoder of MAE: its positions are a formula.
///
/// # Source
/// `ViTMAEConfig` of transformers.
const MAE: Family = Family { model_type: "vit_mae", positions: Positions::Fixed, ..Family::VIT };

/// DeiT: a distillation token behind the class token.
///
/// # Source
/// `DeiTConfig` of transformers.
pub(super) const DEIT: Family = Family {
    model_type: "deit",
    bare_class: "DeiTModel",
    classifier_class: "DeiTForImageClassification",
    prefix: "deit.",
    ignored: &["pooler.", "deit.pooler.", "embeddings.mask_token", "deit.embeddings.mask_token", "decoder."],
    distillation_token: true,
    ..Family::VIT
};

/// DINOv2: layer scale, a head over class token and mean, positions for every size of images.
///
/// # Source
/// `Dinov2Config` of transformers.
const DINOV2: Family = Family {
    model_type: "dinov2",
    bare_class: "Dinov2Model",
    classifier_class: "Dinov2ForImageClassification",
    dialect: &dialect::DINO,
    prefix: "dinov2.",
    ignored: &["embeddings.mask_token", "dinov2.embeddings.mask_token"],
    written_mask_token: Some("embeddings.mask_token"),
    mlp_width: MlpWidth::Ratio,
    follows_image_size: true,
    pooling: Pooling::ClassAndMean,
    layer_scale: true,
    absent: Absent { patch_size: 14, layer_norm_eps: 1e-6, activation: Activation::Gelu },
    ..Family::VIT
};

/// DINOv2 with register tokens behind the class token, which have no positions.
///
/// # Source
/// `Dinov2WithRegistersConfig` of transformers.
const DINOV2_WITH_REGISTERS: Family = Family {
    model_type: "dinov2_with_registers",
    bare_class: "Dinov2WithRegistersModel",
    classifier_class: "Dinov2WithRegistersForImageClassification",
    prefix: "dinov2_with_registers.",
    ignored: &["embeddings.mask_token", "dinov2_with_registers.embeddings.mask_token"],
    interpolation: Interpolation::Antialiased,
    registers: true,
    absent: Absent { patch_size: 16, ..DINOV2.absent },
    ..DINOV2
};

/// The vision tower of CLIP: a norm before the blocks, patches without a bias, and a head over what the last norm has not seen.
///
/// # Source
/// `CLIPVisionConfig` of transformers.
const CLIP: Family = Family {
    model_type: "clip_vision_model",
    whole: Some("clip"),
    bare_class: "CLIPVisionModel",
    classifier_class: "CLIPForImageClassification",
    dialect: &dialect::CLIP,
    prefix: "vision_model.",
    bare_prefix: "vision_model.",
    ignored: &["vision_model.embeddings.position_ids", "embeddings.position_ids", "logit_scale"],
    left_out: &["text_model.", "text_projection.", "visual_projection."],
    pooling: Pooling::MeanWithoutNorm,
    patch_bias: false,
    embedding_norm: true,
    states_qkv_bias: false,
    absent: Absent { patch_size: 32, layer_norm_eps: 1e-5, activation: Activation::QuickGelu },
    ..Family::VIT
};

/// The vision tower of SigLIP: no class token; its pooling head is left out, since the classifier takes the mean.
///
/// # Source
/// `SiglipVisionConfig` of transformers.
const SIGLIP: Family = Family {
    model_type: "siglip_vision_model",
    whole: Some("siglip"),
    bare_class: "SiglipVisionModel",
    classifier_class: "SiglipForImageClassification",
    ignored: &[
        "vision_model.embeddings.position_ids",
        "embeddings.position_ids",
        "logit_scale",
        "logit_bias",
    ],
    left_out: &["text_model.", "vision_model.head.", "head."],
    pooling: Pooling::Mean,
    class_token: false,
    patch_bias: true,
    embedding_norm: false,
    absent: Absent { patch_size: 16, layer_norm_eps: 1e-6, activation: Activation::GeluTanh },
    ..CLIP
};

/// The family of a `config.json`; none if it names no vision transformer of Hugging Face's that there is.
pub(super) fn named_by(config: &Value) -> Option<&'static Family> {
    let name = config["model_type"].as_str()?;
    ALL.into_iter().find(|family| family.model_type == name || family.whole == Some(name))
}

/// The same.
///
/// # Errors
/// If it names none; the error lists what there is.
pub(super) fn of(fields: &Fields) -> Result<&'static Family, Error> {
    named_by(fields.json).ok_or_else(|| fields.wrong("model_type", &model_types()))
}

/// Every `model_type` of a vision transformer, and what timm's files have instead, for messages.
pub fn model_types() -> String {
    let names = ALL.into_iter().flat_map(|family| std::iter::once(family.model_type).chain(family.whole));
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    format!("{}, or timm's `architecture`: `vit_...` or `deit_...`", names.join(", "))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;

    #[test]
    fn every_family_is_found_by_each_of_its_types() {
        for family in ALL {
            for name in std::iter::once(family.model_type).chain(family.whole) {
                assert_eq!(named_by(&json!({ "model_type": name })), Some(family));
            }
        }
    }

    #[test]
    fn an_unknown_type_is_told_what_there_is() {
        for config in [json!({ "model_type": "swin" }), json!({})] {
            let fields = Fields { json: &config, file: Path::new("config.json") };
            let error = of(&fields).expect_err("there is none").to_string();
            for name in
                ["`vit`", "`deit`", "`dinov2`", "`dinov2_with_registers`", "`clip`", "`siglip`", "`vit_...`"]
            {
                assert!(error.contains(name), "{name}: {error}");
            }
        }
    }
}
