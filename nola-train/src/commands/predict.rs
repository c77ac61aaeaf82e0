//! `nola-train predict`: what is on images.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use clap::Args;
use serde::Serialize;

use super::{Global, HeldArgs, ModelArgs, print_json, print_line};
use crate::base::{Base, ImageBase};
use crate::chosen::Opened;
use crate::data::{DataError, decoded};
use crate::evaluate::host_rows;
use crate::printable::{name, path_name};
use crate::recipe::Modality;
use crate::{Error, assets, device};

#[derive(Debug, Args)]
pub struct PredictArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    held: HeldArgs,
    /// Image files.
    #[arg(required = true)]
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

#[derive(Debug, Serialize)]
struct Answer {
    image: PathBuf,
    classes: Vec<Class>,
}

#[derive(Debug, Serialize)]
struct Class {
    name: String,
    probability: f32,
}

pub fn run(args: &PredictArgs, global: &Global) -> Result<(), Error> {
    let named = args.model.named()?.held_in(args.held.dtype);
    if named.modality()? == Modality::Text {
        return Err(Error::WrongModality { command: "predict", found: Modality::Text });
    }
    let open = device::open(global.device)?;
    let model = named.open::<ImageBase>(&open.device)?;
    let answers: Result<Vec<Answer>, Error> = (args.images.iter())
        .map(|image| answer(image, &model, usize::from(args.top), &open.device))
        .collect();
    let predictions = answers?;
    model.base.check_unchanged()?;
    if global.json {
        print_json(&Predictions { predictions, device: open.name })?;
        return Ok(());
    }
    for answer in predictions {
        let classes =
            answer.classes.iter().map(|c| format!("{} {:.1} %", name(&c.name), 100.0 * c.probability));
        print_line(&format!("{}: {}", path_name(&answer.image), classes.collect::<Vec<_>>().join(", ")))?;
    }
    Ok(())
}

fn answer(image: &Path, model: &Opened<ImageBase>, top: usize, device: &Device) -> Result<Answer, Error> {
    let (vit, preprocessor) = (&model.adapted.model, &model.base.preprocessor);
    let [height, width] = preprocessor.output_size();
    let pixels = preprocessor.evaluate(&decoded(&assets::located(image)?).map_err(DataError::from)?);
    let pixels = Tensor::from_data(TensorData::new(pixels, [1, 3, height, width]), device);
    let probabilities = host_rows(vit.probabilities(vit.forward(pixels))).concat();
    if let Some(&value) = probabilities.iter().find(|probability| !probability.is_finite()) {
        return Err(Error::NonFiniteAnswer { value, what: image.display().to_string() });
    }
    let labels = &vit.config().labels;
    let mut classes: Vec<Class> = (probabilities.into_iter().enumerate())
        .map(|(index, probability)| {
            let label = labels.get(index).cloned().unwrap_or_else(|| format!("class {index}"));
            Class { name: label, probability }
        })
        .collect();
    classes.sort_by(|left, right| right.probability.total_cmp(&left.probability));
    classes.truncate(top);
    Ok(Answer { image: image.to_owned(), classes })
}
