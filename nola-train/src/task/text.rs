//! Text to more text.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::Device;
use nola_models::CausalLm;
use nola_models::generate::GenerationConfig;
use nola_models::tokenizer::DecodeSpecials;

use super::{LargestPass, Task, say_held_out, spread};
use crate::baseline::Baseline;
use crate::completion::Completion;
use crate::data::{Order, Prefetch, WeightedSamples};
use crate::data_counts::DataCounts;
use crate::data_files::{self, Found, HubData};
use crate::data_hash::DataHash;
use crate::evaluate::{
    Decoding, TextEvaluation, TextScores, evaluate_text_across, score_written, with_room, write_all,
};
use crate::model_with_loss::TextBatch;
use crate::portion::{DataSource, Drawn, Portion, Split};
use crate::printable::path_name;
use crate::progress::{Downloads, Scores, Style, Target};
use crate::prompt::{self, GivenBy, Reading};
use crate::ranks::Ranks;
use crate::recipe::{DataRecipe, Recipe, SamplesRecipe, TrainingPaths};
use crate::recipe_files::located_model;
use crate::report::{Continuation, ReportSections};
use crate::session::{Base, Template, TextBase, TextEncoder, model_folder};
use crate::settings::{DataFormat, ModelSettings};
use crate::terminal::{err_line, err_painted};
use crate::text::{
    self, BadRows, ChatRender, LengthGroups, Paint, References, TextData, TextError, TextFormat, TextReport,
    TextSettings, TextSource, TokenBatch, preview,
};
use crate::train::{Shard, StepPasses, StepSamples};
use crate::{Error, device, notices};

/// Prompts of the validation data that the report shows.
const SHOWN_PROMPTS: usize = 4;
/// Files of which the first sample is shown before training.
const SHOWN_FILES: usize = 4;
/// New tokens that the report shows of each.
const SHOWN_TOKENS: usize = 96;
/// Most new tokens of a text that is scored, as in the authors' decoding.
const WRITTEN_TOKENS: usize = 64;
/// Prompts of such texts that are completed at a time.
const WRITTEN_PROMPTS: usize = 32;

/// A language model and text.
#[derive(Debug, Clone)]
pub struct Text {
    /// The base.
    pub base: TextBase,
    train: Arc<TextData>,
    /// The rows of each part of the training data.
    parts: Vec<WeightedSamples>,
    validation: Arc<TextData>,
    prompts: Vec<References>,
    /// The tokens of each prompt that is completed at evaluations.
    sample_prompts: Vec<Vec<u32>>,
    counts: DataCounts,
    sources: Vec<HubData>,
    warnings: Vec<String>,
}

/// The text of several files.
#[derive(Debug)]
pub struct OpenedText {
    /// All of it.
    pub data: TextData,
    /// The rows of each file.
    pub parts: Vec<Range<usize>>,
    /// What became of the rows of each file.
    pub reports: Vec<TextReport>,
    /// What of it a user should hear before it is learned from.
    pub warnings: Vec<String>,
}

impl Task for Text {
    type Base = TextBase;
    type Evaluation = TextEvaluation;

    const TARGET: Target = Target::Token;

    fn open(recipe: &Recipe, device: &Device, style: Style) -> Result<Self, Error> {
        let (data, seed) = (&recipe.data, recipe.train.seed);
        let learned_from = data_files::find(data.learned_from(seed), Split::Train)?;
        let scored_on = data_files::find(data.scored_on(seed), data.scored_split())?;
        device::check_dtype(device, recipe.model.dtype)?;
        let model = located_model(&recipe.model)?;
        // All data is read and checked before the weights are fetched and loaded: those of a large model take minutes.
        let folder = model_folder(&model.path, TextEncoder::wanted(model.init), &Downloads::default())?;
        let encoder = TextEncoder::open(&folder)?;
        notices::print(&encoder.notices());
        let format = text_format(data)?;
        let sample_prompts = sample_prompts(recipe, format, &encoder)?;
        let train = open_texts("training", &learned_from.sources, data, &encoder, style)?;
        let validation = open_texts("validation", &scored_on.sources, data, &encoder, style)?;
        let parts = weighted(&recipe.data.train, &train.parts);
        let rows: Vec<usize> = train.reports.iter().map(|report| report.rows).collect();
        let counts = DataCounts::new(&recipe.data.train, &rows, &parts, validation.drawn())?;
        counts.mixture().iter().for_each(|mixture| style.info(&format!("data: {mixture}")));
        if style != Style::Quiet {
            show_first(&train, &recipe.data.train, &encoder);
        }
        let prompts = all_references(&scored_on.sources, format, &data.text);
        // Documents and conversations have no prompts to show.
        let prompts = with_room(prompts.unwrap_or_default(), &encoder).take(SHOWN_PROMPTS);
        let prompts = prompts.collect::<Result<_, Error>>()?;
        let warnings = [train.warnings, validation.warnings].concat();
        let (train, validation) = (Arc::new(train.data), Arc::new(validation.data));
        let sources = sources(data, &learned_from, &scored_on)?;
        fetch_weights(&model, &encoder)?;
        let base = TextBase::load(encoder, &model, seed, device)?;
        Ok(Self { base, train, parts, validation, prompts, sample_prompts, counts, sources, warnings })
    }

    fn counts(&self) -> &DataCounts {
        &self.counts
    }

    fn data_hashes(&self, recipe: &Recipe) -> Vec<DataHash> {
        let hash = |key: &str, name: String, sha256| DataHash { key: key.to_owned(), name, sha256 };
        let of_part = |(path, part): (&Path, &WeightedSamples)| {
            let sha256 = self.train.sha256(part.samples.iter().copied());
            hash("data.train", path.display().to_string(), sha256)
        };
        let validation = self.validation.sha256(0..self.validation.rows.len());
        let scored_on = hash("data.validation", recipe.data.scored_on_name(), validation);
        recipe.data.train.paths().zip(&self.parts).map(of_part).chain([scored_on]).collect()
    }

    fn sources(&self) -> &[HubData] {
        &self.sources
    }

    fn data_warnings(&self) -> &[String] {
        &self.warnings
    }

    fn choices(&self) -> usize {
        self.base.encoder.info.vocab_size
    }

    fn base(&self) -> &TextBase {
        &self.base
    }

    fn model(&self) -> CausalLm {
        self.base.model.clone()
    }

    fn trained_beside(&self) -> &'static [&'static str] {
        &[]
    }

    fn steps(
        &self,
        recipe: &Recipe,
        steps: Range<usize>,
        shards: Range<usize>,
        device: &Device,
    ) -> impl Iterator<Item = Result<StepPasses<TextBatch>, Error>> {
        let (data, mut rows) = (Arc::clone(&self.train), self.rows_of_steps(recipe));
        let (train, device) = (recipe.train.clone(), device.clone());
        let of_step = move |step| {
            let rows = rows(step);
            let shard = |index| Shard {
                index,
                passes: data.batch(&rows[train.samples_of_shard(index)]).split(train.micro_batch()).collect(),
            };
            shards.clone().map(shard).collect()
        };
        let moved = move |Shard { index, passes }: Shard<TokenBatch>| Shard {
            index,
            passes: passes.iter().map(|pass| TextBatch::new(pass, &device)).collect(),
        };
        let step = move |shards: Vec<_>| StepPasses(shards.into_iter().map(&moved).collect());
        Prefetch::of(steps.map(of_step)).map(move |shards| Ok(step(shards)))
    }

    fn samples_of_step(&self, recipe: &Recipe, step: usize) -> StepSamples {
        let rows = self.rows_of_steps(recipe)(step);
        let places = rows.into_iter().flat_map(|row| self.train.places(row));
        StepSamples(places.map(|place| place.to_string()).collect())
    }

    fn largest_pass(&self, recipe: &Recipe) -> LargestPass {
        let (lengths, mut rows) = (self.train.lengths(), self.rows_of_steps(recipe));
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let (mut widest, mut tokens) = (0, 0);
        for step in 0..recipe.train.steps {
            let of_step = rows(step).into_iter().map(|row| lengths[row]).max().unwrap_or(0);
            if of_step > tokens {
                (widest, tokens) = (step, of_step);
            }
            if tokens == longest {
                break;
            }
        }
        LargestPass { step: widest, size: format!("{} x {tokens} tokens", recipe.train.largest_pass()) }
    }

    fn baseline(
        &self,
        recipe: &Recipe,
        model: &CausalLm,
        device: &Device,
        ranks: &Ranks,
    ) -> Result<Baseline, Error> {
        let scores = self.evaluate(model, device, ranks)?.scores;
        if !scores.is_finite() {
            let what = recipe.data.scored_on_name();
            return Err(Error::NonFiniteAnswer { value: scores.loss, what });
        }
        Ok(Baseline::BeforeTraining(scores))
    }

    fn evaluate(&self, model: &CausalLm, device: &Device, ranks: &Ranks) -> Result<TextEvaluation, Error> {
        Ok(evaluate_text_across(ranks, model, &self.validation, device)?)
    }

    fn few_samples(&self, device: &Device) -> Result<TextBatch, Error> {
        let rows: Vec<usize> = spread(self.validation.rows.len()).collect();
        Ok(TextBatch::new(&self.validation.batch(&rows), device))
    }

    fn scores(evaluation: &TextEvaluation) -> Scores {
        evaluation.scores
    }

    fn score_writing(
        &self,
        model: &CausalLm,
        file: &Path,
        recipe: &Recipe,
    ) -> Result<Option<TextScores>, Error> {
        let found = data_files::find(vec![DataSource::whole(file)], Split::Validation)?.sources;
        let groups = all_references(&found, text_format(&recipe.data)?, &recipe.data.text)?;
        let groups: Vec<References> = with_room(groups, &self.base.encoder).collect::<Result<_, Error>>()?;
        let device = model.devices().into_iter().next().expect("a model has weights, and they lie somewhere");
        let decoding = self.greedy(WRITTEN_TOKENS, WRITTEN_PROMPTS);
        let (scores, _) = score_written(model, &self.base.encoder, &groups, &decoding, &device, |_| ())?;
        Ok(Some(scores))
    }

    fn completed(
        &self,
        model: &CausalLm,
        samples: &SamplesRecipe,
        device: &Device,
    ) -> Result<Vec<Completion>, Error> {
        if self.sample_prompts.is_empty() {
            return Ok(Vec::new());
        }
        let decoding = self.greedy(samples.max_new_tokens, WRITTEN_PROMPTS);
        let written = write_all(model, &self.base.encoder, &self.sample_prompts, &decoding, device, |_| ())?;
        let texts = written.into_iter().flatten().map(|written| written.text.trim().to_owned());
        let pairs = samples.prompts.iter().cloned().zip(texts);
        Ok(pairs.map(|(prompt, text)| Completion { prompt, text }).collect())
    }

    fn details(&self, model: &CausalLm, evaluation: &TextEvaluation) -> Result<ReportSections, Error> {
        let facts = [
            ("training tokens", self.train.report.targets.to_string()),
            ("validation tokens", evaluation.tokens.to_string()),
            ("perplexity", format!("{:.2}", evaluation.scores.perplexity())),
        ];
        Ok(ReportSections {
            about: format!("{} samples of text", self.train.samples.len()),
            facts: facts.map(|(name, value)| (name.to_owned(), value)).to_vec(),
            continuations: self.continuations(model)?,
            ..ReportSections::default()
        })
    }
}

impl Text {
    /// The rows that each optimizer step of a run sees.
    fn rows_of_steps(&self, recipe: &Recipe) -> impl FnMut(usize) -> Vec<usize> + Send + 'static {
        let train = &recipe.train;
        let mut order = Order::new(self.parts.clone(), train.batch, train.seed);
        let by_length = recipe.data.text.group_by_length;
        let mut groups = by_length.then(|| LengthGroups::new(self.train.lengths(), train.batch));
        move |step| match &mut groups {
            Some(groups) => groups.step(step, |step| order.step(step)),
            None => order.step(step),
        }
    }

    /// How `model` completes a few prompts of the validation data.
    fn continuations(&self, model: &CausalLm) -> Result<Vec<Continuation>, Error> {
        let Some(device) = model.devices().into_iter().next().filter(|_| !self.prompts.is_empty()) else {
            return Ok(Vec::new());
        };
        let decoding = self.greedy(SHOWN_TOKENS, SHOWN_PROMPTS);
        let (_, written) =
            score_written(model, &self.base.encoder, &self.prompts, &decoding, &device, |_| ())?;
        let shown = self.prompts.iter().zip(written).map(|(prompt, written)| Continuation {
            prompt: prompt.prompt.clone(),
            written,
            reference: prompt.references.first().cloned().unwrap_or_default(),
        });
        Ok(shown.collect())
    }

    /// The likeliest tokens, whatever the folder says.
    fn greedy(&self, max_new_tokens: usize, batch: usize) -> Decoding {
        let eos_token_id = self.base.encoder.eos.clone();
        let generation = GenerationConfig { eos_token_id, max_new_tokens, ..GenerationConfig::default() };
        Decoding { generation, batch }
    }
}

/// Brings the weights that belong to `encoder` to this machine.
///
/// # Errors
/// If the hub does not give them, or has another commit by now.
fn fetch_weights(model: &ModelSettings, encoder: &TextEncoder) -> Result<(), Error> {
    let folder = model_folder(&model.path, TextBase::wanted(model.init), &Downloads::default())?;
    match folder == encoder.folder {
        true => Ok(()),
        false => Err(Error::ModelMoved { name: path_name(&model.path) }),
    }
}

/// The tokens of each prompt that is completed at evaluations, written like a row of the data.
///
/// # Errors
/// If one cannot be tokenised or leaves no room for an answer.
fn sample_prompts(
    recipe: &Recipe,
    format: TextFormat,
    encoder: &TextEncoder,
) -> Result<Vec<Vec<u32>>, Error> {
    let (settings, prompts) = (&recipe.data.text, &recipe.samples.prompts);
    let texts = match format == TextFormat::Template && settings.template.columns().len() == 1 {
        true => prompt::filled(&settings.template, GivenBy::Option, &[], prompts)?,
        false => prompts.clone(),
    };
    let context = encoder.info.max_tokens;
    let tokens = |(text, shown): (&String, &String)| {
        let wrong = |problem| Error::SamplePrompt { prompt: shown.clone(), problem };
        let tokens = prompt::tokens(text, Reading::Row(format), &settings.system, encoder);
        let tokens = tokens.map_err(|error| wrong(error.to_string()))?;
        match tokens.len() {
            0 => Err(wrong("it has no tokens; give it some words".to_owned())),
            long if long >= context => Err(wrong(format!(
                "its {long} tokens leave no room in the model's context of {context} tokens; shorten it"
            ))),
            _ => Ok(tokens),
        }
    };
    texts.iter().zip(prompts).map(tokens).collect()
}

/// What of the data of a recipe came from the hub.
fn sources(data: &DataRecipe, learned_from: &Found, scored_on: &Found) -> Result<Vec<HubData>, Error> {
    let mut sources = learned_from.origins("data.train")?;
    // What is held out is of the same files.
    if data.validation_split.is_none() {
        sources.extend(scored_on.origins("data.validation")?);
    }
    Ok(sources)
}

/// The format of a recipe about text.
///
/// # Errors
/// If it is one of images.
pub fn text_format(data: &DataRecipe) -> Result<TextFormat, Error> {
    match data.format {
        DataFormat::Text(format) => Ok(format),
        DataFormat::Images(_) => Err(TextError::NoText { format: data.format.to_string() }.into()),
    }
}

/// Reads and tokenises what some sources hold, and says on stderr what became of their rows.
///
/// # Errors
/// If one is absent or empty, or rows are bad and are not to be skipped: those of all sources are listed together.
pub fn open_texts(
    name: &str,
    sources: &[DataSource],
    data: &DataRecipe,
    encoder: &TextEncoder,
    style: Style,
) -> Result<OpenedText, Error> {
    let (mut parts, mut bad) = (Vec::new(), BadRows::default());
    for source in sources {
        let name = match sources {
            [_] => name.to_owned(),
            _ => format!("{name}: {}", path_name(&source.name)),
        };
        match open_text(source, data, encoder) {
            Ok(part) => {
                style.info(&format!("data: {name}: {}{}", part.report, part.cache));
                parts.push(part);
            }
            Err(Error::Text(TextError::BadRows(of_source))) => bad.extend(of_source),
            Err(other) => return Err(other),
        }
    }
    if bad.total() > 0 {
        return Err(TextError::BadRows(bad).into());
    }
    let tokens_of = |source: &DataSource| match sources {
        [_] => format!("{name} tokens"),
        _ => format!("{name} tokens of {}", path_name(&source.name)),
    };
    let warnings = sources.iter().zip(&parts);
    let warnings = warnings.filter_map(|(source, part)| part.unknown_tokens(&tokens_of(source))).collect();
    let reports = parts.iter().map(|part| part.report.clone()).collect();
    let (data, parts) = TextData::joined(parts);
    let opened = OpenedText { data, parts, reports, warnings };
    if sources.iter().any(|source| matches!(source.portion, Portion::HeldOut(_))) {
        say_held_out(opened.drawn(), style);
    }
    Ok(opened)
}

impl OpenedText {
    /// How much this is of the data, if it is not all of it.
    pub fn drawn(&self) -> Option<Drawn> {
        self.reports.iter().filter_map(|report| report.drawn).reduce(Drawn::plus)
    }
}

/// The prompts of all sources.
///
/// # Errors
/// As [`text::references`].
pub fn all_references(
    sources: &[DataSource],
    format: TextFormat,
    settings: &TextSettings,
) -> Result<Vec<References>, TextError> {
    let groups = sources.iter().map(|source| text::references(source, format, settings));
    Ok(groups.collect::<Result<Vec<_>, _>>()?.concat())
}

fn open_text(source: &DataSource, data: &DataRecipe, encoder: &TextEncoder) -> Result<TextData, Error> {
    let template = encoder.chat.as_deref().map(Template);
    let source = TextSource {
        data: source,
        format: text_format(data)?,
        settings: &data.text,
        tokenizer: encoder,
        chat: template.as_ref().map(|template| template as &dyn ChatRender),
        embeddings: encoder.info.vocab_size,
        context: encoder.info.max_tokens,
    };
    let prepared = source.prepare()?;
    for line in prepared.bad_rows.lines() {
        err_line(&format!("data: left out: {line}"));
    }
    Ok(prepared)
}

/// The rows of each part with its weight.
fn weighted(paths: &TrainingPaths, rows: &[Range<usize>]) -> Vec<WeightedSamples> {
    let parts = paths.parts().iter().zip(rows);
    parts
        .map(|(part, rows)| WeightedSamples { samples: rows.clone().collect(), weight: part.weight })
        .collect()
}

/// Shows the first sample of each file as the model will see it, what is learned in colour.
fn show_first(text: &OpenedText, paths: &TrainingPaths, encoder: &TextEncoder) {
    let in_colour = console::colors_enabled_stderr();
    let paint = if in_colour { Paint::Colour } else { Paint::Plain };
    let decode = |ids: &[u32]| encoder.tokenizer.decode(ids, DecodeSpecials::Keep).unwrap_or_default();
    for (path, rows) in paths.paths().zip(&text.parts).take(SHOWN_FILES) {
        let Some(&first) = text.data.rows.get(rows.start).and_then(|row| row.first()) else { continue };
        let of = if text.parts.len() > 1 { format!(" of {}", path_name(path)) } else { String::new() };
        let shown = preview(&text.data.samples[first], paint, &decode);
        err_painted(&format!("data: the first sample{of}, what is learned marked:\n{shown}"));
    }
}
