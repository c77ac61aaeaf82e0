//! Options whose value is one of a list: how clap parses them and what shells complete.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap_complete::CompletionCandidate;
use nola_models::WeightDtype;

use crate::settings::{DataFormat, Quantize};

/// The number types of weights.
pub fn dtype() -> impl TypedValueParser<Value = WeightDtype> {
    PossibleValuesParser::new(WeightDtype::ALL.map(WeightDtype::name)).try_map(|name| name.parse())
}

/// The quantisations of weights, and none.
pub fn quantize() -> impl TypedValueParser<Value = Quantize> {
    PossibleValuesParser::new(Quantize::ALL.map(Quantize::name)).map(|name| {
        let known = Quantize::ALL.into_iter().find(|quantize| quantize.name() == name);
        known.expect("one of the possible values")
    })
}

/// A number of at least 1.
pub fn positive() -> impl TypedValueParser<Value = usize> {
    at_least(1)
}

/// A number of at least `least`.
pub fn at_least(least: i64) -> impl TypedValueParser<Value = usize> {
    clap::value_parser!(u32).range(least..).map(|number| number as usize)
}

/// The layouts of data.
pub fn format() -> impl TypedValueParser<Value = DataFormat> {
    let names = DataFormat::ALL.map(|(name, _)| PossibleValue::new(name));
    PossibleValuesParser::new(names).try_map(|name| name.parse::<DataFormat>())
}

/// The devices; each GPU beyond the first is typed with its number.
pub fn devices() -> Vec<CompletionCandidate> {
    let devices = [
        ("auto", "the best device that computes rightly"),
        ("cpu", "the CPU"),
        ("wgpu", "a GPU through Vulkan, Metal or DX12"),
        ("cuda", "an NVIDIA GPU"),
        ("wgpu:local", "another one for each process that mpirun or srun starts on a machine"),
        ("cuda:local", "the same of NVIDIA"),
    ];
    devices.map(|(name, help)| CompletionCandidate::new(name).help(Some(help.into()))).into()
}
