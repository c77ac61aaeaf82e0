//! Settings that were edited after training.

/// The message about a setting that was edited after training.
pub(super) fn changed_setting(key: &str, value: &str) -> String {
    let value: String = value.chars().take(80).collect();
    format!(
        "`{key}` is {value}, which is not what the adapter was trained with; set it back, or restore the file from its source"
    )
}
