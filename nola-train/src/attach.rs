//! How the method of a recipe is attached to a model.

use std::collections::BTreeSet;

use burn::module::Module;
use burn::tensor::Device;
use nola_core::targets::Pattern;
use nola_core::{Adapted, Targets, biases, float_params, packed_words};

use crate::Error;
use crate::model_with_loss::ModelWithLoss;
use crate::progress::weights_read;
use crate::recipe::{AdapterRecipe, ChosenWeights, MethodRecipe, TargetsRecipe, TrainedBiases};

/// Name of the head's module in every model of this project.
pub(crate) const HEAD: &str = "head";

/// Attaches the method's adapters to `model` and trains the modules `beside` too.
pub(crate) fn attach<M: Module>(
    model: M,
    method: &MethodRecipe,
    beside: &[&str],
    device: &Device,
) -> Result<Adapted<M>, Error> {
    Ok(match method {
        MethodRecipe::Adapter(AdapterRecipe { config, weights }) => {
            let targets = targets(weights);
            let chosen = trained_beside(&model, weights, &targets)?;
            let beside: Vec<&str> = beside.iter().copied().chain(chosen.iter().map(String::as_str)).collect();
            Adapted::attach_observed(model, config, &targets, &beside, device, &weights_read())?
        }
        MethodRecipe::Linear => Adapted::probe(model, beside, device)?,
        MethodRecipe::Full => {
            refuse_packed(&model)?;
            Adapted::full(model)
        }
    })
}

/// Refuses to train a model in full of which only a part could be trained.
fn refuse_packed<M: Module>(model: &M) -> Result<(), Error> {
    let packed = packed_words(model);
    match float_params(model).into_iter().find(|param| packed.contains_key(&param.id)) {
        Some(param) => Err(nola_core::Error::PackedTrained { weight: param.path }.into()),
        None => Ok(()),
    }
}

/// Refuses to train a module beside an adapter that is the head too: a LoRA folder holds the two apart.
pub(crate) fn refuse_tied<M: ModelWithLoss>(model: &M, method: &MethodRecipe) -> Result<(), Error> {
    let (Some(adapter), Some(tied)) = (method.adapter(), model.tied_module()) else { return Ok(()) };
    let mut named = adapter.weights.modules_to_save.iter();
    if named.any(|name| !modules_named(name, &[format!("{tied}.weight")]).is_empty()) {
        return Err(Error::TiedModule { name: tied.to_owned() });
    }
    Ok(())
}

/// Paths of the modules and biases of `model` that a recipe trains beside an adapter.
fn trained_beside<M: Module>(
    model: &M,
    weights: &ChosenWeights,
    targets: &Targets,
) -> Result<Vec<String>, Error> {
    let paths: Vec<String> = float_params(model).into_iter().map(|param| param.path).collect();
    let mut chosen = Vec::new();
    for name in &weights.modules_to_save {
        let found = modules_named(name, &paths);
        if found.is_empty() {
            return Err(Error::NoModule { name: name.clone(), expected: module_names(&paths) });
        }
        chosen.extend(found);
    }
    let biases = match weights.bias {
        TrainedBiases::None => return Ok(chosen),
        TrainedBiases::All => biases(model),
        TrainedBiases::LoraOnly => {
            let sites = targets.choose(model)?;
            let of_site = |path: &String| sites.iter().any(|site| *path == format!("{}.bias", site.path));
            biases(model).into_iter().filter(of_site).collect()
        }
    };
    if biases.is_empty() {
        return Err(Error::NoBiases);
    }
    chosen.extend(biases);
    Ok(chosen)
}

/// The modules around the parameters at `paths`, with those around them.
fn modules(paths: &[String]) -> Vec<String> {
    let around = |path: &String| {
        let ends: Vec<usize> = path.match_indices('.').map(|(end, _)| end).collect();
        ends.into_iter().map(|end| path[..end].to_owned()).collect::<Vec<_>>()
    };
    paths.iter().flat_map(around).collect::<BTreeSet<_>>().into_iter().collect()
}

/// The last parts of their names, but for numbers.
fn module_names(paths: &[String]) -> Vec<String> {
    let modules = modules(paths);
    let last = modules.iter().filter_map(|module| module.rsplit('.').next());
    let names: BTreeSet<&str> = last.filter(|name| name.parse::<usize>().is_err()).collect();
    names.into_iter().map(str::to_owned).collect()
}

/// The modules that are called `name`, or whose names end so after a dot.
fn modules_named(name: &str, paths: &[String]) -> Vec<String> {
    let end = format!(".{name}");
    modules(paths).into_iter().filter(|module| module == name || module.ends_with(&end)).collect()
}

/// The choice of sites of a method that has one.
pub(crate) fn chosen_targets(method: &MethodRecipe) -> Option<Targets> {
    method.adapter().map(|adapter| targets(&adapter.weights))
}

fn targets(weights: &ChosenWeights) -> Targets {
    let modules = match &weights.targets {
        TargetsRecipe::Names(names) => Pattern::Names(names.clone()),
        TargetsRecipe::Pattern(pattern) => Pattern::Regex(pattern.clone()),
    };
    // The head is trained itself, so `all-linear` leaves it out, as PEFT does.
    let exclude = weights.exclude.iter().cloned().chain([HEAD.to_owned()]).collect();
    Targets { modules, exclude: Pattern::Names(exclude), layers: weights.layers.clone() }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use burn::nn::{Linear, LinearConfig};
    use nola_core::adapter::LoraConfig;

    use super::*;

    /// Trained values beside the adapter of the first of two layers.
    fn beside(change: impl Fn(&mut ChosenWeights)) -> Result<Vec<String>, Error> {
        let device = Device::flex();
        let model: Vec<Linear> =
            vec![LinearConfig::new(6, 5).init(&device), LinearConfig::new(5, 4).init(&device)];
        let mut weights =
            ChosenWeights { targets: TargetsRecipe::Names(vec!["0".to_owned()]), ..ChosenWeights::default() };
        change(&mut weights);
        let method = MethodRecipe::Adapter(AdapterRecipe { config: LoraConfig::default().into(), weights });
        let trained = attach(model, &method, &[], &device)?.state();
        Ok(trained.into_keys().filter(|name| !name.contains(".adapter.")).collect())
    }

    #[test]
    fn biases_are_trained_beside_an_adapter_as_the_recipe_says() {
        let with = |bias| beside(|weights| weights.bias = bias).expect("layers with biases");
        assert_eq!(with(TrainedBiases::None), Vec::<String>::new());
        assert_eq!(with(TrainedBiases::LoraOnly), ["0.bias"]);
        assert_eq!(with(TrainedBiases::All), ["0.bias", "1.bias"]);
    }

    #[test]
    fn modules_are_trained_whole_beside_an_adapter_by_their_names() {
        let with = |name: &str| beside(|weights| weights.modules_to_save = vec![name.to_owned()]);
        assert_eq!(with("1").expect("a module"), ["1.bias", "1.weight"]);
        let error = with("nrom").expect_err("a slip").to_string();
        assert!(error.contains("`nrom`") && error.contains("no such module"), "{error}");
    }

    #[test]
    fn names_of_modules_are_suggested_without_numbers() {
        let paths = ["blocks.0.norm.gamma", "blocks.1.norm.beta", "head.weight"].map(str::to_owned);
        assert_eq!(module_names(&paths), ["blocks", "head", "norm"]);
        let error = Error::NoModule { name: "nrom".to_owned(), expected: module_names(&paths) }.to_string();
        assert!(error.contains("did you mean `norm`?"), "{error}");
        assert_eq!(modules_named("norm", &paths), ["blocks.0.norm", "blocks.1.norm"]);
    }

    #[test]
    fn a_model_with_weights_in_few_bits_is_not_trained_in_full() {
        let device = Device::flex();
        let dense: Vec<nola_core::Linear> = vec![LinearConfig::new(6, 5).init(&device).into()];
        let packed = nola_core::quantized(dense, nola_core::weight::Quantization::Nf4, &|_| true);
        let attached = attach(packed.expect("finite weights"), &MethodRecipe::Full, &[], &device);
        let error = attached.expect_err("a weight that is frozen").to_string();
        assert!(error.contains("`0.weight` is stored in few bits"), "{error}");
    }
}
