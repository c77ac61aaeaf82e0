//! Labelled images.

use serde::Serialize;

use super::EvaluateArgs;
use crate::chosen::Named;
use crate::commands::{Global, print_json, print_line};
use crate::data::{Dataset, Matched, few};
use crate::evaluate::evaluate;
use crate::memory::peak_bytes;
use crate::printable;
use crate::session::{Base, ImageBase};
use crate::settings::Modality;
use crate::task::{load, say_held_out};
use crate::terminal::err_line;
use crate::{Error, device};

/// The JSON object of `evaluate --json`.
#[derive(Debug, Serialize)]
struct Scored {
    accuracy: f64,
    loss: f32,
    images: usize,
    classes: Vec<String>,
    /// Rows: true class; columns: predicted class.
    confusion: Vec<Vec<u32>>,
    seconds: f64,
    device: String,
    peak_memory_bytes: Option<u64>,
}

pub(super) fn run(named: Named, args: &EvaluateArgs, global: &Global) -> Result<(), Error> {
    let open = device::open(global.device)?;
    let chosen = named.open::<ImageBase>(&open.device)?;
    let data =
        args.data_recipe(chosen.recipe.as_ref().map(|recipe| recipe.data.clone()), Modality::Images)?;
    let vit = &chosen.adapted.model;
    chosen.base.check_one_class_each(vit)?;
    let (dataset, held_out) = Dataset::scored_on(&data.images(chosen.seed())?)?;
    say_held_out(held_out, global.style());
    args.warn_of_change(held_out);
    let matched = dataset.matched_to(&vit.config().labels)?;
    say_classes(&matched);
    let images = load(matched.dataset, &data)?;
    let started = std::time::Instant::now();
    let evaluation = evaluate(vit, &images, &chosen.base.preprocessor, &open.device)?;
    chosen.base.check_unchanged()?;
    evaluation.check_finite(&images)?;
    let scored = Scored {
        accuracy: evaluation.scores.accuracy,
        loss: evaluation.scores.loss,
        images: images.len(),
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
            "accuracy {:.2} %, loss {:.4} nats, {} images, {:.1} s on {}",
            100.0 * scored.accuracy,
            scored.loss,
            scored.images,
            scored.seconds,
            scored.device
        ))?;
    }
    Ok(())
}

/// Says which classes the scores are about, where that is not plain.
fn say_classes(matched: &Matched) {
    let Matched { dataset, missing, by_order } = matched;
    if *by_order {
        let order = printable::names(&dataset.classes);
        err_line(&format!(
            "data: the model has numbers for names; its classes are taken to be, in this order: {order}"
        ));
    }
    if !missing.is_empty() {
        err_line(&format!("data: no images of {}", few(missing)));
    }
}
