//! `nola-train evaluate`: scores on data that was not trained on.

mod images;
mod text;

use std::path::PathBuf;

use clap::Args;

use super::decoding::DecodingArgs;
use super::{Global, HeldArgs, ModelArgs};
use crate::option_values::format;
use crate::portion::Drawn;
use crate::recipe::DataRecipe;
use crate::recipe_files::located;
use crate::settings::{DataFormat, ImageFormat, Modality};
use crate::terminal::err_line;
use crate::text::TextSettings;
use crate::{Error, run};

#[derive(Debug, Args)]
pub struct EvaluateArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    held: HeldArgs,
    /// Labelled images or a file of text; absent: the validation data of the run.
    #[arg(long, value_name = "PATH", required_unless_present_any = ["run", "choices"])]
    data: Option<PathBuf>,
    /// Layout of the data; absent: that of the run or the adapter, else `folder` for images and `text` for text.
    #[arg(long, value_name = "FORMAT", value_parser = format())]
    format: Option<DataFormat>,
    /// Complete each prompt of the data and compare the text with the references: BLEU, NIST, METEOR (exact and
    /// stem matches), ROUGE-L, CIDEr, chrF, TER.
    #[arg(long)]
    metrics: bool,
    /// Write the texts of --metrics to this file, one a line, in the order of the prompts.
    #[arg(long, value_name = "FILE", requires = "metrics")]
    save_texts: Option<PathBuf>,
    /// Answer the multiple-choice questions of this file, such as MMLU's, instead.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["data", "metrics"])]
    choices: Option<PathBuf>,
    /// Answered examples to put before each question, from --examples.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "examples")]
    shots: usize,
    /// Questions of the same subjects with their answers.
    #[arg(long, value_name = "FILE", requires = "choices")]
    examples: Option<PathBuf>,
    /// Use the first N prompts, questions or rows of text; absent: all.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    #[command(flatten)]
    decoding: DecodingArgs,
}

/// Scores what was named.
///
/// # Errors
/// If model or data cannot be used, or do not go together.
pub fn run(args: &EvaluateArgs, global: &Global) -> Result<(), Error> {
    let named = args.model.named()?.held_in(args.held.dtype).quantized(args.held.quantize.quantize);
    if args.decoding.is_typed() && !args.metrics {
        return Err(Error::NothingWritten);
    }
    match named.modality()? {
        Modality::Images if args.metrics || args.choices.is_some() || args.limit.is_some() => {
            let command = "evaluate with --metrics, --choices or --limit";
            Err(Error::WrongModality { command, found: Modality::Images })
        }
        Modality::Images => images::run(named, args, global),
        Modality::Text => text::run(named, args, global),
    }
}

impl EvaluateArgs {
    /// What was typed, else what is known of the data of the run or the adapter.
    ///
    /// # Errors
    /// If it is shipped and cannot be unpacked.
    fn data_recipe(&self, known: Option<DataRecipe>, modality: Modality) -> Result<DataRecipe, Error> {
        let mut recipe = known.unwrap_or_else(|| DataRecipe {
            format: match modality {
                Modality::Images => DataFormat::Images(ImageFormat::Folder),
                Modality::Text => DataFormat::Text(crate::text::TextFormat::Text),
            },
            ..DataRecipe::default()
        });
        if let Some(data) = &self.data {
            recipe.validation = data.clone().into();
            recipe.validation_split = None;
        }
        if let Some(format) = self.format {
            recipe.format = format;
        }
        located(&recipe)
    }

    /// Says if the data of the run has changed since, so that what is held out now is not what was.
    fn warn_of_change(&self, held_out: Option<Drawn>) {
        let (Some(now), Some(folder)) = (held_out, &self.model.run) else { return };
        if let Some(then) = run::held_out(folder).filter(|then| *then != now) {
            err_line(&format!(
                "warning: {now} are held out now, and {then} were when the run was made, so the training data has changed: \
                 some of what is scored may have been learned; name other data with --data"
            ));
        }
    }

    /// Settings for reading questions.
    fn question_settings(&self) -> TextSettings {
        TextSettings { limit: self.limit.unwrap_or(0), ..TextSettings::default() }
    }
}
