//! Pictures.
/// a
#[derive(Debug, Clone, Default)]
pub struct Preprocessor {}
impl Preprocessor {
    /// a
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({})
    }
}
