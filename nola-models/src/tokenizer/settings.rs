//! What stands beside a vocabulary: names of special tokens, tokens added later, and switches.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::files::{Files, parse_json};
use super::{TokenizerError, charsmap};

const CONFIG: &str = "tokenizer_config.json";
/// Fields that name special tokens, in the order in which a vocabulary that lacks them gets them.
const NAMED: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Classes that transformers 5 builds from parts of its own, beside those that are told apart here.
///
/// # Source
/// Those of transformers 5.24 that have an `__init__` of their own and a vocabulary with merges or scores.
const BUILT: [&str; 14] = [
    "AlbertTokenizer",
    "BlenderbotTokenizer",
    "CLIPTokenizer",
    "CamembertTokenizer",
    "CohereTokenizer",
    "GemmaTokenizer",
    "MBartTokenizer",
    "OpenAIGPTTokenizer",
    "Qwen3_5Tokenizer",
    "RobertaTokenizer",
    "T5Tokenizer",
    "WhisperTokenizer",
    "XGLMTokenizer",
    "XLMRobertaTokenizer",
];

/// Field of a special token, and the token.
pub(super) type Named = (&'static str, String);

/// What the small files of a tokenizer say.
pub(super) struct Settings {
    /// `tokenizer_config.json`, for messages.
    pub(super) file: PathBuf,
    /// The class of transformers that reads this tokenizer.
    pub(super) class: Class,
    /// Its name, if a file says it.
    pub(super) class_name: Option<String>,
    /// Whether a text starts with the first token; `None` leaves it to the vocabulary's file.
    pub(super) add_bos_token: Option<bool>,
    /// Whether a text ends with the last token; `None` leaves it to the vocabulary's file.
    pub(super) add_eos_token: Option<bool>,
    /// Whether a text gets a space in front; `None` leaves it to the vocabulary's file.
    pub(super) add_prefix_space: Option<bool>,
    /// Whether SentencePiece text is split as the first release of LLaMA did; `None` leaves it to what reads it.
    pub(super) legacy: Option<bool>,
    /// Tokens with the ids they must have, each with the file that lists it.
    pub(super) listed: Vec<Listed>,
    /// Named special tokens; `None` where a file says that there is none.
    stated: BTreeMap<&'static str, Option<AddedToken>>,
    additional: Vec<AddedToken>,
}

/// A class of transformers, as far as classes treat a folder differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// GPT-2's.
    Gpt2,
    /// CodeGen's, which splits a text as GPT-2's does.
    CodeGen,
    /// Qwen2's: as GPT-2's, it sets up its byte-level pre-tokenizer itself.
    Qwen2,
    /// GPT-NeoX's: the same, and it sets what stands around a text as well.
    GptNeoX,
    /// LLaMA's, by its name.
    Llama,
    /// LLaMA's, because the model is one and no class is named: transformers 5 then takes the generic one.
    LlamaUnnamed,
    /// CodeLLaMA's.
    CodeLlama,
    /// Another one that transformers 5 builds from parts of its own, whatever `tokenizer.json` says.
    Built,
    /// Any other, which leaves `tokenizer.json` as it is.
    Other,
}

impl Class {
    /// The class that the files name, else that of the model's kind.
    fn of(named: Option<&str>, model_type: Option<&str>) -> Self {
        match (named.map(|class| class.strip_suffix("Fast").unwrap_or(class)), model_type) {
            (Some("GPT2Tokenizer"), _) | (None, Some("gpt2")) => Self::Gpt2,
            (Some("CodeGenTokenizer"), _) => Self::CodeGen,
            (Some("Qwen2Tokenizer"), _) => Self::Qwen2,
            (Some("GPTNeoXTokenizer"), _) => Self::GptNeoX,
            (Some("LlamaTokenizer"), _) => Self::Llama,
            (Some("CodeLlamaTokenizer"), _) => Self::CodeLlama,
            (None, Some("llama")) => Self::LlamaUnnamed,
            (Some(class), _) if BUILT.contains(&class) => Self::Built,
            (Some(_) | None, _) => Self::Other,
        }
    }

    /// The special tokens that it has unless told otherwise.
    pub(super) fn special_tokens(self) -> Vec<Named> {
        match self {
            Self::Gpt2 => of_gpt2(),
            Self::Llama | Self::LlamaUnnamed | Self::CodeLlama => {
                [("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>")]
                    .map(|(name, token)| (name, token.to_string()))
                    .to_vec()
            }
            Self::CodeGen | Self::Qwen2 | Self::GptNeoX | Self::Built | Self::Other => Vec::new(),
        }
    }
}

/// A token with the id it must have.
pub(super) struct Listed {
    pub(super) file: PathBuf,
    pub(super) id: u32,
    pub(super) token: AddedToken,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Config {
    tokenizer_class: Option<String>,
    add_bos_token: Option<bool>,
    add_eos_token: Option<bool>,
    add_prefix_space: Option<bool>,
    legacy: Option<bool>,
    added_tokens_decoder: BTreeMap<u32, Entry>,
    additional_special_tokens: Option<Vec<Entry>>,
    extra_special_tokens: Option<Extra>,
    #[serde(flatten)]
    other: Map<String, Value>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ModelConfig {
    model_type: Option<String>,
    tokenizer_class: Option<String>,
}

/// Special tokens without a name of their own, or with names of the model's.
#[derive(Deserialize)]
#[serde(untagged)]
enum Extra {
    List(Vec<Entry>),
    Named(BTreeMap<String, Entry>),
}

impl Extra {
    fn into_list(self) -> Vec<Entry> {
        match self {
            Self::List(entries) => entries,
            Self::Named(entries) => entries.into_values().collect(),
        }
    }
}

/// A token as the files name it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
    Text(String),
    Full(FullEntry),
}

#[derive(Deserialize)]
struct FullEntry {
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    normalized: Option<bool>,
    special: Option<bool>,
}

impl Entry {
    fn token(self, special: bool) -> AddedToken {
        match self {
            Self::Text(content) => AddedToken::from(content, special),
            Self::Full(full) => {
                let special = full.special.unwrap_or(special);
                AddedToken::from(full.content, special)
                    .single_word(full.single_word)
                    .lstrip(full.lstrip)
                    .rstrip(full.rstrip)
                    .normalized(full.normalized.unwrap_or(!special))
            }
        }
    }
}

impl Settings {
    /// Reads `tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json` and the model's kind.
    pub(super) fn read(files: &mut Files) -> Result<Self, TokenizerError> {
        let file = files.path(CONFIG);
        let config: Config = files.json(CONFIG)?.unwrap_or_default();
        let model: ModelConfig = files.json("config.json")?.unwrap_or_default();
        let mut stated = BTreeMap::new();
        state(&mut stated, &file, &config.other)?;
        if let Some(map) = files.json::<Map<String, Value>>("special_tokens_map.json")? {
            state(&mut stated, &files.path("special_tokens_map.json"), &map)?;
        }
        let class_name = config.tokenizer_class.or(model.tokenizer_class);
        let mut settings = Self {
            class: Class::of(class_name.as_deref(), model.model_type.as_deref()),
            class_name,
            add_bos_token: config.add_bos_token,
            add_eos_token: config.add_eos_token,
            add_prefix_space: config.add_prefix_space,
            legacy: config.legacy,
            additional: config
                .additional_special_tokens
                .into_iter()
                .chain(config.extra_special_tokens.map(Extra::into_list))
                .flatten()
                .map(|entry| entry.token(true))
                .collect(),
            listed: Vec::new(),
            stated,
            file,
        };
        settings.list(config.added_tokens_decoder, files)?;
        Ok(settings)
    }

    /// Collects the tokens that are listed with their ids.
    fn list(&mut self, decoder: BTreeMap<u32, Entry>, files: &mut Files) -> Result<(), TokenizerError> {
        for (id, entry) in decoder {
            self.listed.push(Listed { file: self.file.clone(), id, token: entry.token(false) });
        }
        let file = files.path("added_tokens.json");
        let added: BTreeMap<String, u32> = files.json("added_tokens.json")?.unwrap_or_default();
        for (content, id) in added {
            if self.listed.iter().any(|listed| listed.token.content == content && listed.id == id) {
                continue;
            }
            let named = |token: &AddedToken| {
                (token.content == content).then(|| token.clone().special(true).normalized(false))
            };
            let token = self.special().find_map(named);
            let token = token.unwrap_or_else(|| AddedToken::from(content, false).normalized(false));
            self.listed.push(Listed { file: file.clone(), id, token });
        }
        Ok(())
    }

    /// Every special token that the files name.
    pub(super) fn special(&self) -> impl Iterator<Item = &AddedToken> {
        let named = NAMED.iter().filter_map(|name| self.stated.get(name)?.as_ref());
        named.chain(&self.additional)
    }

    /// The name and content of every special token: what the files say, else what the class has of `defaults`.
    pub(super) fn names(
        &self,
        defaults: &[Named],
        knows: impl Fn(&str) -> bool,
    ) -> BTreeMap<&'static str, String> {
        let stated =
            self.stated.iter().filter_map(|(name, token)| Some((*name, token.as_ref()?.content.clone())));
        let implied = defaults.iter().filter(|(name, token)| !self.stated.contains_key(name) && knows(token));
        stated.chain(implied.cloned()).collect()
    }
}

/// Adds to `stated` what `map` says and nothing before it said.
fn state(
    stated: &mut BTreeMap<&'static str, Option<AddedToken>>,
    file: &Path,
    map: &Map<String, Value>,
) -> Result<(), TokenizerError> {
    for name in NAMED {
        let Some(value) = map.get(name).filter(|_| !stated.contains_key(name)) else { continue };
        let wrong =
            |source| TokenizerError::Json { file: file.to_path_buf(), field: name.to_string(), source };
        let entry = Option::<Entry>::deserialize(value).map_err(wrong)?;
        // An empty name is how some files say that there is none.
        let token = entry.map(|entry| entry.token(true)).filter(|token| !token.content.is_empty());
        stated.insert(name, token);
    }
    Ok(())
}

/// The special tokens of GPT-2.
pub(super) fn of_gpt2() -> Vec<Named> {
    ["bos_token", "eos_token", "unk_token"].map(|name| (name, "<|endoftext|>".to_string())).to_vec()
}

/// The tokens that a `tokenizer.json` lists with their ids; what the library would stumble over is refused first.
pub(super) fn listed_in(file: &Path, bytes: &[u8]) -> Result<Vec<Listed>, TokenizerError> {
    #[derive(Deserialize)]
    struct Outline {
        #[serde(default)]
        added_tokens: Vec<WithId>,
        normalizer: Option<charsmap::Normalizer>,
        model: Kind,
    }
    #[derive(Deserialize)]
    struct WithId {
        id: u32,
        #[serde(flatten)]
        entry: FullEntry,
    }
    #[derive(Deserialize)]
    struct Kind {
        #[serde(rename = "type")]
        kind: Option<String>,
    }
    let outline: Outline = parse_json(file, bytes)?;
    if let Some(normalizer) = &outline.normalizer {
        normalizer.check(file)?;
    }
    let known = ["BPE", "Unigram", "WordLevel", "WordPiece"];
    if let Some(kind) = outline.model.kind
        && !known.contains(&kind.as_str())
    {
        return Err(TokenizerError::UnknownModel { file: file.to_path_buf(), found: format!("\"{kind}\"") });
    }
    let listed = |WithId { id, entry }| Listed {
        file: file.to_path_buf(),
        id,
        token: Entry::Full(entry).token(false),
    };
    Ok(outline.added_tokens.into_iter().map(listed).collect())
}
