//! `nola-train merge`: an adapter baked into dense weights.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use nola_core::folder::check_free;
use nola_core::{Survivors, packed_words};
use nola_models::WeightDtype;
use serde_json::json;

use super::{Global, ModelArgs, QuantizeArgs, print_json, print_line};
use crate::amounts::percent;
use crate::chosen::Named;
use crate::option_values::dtype;
use crate::session::{Base, ImageBase, TextBase};
use crate::settings::Modality;
use crate::terminal::err_line;
use crate::{Error, device};

#[derive(Debug, Args)]
pub struct MergeArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    quantize: QuantizeArgs,
    /// Folder to write; it must not hold anything yet.
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    out: PathBuf,
    /// Number type of the stored weights; absent: f32. To be named where the base is quantised, since what is written is not.
    #[arg(long, value_name = "TYPE", value_parser = dtype())]
    dtype: Option<WeightDtype>,
}

/// What was merged.
struct Merged {
    sites: usize,
    /// The number type of what was written.
    dtype: WeightDtype,
    /// Nothing, if the weights of the base are gone.
    survivors: Option<Survivors>,
}

/// Merging runs on the CPU and in f32, whatever `--device` and the run say: its bits are the same on every machine.
pub fn run(args: &MergeArgs, global: &Global) -> Result<(), Error> {
    let named = args.model.named()?.held_in(Some(WeightDtype::F32)).quantized(args.quantize.quantize).dense();
    let Merged { sites, dtype, survivors } = match named.modality()? {
        Modality::Images => merge::<ImageBase>(named, args)?,
        Modality::Text => merge::<TextBase>(named, args)?,
    };
    if sites > 0 && survivors.is_some_and(|survivors| survivors.changed == 0) {
        err_line("warning: the update is zero at every site: the merged weights there are those of the base");
    }
    survivors.iter().for_each(|survivors| warn_of_rounding(*survivors, dtype));
    if global.json {
        let [changed, left] = [|s: Survivors| s.changed, |s: Survivors| s.left].map(|of| survivors.map(of));
        let json = json!({
            "folder": args.out, "sites": sites, "changed_weights": changed, "surviving_weights": left,
            "surviving_share": survivors.and_then(|survivors| survivors.share()),
        });
        print_json(&json)?;
        return Ok(());
    }
    let out = args.out.display();
    let Some(survivors) = survivors else {
        print_line(&format!("wrote the model of {sites} low-rank layers, without their base, to {out}"))?;
        return Ok(());
    };
    print_line(&format!("merged {sites} sites into {out}{}", of_update(survivors, dtype)))?;
    Ok(())
}

/// How much of the update is left, where there is one.
fn of_update(survivors: Survivors, dtype: WeightDtype) -> String {
    let text = |share| format!("; {} of the update survives rounding to {dtype}", percent(share));
    survivors.share().map_or(String::new(), text)
}

fn merge<B: Base>(named: Named, args: &MergeArgs) -> Result<Merged, Error> {
    // A large model is not loaded for a folder that cannot be written.
    check_free(&args.out)?;
    let opened = named.open::<B>(&device::cpu().device)?;
    let sites = opened.adapted.sites().len();
    let is_quantized = !packed_words(&opened.adapted.model).is_empty();
    let dtype = match args.dtype {
        Some(dtype) => dtype,
        None if is_quantized => return Err(Error::QuantizedMerge),
        None => WeightDtype::F32,
    };
    if opened.adapted.base_gain().is_some() {
        let model = opened.adapted.condense(&device::cpu().device)?;
        opened.base.check_unchanged()?;
        opened.base.save(&model, &args.out, dtype)?;
        return Ok(Merged { sites, dtype, survivors: None });
    }
    let (model, survivors) = opened.adapted.merge_counting(&|weight| dtype.rounded(weight))?;
    opened.base.check_unchanged()?;
    opened.base.save(&model, &args.out, dtype)?;
    Ok(Merged { sites, dtype, survivors: Some(survivors) })
}

/// Says on stderr if rounding to `dtype` leaves less of an update than it should.
pub(super) fn warn_of_rounding(survivors: Survivors, dtype: WeightDtype) {
    if let Some(warning) = warning(survivors.changed, survivors.left, dtype) {
        err_line(&format!("warning: {warning}"));
    }
}

/// What to say of an update of so many weights of which rounding leaves less than it should.
fn warning(changed: usize, left: usize, dtype: WeightDtype) -> Option<String> {
    let (name, percent) = (dtype.name(), 100.0 * left as f64 / changed as f64);
    let (is_much, cure) = match dtype {
        // Some of an update is always too small for its weight.
        WeightDtype::F32 => (2 * left < changed, "f32 holds no more: keep the adapter beside its base"),
        WeightDtype::Bf16 | WeightDtype::F16 => {
            (10 * left < 9 * changed, "merge with --dtype f32 to keep all of it")
        }
    };
    match left {
        0 if is_much => Some(format!(
            "nothing of the update is left in {name}: 0 of {changed} changed weights differ from the base; {cure}"
        )),
        _ if is_much => Some(format!(
            "{left} of {changed} changed weights ({percent:.1} %) differ from the base in {name}, the others are lost in \
             rounding; {cure}"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warning_of(changed: usize, left: usize, dtype: WeightDtype) -> String {
        warning(changed, left, dtype).unwrap_or_default()
    }

    #[test]
    fn an_update_that_is_lost_in_rounding_is_told_with_the_cure() {
        for (dtype, name) in [(WeightDtype::Bf16, "bf16"), (WeightDtype::F16, "f16")] {
            let text = warning_of(512, 0, dtype);
            assert!(
                text.contains(&format!("left in {name}: 0 of 512")) && text.contains("--dtype f32"),
                "{text}"
            );
            let text = warning_of(1000, 125, dtype);
            assert!(text.contains("125 of 1000") && text.contains("12.5 %") && text.contains(name), "{text}");
        }
        assert!(warning_of(8, 0, WeightDtype::F32).contains("keep the adapter"));
    }

    #[test]
    fn an_update_that_is_whole_is_not_spoken_of() {
        for dtype in [WeightDtype::F32, WeightDtype::Bf16] {
            assert_eq!(warning_of(512, 512, dtype), "");
            assert_eq!(warning_of(0, 0, dtype), "");
        }
    }
}
