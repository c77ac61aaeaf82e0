//! `nola-train export`: an adapter as a LoRA folder that PEFT loads, or with fewer bits a coefficient.

use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};
use nola_core::Adapted;
use nola_core::folder::{self, BaseIdentity, CoefficientBits, Description, PartialFolder, peft};
use nola_models::WeightDtype;
use serde_json::{Value, json};

use super::{Global, ModelArgs, QuantizeArgs, print_json, print_line};
use crate::chosen::{Named, Opened};
use crate::model_with_loss::ModelWithLoss;
use crate::session::{Base, ImageBase, ReadAdapter, TextBase};
use crate::settings::Modality;
use crate::{Error, device};

#[derive(Debug, Args)]
pub struct ExportArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    quantize: QuantizeArgs,
    /// Folder to write; it must not hold anything yet.
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    out: PathBuf,
    /// Names of modules that PEFT will look for: those of transformers 5, or of 4 and before.
    #[arg(long, value_enum, default_value_t = Names::Transformers5)]
    names: Names,
    /// Write a NOLA adapter folder of this program again, with so many bits a coefficient, instead of a LoRA for PEFT.
    #[arg(long, value_name = "BITS", value_parser = coefficient_bits, conflicts_with = "names")]
    coefficient_bits: Option<CoefficientBits>,
}

fn coefficient_bits(text: &str) -> Result<CoefficientBits, String> {
    let bits = text.parse().ok().and_then(|bits: u8| CoefficientBits::try_from(bits).ok());
    bits.ok_or_else(|| "possible: 32, 16, 8, 4, 3, 2".to_owned())
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
    let named = args.model.named()?.held_in(Some(WeightDtype::F32)).quantized(args.quantize.quantize).dense();
    let Exported { sites, difference } = match named.modality()? {
        Modality::Images => export::<ImageBase>(&named, args)?,
        Modality::Text => export::<TextBase>(&named, args)?,
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

/// Both compute the same products in the same order; only expanded factors go through the file.
const TOLERANCE: f32 = 1e-5;

/// What was written.
struct Exported {
    sites: usize,
    /// Largest difference of the reloaded adapter's logits, relative to the largest.
    difference: f32,
}

fn export<B: Base>(named: &Named, args: &ExportArgs) -> Result<Exported, Error> {
    // A large model is not loaded for a folder that cannot be written.
    folder::check_free(&args.out)?;
    let device = device::cpu().device;
    let Opened { adapted, base, .. } = named.clone().open::<B>(&device)?;
    if adapted.sites().is_empty() {
        let problem = "there is no adapter to export, only a head or dense weights";
        return Err(Error::NotExportable { problem });
    }
    if args.coefficient_bits.is_none() {
        base.check_exportable()?;
    }
    let read = named.adapter.as_deref().map(ReadAdapter::open).transpose()?;
    let quantization = read.and_then(|adapter| adapter.trained_over());
    let description = Description {
        base: BaseIdentity { quantization, ..base.identity().clone() },
        labels: B::labels(&adapted.model).to_vec(),
        summary: String::new(),
        data: named.data()?.map_or(Value::Null, |data| data.to_value()),
    };
    let stored = as_stored(&adapted, args.coefficient_bits)?;
    let before = base.fixed_logits(&stored.model, &device);
    check_finite(&before)?;
    // It gets its name once it was compared: what is wrong is not there for anybody to use.
    let (partial, _) = match args.coefficient_bits {
        None => begin_for_peft(&base, &adapted, args, &description)?,
        Some(bits) => folder::begin(&args.out, &adapted, &description, bits)?,
    };
    // What a user should hear of the adapter was said of its own folder.
    let again = base.clone().with_adapter(ReadAdapter::open(partial.path())?, &device, &|_| {})?.adapted;
    let difference = largest_difference(&before, &base.fixed_logits(&again.model, &device));
    base.check_unchanged()?;
    if difference.is_nan() || difference > TOLERANCE {
        return Err(Error::ExportDiffers { folder: args.out.clone(), difference });
    }
    partial.finish()?;
    Ok(Exported { sites: adapted.sites().len(), difference })
}

/// What the folder will hold: what is rounded is rounded once, by its writer.
fn as_stored<M: ModelWithLoss>(
    adapted: &Adapted<M>,
    bits: Option<CoefficientBits>,
) -> Result<Adapted<M>, Error> {
    match bits {
        None => Ok(adapted.clone()),
        Some(bits) if adapted.config().is_none_or(|config| !config.has_coefficients()) => {
            let cure = "only coefficients, such as NOLA's, are stored in so many bits, and this adapter has none; leave it out";
            let value = u8::from(bits).to_string();
            Err(nola_core::Error::BadSetting { field: "--coefficient-bits", value, cure }.into())
        }
        Some(bits) => Ok(folder::as_stored(adapted.clone(), bits)?),
    }
}

fn begin_for_peft<B: Base>(
    base: &B,
    adapted: &Adapted<B::Model>,
    args: &ExportArgs,
    description: &Description,
) -> Result<(PartialFolder, u64), Error> {
    let generation = match args.names {
        Names::Transformers5 => peft::Generation::Transformers5,
        Names::Transformers4 => peft::Generation::Transformers4,
    };
    let modules = |site: &str| base.foreign_module(site);
    Ok(peft::begin(&args.out, adapted, &modules, generation, base.peft_task(), description)?)
}

/// An adapter that makes NaN is of no use to PEFT either.
fn check_finite(logits: &[f32]) -> Result<(), Error> {
    match logits.iter().filter(|logit| !logit.is_finite()).count() {
        0 => Ok(()),
        count => {
            let name = format!("logits (of {}) with the adapter", logits.len());
            Err(nola_core::Error::NotFinite { name, count }.into())
        }
    }
}

/// The largest difference of two lists, relative to the largest number of the first; NaN if one of them holds NaN.
fn largest_difference(left: &[f32], right: &[f32]) -> f32 {
    // `max` would pass over NaN.
    let larger = |most: f32, value: f32| {
        if value.is_nan() || value > most { value } else { most }
    };
    let largest = left.iter().fold(1e-6_f32, |largest, value| larger(largest, value.abs()));
    left.iter().zip(right).fold(0.0_f32, |most, (l, r)| larger(most, (l - r).abs() / largest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_relative_to_the_largest_number() {
        assert_eq!(largest_difference(&[1.0, -4.0], &[1.0, -3.0]), 0.25);
        assert_eq!(largest_difference(&[1.0, -4.0], &[1.0, -4.0]), 0.0);
    }

    #[test]
    fn what_is_no_number_differs_from_everything() {
        for (left, right) in
            [([f32::NAN, 1.0], [f32::NAN, 1.0]), ([1.0, 2.0], [f32::NAN, 2.0]), ([1.0, f32::NAN], [1.0, 2.0])]
        {
            assert!(largest_difference(&left, &right).is_nan(), "{left:?} and {right:?}");
        }
        assert!(largest_difference(&[f32::INFINITY], &[f32::INFINITY]).is_nan());
    }

    #[test]
    fn logits_that_are_no_numbers_are_an_error_of_the_adapter() {
        for logits in [[0.0, f32::NAN], [f32::INFINITY, 1.0]] {
            let error = check_finite(&logits).expect_err("one is NaN");
            assert_eq!(error.exit_code(), 6);
            assert!(error.to_string().contains("1 numbers that are not finite"), "{error}");
        }
        check_finite(&[0.0, -1.0]).expect("both are numbers");
    }
}
