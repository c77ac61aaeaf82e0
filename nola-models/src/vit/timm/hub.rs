//! What files of timm's hub leave to its code: they name an architecture and little more.

use serde_json::{Map, Value};

use super::super::config::MlpKind;
use super::mlp_ratio;
use crate::Checkpoint;

/// Beginnings of the names of architectures that are read.
const BEGINNINGS: [&str; 3] = ["vit_", "deit_", "deit3_"];

/// Parts of the names of SigLIP's that have the tanh formula; the others have exact GELU in timm.
const TANH: [&str; 4] =
    ["patch32_siglip", "so400m_patch16_siglip", "large_patch16_siglip_512", "large_patch16_siglip_gap_512"];

/// Whether timm's architecture of this name is read.
pub(in crate::vit) fn is_known(name: &str) -> bool {
    BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
}

/// Whether it is one of CLIP's.
pub(super) fn is_clip(name: &str) -> bool {
    name.split('_').any(|part| part == "clip")
}

/// How the MLP is built: with a gate where it goes up twice as wide as it comes down.
pub(super) fn mlp_kind(checkpoint: &Checkpoint) -> MlpKind {
    let width = |name: &str, axis: usize| checkpoint.shape(name)?.get(axis).copied();
    match (width("blocks.0.mlp.fc1.weight", 0), width("blocks.0.mlp.fc2.weight", 1)) {
        (Some(up), Some(down)) if up == 2 * down => MlpKind::Gated,
        (Some(_) | None, Some(_) | None) => MlpKind::Plain,
    }
}

/// The constructor's arguments of a file that names an architecture and leaves the rest to timm's code.
///
/// What `model_args` does not say is read from the shapes of the tensors, and what these do not tell from the name.
pub(super) fn arguments(checkpoint: &Checkpoint, name: &str) -> Value {
    let config = checkpoint.config();
    let mut arguments = Map::new();
    let mut known =
        |key: &str, value: Option<Value>| value.map(|value| arguments.insert(key.to_string(), value));
    let has = |tensor: &str| checkpoint.shape(tensor).is_some();
    let axis = |tensor: &str, axis: usize| checkpoint.shape(tensor)?.get(axis).copied();
    let n_registers = axis("reg_token", 1).unwrap_or(0);
    let n_prefix = usize::from(has("cls_token")) + usize::from(has("dist_token")) + n_registers;
    let tokens = axis("pos_embed", 1).unwrap_or(0);
    // In toy sizes alone both could be grids.
    let fits_with_prefix = tokens > n_prefix && is_square(tokens - n_prefix);
    let no_positions = n_prefix > 0 && is_square(tokens) && !fits_with_prefix;
    if let Some(&[d_model, channels, patch_size, _]) = checkpoint.shape("patch_embed.proj.weight") {
        known("embed_dim", Some(d_model.into()));
        known("in_chans", Some(channels.into()));
        known("patch_size", Some(patch_size.into()));
        known("num_heads", Some(heads(name).unwrap_or(d_model / 64).into()));
        let d_mlp = axis("blocks.0.mlp.fc1.weight", 0);
        known("mlp_ratio", d_mlp.map(|d_mlp| mlp_ratio(d_mlp, d_model).into()));
        let patches = if no_positions { tokens } else { tokens.saturating_sub(n_prefix) };
        let stated = config["pretrained_cfg"]["input_size"][1].as_u64().map(|side| side as usize);
        let grid = patches.isqrt();
        // Patches may leave a rest of the image.
        let side = stated.filter(|side| patch_size > 0 && side / patch_size == grid);
        known("img_size", has("pos_embed").then(|| side.unwrap_or(grid * patch_size).into()));
    }
    let block = |tensor: &str| tensor.strip_prefix("blocks.")?.split('.').next()?.parse::<usize>().ok();
    known(
        "depth",
        checkpoint.tensor_names().filter_map(block).max().map(|last| (last.saturating_add(1)).into()),
    );
    known("qkv_bias", Some(has("blocks.0.attn.qkv.bias").into()));
    known("class_token", Some(has("cls_token").into()));
    known("reg_tokens", Some(n_registers.into()));
    known("no_embed_class", Some(no_positions.into()));
    known("pre_norm", Some(has("norm_pre.weight").into()));
    known("init_values", has("blocks.0.ls1.gamma").then(|| 1e-5.into()));
    known("fc_norm", Some(has("fc_norm.weight").into()));
    known("act_layer", activation(name).map(Value::from));
    for key in ["num_classes", "global_pool"] {
        known(key, config.get(key).cloned());
    }
    if let Some(stated) = config["model_args"].as_object() {
        arguments.extend(stated.clone());
    }
    Value::Object(arguments)
}

fn is_square(number: usize) -> bool {
    number.isqrt().pow(2) == number
}

/// The activation of architectures that have another one than the exact GELU.
fn activation(name: &str) -> Option<&'static str> {
    let is_tanh = TANH.iter().any(|part| name.contains(part)) || name.starts_with("vit_giantopt_");
    match name {
        _ if name.contains("quickgelu") => Some("quick_gelu"),
        _ if is_tanh => Some("gelu_tanh"),
        _ => None,
    }
}

/// Heads of timm's named sizes.
fn heads(name: &str) -> Option<usize> {
    let size = BEGINNINGS.iter().find_map(|beginning| name.strip_prefix(beginning))?.split('_').next()?;
    Some(match size {
        "tiny" => 3,
        "small" => 6,
        "base" => 12,
        "giant" if name.contains("dinov2") => 24,
        "large" | "huge" | "giant" | "giantopt" | "gigantic" | "so400m" => 16,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_tells_heads_and_activation() {
        for (name, number, curve) in [
            ("vit_small_patch14_dinov2", Some(6), None),
            ("vit_giant_patch14_dinov2", Some(24), None),
            ("deit_tiny_distilled_patch16_224", Some(3), None),
            ("deit3_huge_patch14_224", Some(16), None),
            ("vit_base_patch16_clip_quickgelu_224", Some(12), Some("quick_gelu")),
            ("vit_base_patch16_siglip_gap_224", Some(12), None),
            ("vit_large_patch16_siglip_gap_512", Some(16), Some("gelu_tanh")),
            ("vit_giantopt_patch16_siglip_gap_256", Some(16), Some("gelu_tanh")),
            ("vit_medium_patch16_clip_224", None, None),
        ] {
            assert_eq!((heads(name), activation(name)), (number, curve), "{name}");
        }
    }

    #[test]
    fn siglip_is_none_of_clip() {
        assert!(is_clip("vit_base_patch16_clip_224") && !is_clip("vit_base_patch16_siglip_gap_224"));
    }
}
