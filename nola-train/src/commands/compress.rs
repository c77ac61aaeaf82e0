//! `nola-train compress`: many adapters of one base in shared bases, as one folder that `serve` answers from.

mod fit_progress;
mod inputs;
mod quality;
mod report;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use burn::tensor::Device;
use clap::{Args, ValueEnum, ValueHint};
use nola_core::bundle::{About, Bundle, CoreKind, LowRankAdapter, Manifest};
use nola_core::folder::{BaseIdentity, check_base, check_free};
use nola_core::joint::Options;
use nola_core::weight::Quantization;
use nola_models::WeightDtype;
use serde_json::Value;

use self::fit_progress::FitProgress;
use self::inputs::Input;
use self::quality::{Quality, ScoredBase, recipe_of};
use self::report::{MemberReport, Report};
use super::{Global, QuantizeArgs, print_json};
use crate::adapter_data::AdapterData;
use crate::chosen::Named;
use crate::error::CompressError;
use crate::folder_lock::{self, Attempt};
use crate::option_values::positive;
use crate::printable::name;
use crate::progress::{Counted, Scores, Style, weights_read};
use crate::session::{ImageBase, Notice, ReadAdapter, ReadBundle, TextBase};
use crate::settings::Modality;
use crate::{Error, device, notices};

/// Up to so many adapters there is one cluster, where nobody says.
const FEW: usize = 100;
/// Adapters of a cluster, where there are more.
const IN_CLUSTER: usize = 40;
/// Largest rank, where nobody says and there are clusters.
const USUAL_RANK: usize = 16;

#[derive(Debug, Args)]
pub struct CompressArgs {
    /// Adapter folders, ours and PEFT's, run folders, or folders of such; each is called as its folder, or by the name before it.
    #[arg(required = true, value_name = "[NAME=]ADAPTER", value_hint = ValueHint::DirPath)]
    adapters: Vec<PathBuf>,
    /// The base of all of them: a model folder, a GGUF file, or a model's name on the hub.
    #[arg(long, value_name = "MODEL", value_hint = ValueHint::AnyPath)]
    model: PathBuf,
    #[command(flatten)]
    quantize: QuantizeArgs,
    /// Folder of the bundle to write; it must not hold anything yet.
    #[arg(
        long,
        value_name = "BUNDLE",
        value_hint = ValueHint::DirPath,
        conflicts_with = "add_to",
        required_unless_present = "add_to"
    )]
    out: Option<PathBuf>,
    /// Bundle to add the adapters to, in its bases as they are: nothing is fitted again.
    #[arg(
        long,
        value_name = "BUNDLE",
        value_hint = ValueHint::DirPath,
        conflicts_with_all = ["method", "rank", "clusters", "iterations"]
    )]
    add_to: Option<PathBuf>,
    /// What each adapter has of its own at a weight: a matrix of rank x rank, or its diagonal.
    #[arg(long, value_enum, default_value_t = Method::JdFull)]
    method: Method,
    /// Columns of the shared bases; absent: half the number of adapters and 7 more up to 100 of them, else 16.
    #[arg(long, value_name = "R", value_parser = positive())]
    rank: Option<usize>,
    /// Clusters of adapters, each with bases of its own, at most; absent: one up to 100 adapters, else one for each 40 of them.
    #[arg(long, value_name = "C", value_parser = positive())]
    clusters: Option<usize>,
    /// Iterations of each fit; absent: 10 of jd-full, 100 of jd-diag.
    #[arg(long, value_name = "N", value_parser = positive())]
    iterations: Option<usize>,
    /// Score each run that is named, and its member of the bundle, on the validation data of the run.
    #[arg(long)]
    evaluate: bool,
}

/// The methods, as they are typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Method {
    JdFull,
    JdDiag,
}

impl Method {
    fn kind(self) -> CoreKind {
        match self {
            Self::JdFull => CoreKind::JdFull,
            Self::JdDiag => CoreKind::JdDiag,
        }
    }

    /// Iterations after which little is won, as the source takes them.
    fn iterations(self) -> usize {
        match self {
            Self::JdFull => 10,
            Self::JdDiag => 100,
        }
    }
}

/// Compressing runs on the CPU and in f32, whatever `--device` says, as exporting does.
pub fn run(args: &CompressArgs, global: &Global) -> Result<(), Error> {
    // A large model is not loaded for what cannot be read or written.
    if let Some(out) = &args.out {
        check_free(out)?;
    }
    if let Some(bundle) = &args.add_to {
        Manifest::read(bundle)?;
    }
    let inputs = inputs::read(&args.adapters)?;
    let named = Named::of_folders(&args.model, None)
        .held_in(Some(WeightDtype::F32))
        .quantized(args.quantize.quantize);
    let report = match named.modality()? {
        Modality::Text => compress::<TextBase>(&named, inputs, args, global.style()),
        Modality::Images => compress::<ImageBase>(&named, inputs, args, global.style()),
    }?;
    if global.json {
        print_json(&report)?;
        return Ok(());
    }
    Ok(report.show()?)
}

fn compress<B: ScoredBase>(
    named: &Named,
    inputs: Vec<Input>,
    args: &CompressArgs,
    style: Style,
) -> Result<Report, Error> {
    let started = Instant::now();
    let device = device::cpu().device;
    let base: B = named.base(&device)?;
    check_bases(&inputs, base.identity())?;
    let bar = Counted::start(inputs.len(), style);
    let (mut adapters, mut before) = (Vec::new(), Vec::new());
    for (place, input) in inputs.iter().enumerate() {
        let (adapter, scores) = low_rank(&base, input, args, &device)?;
        adapters.push(adapter);
        before.push(scores);
        bar.show(place + 1);
    }
    drop(bar);
    base.check_unchanged()?;
    let identity = BaseIdentity { quantization: trained_over(&inputs), ..base.identity().clone() };
    let (bundle, bytes) = args.written(adapters, identity, style)?;
    let members = (inputs.iter().zip(before))
        .map(|(input, before)| member(&base, &bundle, input, before, &device))
        .collect::<Result<Vec<_>, Error>>()?;
    Ok(Report::new(&bundle, bytes, members, started.elapsed().as_secs_f64()))
}

/// Refuses adapters of other bases, all of them by name.
fn check_bases(inputs: &[Input], identity: &BaseIdentity) -> Result<(), Error> {
    let other = |input: &Input| {
        let error = input.adapter.check_base(identity).err()?;
        Some(match error {
            Error::Adapter(nola_core::Error::WrongBase { expected, difference, .. }) => {
                format!("{} (made for `{}`; {difference} differs)", name(&input.name), name(&expected))
            }
            error => error.to_string(),
        })
    };
    let others: Vec<String> = inputs.iter().filter_map(other).collect();
    match others.is_empty() {
        true => Ok(()),
        false => Err(CompressError::OtherBases { base: identity.name.clone(), others }.into()),
    }
}

/// A bundle that only this program adds to: of two that do so at once, one would take away what the other adds.
#[derive(Debug)]
struct Locked {
    bundle: PathBuf,
    /// Open as long as the lock is held.
    _lock: File,
}

impl Locked {
    fn of(bundle: &Path) -> Result<Self, Error> {
        let bundle = bundle.to_owned();
        match folder_lock::open(&bundle) {
            Err(source) => Err(Error::Output { path: bundle, source }),
            Ok(lock) => match folder_lock::attempt(&lock, &bundle) {
                Attempt::Held | Attempt::Unknown => Ok(Self { bundle, _lock: lock }),
                Attempt::Taken => Err(CompressError::Busy { folder: bundle }.into()),
            },
        }
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // One that stays is no obstacle: only who has locked it is.
        let _ = fs::remove_file(self.bundle.join(folder_lock::LOCK));
    }
}

/// How the base was quantised that all of them were trained over, if it was the same way.
fn trained_over(inputs: &[Input]) -> Option<Quantization> {
    let mut all = inputs.iter().map(|input| input.adapter.trained_over());
    let first = all.next().flatten();
    all.all(|other| other == first).then_some(first).flatten()
}

/// What an adapter does to its base, and its scores, if they are wanted and there is data for them.
fn low_rank<B: ScoredBase>(
    base: &B,
    input: &Input,
    args: &CompressArgs,
    device: &Device,
) -> Result<(LowRankAdapter, Option<Scores>), Error> {
    let attached = base.clone().with_adapter(input.adapter.clone(), device, &weights_read())?;
    if attached.notices.contains(&Notice::Untied) {
        return Err(CompressError::Unties { name: input.name.clone() }.into());
    }
    notices::print(&attached.notices);
    let data = AdapterData::of_folder(input.adapter.folder())?;
    let about = About {
        name: input.name.clone(),
        method: input.adapter.trained_method(),
        labels: B::labels(&attached.adapted.model).to_vec(),
        data: data.map_or(Value::Null, |data| data.to_value()),
    };
    let adapter = LowRankAdapter::of(&attached.adapted, about)?;
    let scores = match input.run.as_deref().filter(|_| args.evaluate) {
        Some(run) => Some(base.scores(&attached.adapted.model, &recipe_of(run)?, device)?),
        None => None,
    };
    Ok((adapter, scores))
}

/// What became of an adapter.
fn member<B: ScoredBase>(
    base: &B,
    bundle: &Arc<ReadBundle>,
    input: &Input,
    before: Option<Scores>,
    device: &Device,
) -> Result<MemberReport, Error> {
    let adapter = ReadAdapter::member(bundle, &input.name)?;
    let quality = match (before, &input.run) {
        (Some(before), Some(run)) => {
            let attached = base.clone().with_adapter(adapter.clone(), device, &|_| {})?;
            let after = base.scores(&attached.adapted.model, &recipe_of(run)?, device)?;
            Some(Quality::of(before, after))
        }
        (Some(_) | None, _) => None,
    };
    let (_, member) = adapter.membership().expect("it is one of a bundle");
    Ok(MemberReport {
        name: member.name.clone(),
        method: member.method.clone(),
        cluster: member.cluster,
        lost: member.lost,
        bytes: adapter.numbers() as u64 * 4,
        adapter_bytes: input.adapter.stored_bytes(),
        quality,
    })
}

impl CompressArgs {
    /// The bundle with these adapters, and its bytes.
    fn written(
        &self,
        adapters: Vec<LowRankAdapter>,
        base: BaseIdentity,
        style: Style,
    ) -> Result<(Arc<ReadBundle>, u64), Error> {
        match (&self.out, &self.add_to) {
            (Some(out), _) => {
                let mut fit = FitProgress::start(style);
                let options = self.options(adapters.len());
                let bundle = Bundle::compressed(adapters, base, options, |lost| fit.show(lost))?;
                let bytes = bundle.write(out)?;
                Ok((ReadBundle::of(out, bundle), bytes))
            }
            (None, Some(folder)) => {
                let _locked = Locked::of(folder)?;
                let bundle = Bundle::read(folder)?;
                check_base(folder, &bundle.manifest().base, &base)?;
                let bundle = adapters.into_iter().try_fold(bundle, Bundle::with_added)?;
                let bytes = bundle.replace(folder)?;
                Ok((ReadBundle::of(folder, bundle), bytes))
            }
            (None, None) => unreachable!("clap requires --out or --add-to"),
        }
    }

    fn options(&self, adapters: usize) -> Options {
        let few = adapters <= FEW;
        let rank = if few { adapters / 2 + 7 } else { USUAL_RANK };
        let clusters = if few { 1 } else { adapters.div_ceil(IN_CLUSTER) };
        Options {
            kind: self.method.kind().kind(),
            rank: self.rank.unwrap_or(rank),
            clusters: self.clusters.unwrap_or(clusters).min(adapters),
            iterations: self.iterations.unwrap_or(self.method.iterations()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_programs_do_not_add_to_one_bundle_at_once() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let first = Locked::of(folder.path()).expect("nobody has it");
        assert!(matches!(Locked::of(folder.path()), Err(Error::Compress(CompressError::Busy { .. }))));
        drop(first);
        Locked::of(folder.path()).expect("it is free again");
    }
}
