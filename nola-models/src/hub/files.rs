//! Which files of a repository are wanted, and which of them a folder lacks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use super::HubError;
use super::name::RepositoryName;
use crate::checkpoint::MAX_INDEX_BYTES;

const CONFIG: &str = "config.json";
const SINGLE: &str = "model.safetensors";
/// The file that says which shard holds which tensor.
pub(super) const INDEX: &str = "model.safetensors.index.json";
/// What a model may have beside its weights; fetched if it exists.
const MODEL_FILES: [&str; 3] = [CONFIG, "generation_config.json", "preprocessor_config.json"];
/// What a tokenizer may be made of; fetched if it exists.
pub const TOKENIZER_FILES: [&str; 8] = [
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
];
const NO_TOKENIZER: &str = "tokenizer.json, tokenizer.model, or vocab.json with merges.txt";
const NO_WEIGHTS: &str = "model.safetensors, and no model.safetensors.index.json";
const PICKLES: [&str; 4] = [".bin", ".pt", ".pth", ".ckpt"];

/// What is needed of a repository; other files are neither fetched nor missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Configuration, safetensors and, if there are any, the settings of generation and of image preparation.
    Model,
    /// Whatever the tokenizer consists of, with `config.json` if there is one.
    Tokenizer,
    /// Both.
    ModelAndTokenizer,
    /// Both without the weights, which have to be there and can be fetched later.
    AllButWeights,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Wanted {
    fn has_model(self) -> bool {
        match self {
            Self::Model | Self::ModelAndTokenizer | Self::AllButWeights => true,
            Self::Tokenizer => false,
        }
    }

    fn has_tokenizer(self) -> bool {
        match self {
            Self::Tokenizer | Self::ModelAndTokenizer | Self::AllButWeights => true,
            Self::Model => false,
        }
    }

    fn fetches_weights(self) -> bool {
        match self {
            Self::Model | Self::ModelAndTokenizer => true,
            Self::Tokenizer | Self::AllButWeights => false,
        }
    }

    /// The files to fetch from a repository that holds `listed`, small ones first; shards follow from the index.
    ///
    /// # Errors
    /// If something that is needed is not there.
    pub(super) fn choose(
        self,
        name: &RepositoryName,
        listed: &BTreeSet<String>,
    ) -> Result<Vec<String>, HubError> {
        let absent = |file: &str| HubError::NoFile {
            name: name.id.clone(),
            revision: name.revision.clone(),
            file: file.to_string(),
        };
        let mut names = vec![CONFIG];
        if self.has_model() {
            names = MODEL_FILES.to_vec();
        }
        if self.has_tokenizer() {
            names.extend(TOKENIZER_FILES);
        }
        let mut chosen: Vec<_> =
            names.into_iter().filter(|file| listed.contains(*file)).map(str::to_string).collect();
        if self.has_tokenizer() && !makes_tokenizer(|file| listed.contains(file)) {
            return Err(absent(NO_TOKENIZER));
        }
        if self.has_model() {
            let weights = weights(name, listed)?.ok_or_else(|| absent(NO_WEIGHTS))?;
            listed.get(CONFIG).ok_or_else(|| absent(CONFIG))?;
            if self.fetches_weights() {
                chosen.extend(weights);
            }
        }
        Ok(chosen)
    }

    /// What a snapshot lacks; empty if it can be used as it is.
    ///
    /// # Errors
    /// If its index cannot be read.
    pub(super) fn missing(self, snapshot: &Path) -> Result<Vec<String>, HubError> {
        let has = |file: &str| snapshot.join(file).exists();
        let mut missing = Vec::new();
        if self.has_model() {
            missing.extend((!has(CONFIG)).then(|| CONFIG.to_string()));
            if !has(SINGLE) && has(INDEX) {
                missing.extend(shards(&snapshot.join(INDEX))?.into_iter().filter(|shard| !has(shard)));
            } else if !has(SINGLE) && !has_loose_weights(snapshot) {
                missing.push(SINGLE.to_string());
            }
        }
        if self.has_tokenizer() && !makes_tokenizer(has) {
            missing.push("tokenizer.json".to_string());
        }
        Ok(missing)
    }
}

fn makes_tokenizer(has: impl Fn(&str) -> bool) -> bool {
    has("tokenizer.json") || has("tokenizer.model") || (has("vocab.json") && has("merges.txt"))
}

/// The one file, else the index, else every other safetensors file at the top of the repository; never two forms of
/// the same weights.
fn weights(name: &RepositoryName, listed: &BTreeSet<String>) -> Result<Option<Vec<String>>, HubError> {
    for standard in [SINGLE, INDEX] {
        if listed.contains(standard) {
            return Ok(Some(vec![standard.to_string()]));
        }
    }
    let at_top = |endings: &[&str]| -> Vec<String> {
        let matches = |file: &&String| !file.contains('/') && endings.iter().any(|end| file.ends_with(end));
        listed.iter().filter(matches).filter(|file| is_inside(file)).cloned().collect()
    };
    let (loose, pickles) = (at_top(&[".safetensors"]), at_top(&PICKLES));
    match (loose.is_empty(), pickles.is_empty()) {
        (false, _) => Ok(Some(loose)),
        (true, false) => {
            Err(HubError::OnlyPickles { name: name.id.clone(), revision: name.revision.clone(), pickles })
        }
        (true, true) => Ok(None),
    }
}

/// Whether a snapshot holds safetensors under another name; a shard without its index does not count.
fn has_loose_weights(snapshot: &Path) -> bool {
    let usable = |name: &str| name.ends_with(".safetensors") && !name.contains("-of-");
    let files = std::fs::read_dir(snapshot).into_iter().flatten().flatten();
    files.into_iter().any(|file| usable(&file.file_name().to_string_lossy()) && file.path().exists())
}

/// The shards that an index names.
///
/// # Errors
/// If the index cannot be read, or names a file elsewhere.
pub(super) fn shards(index: &Path) -> Result<BTreeSet<String>, HubError> {
    let io = |source| HubError::Io { file: index.into(), source };
    let mut text = Vec::new();
    // What is cut off here is no JSON any more.
    File::open(index).and_then(|file| file.take(MAX_INDEX_BYTES).read_to_end(&mut text)).map_err(io)?;
    let parsed: Index = serde_json::from_slice(&text)
        .map_err(|source| HubError::Index { file: index.to_path_buf(), source })?;
    let shards: BTreeSet<_> = parsed.weight_map.into_values().collect();
    match shards.iter().find(|shard| !is_inside(shard) || !shard.ends_with(".safetensors")) {
        Some(shard) => Err(HubError::UnsafeShard { file: index.into(), shard: shard.clone() }),
        None => Ok(shards),
    }
}

/// Whether a name from the server stays inside the folder of the snapshot, on every system.
pub(super) fn is_inside(file: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part != "." && part != "..";
    file.split('/').all(part)
        && !file.contains(|letter: char| matches!(letter, '\\' | ':') || letter.is_control())
}

#[cfg(test)]
mod tests {
    use std::path::Component;

    use proptest::prelude::*;

    use super::*;

    fn choose(wanted: Wanted, listed: &[&str]) -> Result<Vec<String>, HubError> {
        let listed = listed.iter().map(|file| file.to_string()).collect();
        wanted.choose(&RepositoryName::parse("ada/small").unwrap(), &listed)
    }

    #[test]
    fn of_two_forms_of_the_weights_only_one_is_fetched() {
        let listed = [
            "README.md",
            "config.json",
            "model.safetensors",
            INDEX,
            "pytorch_model.bin",
            "onnx/a.safetensors",
        ];
        assert_eq!(choose(Wanted::Model, &listed).unwrap(), ["config.json", "model.safetensors"]);
        let listed = ["config.json", "model-00001-of-00002.safetensors", INDEX];
        assert_eq!(choose(Wanted::Model, &listed).unwrap(), ["config.json", INDEX]);
        let listed = ["config.json", "small.safetensors", "deep/other.safetensors"];
        assert_eq!(choose(Wanted::Model, &listed).unwrap(), ["config.json", "small.safetensors"]);
    }

    #[test]
    fn the_tokenizer_comes_without_the_weights() {
        let listed =
            ["config.json", "merges.txt", "model.safetensors", "preprocessor_config.json", "vocab.json"];
        assert_eq!(choose(Wanted::Tokenizer, &listed).unwrap(), ["config.json", "vocab.json", "merges.txt"]);
    }

    #[test]
    fn a_repository_of_pickles_is_refused_with_their_names() {
        let message = choose(Wanted::Model, &["config.json", "pytorch_model.bin"]).unwrap_err().to_string();
        assert!(message.contains("ada/small@main") && message.contains("pytorch_model.bin"), "{message}");
    }

    #[test]
    fn what_a_repository_lacks_is_named() {
        let lacks = |wanted, listed: &[&str]| choose(wanted, listed).unwrap_err().to_string();
        assert!(lacks(Wanted::Model, &["model.safetensors"]).contains("no config.json"));
        assert!(lacks(Wanted::Model, &["config.json"]).contains("no model.safetensors"));
        assert!(
            lacks(Wanted::Tokenizer, &["config.json", "vocab.json"]).contains("vocab.json with merges.txt")
        );
    }

    #[test]
    fn an_absent_shard_is_missed() {
        let folder = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| std::fs::write(folder.path().join(file), text).unwrap();
        write("config.json", "{}");
        write("a-00001-of-00002.safetensors", "");
        assert_eq!(Wanted::Model.missing(folder.path()).unwrap(), ["model.safetensors"]);
        write(
            INDEX,
            r#"{"weight_map": {"x": "a-00001-of-00002.safetensors", "y": "a-00002-of-00002.safetensors"}}"#,
        );
        assert_eq!(Wanted::Model.missing(folder.path()).unwrap(), ["a-00002-of-00002.safetensors"]);
        write("a-00002-of-00002.safetensors", "");
        assert_eq!(Wanted::ModelAndTokenizer.missing(folder.path()).unwrap(), ["tokenizer.json"]);
    }

    #[test]
    fn a_shard_outside_of_the_repository_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let index = folder.path().join(INDEX);
        for shard in [
            "../../evil.safetensors",
            "/evil.safetensors",
            "a\\\\evil.safetensors",
            "c:evil.safetensors",
            "e.sh",
        ] {
            std::fs::write(&index, format!(r#"{{"weight_map": {{"x": "{shard}"}}}}"#)).unwrap();
            assert!(matches!(shards(&index), Err(HubError::UnsafeShard { .. })), "{shard}");
        }
        std::fs::write(&index, r#"{"weights": {}}"#).unwrap();
        assert!(matches!(shards(&index), Err(HubError::Index { .. })));
    }

    proptest! {
        #[test]
        fn what_is_taken_for_inside_is_inside(file in "[a-z./\\\\: ]{0,12}") {
            let inside = Path::new(&file).components().all(|part| matches!(part, Component::Normal(_)));
            prop_assert!(!is_inside(&file) || (inside && !file.is_empty()), "{file}");
        }
    }
}
