//! Text: likelihood, what the model writes, and multiple choice.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::Device;
use nola_core::folder::PartialFile;
use serde::Serialize;

use super::EvaluateArgs;
use crate::adapter_data::AdapterData;
use crate::chosen::{Named, Opened};
use crate::commands::{Global, print_json, print_line};
use crate::data_files;
use crate::evaluate::{ChoiceScores, TextScores, answer_choices, evaluate_text, score_written, with_room};
use crate::memory::peak_bytes;
use crate::progress::Counted;
use crate::recipe::DataRecipe;
use crate::session::{Base, TextBase};
use crate::settings::{DataFormat, Modality};
use crate::task::{all_references, open_texts, text_format};
use crate::terminal::{StdoutError, err_line};
use crate::text::{References, choices, questions};
use crate::{Error, device, notices};

/// The JSON object of `evaluate --json` for text; what was not asked for is absent.
#[derive(Debug, Default, Serialize)]
struct Scored {
    #[serde(skip_serializing_if = "Option::is_none")]
    loss: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    perplexity: Option<f64>,
    /// Share of tokens that were the most probable ones, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    accuracy: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompts: Option<usize>,
    /// Prompts that fill the model's context and so were left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    prompts_too_long: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics: Option<TextScores>,
    #[serde(skip_serializing_if = "Option::is_none")]
    choices: Option<ChoiceScores>,
    seconds: f64,
    device: String,
    peak_memory_bytes: Option<u64>,
    /// Why the texts could not be written to a file.
    #[serde(skip)]
    unsaved: Option<Error>,
}

pub(super) fn run(named: Named, args: &EvaluateArgs, global: &Global) -> Result<(), Error> {
    let (data, adapter) = (named.data()?, named.adapter.clone().unwrap_or_default());
    let open = device::open(global.device)?;
    let chosen = named.open::<TextBase>(&open.device)?;
    notices::print(chosen.base.encoder.other_template(data.as_ref(), &adapter).as_slice());
    let started = Instant::now();
    let scored = match &args.choices {
        Some(file) => of_choices(file, &chosen, args, &open.device, global)?,
        None => {
            print_format(args.format, data.as_ref(), chosen.recipe.is_some());
            let is_known = data.is_some();
            let of_run = chosen.recipe.as_ref().map(|recipe| recipe.data.clone());
            let of_adapter = data.map(|data| DataRecipe {
                format: data.format,
                text: data.settings(),
                ..DataRecipe::default()
            });
            let mut data = args.data_recipe(of_run.or(of_adapter), Modality::Text)?;
            if !is_known {
                // Nobody chose the length, and nobody could choose another.
                let context = chosen.base.encoder.info.max_tokens;
                data.text.max_tokens = data.text.max_tokens.min(context);
            }
            of_data(&data, &chosen, args, &open.device, global)?
        }
    };
    chosen.base.check_unchanged()?;
    let seconds = started.elapsed().as_secs_f64();
    let mut scored = Scored { seconds, device: open.name, peak_memory_bytes: peak_bytes(), ..scored };
    let unsaved = scored.unsaved.take();
    if global.json {
        print_json(&scored)?;
    } else {
        show(&scored)?;
    }
    unsaved.map_or(Ok(()), Err)
}

/// Says which format the data is read in, where the adapter's folder decides it or is overruled.
fn print_format(typed: Option<DataFormat>, known: Option<&AdapterData>, is_run: bool) {
    let Some(trained) = known.map(|data| data.format) else { return };
    match typed {
        Some(typed) if typed != trained => {
            err_line(&format!("data: read as {typed}, as asked; the adapter was trained on {trained}"));
        }
        None if !is_run => {
            err_line(&format!(
                "data: read as {trained}, which the adapter was trained on; --format reads it otherwise"
            ));
        }
        Some(_) | None => {}
    }
}

fn of_choices(
    file: &Path,
    chosen: &Opened<TextBase>,
    args: &EvaluateArgs,
    device: &Device,
    global: &Global,
) -> Result<Scored, Error> {
    let asked = questions(file, &args.question_settings())?;
    let examples = match &args.examples {
        Some(file) => questions(file, &Default::default())?,
        None => Vec::new(),
    };
    let put = choices(&asked, &examples, args.shots)?;
    let bar = Counted::start(put.len(), global.style());
    let model = &chosen.adapted.model;
    let scores = answer_choices(model, &chosen.base.encoder, &put, device, |done| bar.show(done))?;
    Ok(Scored { choices: Some(scores), ..Scored::default() })
}

fn of_data(
    data: &DataRecipe,
    chosen: &Opened<TextBase>,
    args: &EvaluateArgs,
    device: &Device,
    global: &Global,
) -> Result<Scored, Error> {
    if args.metrics {
        return of_writing(data, chosen, args, device, global);
    }
    let (model, encoder) = (&chosen.adapted.model, &chosen.base.encoder);
    let mut data = data.clone();
    let mut sources = data_files::find(data.scored_on(chosen.seed()), data.scored_split())?.sources;
    if let Some(limit) = args.limit {
        // What is held out depends on the rows that were read at the time.
        data.text.limit = if data.validation_split.is_some() { data.text.limit } else { limit };
        sources.iter_mut().for_each(|source| source.most = limit);
    }
    let opened = open_texts("validation", &sources, &data, encoder, global.style())?;
    args.warn_of_change(opened.drawn());
    opened.warnings.iter().for_each(|warning| err_line(&format!("warning: {warning}")));
    let text = opened.data;
    let bar = Counted::start(text.len(), global.style());
    let evaluation = evaluate_text(model, &text, device, |rows| bar.show(rows));
    if !evaluation.scores.loss.is_finite() {
        let (value, what) = (evaluation.scores.loss, data.scored_on_name());
        return Err(Error::NonFiniteAnswer { value, what });
    }
    Ok(Scored {
        loss: Some(evaluation.scores.loss),
        perplexity: Some(evaluation.scores.perplexity()),
        accuracy: Some(evaluation.scores.accuracy),
        tokens: Some(evaluation.tokens),
        ..Scored::default()
    })
}

fn of_writing(
    data: &DataRecipe,
    chosen: &Opened<TextBase>,
    args: &EvaluateArgs,
    device: &Device,
    global: &Global,
) -> Result<Scored, Error> {
    let (model, encoder) = (&chosen.adapted.model, &chosen.base.encoder);
    let sources = data_files::find(data.scored_on(chosen.seed()), data.scored_split())?.sources;
    let mut groups = all_references(&sources, text_format(data)?, &data.text)?;
    groups.truncate(args.limit.unwrap_or(usize::MAX));
    let asked = groups.len();
    let groups: Vec<References> = with_room(groups, encoder).collect::<Result<_, Error>>()?;
    let file = args.save_texts.as_deref().map(TextsFile::begin).transpose()?;
    let decoding = args.decoding.over(encoder)?;
    let bar = Counted::start(groups.len(), global.style());
    let scored = score_written(model, encoder, &groups, &decoding, device, |done| bar.show(done));
    let (metrics, texts) =
        scored.map_err(|error| args.decoding.explained(error, &encoder.generation_file()))?;
    let lines: String = texts.iter().map(|text| format!("{}\n", text.replace('\n', " "))).collect();
    let unsaved = file.and_then(|file| file.finish(lines.as_bytes()).err());
    let (prompts, prompts_too_long) = (Some(groups.len()), Some(asked - groups.len()));
    Ok(Scored { prompts, prompts_too_long, metrics: Some(metrics), unsaved, ..Scored::default() })
}

/// Where texts go, opened before the work whose result it is to hold.
enum TextsFile {
    /// A file that is there whole or not at all.
    Whole(PartialFile),
    /// A pipe or a device, which takes what it gets.
    Stream(File, PathBuf),
}

impl TextsFile {
    fn begin(path: &Path) -> Result<Self, Error> {
        if path.starts_with("/dev") || (path.exists() && !path.is_file()) {
            let output = |source| Error::Output { path: path.to_owned(), source };
            let opened = File::options().append(true).open(path).map_err(output)?;
            return Ok(Self::Stream(opened, path.to_owned()));
        }
        // A link stays one: what it leads to is replaced.
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        PartialFile::beside(&path).map(Self::Whole).map_err(|error| Error::from(error).about_output())
    }

    fn finish(self, bytes: &[u8]) -> Result<(), Error> {
        match self {
            Self::Whole(file) => file.finish(bytes).map_err(|error| Error::from(error).about_output()),
            Self::Stream(mut file, path) => {
                file.write_all(bytes).map_err(|source| Error::Output { path, source })
            }
        }
    }
}

fn show(scored: &Scored) -> Result<(), StdoutError> {
    let Scored { seconds, device, .. } = scored;
    if let (Some(loss), Some(perplexity), Some(accuracy), Some(tokens)) =
        (scored.loss, scored.perplexity, scored.accuracy, scored.tokens)
    {
        let right = 100.0 * accuracy;
        print_line(&format!(
            "loss {loss:.4} nats a token, perplexity {perplexity:.2}, token accuracy {right:.2} %, {tokens} tokens, {seconds:.1} s on {device}"
        ))?;
    }
    if let (Some(metrics), Some(prompts), Some(too_long)) =
        (&scored.metrics, scored.prompts, scored.prompts_too_long)
    {
        let e2e = &metrics.e2e;
        print_line(&format!(
            "{prompts} prompts, {too_long} others too long for the model and left out; {seconds:.1} s on {device}"
        ))?;
        for (name, value) in [
            ("BLEU (mteval, 0 to 1)", e2e.bleu),
            ("NIST", e2e.nist),
            ("METEOR, exact and stem (0 to 1)", e2e.meteor_exact_stem),
            ("ROUGE-L (0 to 1)", e2e.rouge_l),
            ("CIDEr", e2e.cider),
            ("sacreBLEU (0 to 100)", metrics.sacre_bleu),
            ("chrF2 (0 to 100)", metrics.chrf),
            ("TER (%, less is better)", metrics.ter),
        ] {
            print_line(&format!("{name:32} {value:8.4}"))?;
        }
    }
    if let Some(choices) = &scored.choices {
        for (subject, share) in &choices.subjects {
            print_line(&format!("{subject:44} {:6.2} %", 100.0 * share))?;
        }
        let ChoiceScores { accuracy, mean_of_subjects, questions, cut, .. } = choices;
        print_line(&format!(
            "{:.2} % of {questions} questions, {:.2} % as the mean of subjects; {cut} too long and cut at the start; {seconds:.1} s on {device}",
            100.0 * accuracy,
            100.0 * mean_of_subjects
        ))?;
    }
    Ok(())
}
