//! Labelled pictures.

use serde::Serialize;

use super::EvaluateArgs;
use crate::base::{Base, PictureBase};
use crate::chosen::Named;
use crate::commands::{Global, print_json, print_line};
use crate::data::{DataError, Split};
use crate::evaluate::evaluate;
use crate::memory::peak_bytes;
use crate::recipe::Subject;
use crate::task::Splits;
use crate::{Error, device};

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

pub(super) fn run(named: Named, args: &EvaluateArgs, global: &Global) -> Result<(), Error> {
    let open = device::open(global.device)?;
    let chosen = named.open::<PictureBase>(&open.device)?;
    let data = args.data_recipe(chosen.recipe.as_ref().map(|recipe| &recipe.data), Subject::Pictures);
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
    let evaluation = evaluate(&chosen.adapted.model, &images, &chosen.base.preprocessor, &open.device)?;
    chosen.base.check_unchanged()?;
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
        print_json(&scored)?;
    } else {
        print_line(&format!(
            "accuracy {:.2} %, loss {:.4} nats, {} pictures, {:.1} s on {}",
            100.0 * scored.accuracy,
            scored.loss,
            scored.pictures,
            scored.seconds,
            scored.device
        ))?;
    }
    Ok(())
}
