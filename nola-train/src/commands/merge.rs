//! `nola-train merge`: an adapter baked into dense weights.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use nola_models::{StoredDtype, WeightDtype};

use super::{Global, ModelArgs, print_json, print_line};
use crate::base::{Base, PictureBase, TextBase};
use crate::chosen::Named;
use crate::recipe::Subject;
use crate::{Error, device};

#[derive(Debug, Args)]
pub struct MergeArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Folder to write; it must not hold anything yet.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// How weights are stored.
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    dtype: Dtype,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Dtype {
    F32,
    Bf16,
}

/// Merging runs on the CPU and in f32, whatever `--device` and the run say: its bits are the same on every machine.
pub fn run(args: &MergeArgs, global: &Global) -> Result<(), Error> {
    let named = args.model.named()?.held_in(Some(WeightDtype::F32));
    let sites = match named.subject()? {
        Subject::Pictures => merge::<PictureBase>(named, args)?,
        Subject::Text => merge::<TextBase>(named, args)?,
    };
    if global.json {
        print_json(&serde_json::json!({ "folder": args.out, "sites": sites }))?;
        return Ok(());
    }
    print_line(&format!("merged {sites} sites into {}", args.out.display()))?;
    Ok(())
}

/// Returns the number of sites that were merged.
fn merge<B: Base>(named: Named, args: &MergeArgs) -> Result<usize, Error> {
    let opened = named.open::<B>(&device::cpu().device)?;
    let sites = opened.adapted.sites().len();
    let dtype = match args.dtype {
        Dtype::F32 => StoredDtype::F32,
        Dtype::Bf16 => StoredDtype::Bf16,
    };
    let merged = opened.adapted.merge()?;
    opened.base.check_unchanged()?;
    opened.base.save(&merged, &args.out, dtype)?;
    Ok(sites)
}
