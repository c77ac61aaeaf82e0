//! Files that are copied beside the weights of a written model.

use serde_json::{Map, Value};

/// Settings of a tokenizer.
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// The file `name` as both generations of transformers read it: some of what transformers 5 writes into the settings of a
/// tokenizer stops transformers 4, which has older words for the same. All else is copied as it is.
pub(super) fn portable(name: &str, bytes: Vec<u8>) -> Vec<u8> {
    if name != TOKENIZER_CONFIG {
        return bytes;
    }
    let Ok(mut settings) = serde_json::from_slice::<Map<String, Value>>(&bytes) else { return bytes };
    let mut is_changed = false;
    if settings.get("tokenizer_class").is_some_and(|class| class == "TokenizersBackend") {
        settings.insert("tokenizer_class".to_owned(), "PreTrainedTokenizerFast".into());
        is_changed = true;
    }
    // A map under this key is older than the list, and means something else.
    if settings.get("extra_special_tokens").is_some_and(Value::is_array)
        && !settings.contains_key("additional_special_tokens")
        && let Some(tokens) = settings.shift_remove("extra_special_tokens")
    {
        settings.insert("additional_special_tokens".to_owned(), tokens);
        is_changed = true;
    }
    if is_changed { serde_json::to_vec_pretty(&settings).unwrap_or(bytes) } else { bytes }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn written(settings: &Value) -> Value {
        let bytes = portable(TOKENIZER_CONFIG, settings.to_string().into_bytes());
        serde_json::from_slice(&bytes).expect("JSON")
    }

    #[test]
    fn what_only_transformers_5_reads_is_written_in_the_older_words() {
        let five = json!({"tokenizer_class": "TokenizersBackend", "extra_special_tokens": ["<x>"], "bos_token": "<s>"});
        let both = json!({
            "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "additional_special_tokens": ["<x>"],
        });
        assert_eq!(written(&five), both);
    }

    #[test]
    fn what_both_read_is_copied_byte_for_byte() {
        for text in [
            r#"{ "tokenizer_class" : "LlamaTokenizer", "extra_special_tokens": {"image": "<i>"} }"#,
            r#"{"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 1e30}"#,
            r#"{"model_max_length": Infinity}"#,
        ] {
            assert_eq!(portable(TOKENIZER_CONFIG, text.as_bytes().to_vec()), text.as_bytes(), "{text}");
        }
        let other = br#"{"tokenizer_class": "TokenizersBackend"}"#;
        assert_eq!(portable("tokenizer.json", other.to_vec()), other);
    }
}
