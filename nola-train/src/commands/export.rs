//! `nola-train export`: an adapter as a LoRA folder that PEFT loads.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use nola_core::folder::{Description, peft};
use nola_models::WeightDtype;
use serde_json::json;

use super::{Global, ModelArgs, print_json, print_line};
use crate::base::{Base, PictureBase, TextBase};
use crate::chosen::{Named, Opened};
use crate::recipe::Subject;
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

/// Exporting runs on the CPU and in f32, whatever `--device` and the run say: its bits are the same on every machine.
pub fn run(args: &ExportArgs, global: &Global) -> Result<(), Error> {
    let named = args.model.named()?.held_in(Some(WeightDtype::F32));
    let Exported { sites, difference } = match named.subject()? {
        Subject::Pictures => export::<PictureBase>(&named, args)?,
        Subject::Text => export::<TextBase>(&named, args)?,
    };
    if global.json {
        print_json(&json!({ "folder": args.out, "sites": sites, "largest_difference": difference }))?;
        return Ok(());
    }
    print_line(&format!(
        "exported {sites} sites to {}; reloaded, its logits differ by at most {difference:.1e}",
        args.out.display()
    ))?;
    Ok(())
}

/// What was written.
struct Exported {
    sites: usize,
    /// Largest difference of the reloaded adapter's logits, relative to the largest.
    difference: f32,
}

fn export<B: Base>(named: &Named, args: &ExportArgs) -> Result<Exported, Error> {
    let device = device::cpu().device;
    let Opened { adapted, base, .. } = named.clone().open::<B>(&device)?;
    if adapted.sites().is_empty() {
        let problem = "there is no adapter to export, only a head or dense weights";
        return Err(Error::NotExportable { problem });
    }
    base.check_exportable()?;
    let generation = match args.names {
        Names::Transformers5 => peft::Generation::Transformers5,
        Names::Transformers4 => peft::Generation::Transformers4,
    };
    let description = Description {
        base: base.identity().clone(),
        labels: B::labels(&adapted.model).to_vec(),
        summary: String::new(),
    };
    let modules = |site: &str| base.foreign_module(site);
    peft::write(&args.out, &adapted, &modules, generation, base.peft_task(), &description)?;
    let again = base.clone().with_adapter(&args.out, &device)?;
    let [before, after] = [&adapted, &again].map(|of| base.fixed_logits(&of.model, &device));
    let difference = largest_difference(&before, &after);
    base.check_unchanged()?;
    // Both compute the same products in the same order; only expanded factors went through the file.
    if difference > 1e-5 {
        return Err(Error::ExportDiffers { folder: args.out.clone(), difference });
    }
    Ok(Exported { sites: adapted.sites().len(), difference })
}

/// The largest difference of two lists, relative to the largest number of the first.
fn largest_difference(left: &[f32], right: &[f32]) -> f32 {
    let largest = left.iter().fold(1e-6_f32, |largest, value| largest.max(value.abs()));
    left.iter().zip(right).fold(0.0_f32, |most, (l, r)| most.max((l - r).abs() / largest))
}
