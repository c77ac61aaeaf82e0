//! `nola-train evaluate`: scores on labelled pictures.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::{Global, ModelArgs, print_json, print_line};

use crate::data::{DataError, Split};
use crate::evaluate::evaluate;
use crate::fit::Splits;
use crate::memory::peak_bytes;
use crate::recipe::{DataFormat, DataRecipe};
use crate::{Error, device};

#[derive(Debug, Args)]
pub struct EvaluateArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Labelled pictures; absent: the validation pictures of the run.
    #[arg(long, value_name = "FOLDER", required_unless_present = "run")]
    data: Option<PathBuf>,
    /// Layout of the data.
    #[arg(long, value_enum, default_value_t = DataFormat::Folder, requires = "data")]
    format: DataFormat,
}

/// The JSON object of `evaluate --json`.
#[derive(Debug, Serialize)]
struct Scored {
    accuracy: f64,
    loss: f32,
    pictures: usize,
    classes: Vec<String>,
    /// Rows: true class; columns: predicted class.
    confusion: Vec<Vec<u32>>,
    seconds: f64,
    device: String,
    peak_memory_bytes: Option<u64>,
}

pub fn run(args: &EvaluateArgs, global: &Global) -> Result<(), Error> {
    let open = device::open(global.device)?;
    let chosen = args.model.named()?.open(&open.device)?;
    let data = match (&args.data, &chosen.recipe) {
        (Some(folder), _) => {
            DataRecipe { format: args.format, validation: folder.clone(), ..DataRecipe::default() }
        }
        (None, Some(recipe)) => recipe.data.clone(),
        (None, None) => unreachable!("clap requires --data or --run"),
    };
    let images = Splits::open_one(&data, Split::Validation)?;
    let labels = &chosen.adapted.model.config().labels;
    if labels != images.classes() {
        return Err(DataError::ForeignClasses {
            root: data.validation,
            classes: images.classes().to_vec(),
            labels: labels.clone(),
        }
        .into());
    }
    let started = std::time::Instant::now();
    let evaluation = evaluate(&chosen.adapted.model, &images, &chosen.preprocessor, &open.device)?;
    let scored = Scored {
        accuracy: evaluation.scores.accuracy,
        loss: evaluation.scores.loss,
        pictures: images.len(),
        classes: images.classes().to_vec(),
        confusion: evaluation.confusion,
        seconds: started.elapsed().as_secs_f64(),
        device: open.name,
        peak_memory_bytes: peak_bytes(),
    };
    if global.json {
        print_json(&scored);
    } else {
        print_line(&format!(
            "accuracy {:.2} %, loss {:.4} nats, {} pictures, {:.1} s on {}",
            100.0 * scored.accuracy,
            scored.loss,
            scored.pictures,
            scored.seconds,
            scored.device
        ));
    }
    Ok(())
}
