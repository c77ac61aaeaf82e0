//! `nola-train generate`: how a language model goes on.

use std::io::{BufRead, ErrorKind, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::Device;
use clap::{Args, ValueHint};
use nola_models::generate::{Cached, Finish, Prompt, stream};
use nola_models::tokenizer::DecodeSpecials;
use nola_models::{CausalLm, WeightDtype};
use serde::Serialize;

use super::decoding::DecodingArgs;
use super::merge::warn_of_rounding;
use super::{Global, HeldArgs, print_json, print_line};
use crate::adapter_argument::AdapterArgument;
use crate::adapter_data::AdapterData;
use crate::chosen::{Named, attached};
use crate::evaluate::{Decoding, Written, write_all};
use crate::memory::peak_bytes;
use crate::option_values::format;
use crate::prompt::{self, GivenBy, Reading};
use crate::session::{Base, TextBase};
use crate::settings::{DataFormat, Modality};
use crate::terminal::{err_line, print_part};
use crate::text::{TextError, TextFormat};
use crate::{Error, device, notices};

/// A line of standard input may have so many bytes, and all lines together so many; all prompts are held at once.
const MOST_LINE_BYTES: u64 = 16 << 20;
const MOST_INPUT_BYTES: u64 = 64 << 20;
/// Standard input may hold so many prompts.
const MOST_PROMPTS: usize = 100_000;

#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// A run folder: its base and its best adapter.
    #[arg(
        long,
        value_name = "FOLDER",
        value_hint = ValueHint::DirPath,
        conflicts_with_all = ["model", "adapter"],
        required_unless_present = "model"
    )]
    run: Option<PathBuf>,
    /// A model folder, a GGUF file, or a model's name on the hub.
    #[arg(long, value_name = "MODEL", value_hint = ValueHint::AnyPath)]
    model: Option<PathBuf>,
    /// An adapter folder for that model; may be repeated with names, and each of them answers.
    #[arg(long, value_name = "[NAME=]FOLDER", value_hint = ValueHint::DirPath, requires = "model")]
    adapter: Vec<PathBuf>,
    /// Prompts; absent: one from each line of stdin.
    prompts: Vec<String>,
    /// Read prompts as rows of this format: e2e, alpaca and so on; absent: as the run or the adapter was trained, or as they
    /// stand.
    #[arg(long, value_name = "FORMAT", value_parser = format(), conflicts_with_all = ["raw", "chat"])]
    format: Option<DataFormat>,
    /// Take prompts as they stand, whatever the adapter was trained on.
    #[arg(long, conflicts_with = "chat")]
    raw: bool,
    /// Take a prompt as what a user says, through the model's chat template.
    #[arg(long)]
    chat: bool,
    /// The text of a column, where the adapter was trained on prompts of an own template; may be repeated. A column that is
    /// not given is what PROMPTS are.
    #[arg(long, value_name = "COLUMN=TEXT", value_parser = field, conflicts_with_all = ["raw", "chat"])]
    field: Vec<(String, String)>,
    /// System prompt of conversations; absent: that of the run or the adapter.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Bake adapters into the weights first: the same text up to rounding, and faster for long ones.
    #[arg(long)]
    merge: bool,
    #[command(flatten)]
    held: HeldArgs,
    #[command(flatten)]
    decoding: DecodingArgs,
}

/// The JSON object of `generate --json`.
#[derive(Debug, Serialize)]
struct Texts {
    texts: Vec<Text>,
    seconds: f64,
    tokens_per_second: f64,
    device: String,
    peak_memory_bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Text {
    adapter: Option<String>,
    prompt: String,
    text: String,
    tokens: usize,
    finish: &'static str,
}

/// A model with an adapter, under the adapter's name.
struct AdaptedModel {
    name: Option<String>,
    model: CausalLm,
    /// Each prompt as the user gave it.
    shown: Vec<String>,
    /// The tokens of each prompt, written as the adapter was trained.
    prompts: Vec<Vec<u32>>,
}

pub fn run(args: &GenerateArgs, global: &Global) -> Result<(), Error> {
    let named = args.named()?.held_in(args.held.dtype).quantized(args.held.quantize.quantize);
    if named.modality()? == Modality::Images {
        return Err(Error::WrongModality { command: "generate", found: Modality::Images });
    }
    let chosen = args.chosen(&named)?;
    let prompts = match args.prompts.is_empty() {
        true if chosen.iter().all(|chosen| args.gives_all(chosen)) => Vec::new(),
        true => lines_of(std::io::stdin().lock())?,
        false => args.prompts.clone(),
    };
    let open = device::open(global.device)?;
    let base: TextBase = named.base(&open.device)?;
    let adapted = |chosen| args.adapted(chosen, &prompts, &base, named.model.dtype, &open.device);
    let models: Vec<AdaptedModel> = chosen.into_iter().map(adapted).collect::<Result<_, Error>>()?;
    let decoding = args.decoding.over(&base.encoder)?;
    let started = Instant::now();
    let is_one =
        models[0].prompts.len() == 1 && models.len() == 1 && decoding.generation.num_return_sequences == 1;
    let texts = if is_one && decoding.generation.num_beams == 1 && !global.json {
        streamed(&models[0], &base, &decoding, &open.device).map(|text| vec![text])
    } else {
        written(&models, &base, &decoding, &open.device, global)
    };
    let texts = texts.map_err(|error| args.decoding.explained(error, &base.encoder.generation_file()))?;
    base.check_unchanged()?;
    report(texts, started.elapsed().as_secs_f64(), open.name, global)
}

impl GenerateArgs {
    /// The model, with its adapter if a run was named.
    fn named(&self) -> Result<Named, Error> {
        match (&self.run, &self.model) {
            (Some(run), _) => Named::of_run(run),
            (None, Some(model)) => Ok(Named::of_folders(model, None)),
            (None, None) => unreachable!("clap requires --run or --model"),
        }
    }

    /// The adapter of the run, or those that were typed; the base alone if there is none.
    fn chosen(&self, named: &Named) -> Result<Vec<Chosen>, Error> {
        if self.adapter.is_empty() {
            let data = named.data()?;
            return Ok(vec![Chosen { name: None, adapter: named.adapter.clone(), data }]);
        }
        let is_one = self.adapter.len() == 1;
        let chosen = |typed: &PathBuf| {
            let AdapterArgument { name, folder } = AdapterArgument::parse(typed)?;
            let data = AdapterData::of_folder(&folder)?;
            self.print_format(data.as_ref(), &folder);
            // Among several, one without a name is called what was typed.
            let typed = (!is_one).then(|| folder.display().to_string());
            Ok(Chosen { name: name.or(typed), adapter: Some(folder), data })
        };
        self.adapter.iter().map(chosen).collect()
    }

    /// How prompts are read: as typed, else as the adapter was trained, else as they stand.
    fn reading(&self, data: Option<&AdapterData>) -> Result<Reading, Error> {
        if self.chat {
            return Ok(Reading::Chat);
        }
        let trained = data.map(|data| data.format).filter(|_| !self.raw);
        match self.format.or(trained) {
            Some(DataFormat::Text(format)) => Ok(Reading::Row(format)),
            Some(format @ DataFormat::Images(_)) => {
                Err(TextError::NoText { format: format.to_string() }.into())
            }
            None => Ok(Reading::Plain),
        }
    }

    /// Says how prompts are read where an adapter's folder decides it or is overruled.
    fn print_format(&self, data: Option<&AdapterData>, folder: &Path) {
        let Some(trained) = data.map(|data| data.format) else { return };
        let typed = if self.chat {
            "a conversation".to_owned()
        } else if self.raw {
            "they stand".to_owned()
        } else {
            self.format.unwrap_or(trained).to_string()
        };
        let folder = folder.display();
        err_line(&match typed == trained.to_string() {
            true => format!(
                "prompts: read as {typed}, which {folder} was trained on; --raw takes them as they stand"
            ),
            false => format!("prompts: read as {typed}, as asked; {folder} was trained on {trained}"),
        });
    }

    fn adapted(
        &self,
        chosen: Chosen,
        prompts: &[String],
        base: &TextBase,
        dtype: WeightDtype,
        device: &Device,
    ) -> Result<AdaptedModel, Error> {
        let Chosen { name, adapter, data } = chosen;
        let reading = self.reading(data.as_ref())?;
        let folder = adapter.as_deref().unwrap_or(Path::new(""));
        notices::print(base.encoder.other_template(data.as_ref(), folder).as_slice());
        let (shown, texts) = self.texts(reading, data.as_ref(), prompts)?;
        let system = self.system.clone().or(data.map(|data| data.system)).unwrap_or_default();
        let tokens = |text: &String| prompt::tokens(text, reading, &system, &base.encoder);
        let prompts = texts.iter().map(tokens).collect::<Result<_, Error>>()?;
        let model = match &adapter {
            Some(folder) => self.with_adapter(base, dtype, folder, device)?,
            None => base.model.clone(),
        };
        Ok(AdaptedModel { name, model, shown, prompts })
    }

    /// Each prompt as the user gave it and as it is read: a template is filled here.
    fn texts(
        &self,
        reading: Reading,
        data: Option<&AdapterData>,
        prompts: &[String],
    ) -> Result<(Vec<String>, Vec<String>), Error> {
        if reading != Reading::Row(TextFormat::Template) {
            return match &self.field[..] {
                [] => Ok((prompts.to_vec(), prompts.to_vec())),
                [(name, _), ..] => Err(Error::FieldWithoutTemplate { field: name.clone() }),
            };
        }
        let template = data.map(|data| &data.template).filter(|template| !template.is_empty());
        let template = template.ok_or(TextError::NoTemplate)?;
        let texts = prompt::filled(template, GivenBy::Option, &self.field, prompts)?;
        Ok((if prompts.is_empty() { texts.clone() } else { prompts.to_vec() }, texts))
    }

    /// Whether the columns that were typed are all that the adapter's template has places for.
    fn gives_all(&self, chosen: &Chosen) -> bool {
        let is_given = |column: &&str| self.field.iter().any(|(name, _)| name == column);
        let template = chosen.data.as_ref().map(|data| &data.template);
        !self.field.is_empty() && template.is_some_and(|template| template.columns().iter().all(is_given))
    }

    fn with_adapter(
        &self,
        base: &TextBase,
        dtype: WeightDtype,
        folder: &Path,
        device: &Device,
    ) -> Result<CausalLm, Error> {
        let adapted = attached(base, folder, device)?;
        if !self.merge {
            return Ok(adapted.model);
        }
        let (model, survivors) = adapted.merge_counting(&|weight| dtype.rounded(weight))?;
        warn_of_rounding(survivors, dtype);
        Ok(model)
    }
}

/// An adapter that was named, or none, and what is known of the data it was trained on.
struct Chosen {
    name: Option<String>,
    adapter: Option<PathBuf>,
    data: Option<AdapterData>,
}

/// A column with its text, as `--field` has it.
fn field(typed: &str) -> Result<(String, String), String> {
    let parts = typed.split_once('=').filter(|(name, _)| !name.is_empty());
    let (name, text) = parts.ok_or("expected COLUMN=TEXT, as in --field question=Who?")?;
    Ok((name.to_owned(), text.to_owned()))
}

/// One prompt from each line that is not blank.
fn lines_of(mut input: impl BufRead) -> Result<Vec<String>, Error> {
    let mut prompts = Vec::new();
    let mut all = 0;
    for line in 1.. {
        let mut bytes = Vec::new();
        let read = input.by_ref().take(MOST_LINE_BYTES + 1).read_until(b'\n', &mut bytes);
        let read = read.map_err(|source| Error::Input { source })? as u64;
        if read == 0 {
            break;
        }
        if read > MOST_LINE_BYTES {
            return Err(Error::LongInput { line, bytes: MOST_LINE_BYTES });
        }
        all += read;
        if prompts.len() == MOST_PROMPTS || all > MOST_INPUT_BYTES {
            return Err(Error::ManyPrompts { prompts: MOST_PROMPTS, bytes: MOST_INPUT_BYTES });
        }
        let no_text = |error| Error::Input { source: std::io::Error::new(ErrorKind::InvalidData, error) };
        let text = String::from_utf8(bytes).map_err(no_text)?;
        let prompt = text.strip_suffix('\n').unwrap_or(&text);
        let prompt = prompt.strip_suffix('\r').unwrap_or(prompt);
        if !prompt.trim().is_empty() {
            prompts.push(prompt.to_owned());
        }
    }
    if prompts.is_empty() { Err(Error::NoPrompt) } else { Ok(prompts) }
}

/// Completes one prompt, and shows each word as soon as it is there.
fn streamed(
    adapted: &AdaptedModel,
    base: &TextBase,
    decoding: &Decoding,
    device: &Device,
) -> Result<Text, Error> {
    let tokens = &adapted.prompts[0];
    let mut shown = base.encoder.tokenizer.stream(tokens, DecodeSpecials::Skip);
    let (mut text, mut failed) = (String::new(), None);
    let mut show = |part: Option<String>| -> Result<(), Error> {
        let part = part.unwrap_or_default();
        text.push_str(&part);
        Ok(print_part(&part)?)
    };
    let prompts = [Prompt { row: 0, tokens: tokens.clone() }];
    let mut decoder = Cached::new(&adapted.model, device);
    let generated = stream(&mut decoder, &prompts, &decoding.generation, |new| {
        if decoding.generation.eos_token_id.contains(&new.token) {
            return ControlFlow::Continue(());
        }
        match shown.push(new.token).map_err(Error::from).and_then(&mut show) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    show(shown.finish()?)?;
    print_line("")?;
    let generated = &generated[0][0];
    Ok(Text {
        adapter: adapted.name.clone(),
        prompt: adapted.shown[0].clone(),
        text,
        tokens: generated.tokens.len(),
        finish: finish(generated.finish),
    })
}

/// Completes every prompt with every adapter.
fn written(
    models: &[AdaptedModel],
    base: &TextBase,
    decoding: &Decoding,
    device: &Device,
    global: &Global,
) -> Result<Vec<Text>, Error> {
    let mut texts = Vec::new();
    for adapted in models {
        let all = write_all(&adapted.model, &base.encoder, &adapted.prompts, decoding, device, |_| ())?;
        for (prompt, written) in adapted.shown.iter().zip(all) {
            for Written { text, tokens, finish: end } in written {
                if !global.json {
                    let name = adapted.name.as_ref().map_or(String::new(), |name| format!("[{name}] "));
                    print_line(&format!("== {name}{prompt}\n{}", text.trim()))?;
                }
                let (adapter, prompt) = (adapted.name.clone(), prompt.clone());
                texts.push(Text { adapter, prompt, text, tokens, finish: finish(end) });
            }
        }
    }
    Ok(texts)
}

fn report(texts: Vec<Text>, seconds: f64, device: String, global: &Global) -> Result<(), Error> {
    let tokens: usize = texts.iter().map(|text| text.tokens).sum();
    let tokens_per_second = tokens as f64 / seconds.max(1e-9);
    if global.json {
        let peak_memory_bytes = peak_bytes();
        print_json(&Texts { texts, seconds, tokens_per_second, device, peak_memory_bytes })?;
        return Ok(());
    }
    if !global.quiet {
        let ends: Vec<&str> = texts.iter().map(|text| text.finish).collect();
        let end = if let [end] = ends[..] { format!(", ended by {end}") } else { String::new() };
        err_line(&format!("{tokens} tokens, {tokens_per_second:.1} a second on {device}{end}"));
    }
    Ok(())
}

fn finish(finish: Finish) -> &'static str {
    match finish {
        Finish::Eos => "end token",
        Finish::MaxNewTokens => "max-new-tokens",
        Finish::ContextFull => "the model's context",
        Finish::Stopped => "stop",
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Cursor, repeat};

    use super::*;

    #[test]
    fn every_line_that_is_not_blank_is_a_prompt() {
        let read = |text: &str| lines_of(Cursor::new(text.to_owned()));
        assert_eq!(read(" a \r\n\n  \nb").unwrap(), [" a ", "b"]);
        assert!(matches!(read("\n \n"), Err(Error::NoPrompt)));
        assert!(matches!(lines_of(Cursor::new(b"a\n\xff\n")), Err(Error::Input { .. })));
    }

    #[test]
    fn more_prompts_than_can_be_held_are_refused() {
        let read = |line: &str, lines: usize| lines_of(Cursor::new(line.repeat(lines)));
        assert_eq!(read("a\n", MOST_PROMPTS).unwrap().len(), MOST_PROMPTS);
        let long = format!("{}\n", "a".repeat(1 << 20));
        for error in [read("a\n", MOST_PROMPTS + 1), read(&long, 65)].map(Result::unwrap_err) {
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains("give them in several runs"), "{error}");
        }
    }

    #[test]
    fn a_line_without_end_is_refused_before_it_is_read_whole() {
        let error = lines_of(Cursor::new("a\n").chain(BufReader::new(repeat(b'b')))).unwrap_err();
        assert!(matches!(error, Error::LongInput { line: 2, bytes: MOST_LINE_BYTES }));
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("longer than the context"), "{error}");
    }
}
