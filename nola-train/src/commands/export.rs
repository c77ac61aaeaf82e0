//! `nola-train export`: an adapter as a LoRA folder that PEFT loads.

use std::path::PathBuf;

use burn::tensor::{Device, Tensor, TensorData};
use clap::{Args, ValueEnum};
use nola_core::Adapted;
use nola_core::folder::{Description, peft};
use nola_models::Vit;
use nola_models::vit::{Pooling, peft_names};
use serde_json::json;

use super::{Global, ModelArgs, print_json, print_line};
use crate::evaluate::host_rows;
use crate::{Error, device};

#[derive(Debug, Args)]
pub struct ExportArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Folder to write; it must not hold anything yet.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Names of modules that PEFT will look for: those of transformers 5, or of 4 and before.
    #[arg(long, value_enum, default_value_t = Names::Transformers5)]
    names: Names,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Names {
    #[value(name = "transformers-5")]
    Transformers5,
    #[value(name = "transformers-4")]
    Transformers4,
}

/// Exporting runs on the CPU, whatever `--device` says: its bits are the same on every machine.
pub fn run(args: &ExportArgs, global: &Global) -> Result<(), Error> {
    let device = device::cpu().device;
    let named = args.model.named()?;
    let opened = named.clone().open(&device)?;
    check_exportable(&opened.adapted)?;
    let generation = match args.names {
        Names::Transformers5 => peft::Generation::Transformers5,
        Names::Transformers4 => peft::Generation::Transformers4,
    };
    let description = Description {
        base: opened.identity.clone(),
        labels: opened.adapted.model.config().labels.clone(),
        summary: String::new(),
    };
    peft::write(&args.out, &opened.adapted, &peft_names, generation, &description)?;
    let again = named.base(&device)?.with_adapter(&args.out, &device)?;
    let difference = largest_difference(&opened.adapted, &again, &device);
    // Both compute the same products in the same order; only expanded factors went through the file.
    if difference > 1e-5 {
        return Err(Error::ExportDiffers { folder: args.out.clone(), difference });
    }
    if global.json {
        let sites = opened.adapted.sites().len();
        print_json(&json!({ "folder": args.out, "sites": sites, "largest_difference": difference }));
        return Ok(());
    }
    print_line(&format!(
        "exported {} sites to {}; reloaded, its logits differ by at most {difference:.1e}",
        opened.adapted.sites().len(),
        args.out.display()
    ));
    Ok(())
}

/// PEFT finds modules by the names of transformers, and refuses a LoRA without targets.
fn check_exportable(adapted: &Adapted<Vit>) -> Result<(), Error> {
    let refused = |problem| Err(Error::NotExportable { problem });
    if adapted.sites().is_empty() {
        return refused("there is no adapter to export, only a head or dense weights");
    }
    match adapted.model.config().pooling {
        Pooling::ClassToken => Ok(()),
        Pooling::Mean | Pooling::MeanThenNorm => refused(
            "the base averages its patches, which no ViT of transformers does, so PEFT cannot hold it",
        ),
    }
}

/// The largest difference of two models' logits on fixed pixels, relative to the largest logit.
fn largest_difference(left: &Adapted<Vit>, right: &Adapted<Vit>, device: &Device) -> f32 {
    let side = left.model.config().image_size;
    let pixels: Vec<f32> = (0..2 * 3 * side * side).map(|n| (n as f32 * 0.7).sin()).collect();
    let pixels = Tensor::<4>::from_data(TensorData::new(pixels, [2, 3, side, side]), device);
    let logits = |model: &Adapted<Vit>| host_rows(model.model.forward(pixels.clone())).concat();
    let (left, right) = (logits(left), logits(right));
    let largest = left.iter().fold(1e-6_f32, |largest, value| largest.max(value.abs()));
    left.iter().zip(&right).fold(0.0_f32, |most, (l, r)| most.max((l - r).abs() / largest))
}
