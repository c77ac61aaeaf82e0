//! Which modules the settings name.

use serde::Deserialize;

use crate::pattern::{PatternError, PythonPattern};

/// A module that may have a LoRA.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Target<'a> {
    /// Its name in transformers.
    pub name: &'a str,
    pub layer: Layer,
}

/// What a module is to the word `all-linear`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Layer {
    /// A linear layer inside of the model.
    Linear,
    /// What makes scores of classes.
    Classifier,
    /// What makes logits of tokens.
    OutputEmbedding,
    /// An embedding or a convolution.
    Other,
}

/// A choice of modules.
#[derive(Debug, Clone)]
pub(super) enum Modules {
    /// None is named.
    None,
    /// Every linear layer but the head.
    AllLinear,
    /// Whole names, or ends of names after a dot.
    Names(Vec<String>),
    /// A pattern for whole names.
    Pattern(PythonPattern),
}

/// A choice of blocks.
#[derive(Debug, Clone)]
pub(super) struct Layers {
    /// Empty: all.
    indices: Vec<usize>,
    /// Each finds the index of the block in a name.
    patterns: Vec<PythonPattern>,
}

/// A string, or several.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    pub(super) fn into_list(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

impl Modules {
    /// What `target_modules` says.
    pub(super) fn targets(written: Option<OneOrMany<String>>) -> Result<Self, PatternError> {
        match written {
            Some(OneOrMany::One(word)) if word.eq_ignore_ascii_case("all-linear") => Ok(Self::AllLinear),
            written => Self::of(written),
        }
    }

    pub(super) fn of(written: Option<OneOrMany<String>>) -> Result<Self, PatternError> {
        Ok(match written {
            None => Self::None,
            // An empty string is no choice in Python.
            Some(OneOrMany::One(pattern)) if pattern.is_empty() => Self::None,
            Some(OneOrMany::One(pattern)) => Self::Pattern(PythonPattern::full(&pattern)?),
            Some(OneOrMany::Many(names)) => Self::Names(names),
        })
    }

    /// Whether `module` is named.
    pub(super) fn names(&self, module: &str) -> Result<bool, PatternError> {
        let is_end = |name: &String| module.strip_suffix(name).is_some_and(|left| left.ends_with('.'));
        match self {
            Self::None => Ok(false),
            Self::AllLinear => Ok(true),
            Self::Names(names) => Ok(names.iter().any(|name| module == name || is_end(name))),
            Self::Pattern(pattern) => pattern.fits(module),
        }
    }
}

impl Layers {
    pub(super) fn of(
        indices: Option<OneOrMany<usize>>,
        patterns: Option<OneOrMany<String>>,
    ) -> Result<Self, PatternError> {
        let patterns: Vec<String> = patterns.map(OneOrMany::into_list).unwrap_or_default();
        // As in PEFT: the first number that stands behind two names, or behind the name that is given.
        let patterns: Vec<String> = match patterns.as_slice() {
            [] => vec![r".*?\.[^.]*\.(?P<idx>\d+)\.".to_owned()],
            names => names.iter().map(|name| format!(r"(?:^|.*?\.){name}\.(?P<idx>\d+)\.")).collect(),
        };
        let patterns =
            patterns.iter().map(|pattern| PythonPattern::at_start(pattern)).collect::<Result<_, _>>()?;
        Ok(Self { indices: indices.map(OneOrMany::into_list).unwrap_or_default(), patterns })
    }

    pub(super) fn contain(&self, module: &str) -> Result<bool, PatternError> {
        if self.indices.is_empty() {
            return Ok(true);
        }
        for pattern in &self.patterns {
            if let Some(index) = pattern.number("idx", module)? {
                return Ok(self.indices.contains(&index));
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::{Q, UP, V, config, parsed};
    use super::*;

    fn targets(settings: Value, name: &str) -> bool {
        let layer = if name == "lm_head" { Layer::OutputEmbedding } else { Layer::Linear };
        config(settings).targets(&Target { name, layer }).expect("patterns that end")
    }

    #[test]
    fn names_are_whole_or_ends_after_a_dot() {
        let names = || json!({"target_modules": ["q_proj", "mlp.c_fc"]});
        assert!(targets(names(), Q) && targets(names(), UP) && targets(names(), "q_proj"));
        assert!(!targets(names(), V) && !targets(names(), "model.layers.0.self_attn.xq_proj"));
    }

    #[test]
    fn a_pattern_fits_whole_names_alone() {
        for (pattern, hits_q, hits_v) in [
            (r".*\.(?!o_)(q|v)_proj", true, true),
            (r".*\.q_proj", true, false),
            ("q_proj", false, false),
            (r"(?!.*v_proj).*", true, false),
            (r".*\.layers\.(?:1|3)\..*_proj$", true, true),
            (r".*\.(\w)_p(?!\1).*", true, true),
        ] {
            let settings = || json!({"target_modules": pattern});
            assert_eq!([targets(settings(), Q), targets(settings(), V)], [hits_q, hits_v], "{pattern}");
        }
    }

    #[test]
    fn what_is_excluded_or_saved_whole_is_no_target() {
        let all = |key: &str, value: Value| {
            let mut settings = json!({"target_modules": ["q_proj", "v_proj", "classifier"]});
            settings[key] = value;
            [Q, V, "classifier"].map(|name| targets(settings.clone(), name))
        };
        assert_eq!(all("exclude_modules", json!(["v_proj"])), [true, false, true]);
        assert_eq!(all("exclude_modules", json!(r".*\.(?!v_)\w+_proj")), [false, true, true]);
        assert_eq!(all("modules_to_save", json!(["classifier"])), [true, true, false]);
        assert_eq!(all("modules_to_save", json!(["self_attn"])), [false, false, true]);
        assert_eq!(all("modules_to_save", json!(["attn"])), [true, true, true]);
    }

    #[test]
    fn all_linear_is_every_inner_linear_layer() {
        for word in ["all-linear", "ALL-LINEAR"] {
            let settings = || json!({"target_modules": word});
            assert!(targets(settings(), Q) && targets(settings(), UP) && !targets(settings(), "lm_head"));
        }
    }

    #[test]
    fn all_linear_takes_the_head_of_a_classifier_unless_the_task_says_that_it_is_one() {
        for (task, layer, is_target) in [
            (Value::Null, Layer::Classifier, true),
            (json!("FEATURE_EXTRACTION"), Layer::Classifier, true),
            (json!("SEQ_CLS"), Layer::Classifier, false),
            (json!("CAUSAL_LM"), Layer::OutputEmbedding, false),
            (Value::Null, Layer::Other, false),
        ] {
            let settings = json!({"target_modules": "all-linear", "task_type": task});
            let module = Target { name: "classifier", layer };
            assert_eq!(config(settings.clone()).targets(&module), Ok(is_target), "{settings}");
        }
    }

    #[test]
    fn layers_are_found_behind_the_name_that_is_given_or_any() {
        let in_layers = |layers: Value, pattern: Value| {
            let settings = json!({"target_modules": ["q_proj", "c_fc"], "layers_to_transform": layers, "layers_pattern": pattern});
            [targets(settings.clone(), Q), targets(settings, UP)]
        };
        assert_eq!(in_layers(json!([1]), Value::Null), [true, false]);
        assert_eq!(in_layers(json!(0), Value::Null), [false, true]);
        assert_eq!(in_layers(json!([]), Value::Null), [true, true]);
        assert_eq!(in_layers(json!([0, 1]), json!("h")), [false, true]);
        assert_eq!(in_layers(json!([0, 1]), json!(["layers", "h"])), [true, true]);
        assert_eq!(in_layers(json!([5]), json!([])), [false, false]);
        assert!(targets(json!({"target_modules": [Q], "layers_to_transform": [7]}), Q), "a whole name");
    }

    #[test]
    fn layers_beside_a_pattern_are_refused_as_by_peft() {
        let error =
            parsed(&json!({"target_modules": ".*q_proj", "layers_to_transform": [0]})).expect_err("both");
        assert!(error.contains("`layers_to_transform`"), "{error}");
    }
}
