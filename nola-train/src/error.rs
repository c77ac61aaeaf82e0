//! The one error type of the program, and the exit code that each error ends with.

mod bench;
mod compress;
mod occupied;
mod ranks;
mod resume;
mod serve;
mod step_samples;

use std::path::PathBuf;

use nola_core::plain_words;
use nola_models::WeightDtype;
use nola_models::chat::ChatError;
use nola_models::generate::GenerateError;
use nola_models::hub::HubError;
use nola_models::tokenizer::TokenizerError;

pub use bench::BenchError;
pub use compress::CompressError;
pub use occupied::Occupied;
pub use ranks::RankError;
pub use resume::ResumeError;
pub use serve::ServeError;
pub use step_samples::StepSamples;

use crate::data::DataError;
use crate::metrics::MetricsError;
use crate::recipe::{RecipeError, hint};
use crate::settings::Modality;
use crate::stop::Interrupt;
use crate::terminal::StdoutError;
use crate::text::TextError;

/// Why the program stopped.
///
/// The exit codes, for scripts:
///
/// | code | meaning |
/// |---:|---|
/// | 0 | done |
/// | 1 | a failure that has no code of its own |
/// | 2 | wrong usage of the command line |
/// | 3 | the recipe cannot be used |
/// | 4 | the data cannot be used |
/// | 5 | the base model cannot be used |
/// | 6 | the adapter cannot be used |
/// | 7 | the device cannot be used |
/// | 8 | training diverged (a loss or gradient that is not finite), or nothing would be trained (or is: no gradient) |
/// | 9 | the output folder cannot be written, or holds no run that could be resumed |
/// | 10 | the processes of a run do not train together: one ended, is silent or differs, or they cannot exchange anything |
/// | 129 | the terminal was closed (SIGHUP) |
/// | 130 | interrupted by Ctrl-C (SIGINT) |
/// | 143 | ended by SIGTERM |
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The recipe cannot be used.
    #[error(transparent)]
    Recipe(#[from] RecipeError),

    /// The data cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),

    /// Data that is not there, and that the recipe says how to get.
    #[error("{}: there is no such file or folder; the recipe says where its data comes from:\n{note}", path.display())]
    MissingData {
        /// The file or folder.
        path: PathBuf,
        /// What the recipe says.
        note: String,
    },

    /// The text cannot be used.
    #[error(transparent)]
    Text(#[from] TextError),

    /// Nothing could be measured.
    #[error(transparent)]
    Bench(#[from] BenchError),

    /// Nothing can be served.
    #[error(transparent)]
    Serve(#[from] ServeError),

    /// Adapters cannot be compressed.
    #[error(transparent)]
    Compress(#[from] CompressError),

    /// What was written cannot be scored.
    #[error(transparent)]
    Metrics(#[from] MetricsError),

    /// The model cannot be fetched from the hub.
    #[error(transparent)]
    Hub(#[from] HubError),

    /// A model of the hub that changed between its tokenizer and its weights.
    #[error(
        "model.path: the hub has another commit of `{name}` than when its tokenizer was fetched; start again, or name one commit (`{name}@COMMIT`)"
    )]
    ModelMoved {
        /// As it was asked for.
        name: String,
    },

    /// The tokenizer cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),

    /// The prompt cannot be completed.
    #[error(transparent)]
    Generate(#[from] GenerateError),

    /// Options of decoding that cannot be, or do not go together with each other or the model's settings.
    #[error("{problem}")]
    Decoding {
        /// What is wrong, and what to type.
        problem: String,
    },

    /// The chat template cannot be used.
    #[error(transparent)]
    Chat(#[from] ChatError),

    /// A prompt cannot be turned into tokens.
    #[error("prompt `{}`: {problem}", beginning(.prompt))]
    Prompt {
        /// The prompt.
        prompt: String,
        /// What is wrong with it, and the cure.
        problem: String,
    },

    /// A prompt of the recipe cannot be completed.
    #[error("`samples.prompts`: `{}`: {problem}", beginning(.prompt))]
    SamplePrompt {
        /// The prompt.
        prompt: String,
        /// What is wrong with it, and the cure.
        problem: String,
    },

    /// A column of a template, where prompts are read in another way.
    #[error(
        "--field {field}=…: prompts are not read by a template with columns here; --field is for runs and adapters trained with \
         data.format = \"template\""
    )]
    FieldWithoutTemplate {
        /// The column.
        field: String,
    },

    /// Options of writing without anything that is written.
    #[error(
        "options of writing, such as --beams, need --metrics: a likelihood is the same whatever they say"
    )]
    NothingWritten,

    /// Every prompt fills the model's context.
    #[error("no prompt leaves room in the model's context of {context} tokens; use shorter ones")]
    NoRoom {
        /// The longest sequence of the model, in tokens.
        context: usize,
    },

    /// Standard input cannot be read as text.
    #[error("standard input cannot be read as text")]
    Input {
        /// What the system said.
        source: std::io::Error,
    },

    /// Standard input holds more than prompts.
    #[error(
        "line {line} of standard input has more than {bytes} bytes, which is longer than the context of any model; shorten \
         it, or give the prompts in several parts"
    )]
    LongInput {
        /// Number of the line, from one.
        line: usize,
        /// Most bytes that were read of it.
        bytes: u64,
    },

    /// Standard input holds more prompts than are held at once.
    #[error(
        "standard input has more than {prompts} prompts or {bytes} bytes, which is what is held at once; give them in \
         several runs"
    )]
    ManyPrompts {
        /// Prompts that are read at most.
        prompts: usize,
        /// Bytes that are read at most.
        bytes: u64,
    },

    /// There is nothing to go on from.
    #[error("no prompt: write one behind the command, or one on each line of standard input")]
    NoPrompt,

    /// The command does not go with the model.
    #[error("`{command}` needs a model of {}; {}", needed(.found), instead(.found))]
    WrongModality {
        /// The command or option.
        command: &'static str,
        /// What the model is about.
        found: Modality,
    },

    /// A length of samples that the model does not take.
    #[error("{problem}")]
    MemoryOfTokens {
        /// What is wrong, and what to type.
        problem: String,
    },

    /// Values of a sweep that cannot be meant.
    #[error("--set {text}: {problem}")]
    Sweep {
        /// The option, as typed.
        text: String,
        /// What is wrong, and what to type.
        problem: String,
    },

    /// The base model cannot be used.
    #[error(transparent)]
    Model(#[from] nola_models::Error),

    /// The adapter cannot be used.
    #[error(transparent)]
    Adapter(#[from] nola_core::Error),

    /// The device cannot be used.
    #[error("device `{requested}`: {problem}")]
    Device {
        /// What was asked for, as typed.
        requested: String,
        /// What is wrong with it, and the cure.
        problem: String,
    },

    /// What a merge over a quantised base is stored in was not said.
    #[error(
        "the base is quantised, and what is merged is not: say with --dtype f32, bf16 or f16 how to store it; to merge into \
         the model that was quantised, name that with --model and the adapter with --adapter"
    )]
    QuantizedMerge,

    /// The device cannot compute in the number type of the weights.
    #[error(
        "this device ({device}) does not compute in {dtype}; store the weights in {} or f32 (model.dtype, --dtype), or use \
         --device cpu", other_half(.dtype)
    )]
    Dtype {
        /// The device's own name; empty where it has none.
        device: String,
        /// The number type.
        dtype: WeightDtype,
    },

    /// The model's answer is not finite, before anything was trained.
    #[error(
        "the model gives {value} for {what}; its weights or its adapter are damaged, or its number type is too narrow"
    )]
    NonFiniteAnswer {
        /// The answer.
        value: f32,
        /// What was asked.
        what: String,
    },

    /// The loss or a gradient is no longer a number.
    #[error("training diverged: {}{}; {}", non_finite(*loss, *step, samples), after(*skipped), finite_again(samples, *skipped))]
    Diverged {
        /// The optimizer step, counted from 1.
        step: usize,
        /// The loss of that step; finite if it is a gradient that is not.
        loss: f32,
        /// What the step was made of; nothing if it is not one step's loss or gradient that is not finite.
        samples: StepSamples,
        /// Steps right before it that were skipped: then it changed no trained value.
        skipped: usize,
    },

    /// No step has changed anything.
    #[error(
        "every gradient of the first {steps} steps is zero, so nothing is learned: the base hands none to the layers of \
         method.targets; its weights may be damaged, or its number type too narrow (model.dtype)"
    )]
    NoGradient {
        /// Optimizer steps made.
        steps: usize,
    },

    /// A module that is to be trained whole does not exist.
    #[error(
        "`method.modules_to_save` names `{name}`, but the model has no such module; {}",
        hint(name, expected)
    )]
    NoModule {
        /// The name in the recipe.
        name: String,
        /// Names that there are.
        expected: Vec<String>,
    },

    /// A module that is the head too, which a LoRA folder holds apart.
    #[error("`method.modules_to_save` names `{name}`, which is the head too in this model; leave it out")]
    TiedModule {
        /// The module.
        name: String,
    },

    /// Biases are to be trained, and there is none.
    #[error("`method.bias` wants biases to be trained, but the model has none there; leave it out")]
    NoBiases,

    /// No number of the model would change.
    #[error("method `{method}` would train nothing; see [method] in the recipe")]
    NothingTrained {
        /// The method's name in the recipe.
        method: String,
    },

    /// A LoRA folder cannot hold what was trained.
    #[error("{problem}; bake it into dense weights with `nola-train merge` instead")]
    NotExportable {
        /// Why.
        problem: &'static str,
    },

    /// What was exported computes something else than the adapter.
    #[error(
        "{}: not written, since reloaded its logits differ from the adapter's by {difference} of the largest",
        folder.display()
    )]
    ExportDiffers {
        /// The folder that was to be exported.
        folder: PathBuf,
        /// Largest difference over the largest logit.
        difference: f32,
    },

    /// The folder of a run is not free.
    #[error("{} {holds}", folder.display())]
    Occupied {
        /// The folder.
        folder: PathBuf,
        /// What lies there.
        holds: Occupied,
    },

    /// A run cannot be resumed.
    #[error(transparent)]
    Resume(#[from] ResumeError),

    /// The processes of a run do not train together.
    #[error(transparent)]
    Ranks(#[from] RankError),

    /// A run folder holds nothing to put to use.
    #[error("{}: holds no adapter, so the run was cut off before its first evaluation{}", run.display(), offered(.last))]
    NoAdapter {
        /// The run folder.
        run: PathBuf,
        /// What the last step left, if it is there.
        last: Option<PathBuf>,
    },

    /// Coefficients are too large for what they were to be stored in.
    #[error(
        "the coefficients do not fit into {bits} bits and are kept in 32; set output.coefficient_bits = 32"
    )]
    TooFewBits {
        /// Bits that were asked for.
        bits: u8,
    },

    /// The output folder or a file in it cannot be written.
    #[error(
        "{}: cannot be written; free space if the disk is full, or choose another place, for a run with --set \
         output.dir=FOLDER", path.display()
    )]
    Output {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },

    /// A result is lost.
    #[error(transparent)]
    Stdout(#[from] StdoutError),

    /// The user stopped the run.
    #[error("interrupted by {by}")]
    Interrupted {
        /// How.
        by: Interrupt,
    },
}

/// What of a step is not finite.
pub(crate) fn non_finite(loss: f32, step: usize, samples: &StepSamples) -> String {
    if loss.is_finite() {
        format!("a gradient is not finite at step {step}{samples}, whose loss is {loss}")
    } else {
        format!("the loss is {loss} at step {step}{samples}")
    }
}

/// How many steps were skipped before.
fn after(skipped: usize) -> String {
    match skipped {
        0 => String::new(),
        _ => format!(", after {skipped} skipped steps in a row, as many as train.max_skipped allows"),
    }
}

/// What helps against losses that are not finite.
fn finite_again(samples: &StepSamples, skipped: usize) -> &'static str {
    if samples.is_empty() || skipped > 0 {
        "lower train.learning_rate or set train.clip_norm = 1.0"
    } else {
        "lower train.learning_rate, set train.clip_norm = 1.0, or leave out such steps with train.on_non_finite = \"skip\""
    }
}

/// The first words of a text.
fn beginning(text: &str) -> String {
    let first: String = text.chars().take(60).collect();
    if first.len() < text.len() { format!("{first}…") } else { first }
}

/// The type of half precision to try next.
fn other_half(dtype: &WeightDtype) -> WeightDtype {
    match dtype {
        WeightDtype::F32 | WeightDtype::Bf16 => WeightDtype::F16,
        WeightDtype::F16 => WeightDtype::Bf16,
    }
}

fn offered(last: &Option<PathBuf>) -> String {
    match last {
        Some(last) => format!(
            "; what its last step left is whole: use --model MODEL --adapter {} instead of --run",
            last.display()
        ),
        None => "; train again".to_owned(),
    }
}

fn needed(found: &Modality) -> &'static str {
    match found {
        Modality::Images => "text",
        Modality::Text => "images",
    }
}

fn instead(found: &Modality) -> &'static str {
    match found {
        Modality::Images => "this one is about images: use `predict`",
        Modality::Text => "this one completes prompts: use `generate`",
    }
}

impl Error {
    /// An answer or a trained value that is not finite after `step` optimizer steps, whatever the samples.
    pub(crate) fn diverged(step: usize, loss: f32) -> Self {
        Self::Diverged { step, loss, samples: StepSamples::default(), skipped: 0 }
    }

    /// The exit code of the program, as in the table of [`Error`].
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Bench(error) => error.exit_code(),
            Self::Recipe(_) => 3,
            Self::Hub(HubError::Dataset(_)) => 4,
            Self::NoModule { .. } | Self::NoBiases | Self::TiedModule { .. } | Self::SamplePrompt { .. } => 3,
            Self::MissingData { .. }
            | Self::Data(_)
            | Self::Text(_)
            | Self::Metrics(_)
            | Self::NoRoom { .. } => 4,
            Self::WrongModality { .. }
            | Self::Prompt { .. }
            | Self::NoPrompt
            | Self::QuantizedMerge
            | Self::FieldWithoutTemplate { .. }
            | Self::LongInput { .. }
            | Self::ManyPrompts { .. }
            | Self::NothingWritten
            | Self::Decoding { .. }
            | Self::Sweep { .. }
            | Self::MemoryOfTokens { .. }
            | Self::Input { .. } => 2,
            Self::Generate(error) if error.is_usage() => 2,
            Self::Hub(_)
            | Self::ModelMoved { .. }
            | Self::Tokenizer(_)
            | Self::Chat(_)
            | Self::Generate(_) => 5,
            Self::NonFiniteAnswer { .. } => 5,
            Self::Model(
                nola_models::Error::Folder(_)
                | nola_models::Error::NotStorable { .. }
                | nola_models::Error::Write { .. },
            )
            | Self::Adapter(nola_core::Error::Exists { .. }) => 9,
            Self::Adapter(nola_core::Error::Io { action: "write" | "create", .. }) => 9,
            Self::Model(_) => 5,
            Self::Adapter(_)
            | Self::ExportDiffers { .. }
            | Self::NotExportable { .. }
            | Self::NoAdapter { .. }
            | Self::TooFewBits { .. } => 6,
            Self::Device { .. } | Self::Dtype { .. } => 7,
            Self::Diverged { .. } | Self::NothingTrained { .. } | Self::NoGradient { .. } => 8,
            Self::Output { .. } | Self::Occupied { .. } => 9,
            Self::Stdout(_) => 1,
            Self::Interrupted { by } => by.exit_code(),
            Self::Resume(error) => error.exit_code(),
            Self::Ranks(error) => error.exit_code(),
            Self::Serve(error) => error.exit_code(),
            Self::Compress(error) => error.exit_code(),
        }
    }

    /// The error and what caused it, on one line.
    pub fn with_sources(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            let cause_text = plain_words(&cause.to_string());
            if !text.contains(&cause_text) {
                text = format!("{text}: {cause_text}");
            }
            source = cause.source();
        }
        text
    }

    /// The same for data that is not there: with what the recipe's comment says of it.
    pub(crate) fn with_data_note(self, note: Option<String>) -> Self {
        let missing = match &self {
            Self::Text(TextError::Io { file: path, source }) | Self::Data(DataError::Io { path, source }) => {
                (source.kind() == std::io::ErrorKind::NotFound).then(|| path.clone())
            }
            _ => None,
        };
        match (missing, note) {
            (Some(path), Some(note)) => Self::MissingData { path, note },
            (Some(_) | None, _) => self,
        }
    }

    /// Whether what was trained before it is worth nothing: it is non-finite or unchanged, differs between ranks, or was trained on
    /// a base that changed meanwhile.
    pub(crate) fn spoils_training(&self) -> bool {
        // Steps that were skipped changed no trained value.
        matches!(
            self,
            Self::Diverged { skipped: 0, .. }
                | Self::NoGradient { .. }
                | Self::Ranks(RankError::Diverged { .. })
                | Self::Model(nola_models::Error::Changed { .. })
        )
    }

    /// The same for a file of a run: one that cannot be written names what helps there.
    pub(crate) fn about_output(self) -> Self {
        match self {
            Self::Adapter(nola_core::Error::Io { file: path, action: "write" | "create", source })
            | Self::Model(nola_models::Error::Folder(nola_core::Error::Io {
                file: path,
                action: "write" | "create",
                source,
            }))
            | Self::Model(nola_models::Error::Write { file: path, source }) => Self::Output { path, source },
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_without_a_number_type_says_what_to_use_instead() {
        let error = Error::Dtype { device: "Some GPU".to_owned(), dtype: WeightDtype::Bf16 };
        assert_eq!(error.exit_code(), 7);
        let message = error.to_string();
        assert!(message.starts_with("this device (Some GPU) does not compute in bf16; "), "{message}");
        assert!(message.contains("in f16 or f32 (model.dtype, --dtype)"), "{message}");
    }

    #[test]
    fn an_output_error_names_the_folder_and_the_cure() {
        let error = Error::Output {
            path: "runs/a".into(),
            source: std::io::Error::from(std::io::ErrorKind::PermissionDenied),
        };
        assert_eq!(error.exit_code(), 9);
        assert!(error.to_string().starts_with("runs/a: "));
        assert!(error.to_string().contains("output.dir"));
    }
}
