//! A run as one TOML file: what a recipe may say, its defaults, and the check before anything is loaded.
//!
//! Precedence: defaults < the file < `--set key=value`. Relative paths count from the working directory.

mod check;
mod data;
mod error;
mod explain;
mod keys;
mod method;
mod node;
mod paths;
mod schema;
mod sections;
mod shipped;
mod source;

use std::ops::Deref;
use std::path::{Path, PathBuf};

use nola_models::WeightDtype;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::Table;

pub use data::DataRecipe;
pub(crate) use error::hint;
pub use error::{Finding, Place, Problem, RecipeError};
pub use explain::{explained, keys_of, reference};
pub use keys::{Key, KeyDefault, Section, sections};
pub use method::{AdapterRecipe, ChosenWeights, MethodRecipe, TargetsRecipe, TrainedBiases};
pub use paths::{TrainingPaths, ValidationPaths, WeightedPath};
pub use schema::{schema, schema_text};
pub use sections::{OutputRecipe, SamplesRecipe};

pub use shipped::{ShippedRecipe, Summary};

use crate::portion::Split;
use crate::settings::{Modality, ModelSettings, TrainSettings};
use error::Findings;
use source::Source;

/// How the part of a recipe's comment begins that says where its data comes from.
const DATA_NOTE: &str = "# Data:";

/// One run of nola-train: a base model, data, a method, how it is trained and where the result goes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["model", "data"]))]
pub struct Recipe {
    /// The base model.
    pub model: ModelSettings,
    /// Images or text.
    pub data: DataRecipe,
    /// The method: what is trained.
    pub method: MethodRecipe,
    /// How it is trained.
    pub train: TrainSettings,
    /// Where the result goes.
    pub output: OutputRecipe,
    /// Prompts that the model completes before training and at each evaluation, for people to see what it learns; text only.
    /// They change nothing of what is learned.
    pub samples: SamplesRecipe,
}

impl Recipe {
    /// Reads a recipe file, applies `overrides` (each `key=value`, as in `train.steps=100`) and checks the result.
    ///
    /// # Errors
    /// If the file cannot be read, or as [`Recipe::from_text`].
    pub fn read(file: &Path, overrides: &[String]) -> Result<CheckedRecipe, RecipeError> {
        let text =
            std::fs::read_to_string(file).map_err(|source| RecipeError::Io { file: file.into(), source })?;
        Self::from_text(&text, file, overrides)
    }

    /// As [`Recipe::read`], for a file or the name of a shipped recipe; a file of that name wins.
    ///
    /// # Errors
    /// If there is neither, or as [`Recipe::read`].
    pub fn named(typed: &Path, overrides: &[String]) -> Result<CheckedRecipe, RecipeError> {
        if typed.is_file() {
            return Self::read(typed, overrides);
        }
        let name = typed.to_string_lossy();
        match ShippedRecipe::named(&name) {
            Ok(shipped) => shipped.read(overrides),
            Err(_) if typed.exists() => Self::read(typed, overrides),
            Err(_) => Err(RecipeError::NoRecipe { name: name.into_owned(), shipped: shipped::names() }),
        }
    }

    /// What the comment of a recipe says of its data: where it is published, and how it is fetched; none if it says nothing.
    pub fn data_note(typed: &Path) -> Option<String> {
        let of_file = || std::fs::read_to_string(typed).ok();
        let of_shipped = || Some(ShippedRecipe::named(&typed.to_string_lossy()).ok()?.text.to_owned());
        let text = of_file().or_else(of_shipped)?;
        let comment = text.lines().take_while(|line| line.starts_with('#'));
        let note: Vec<&str> = comment.skip_while(|line| !line.starts_with(DATA_NOTE)).collect();
        (!note.is_empty()).then(|| note.join("\n"))
    }

    /// As [`Recipe::read`], for a text at hand; `name` stands for the file in messages.
    ///
    /// # Errors
    /// If the text is not TOML, holds an unknown key or a value of a wrong type or range; with file, line and key.
    pub fn from_text(text: &str, name: &Path, overrides: &[String]) -> Result<CheckedRecipe, RecipeError> {
        let source = Source::new(text, name, overrides)?;
        let mut recipe = source.recipe()?;
        recipe.output.name_after(name);
        recipe.check().map_err(|error| source.located(error))
    }

    /// What only some tasks and methods have.
    fn check_together(&self, findings: &mut Findings) {
        if self.method == MethodRecipe::Full && self.model.dtype != WeightDtype::F32 {
            let found = self.model.dtype.to_string();
            let range =
                "f32 with method.kind = \"full\": half precision would round small updates of weights away"
                    .to_owned();
            findings.add("model.dtype", Problem::NotAllowed { found, range });
        }
        if let (MethodRecipe::Full, Some(quantization)) = (&self.method, self.model.quantize.quantization()) {
            let range =
                "absent with method.kind = \"full\": weights in few bits cannot be trained".to_owned();
            findings.add("model.quantize", Problem::NotAllowed { found: quantization.to_string(), range });
        }
        let moves_ranks = |adapter: &AdapterRecipe| adapter.config.method().rank_moves().is_some();
        if self.train.exchange_every > 1 && self.method.adapter().is_some_and(moves_ranks) {
            let range = format!(
                "1 with method.kind = \"{}\": its ranks move between steps, in one model",
                self.method.kind()
            );
            let found = self.train.exchange_every.to_string();
            findings.add("train.exchange_every", Problem::NotAllowed { found, range });
        }
        let compares_layers = |adapter: &AdapterRecipe| adapter.config.method().task_share().is_some();
        if self.train.gradient_checkpointing && self.method.adapter().is_some_and(compares_layers) {
            let range = format!(
                "false with method.kind = \"{}\": its loss needs the outputs of all layers at once",
                self.method.kind()
            );
            findings
                .add("train.gradient_checkpointing", Problem::NotAllowed { found: "true".to_owned(), range });
        }
        if let Some(adapter) = self.method.adapter().filter(|adapter| compares_layers(adapter)) {
            let range =
                "nothing beside this method, which compares the layers with those of the unchanged base"
                    .to_owned();
            if !adapter.weights.modules_to_save.is_empty() {
                let found = adapter.weights.modules_to_save.join(", ");
                findings.add("method.modules_to_save", Problem::NotAllowed { found, range: range.clone() });
            }
            if adapter.weights.bias != TrainedBiases::None {
                findings
                    .add("method.bias", Problem::NotAllowed { found: "trained biases".to_owned(), range });
            }
        }
        if self.data.format.modality() == Modality::Images {
            if !self.samples.prompts.is_empty() {
                findings.add("samples.prompts", Problem::NoEffect { because: "a format of images" });
            }
            return;
        }
        if self.method == MethodRecipe::Linear {
            let found = "linear".to_owned();
            let range = "an adapter or full: a language model has no new head".to_owned();
            findings.add("method.kind", Problem::NotAllowed { found, range });
        }
        if self.model.image_size.is_some() {
            findings.add("model.image_size", Problem::NoEffect { because: "a format of text" });
        }
    }

    /// The recipe as it would be read.
    fn table(&self) -> Table {
        Table::try_from(self).expect("a recipe is made of tables, numbers and text")
    }

    /// Checks every value and fills in those that follow from others.
    ///
    /// # Errors
    /// [`RecipeError::Invalid`] with everything that is wrong.
    pub fn check(mut self) -> Result<CheckedRecipe, RecipeError> {
        let mut findings = Findings::default();
        check::check(&self.table(), &mut findings);
        self.data.check(&mut findings);
        self.method.check(&mut findings);
        self.train.check(&mut findings);
        self.check_together(&mut findings);
        self.output.check(&mut findings);
        findings.into_result()?;
        self.method.resolve();
        self.train.resolve();
        self.model.few_bits = self.method.few_bits();
        Ok(CheckedRecipe(self))
    }
}

/// A recipe whose values were checked; nothing downstream checks them again.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckedRecipe(Recipe);

impl CheckedRecipe {
    /// The recipe with every default filled in, to be saved beside the adapter; reads back as the same run.
    pub fn resolved_toml(&self) -> String {
        toml::to_string(&self.0).expect("a recipe is made of tables, numbers and text")
    }

    /// The recipe for so many training samples: `train.epochs` becomes `train.steps`.
    pub fn for_samples(mut self, samples: usize) -> Self {
        let train = &mut self.0.train;
        if let Some(epochs) = train.epochs.take() {
            train.steps = ((epochs * samples as f64 / train.batch as f64).ceil() as usize).max(1);
        }
        self
    }

    /// The recipe for so many processes, each of which has a shard, as far as there are samples.
    pub fn for_ranks(mut self, ranks: usize) -> Self {
        let train = &mut self.0.train;
        let shards = ranks.min(train.batch);
        if shards > train.shards() {
            train.shards = Some(shards);
        }
        self
    }

    /// The recipe with other names for the files of its text.
    ///
    /// # Errors
    /// As `name`.
    pub fn with_text_named<E>(
        mut self,
        name: impl Fn(&Path, Split) -> Result<PathBuf, E>,
    ) -> Result<Self, E> {
        let data = &mut self.0.data;
        data.train = data.train.mapped(|path| name(path, Split::Train))?;
        data.validation = data.validation.mapped(|path| name(path, Split::Validation))?;
        Ok(self)
    }

    /// The recipe, to be changed and checked again.
    pub fn into_inner(self) -> Recipe {
        self.0
    }
}

impl Deref for CheckedRecipe {
    type Target = Recipe;

    fn deref(&self) -> &Recipe {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use nola_core::AdapterConfig;

    use super::*;

    const SMALL: &str = r#"
[model]
path = "assets/vit-micro"

[data]
train = "assets/digits/train"
validation = "assets/digits/val"

[train]
steps = 200
"#;

    fn read(text: &str, overrides: &[&str]) -> Result<CheckedRecipe, RecipeError> {
        let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
        Recipe::from_text(text, Path::new("my.toml"), &overrides)
    }

    fn message(text: &str, overrides: &[&str]) -> String {
        read(text, overrides).expect_err("the recipe should be refused").to_string()
    }

    #[test]
    fn every_method_has_a_learning_rate_of_its_own() {
        let rate = |kind: &str| read(SMALL, &[&format!("method.kind={kind}")]).unwrap().train.learning_rate;
        assert_eq!(["nola", "lora", "linear", "full"].map(rate), [2e-2, 1e-2, 1e-2, 1e-3]);
    }

    #[test]
    fn what_the_file_leaves_out_has_its_default() {
        let recipe = read(SMALL, &[]).unwrap();
        assert_eq!(recipe.train.steps, 200);
        assert_eq!(recipe.train.batch, TrainSettings::default().batch);
        assert_eq!(recipe.output.dir, Path::new("runs/my"));
    }

    #[test]
    fn an_override_beats_the_file() {
        let recipe =
            read(SMALL, &["train.steps=7", "data.train=other/folder", "method.kind=linear"]).unwrap();
        assert_eq!(recipe.train.steps, 7);
        assert_eq!(recipe.data.train.paths().collect::<Vec<_>>(), [Path::new("other/folder")]);
        assert_eq!(recipe.method, MethodRecipe::Linear);
    }

    #[test]
    fn an_override_of_steps_replaces_the_epochs_of_the_file() {
        let text = SMALL.replace("steps = 200", "epochs = 3");
        let train = |overrides: &[&str]| read(&text, overrides).unwrap().for_samples(640).train.steps;
        assert_eq!(train(&[]), 30);
        assert_eq!(train(&["train.steps=7"]), 7);
        assert_eq!(train(&["train.epochs=1"]), 10);
    }

    #[test]
    fn steps_and_epochs_together_are_refused() {
        let text = SMALL.replace("steps = 200", "steps = 200\nepochs = 3");
        let file = message(&text, &[]);
        assert!(file.contains("my.toml:11: `train.epochs` has no effect with train.steps"), "{file}");
        let overrides = message(SMALL, &["train.steps=7", "train.epochs=3"]);
        assert!(overrides.contains("train.epochs") && overrides.contains("no effect"), "{overrides}");
    }

    #[test]
    fn another_method_keeps_the_targets_and_drops_what_it_does_not_have() {
        let text = format!("{SMALL}\n[method]\nkind = \"nola\"\nrank = 2\nk = 7\nlayers = [1]\n");
        let of = |overrides: &[&str]| read(&text, overrides).unwrap().method.clone();
        let AdapterRecipe { config, weights } = of(&["method.kind=lora"]).adapter().expect("LoRA").clone();
        assert_eq!((config.kind(), config.method().rank(), weights.layers), ("lora", 2, vec![1]));
        assert_eq!(of(&["method.kind=full"]), MethodRecipe::Full);
        let config = of(&["method.kind=nola"]).adapter().expect("NOLA").config.clone();
        let AdapterConfig::Nola(nola) = config else { panic!("no NOLA") };
        assert_eq!(nola.k, 7, "the same method keeps everything");
    }

    #[test]
    fn passes_over_the_data_become_steps() {
        let recipe = read(SMALL, &["train.epochs=2.5", "train.batch=8"]).unwrap().for_samples(101);
        assert_eq!((recipe.train.steps, recipe.train.epochs), (32, None));
    }

    #[test]
    fn text_has_no_linear_probe_and_no_shots() {
        let message = message(SMALL, &["data.format=e2e", "method.kind=linear", "data.shots=3"]);
        assert!(message.contains("`method.kind` is linear") && message.contains("`data.shots`"), "{message}");
    }

    #[test]
    fn weights_that_are_trained_are_held_in_f32() {
        for dtype in ["bf16", "f16"] {
            let set = format!("model.dtype={dtype}");
            let message = message(SMALL, &[&set, "method.kind=full"]);
            let expected = format!("`model.dtype` is {dtype}; it must be f32 with method.kind = \"full\"");
            assert!(message.contains(&expected), "{message}");
            for method in ["nola", "lora", "linear"] {
                let recipe = read(SMALL, &[&set, &format!("method.kind={method}")]).unwrap();
                assert_eq!(recipe.model.dtype.name(), dtype);
            }
        }
    }

    #[test]
    fn shards_make_steps_of_their_own_only_where_one_model_is_not_needed() {
        let with = |other: &str| message(SMALL, &["train.exchange_every=4", other]);
        let skipping = with("train.on_non_finite=skip");
        assert!(
            skipping.contains("`train.exchange_every` is 4; it must be 1 with on_non_finite"),
            "{skipping}"
        );
        let moving = with("method.kind=alora");
        assert!(moving.contains("it must be 1 with method.kind = \"alora\""), "{moving}");
        assert!(read(SMALL, &["train.exchange_every=4", "train.shards=2"]).is_ok());
    }

    #[test]
    fn every_process_has_a_shard_and_more_shards_stay() {
        let shards = |set: &[&str], ranks| read(SMALL, set).unwrap().for_ranks(ranks).train.shards;
        assert_eq!([1, 3].map(|ranks| shards(&[], ranks)), [None, Some(3)]);
        assert_eq!([1, 3, 6].map(|ranks| shards(&["train.shards=4"], ranks)), [Some(4), Some(4), Some(6)]);
        assert_eq!(shards(&["train.batch=2"], 5), Some(2));
    }

    #[test]
    fn an_unknown_number_type_lists_the_types() {
        let message = message(SMALL, &["model.dtype=fp16"]);
        assert!(message.contains("`model.dtype` cannot be `fp16`; did you mean `f16`?"), "{message}");
    }

    #[test]
    fn an_unknown_format_suggests_the_likely_one() {
        let message = message(SMALL, &["data.format=alpacca"]);
        assert!(message.contains("`data.format` cannot be `alpacca`; did you mean `alpaca`?"), "{message}");
    }

    #[test]
    fn an_unknown_key_names_file_line_key_and_the_likely_one() {
        let text = SMALL.replace("steps = 200", "stpes = 200");
        let message = message(&text, &[]);
        assert!(
            message.starts_with("my.toml:10: unknown key `train.stpes`; did you mean `steps`?"),
            "{message}"
        );
    }

    #[test]
    fn an_unknown_key_of_the_method_names_its_line() {
        let text = format!("{SMALL}\n[method]\nkind = \"nola\"\nrnak = 4\n");
        let message = message(&text, &[]);
        assert!(
            message.starts_with("my.toml:14: unknown key `method.rnak`; did you mean `rank`?"),
            "{message}"
        );
    }

    #[test]
    fn an_unknown_section_is_refused() {
        let message = message("[trian]\nsteps = 3\n", &[]);
        assert!(message.starts_with("my.toml:1: unknown key `trian`; did you mean `train`?"), "{message}");
    }

    #[test]
    fn an_unknown_choice_lists_the_choices() {
        let text = format!("{SMALL}optimizer = \"adamv\"\n");
        let message = message(&text, &[]);
        assert!(
            message.starts_with("my.toml:11: `train.optimizer` cannot be `adamv`; did you mean `adam"),
            "{message}"
        );
    }

    #[test]
    fn a_value_of_the_wrong_type_names_its_key() {
        let text = SMALL.replace("200", "\"many\"");
        let message = message(&text, &[]);
        assert_eq!(message, "my.toml:10: `train.steps` is the text \"many\"; expected a whole number");
    }

    #[test]
    fn a_typo_in_an_override_is_blamed_on_the_override() {
        let message = message(SMALL, &["train.stpes=3"]);
        assert!(message.starts_with("--set train.stpes=3: unknown key `train.stpes`"), "{message}");
    }

    #[test]
    fn an_override_without_a_value_is_refused() {
        assert!(message(SMALL, &["train.steps"]).contains("KEY=VALUE"));
    }

    #[test]
    fn text_that_is_not_toml_names_its_line() {
        assert!(message("[model]\npath = \n", &[]).starts_with("my.toml:2: "));
    }

    #[test]
    fn every_bad_value_is_listed_at_once() {
        let message =
            message(SMALL, &["train.batch=0", "train.label_smoothing=1.5", "output.coefficient_bits=5"]);
        for key in ["`train.batch`", "`train.label_smoothing`", "`output.coefficient_bits`"] {
            assert!(message.contains(key), "{message}");
        }
    }

    #[test]
    fn a_recipe_without_a_model_says_what_to_write() {
        let message = message("[data]\ntrain = \"a\"\nvalidation = \"b\"\n", &[]);
        assert!(message.contains("`model.path` is missing"), "{message}");
    }

    #[test]
    fn a_micro_batch_must_divide_the_batch() {
        let message = message(SMALL, &["train.batch=10", "train.micro_batch=4"]);
        assert!(message.contains("`train.micro_batch` is 4"), "{message}");
    }

    #[test]
    fn the_resolved_recipe_reads_back_as_the_same_run() {
        let methods = ["kind=nola", "kind=lora", "kind=linear", "kind=full"];
        for method in methods {
            let recipe = read(SMALL, &[&format!("method.{method}")]).unwrap();
            let again = read(&recipe.resolved_toml(), &[]).unwrap();
            assert_eq!(again, recipe);
        }
    }

    #[test]
    fn every_shipped_recipe_is_accepted() {
        for shipped in ShippedRecipe::all() {
            Recipe::from_text(shipped.text, Path::new(shipped.name), &[]).unwrap();
        }
    }

    #[test]
    fn a_file_wins_over_a_shipped_recipe_and_neither_suggests_a_name() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("vit-digits-nola");
        std::fs::write(&file, SMALL).unwrap();
        assert_eq!(Recipe::named(&file, &[]).unwrap().train.steps, 200);
        assert_eq!(
            Recipe::named(Path::new("text-museum-nola"), &[]).unwrap().output.dir,
            Path::new("runs/text-museum-nola")
        );
        let error = Recipe::named(Path::new("vit-digit-nola.toml"), &[]).unwrap_err().to_string();
        assert!(error.contains("did you mean `vit-digits-nola`?"), "{error}");
    }
}
