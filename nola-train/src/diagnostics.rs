//! What a user should hear about a run that works, but hardly as it was meant.

use std::path::{Path, PathBuf};

use nola_core::{Adapted, Site};

use crate::amounts::thousands;
use crate::attach::{HEAD, chosen_targets};
use crate::portion::{DataSource, Split};
use crate::recipe::{DataRecipe, MethodRecipe, Recipe};
use crate::recipe_files::located;
use crate::settings::{DataFormat, ImageFormat};
use crate::stop::Interrupt;
use crate::task::{Model, Task};
use crate::{Error, data_files};

/// What can be diagnosed before the first step.
///
/// # Errors
/// If a pattern of the recipe cannot be asked.
pub(crate) fn before_training<T: Task>(
    task: &T,
    recipe: &Recipe,
    model: &Adapted<Model<T>>,
) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    if let Some(targets) = chosen_targets(&recipe.method) {
        let mut unmatched = targets.unmatched(&task.model())?;
        // The program itself leaves the head out, whether there is one or not.
        unmatched.exclude.retain(|name| name != HEAD);
        found.extend(fits_nothing("targets", &unmatched.modules));
        found.extend(fits_nothing("exclude", &unmatched.exclude));
    }
    found.extend_from_slice(task.data_warnings());
    found.extend(same_data(&recipe.data)?);
    found.extend(larger_than_lora(&recipe.method, model.trainable_parameters().adapter, model.sites()));
    if model.base_gain().is_some() {
        found.extend(saves_nothing(model.trainable_parameters().adapter, model.sites()));
    }
    Ok(found)
}

fn fits_nothing(key: &str, names: &[String]) -> Option<String> {
    let names = (!names.is_empty()).then(|| names.join("`, `"))?;
    Some(format!("`method.{key}` names `{names}`, which no linear layer of the model is called"))
}

/// Scores on what was learned say nothing of what was not.
fn same_data(data: &DataRecipe) -> Result<Option<String>, Error> {
    let [learned_from, scored_on] = match data.format {
        // In these the split is chosen by the file inside.
        DataFormat::Images(
            ImageFormat::Cifar10 | ImageFormat::Cifar100 | ImageFormat::Mnist | ImageFormat::FashionMnist,
        ) => return Ok(None),
        DataFormat::Images(ImageFormat::Folder) => {
            let located = located(data)?;
            let owned = |paths: &mut dyn Iterator<Item = &Path>| paths.map(Path::to_owned).collect();
            [owned(&mut located.train.paths()), owned(&mut located.validation.paths())]
        }
        DataFormat::Text(_) => {
            let files = |paths: &mut dyn Iterator<Item = &Path>, split| -> Result<Vec<PathBuf>, Error> {
                let sources = paths.map(DataSource::whole).collect();
                let found = data_files::find(sources, split)?.sources;
                Ok(found.into_iter().flat_map(|source| source.paths).collect())
            };
            [
                files(&mut data.train.paths(), Split::Train)?,
                files(&mut data.validation.paths(), Split::Validation)?,
            ]
        }
    };
    let is_learned = |path: &&PathBuf| learned_from.iter().any(|train| is_same(train, path));
    Ok(scored_on.iter().find(is_learned).map(|same| {
        format!(
            "`data.train` and `data.validation` are both {}: the scores are those of learning by heart",
            same.display()
        )
    }))
}

fn is_same(left: &Path, right: &Path) -> bool {
    match (left.canonicalize(), right.canonicalize()) {
        (Ok(left), Ok(right)) => left == right,
        (Err(_), _) | (_, Err(_)) => left == right,
    }
}

/// Coefficients are for fewer numbers than LoRA has.
fn larger_than_lora(method: &MethodRecipe, coefficients: usize, sites: &[Site]) -> Option<String> {
    let config = &method.adapter()?.config;
    let (name, rank) = (config.kind().to_uppercase(), config.method().rank());
    let of_lora: usize = sites.iter().map(|site| rank * (site.d_in + site.d_out)).sum();
    (config.has_coefficients() && coefficients > of_lora).then(|| {
        format!(
            "{name} trains {coefficients} coefficients, more than the {of_lora} parameters of LoRA with rank {rank}: lower \
             method.k, or use LoRA"
        )
    })
}

/// Layers that take the place of others are for fewer numbers.
fn saves_nothing(numbers: usize, sites: &[Site]) -> Option<String> {
    let dense: usize = sites.iter().map(|site| site.d_in * site.d_out).sum();
    (numbers >= dense).then(|| {
        format!(
            "the low-rank layers hold {} numbers, and the weights whose place they take {}: lower method.rank",
            thousands(numbers as u64),
            thousands(dense as u64)
        )
    })
}

/// Why a run made fewer steps than its recipe has.
pub(crate) fn early_end(
    steps: usize,
    best_step: usize,
    interrupted: Option<Interrupt>,
    recipe: &Recipe,
) -> Option<String> {
    let (all, early_stop) = (recipe.train.steps, recipe.train.early_stop);
    (steps < all).then(|| match interrupted {
        Some(by) => format!("interrupted by {by} after step {steps} of {all}"),
        None => format!(
            "stopped early after step {steps} of {all}: train.early_stop = {early_stop} evaluations were not better than \
             that after step {best_step}"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::TextFormat;
    use nola_core::adapter::NolaConfig;

    #[test]
    fn layers_that_save_nothing_are_told() {
        let site = Site::linear("up", 40, 60);
        assert_eq!(saves_nothing(23 * 100, std::slice::from_ref(&site)), None);
        let warning = saves_nothing(24 * 100, &[site]).expect("as many");
        assert!(warning.contains("2,400") && warning.contains("lower method.rank"), "{warning}");
    }

    #[test]
    fn names_that_fit_nothing_are_told_together() {
        assert_eq!(fits_nothing("targets", &[]), None);
        let warning = fits_nothing("targets", &["valu".to_owned(), "keey".to_owned()]).expect("two");
        assert!(
            warning.starts_with("`method.targets` names `valu`, `keey`, which no linear layer"),
            "{warning}"
        );
    }

    #[test]
    fn one_file_for_both_splits_is_told_however_it_is_written() {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let file = scratch.path().join("rows.jsonl");
        std::fs::write(&file, "{}").expect("a file");
        let data = |format, validation: &Path| DataRecipe {
            format,
            train: file.clone().into(),
            validation: validation.to_owned().into(),
            ..DataRecipe::default()
        };
        let text = DataFormat::Text(TextFormat::Chat);
        let otherwise = scratch.path().join(".").join("rows.jsonl");
        let other = scratch.path().join("other.jsonl");
        std::fs::write(&other, "{}").expect("a file");
        let warning =
            |format, validation: &Path| same_data(&data(format, validation)).expect("files that are there");
        assert!(warning(text, &otherwise).expect("the same").contains("learning by heart"));
        assert_eq!(warning(text, &other), None);
        assert_eq!(warning(DataFormat::Images(ImageFormat::Cifar10), &file), None);
    }

    #[test]
    fn an_adapter_larger_than_lora_is_told_with_both_sizes() {
        let method = MethodRecipe::from(NolaConfig { rank: 2, ..NolaConfig::default() });
        let site = Site::linear("up", 10, 20);
        assert_eq!(larger_than_lora(&method, 60, std::slice::from_ref(&site)), None);
        let warning = larger_than_lora(&method, 61, &[site]).expect("one more");
        assert!(warning.contains("61 coefficients") && warning.contains("the 60 parameters"), "{warning}");
        assert_eq!(larger_than_lora(&MethodRecipe::Full, 61, &[]), None);
    }

    #[test]
    fn a_run_that_ends_early_says_why() {
        let mut recipe = Recipe::default();
        recipe.train.early_stop = 3;
        assert_eq!(early_end(recipe.train.steps, 5, None, &recipe), None);
        let warning = early_end(40, 10, None, &recipe).expect("it ended early");
        assert!(warning.contains("after step 40") && warning.contains("after step 10"), "{warning}");
        let warning = early_end(40, 10, Some(Interrupt::HangUp), &recipe).expect("it ended early");
        assert!(warning.starts_with("interrupted by SIGHUP after step 40 of "), "{warning}");
    }
}
