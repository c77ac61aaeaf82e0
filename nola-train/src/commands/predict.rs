//! `nola-train predict`: what is on images.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use clap::{Args, ValueHint};
use rayon::prelude::*;
use serde::Serialize;

use super::{Global, HeldArgs, ModelArgs, print_json, print_line};
use crate::chosen::Opened;
use crate::data::{BadImage, DataError, FolderImages, ImageReader, images_in};
use crate::printable::{name, path_name};
use crate::progress::{Counted, Style};
use crate::session::{Base, Class, ImageBase};
use crate::settings::Modality;
use crate::terminal::{StdoutError, err_line};
use crate::{Error, assets, device};

/// Images that are looked at in one pass.
const BATCH: usize = 64;

#[derive(Debug, Args)]
pub struct PredictArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    held: HeldArgs,
    /// Image files, and folders: every image in them at any depth, in the order of the names.
    #[arg(required = true, value_hint = ValueHint::AnyPath)]
    images: Vec<PathBuf>,
    /// Classes to name for each image, the most probable first.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    top: u16,
}

/// The JSON object of `predict --json`.
#[derive(Debug, Serialize)]
struct Predictions {
    predictions: Vec<Answer>,
    device: String,
}

/// An image with its classes, or with the reason why there are none.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Answer {
    Classes { image: PathBuf, classes: Vec<Class> },
    Problem { image: PathBuf, problem: String },
}

/// An image to look at.
#[derive(Debug)]
struct Asked {
    /// As it was typed, or lies in a folder that was.
    name: PathBuf,
    file: PathBuf,
}

pub fn run(args: &PredictArgs, global: &Global) -> Result<(), Error> {
    let named = args.model.named()?.held_in(args.held.dtype).quantized(args.held.quantize.quantize);
    if named.modality()? == Modality::Text {
        return Err(Error::WrongModality { command: "predict", found: Modality::Text });
    }
    let asked = asked(&args.images)?;
    let open = device::open(global.device)?;
    let model = named.open::<ImageBase>(&open.device)?;
    let classifier = Classifier { model: &model, top: args.top.into(), device: &open.device };
    let style = if global.json { global.style() } else { Style::Quiet };
    let bar = Counted::start(asked.len(), style);
    let (mut predictions, mut bad, reader) = (Vec::new(), Vec::new(), ImageReader::default());
    for images in asked.chunks(BATCH) {
        let answers = classifier.answers(images, &reader, &mut bad)?;
        model.base.check_unchanged()?;
        bar.show(predictions.len() + answers.len());
        if global.json {
            predictions.extend(answers);
        } else {
            answers.iter().try_for_each(print_answer)?;
        }
    }
    if global.json {
        print_json(&Predictions { predictions, device: open.name })?;
    }
    if bad.is_empty() { Ok(()) } else { Err(DataError::Unanswered { bad, of: asked.len() }.into()) }
}

/// The images that were named, those of folders among them.
fn asked(typed: &[PathBuf]) -> Result<Vec<Asked>, Error> {
    let mut asked = Vec::new();
    for name in typed {
        let path = assets::located(name)?;
        if !path.is_dir() {
            asked.push(Asked { name: name.clone(), file: path });
            continue;
        }
        let FolderImages { images, others, links_outside } = images_in(&path)?;
        let folder = path_name(name);
        if others > 0 {
            err_line(&format!("{folder}: passed over as no images: {others}"));
        }
        if links_outside > 0 {
            err_line(&format!("{folder}: links that leave it and were not followed: {links_outside}"));
        }
        let inside = |file: &Path| name.join(file.strip_prefix(&path).unwrap_or(file));
        asked.extend(images.into_iter().map(|file| Asked { name: inside(&file), file }));
    }
    Ok(asked)
}

fn print_answer(answer: &Answer) -> Result<(), StdoutError> {
    match answer {
        Answer::Classes { image, classes } => {
            let texts = classes.iter().map(|c| format!("{} {:.1} %", name(&c.name), 100.0 * c.probability));
            print_line(&format!("{}: {}", path_name(image), texts.collect::<Vec<_>>().join(", ")))
        }
        // All of them are listed at the end.
        Answer::Problem { .. } => Ok(()),
    }
}

/// A model that names the classes of images.
struct Classifier<'a> {
    model: &'a Opened<ImageBase>,
    /// Classes named of each.
    top: usize,
    device: &'a Device,
}

impl Classifier<'_> {
    /// What is on each image; those that cannot be used go to `bad`, too.
    fn answers(
        &self,
        asked: &[Asked],
        reader: &ImageReader,
        bad: &mut Vec<BadImage>,
    ) -> Result<Vec<Answer>, Error> {
        let preprocessor = &self.model.base.preprocessor;
        let prepared = |asked: &Asked| Ok(preprocessor.evaluate(&reader.decoded(&asked.file)?));
        let prepared: Vec<Result<Vec<f32>, BadImage>> = asked.par_iter().map(prepared).collect();
        let good = asked.iter().zip(&prepared).filter(|(_, pixels)| pixels.is_ok());
        let good: Vec<&Asked> = good.map(|(asked, _)| asked).collect();
        let pixels: Vec<&[f32]> = prepared.iter().flatten().map(Vec::as_slice).collect();
        let mut classes = self.classes(&good, pixels)?.into_iter();
        let answer = |(asked, prepared): (&Asked, Result<Vec<f32>, BadImage>)| {
            let image = asked.name.clone();
            match prepared {
                Ok(_) => Answer::Classes { image, classes: classes.next().expect("one for each good image") },
                Err(problem) => {
                    let message = problem.to_string();
                    bad.push(problem);
                    Answer::Problem { image, problem: message }
                }
            }
        };
        Ok(asked.iter().zip(prepared).map(answer).collect())
    }

    /// The most probable classes of each of these images, in one pass.
    fn classes(&self, images: &[&Asked], pixels: Vec<&[f32]>) -> Result<Vec<Vec<Class>>, Error> {
        if images.is_empty() {
            return Ok(Vec::new());
        }
        let rows = self.model.base.classify(&self.model.adapted.model, &pixels, self.device);
        images.iter().zip(rows).map(|(image, row)| self.most_probable(image, row)).collect()
    }

    fn most_probable(&self, image: &Asked, probabilities: Vec<f32>) -> Result<Vec<Class>, Error> {
        let classes = ImageBase::most_probable(&self.model.adapted.model, probabilities, self.top);
        classes.map_err(|value| Error::NonFiniteAnswer { value, what: image.name.display().to_string() })
    }
}
