//! Which weights of a model an adapter is attached to.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::params::sites;
use crate::pattern::{PatternError, PythonPattern};
pub use crate::site::{Site, SiteKind};

/// Names of layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Pattern {
    /// A regular expression for a whole path or for the end of one after a dot; `all-linear` means every linear layer.
    Regex(String),
    /// Whole paths, or ends of paths after a dot.
    Names(Vec<String>),
}

impl Pattern {
    /// The pattern that matches nothing.
    pub fn nothing() -> Self {
        Self::Names(Vec::new())
    }

    /// What is written in it: every name, or the one expression, each as a pattern of its own.
    fn parts(&self) -> Vec<(String, Self)> {
        match self {
            Self::Regex(pattern) => vec![(pattern.clone(), self.clone())],
            Self::Names(names) => {
                names.iter().map(|name| (name.clone(), Self::Names(vec![name.clone()]))).collect()
            }
        }
    }

    /// Whether it can mean `site`: an embedding has to be named, so that `.*` means linear layers alone.
    fn can_mean(&self, site: &Site) -> bool {
        match site.kind {
            SiteKind::Linear => true,
            SiteKind::Embedding => self.parts().iter().any(|(written, _)| written.contains(site.name())),
        }
    }

    fn compile(&self) -> Result<PythonPattern, PatternError> {
        let pattern = match self {
            Self::Regex(pattern) if pattern == "all-linear" => ".*".to_owned(),
            Self::Regex(pattern) => pattern.clone(),
            Self::Names(names) if names.is_empty() => "[^\\s\\S]".to_owned(),
            Self::Names(names) => names.iter().map(|name| regex::escape(name)).collect::<Vec<_>>().join("|"),
        };
        PythonPattern::end_of_path(&pattern)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Regex(pattern) => write!(f, "`{pattern}`"),
            Self::Names(names) => f.write_str(&beginning(names.iter().map(|name| format!("`{name}`")))),
        }
    }
}

/// The first few of many, and how many more there are.
fn beginning(all: impl ExactSizeIterator<Item = String>) -> String {
    /// As many as a message can hold.
    const FEW: usize = 8;
    let more = all.len().saturating_sub(FEW);
    let shown = all.take(FEW).collect::<Vec<_>>().join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

/// What other programs call the weights, with our names.
const ELSEWHERE: [(&str, &[&str]); 24] = [
    ("embed_tokens", &["tokens"]),
    ("wte", &["tokens"]),
    ("wpe", &["positions"]),
    ("q_proj", &["query"]),
    ("k_proj", &["key"]),
    ("v_proj", &["value"]),
    ("qkv", &["query", "key", "value"]),
    ("qkv_proj", &["query", "key", "value"]),
    ("query_key_value", &["query", "key", "value"]),
    ("c_attn", &["query", "key", "value"]),
    ("attn.c_proj", &["output"]),
    ("mlp.c_proj", &["down"]),
    ("c_proj", &["output", "down"]),
    ("o_proj", &["output"]),
    ("out_proj", &["output"]),
    ("attention.output.dense", &["output"]),
    ("intermediate.dense", &["up"]),
    ("attn.proj", &["output"]),
    ("gate_proj", &["gate"]),
    ("up_proj", &["up"]),
    ("down_proj", &["down"]),
    ("c_fc", &["up"]),
    ("fc1", &["up"]),
    ("fc2", &["down"]),
];

/// Our names for what a pattern names as other programs do, as far as the model has them.
fn our_names(pattern: &Pattern, sites: &[Site]) -> Vec<&'static str> {
    let ends = |name: &str, theirs: &str| name == theirs || name.ends_with(&format!(".{theirs}"));
    let known: Vec<&[&str]> = match pattern {
        // The longest ending says most: `attn.c_proj` is not every `c_proj`.
        Pattern::Names(names) => (names.iter())
            .filter_map(|name| {
                let fit = ELSEWHERE.iter().filter(|(theirs, _)| ends(name, theirs));
                fit.max_by_key(|(theirs, _)| theirs.len()).map(|(_, ours)| *ours)
            })
            .collect(),
        // Longer names hold shorter ones, such as `qkv` in `qkv_proj`; they mean the same.
        Pattern::Regex(pattern) => {
            ELSEWHERE.iter().filter(|(theirs, _)| pattern.contains(theirs)).map(|(_, ours)| *ours).collect()
        }
    };
    let mut found: Vec<&str> = Vec::new();
    for name in known.into_iter().flatten() {
        let is_there = sites.iter().any(|site| site.name() == *name);
        if is_there && !found.contains(name) {
            found.push(name);
        }
    }
    found
}

/// The weights of a model, those of all blocks together.
fn overview(sites: &[Site]) -> String {
    let (linear, embeddings): (Vec<&Site>, Vec<&Site>) =
        sites.iter().partition(|site| site.kind == SiteKind::Linear);
    let mut paths: Vec<String> = Vec::new();
    for site in linear {
        let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let parts: Vec<&str> =
            site.path.split('.').map(|part| if is_number(part) { "*" } else { part }).collect();
        let path = parts.join(".");
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    let blocks = sites.iter().filter_map(Site::layer).max();
    let blocks = blocks.map_or(String::new(), |last| format!(" (blocks are 0 to {last})"));
    let embeddings: Vec<&str> = embeddings.iter().map(|site| site.path.as_str()).collect();
    let and = if embeddings.is_empty() { "" } else { ", and the embeddings " };
    format!("{}{blocks}{and}{}", paths.join(", "), embeddings.join(", "))
}

/// The choice of sites, in PEFT's vocabulary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Targets {
    /// Layers to adapt.
    pub modules: Pattern,
    /// Layers to leave alone, of those.
    pub exclude: Pattern,
    /// Indices of the blocks to adapt; empty for every block.
    pub layers: Vec<usize>,
}

impl Default for Targets {
    fn default() -> Self {
        Self {
            modules: Pattern::Names(vec!["query".to_owned(), "value".to_owned()]),
            exclude: Pattern::nothing(),
            layers: Vec::new(),
        }
    }
}

impl Targets {
    /// Every layer that `pattern` names; see [`Pattern::Regex`].
    pub fn matching(pattern: &str) -> Self {
        Self { modules: Pattern::Regex(pattern.to_owned()), ..Self::default() }
    }

    /// The sites of `model` that are chosen, in the order of the model.
    ///
    /// # Errors
    /// If a pattern is no regular expression or matches without end, or nothing is chosen.
    pub fn choose<M: burn::module::Module>(&self, model: &M) -> Result<Vec<Site>, Error> {
        let (wanted, unwanted) = (self.modules.compile()?, self.exclude.compile()?);
        let all = sites(model);
        let mut chosen = Vec::new();
        for site in &all {
            let is_in_layer =
                self.layers.is_empty() || site.layer().is_some_and(|layer| self.layers.contains(&layer));
            if is_in_layer
                && self.modules.can_mean(site)
                && wanted.fits(&site.path)?
                && !unwanted.fits(&site.path)?
            {
                chosen.push(site.clone());
            }
        }
        if chosen.is_empty() {
            let (names, available) = (our_names(&self.modules, &all), overview(&all));
            return Err(Error::NoTarget { targets: self.to_string(), names, available });
        }
        Ok(chosen)
    }
}

/// Parts of a [`Targets`] that fit no weight of a model: typing errors, most likely.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unmatched {
    /// Of the layers to adapt.
    pub modules: Vec<String>,
    /// Of the layers to leave alone.
    pub exclude: Vec<String>,
}

impl Targets {
    /// What of it fits no weight of `model`, whatever the block.
    ///
    /// # Errors
    /// If a pattern is no regular expression or matches without end.
    pub fn unmatched<M: burn::module::Module>(&self, model: &M) -> Result<Unmatched, Error> {
        let all = sites(model);
        let missing = |pattern: &Pattern| -> Result<Vec<String>, Error> {
            let mut missing = Vec::new();
            for (written, part) in pattern.parts() {
                let compiled = part.compile()?;
                let mut fits = false;
                for site in all.iter().filter(|site| part.can_mean(site)) {
                    fits = fits || compiled.fits(&site.path)?;
                }
                missing.extend((!fits).then_some(written));
            }
            Ok(missing)
        };
        Ok(Unmatched { modules: missing(&self.modules)?, exclude: missing(&self.exclude)? })
    }
}

impl fmt::Display for Targets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "targets {}", self.modules)?;
        if self.exclude != Pattern::nothing() {
            write!(f, " without {}", self.exclude)?;
        }
        if !self.layers.is_empty() {
            write!(f, " in layers {}", beginning(self.layers.iter().map(usize::to_string)))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: Pattern, path: &str) -> bool {
        pattern.compile().and_then(|pattern| pattern.fits(path)).expect("a valid pattern")
    }

    #[test]
    fn a_name_matches_a_whole_path_or_its_end_after_a_dot() {
        let names = || Pattern::Names(vec!["query".to_owned(), "mlp.up".to_owned()]);
        assert!(matches(names(), "query"));
        assert!(matches(names(), "blocks.0.attention.query"));
        assert!(matches(names(), "blocks.0.mlp.up"));
        assert!(!matches(names(), "blocks.0.attention.subquery"));
        assert!(!matches(names(), "blocks.0.xmlp.up"));
    }

    #[test]
    fn a_dot_in_a_name_is_a_dot() {
        assert!(!matches(Pattern::Names(vec!["mlp.up".to_owned()]), "mlpxup"));
    }

    #[test]
    fn names_that_fit_nothing_are_told() {
        let device = burn::tensor::Device::flex();
        let layer = burn::nn::LinearConfig::new(2, 2).init(&device);
        let model = vec![layer.clone(), layer];
        let of = |modules: &[&str], exclude: Pattern| {
            let modules = Pattern::Names(modules.iter().map(|name| (*name).to_owned()).collect());
            let targets = Targets { modules, exclude, layers: Vec::new() };
            targets.unmatched(&model).expect("names are patterns")
        };
        assert_eq!(of(&["0", "1"], Pattern::nothing()), Unmatched::default());
        let found = of(&["0", "2", "valu"], Pattern::Regex("x|y".to_owned()));
        assert_eq!(found.modules, ["2", "valu"]);
        assert_eq!(found.exclude, ["x|y"]);
    }

    #[test]
    fn a_regex_may_name_alternatives() {
        let pattern = || Pattern::Regex("query|value".to_owned());
        assert!(matches(pattern(), "blocks.3.attention.value"));
        assert!(!matches(pattern(), "blocks.3.attention.key"));
    }

    #[test]
    fn a_regex_may_look_around_as_in_python() {
        let pattern = || Pattern::Regex(r"attention\.(?!key)\w+".to_owned());
        assert!(matches(pattern(), "blocks.3.attention.value"));
        assert!(!matches(pattern(), "blocks.3.attention.key"));
    }

    fn sites() -> Vec<Site> {
        let paths = (0..12).flat_map(|block| {
            ["attention.query", "attention.key", "attention.value", "attention.output", "mlp.up", "mlp.down"]
                .map(|name| format!("blocks.{block}.{name}"))
        });
        paths.chain(["head".to_owned()]).map(|path| Site::linear(path, 4, 4)).collect()
    }

    #[test]
    fn names_of_other_programs_are_known_as_far_as_the_model_has_them() {
        let names = |names: &[&str]| {
            our_names(&Pattern::Names(names.iter().map(|&name| name.to_owned()).collect()), &sites())
        };
        assert_eq!(names(&["q_proj", "v_proj"]), ["query", "value"]);
        assert_eq!(names(&["model.layers.0.self_attn.q_proj"]), ["query"]);
        assert_eq!(names(&["c_attn", "q_proj"]), ["query", "key", "value"]);
        assert_eq!(names(&["attn.c_proj"]), ["output"]);
        assert_eq!(names(&["gate_proj", "seq_proj"]), [""; 0], "this model has no gate");
        assert_eq!(our_names(&Pattern::Regex(r".*\.(q_proj|up_proj)".to_owned()), &sites()), ["query", "up"]);
    }

    #[test]
    fn a_message_lists_the_weights_once_for_all_blocks() {
        let listed = overview(&sites());
        assert!(listed.starts_with("blocks.*.attention.query, blocks.*.attention.key, "), "{listed}");
        assert!(listed.ends_with("blocks.*.mlp.down, head (blocks are 0 to 11)"), "{listed}");
    }

    #[test]
    fn an_embedding_is_meant_by_what_names_it_alone() {
        let tokens = Site::embedding("tokens", 9, 4);
        let means = |pattern: Pattern| pattern.can_mean(&tokens) && matches(pattern, "tokens");
        let name = |name: &str| Pattern::Names(vec![name.to_owned()]);
        assert!(means(name("tokens")) && means(Pattern::Regex("query|tokens".to_owned())));
        assert!(!means(name("query")) && !means(Pattern::Regex(".*".to_owned())));
        assert!(!means(Pattern::Regex("all-linear".to_owned())));
    }

    #[test]
    fn a_message_lists_embeddings_apart_and_knows_their_names_elsewhere() {
        let all = [vec![Site::embedding("tokens", 9, 4)], sites()].concat();
        assert!(overview(&all).ends_with("head (blocks are 0 to 11), and the embeddings tokens"));
        for theirs in ["embed_tokens", "model.embed_tokens", "wte"] {
            assert_eq!(our_names(&Pattern::Names(vec![theirs.to_owned()]), &all), ["tokens"]);
        }
    }

    #[test]
    fn a_message_holds_the_first_of_many_targets() {
        let names = (0..500).map(|block| format!("blocks.{block}.attention.qurey")).collect();
        let shown = Pattern::Names(names).to_string();
        assert!(shown.len() < 300 && shown.ends_with("` and 492 more"), "{shown}");
        assert_eq!(Pattern::Names(vec!["a".to_owned(), "b".to_owned()]).to_string(), "`a`, `b`");
    }

    #[test]
    fn a_broken_regex_is_an_error_that_names_it() {
        let error = Pattern::Regex("query(".to_owned()).compile().expect_err("it is broken");
        assert!(error.to_string().contains("query("), "{error}");
    }
}
