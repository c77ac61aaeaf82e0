//! `adapter_config.json` as this project writes it.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::fused::ModuleLora;
use super::updates::Updates;
use super::{Layout, Task};

/// Which biases a folder holds beside whole modules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Biases {
    /// None.
    None,
    /// Those of adapted modules: `lora_only`, or `vera_only`.
    OfAdapted,
    /// Those of other modules too: `all`.
    All,
}

/// What a written configuration says beside the updates.
pub(super) struct About<'a> {
    pub base_name: &'a str,
    pub task: Task,
    /// Share of the inputs that updates did not see in training.
    pub dropout: f64,
    /// Which biases are in the folder under their own names.
    pub biases: Biases,
    /// Modules that are in the folder as they are.
    pub modules_to_save: &'a BTreeSet<String>,
}

/// The configuration of a folder with these updates.
pub(super) fn written(updates: &Updates, about: &About) -> Value {
    let modules = updates.modules();
    let (peft_type, only, settings) = match updates {
        Updates::Lora(loras) => (super::LORA, "lora_only", of_loras(loras, about.dropout)),
        Updates::Vera(vera) => (super::VERA, "vera_only", vera.settings()),
    };
    let common = json!({
        "peft_type": peft_type,
        "base_model_name_or_path": about.base_name,
        "task_type": match about.task {
            Task::ImageClassification => Value::Null,
            Task::CausalLanguageModel => "CAUSAL_LM".into(),
        },
        "inference_mode": true,
        "fan_in_fan_out": modules.iter().any(|(_, layout)| *layout == Layout::Conv1d),
        "bias": match about.biases {
            Biases::None => "none",
            Biases::OfAdapted => only,
            Biases::All => "all",
        },
        "target_modules": modules.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
        "modules_to_save":
            if about.modules_to_save.is_empty() { Value::Null } else { json!(about.modules_to_save) },
    });
    let tables = [common, settings].into_iter().filter_map(|table| table.as_object().cloned());
    tables.flatten().collect()
}

/// The settings of LoRAs, with PEFT's keys.
fn of_loras(loras: &[ModuleLora], dropout: f64) -> Value {
    let alpha = |lora: &ModuleLora| alpha_for(lora.scale, lora.rank);
    let (common_rank, common_alpha) = loras.first().map_or((1, 1.0), |lora| (lora.rank, alpha(lora)));
    let mut rank_pattern = Map::new();
    let mut alpha_pattern = Map::new();
    for lora in loras {
        let key = format!("^{}", regex::escape(&lora.name));
        if lora.rank != common_rank {
            rank_pattern.insert(key.clone(), lora.rank.into());
        }
        if alpha(lora) != common_alpha {
            alpha_pattern.insert(key, number(alpha(lora)));
        }
    }
    json!({
        "r": common_rank,
        "lora_alpha": number(common_alpha),
        "lora_dropout": dropout,
        "use_rslora": false,
        "use_dora": loras.iter().any(|lora| lora.magnitude.is_some()),
        "init_lora_weights": true,
        "rank_pattern": rank_pattern,
        "alpha_pattern": alpha_pattern,
    })
}

/// The `lora_alpha` with which PEFT's alpha / rank is `scale`: to the last bit, where a float can do that.
///
/// rsLoRA's scale is written so too; its flag would add a rounding and save nothing.
fn alpha_for(scale: f64, rank: usize) -> f64 {
    let rank = rank as f64;
    let alpha = scale * rank;
    let neighbours = [alpha, alpha.round(), alpha.next_down(), alpha.next_up()];
    neighbours.into_iter().find(|alpha| alpha / rank == scale).unwrap_or(alpha)
}

/// A whole number as one: PEFT declares `lora_alpha` so, though it computes with any.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 { Value::from(value as i64) } else { Value::from(value) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_fraction_that_ought_to_be_whole_is_written_whole() {
        assert_eq!(alpha_for(8.0 / 6.0, 6), 8.0);
        assert_eq!(number(alpha_for(2.0, 16)), json!(32));
    }

    proptest! {
        #[test]
        fn alpha_over_rank_is_the_scale_to_one_rounding(alpha in 0.01_f64..512.0, rank in 1_usize..400) {
            for scale in [alpha / rank as f64, alpha.round() / rank as f64, alpha / (rank as f64).sqrt()] {
                let back = alpha_for(scale, rank) / rank as f64;
                prop_assert!((back - scale).abs() <= f64::EPSILON * scale, "{scale} came back as {back}");
            }
        }

        #[test]
        fn the_scale_of_a_plain_lora_comes_back_to_the_bit(alpha in 1_u16..512, rank in 1_usize..400) {
            let scale = f64::from(alpha) / rank as f64;
            prop_assert_eq!(alpha_for(scale, rank) / rank as f64, scale);
        }
    }
}
