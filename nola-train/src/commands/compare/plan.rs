//! Everything that a comparison will do, checked before anything is trained.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::Together;
use crate::Error;
use crate::data::Dataset;
use crate::data_files;
use crate::portion::{DataSource, Split};
use crate::progress::Downloads;
use crate::recipe::{CheckedRecipe, DataRecipe, Recipe};
use crate::recipe_files::{located, located_model, pinned_recipe};
use crate::session::{Base, ImageBase, TextBase, model_folder};
use crate::settings::{Modality, ModelSettings};
use crate::task::{all_references, text_format};

/// A recipe that is to be compared.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// What it is called in tables and folders.
    pub name: String,
    /// Its file, or the name of a shipped one.
    pub file: PathBuf,
    /// What is changed in it.
    pub set: Vec<String>,
    /// What tells it from the others, if that is a value of some keys.
    pub settings: Map<String, Value>,
}

/// One recipe with the runs that are made of it.
#[derive(Debug)]
pub struct Planned {
    /// What it is called in tables and folders: the name of its file, or what tells it from the others.
    pub name: String,
    /// What tells it from the others, if that is a value of some keys.
    pub settings: Map<String, Value>,
    /// Where its run would go outside of a comparison.
    pub output_dir: PathBuf,
    /// The recipe for each seed, its output in the folder of the comparison.
    pub seeds: Vec<CheckedRecipe>,
}

/// Recipe files, in each of which the same is changed.
pub fn of_recipes(files: &[PathBuf], set: &[String]) -> Vec<Wanted> {
    let wanted = |(file, name): (&PathBuf, String)| Wanted {
        name,
        file: file.clone(),
        set: set.to_vec(),
        settings: Map::new(),
    };
    files.iter().zip(names(files)).map(wanted).collect()
}

/// The runs of every recipe.
///
/// # Errors
/// If a recipe is wrong, its model or data is not there, or the texts of `--metrics` cannot be compared with.
pub fn plan(wanted: Vec<Wanted>, together: &Together) -> Result<Vec<Planned>, Error> {
    let mut checked: Vec<(ModelSettings, DataRecipe)> = Vec::new();
    let mut plan = |Wanted { name, file, set, settings }: Wanted| {
        let folder = together.out.join(&name);
        let recipe = pinned_recipe(Recipe::named(&file, &set)?);
        let recipe = recipe.map_err(|error| error.with_data_note(Recipe::data_note(&file)))?;
        let output_dir = recipe.output.dir.clone();
        let seed = |seed| seeded(recipe.clone(), seed, folder.join(format!("seed-{seed}")));
        let seeds = (0..together.seeds).map(seed).collect::<Result<Vec<_>, Error>>()?;
        // What differs in other keys need not be read again.
        let needed = (seeds[0].model.clone(), seeds[0].data.clone());
        if !checked.contains(&needed) {
            check(&seeds[0], together.metrics)?;
            checked.push(needed);
        }
        Ok(Planned { name, settings, output_dir, seeds })
    };
    wanted.into_iter().map(&mut plan).collect()
}

/// The names of recipe files without their folders; of several that are alike the later ones have a number.
fn names(files: &[PathBuf]) -> Vec<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let name = |file: &PathBuf| {
        let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let count = seen.entry(stem.clone()).or_default();
        *count += 1;
        if *count == 1 { stem } else { format!("{stem}-{count}") }
    };
    files.iter().map(name).collect()
}

/// A recipe with the seed of one of its runs.
fn seeded(recipe: CheckedRecipe, seed: u64, out: PathBuf) -> Result<CheckedRecipe, Error> {
    let mut recipe = recipe.into_inner();
    recipe.output.dir = out;
    recipe.train.seed = seed;
    recipe.data.shots_seed = seed;
    recipe.method.set_seed(seed);
    Ok(recipe.check()?)
}

/// Whether a run could begin, as far as that is cheap to find out.
fn check(recipe: &CheckedRecipe, metrics: Option<&Path>) -> Result<(), Error> {
    let (model, data) = (located_model(&recipe.model)?, located(&recipe.data)?);
    let fetching = Downloads::default();
    match data.format.modality() {
        Modality::Images => {
            if metrics.is_some() {
                let found = Modality::Images;
                return Err(Error::WrongModality { command: "compare --metrics", found });
            }
            model_folder(&model.path, ImageBase::wanted(model.init), &fetching)?;
            Dataset::splits(&data.images(recipe.train.seed)?)?;
            Ok(())
        }
        Modality::Text => {
            model_folder(&model.path, TextBase::wanted(model.init), &fetching)?;
            check_text(&data, metrics)
        }
    }
}

fn check_text(data: &DataRecipe, metrics: Option<&Path>) -> Result<(), Error> {
    if let Some(file) = metrics {
        let found = data_files::find(vec![DataSource::whole(file)], Split::Validation)?;
        all_references(&found.sources, text_format(data)?, &data.text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_one_name_get_numbers() {
        let files = ["a/nola.toml", "lora.toml", "b/nola.toml", "c/nola.toml"].map(PathBuf::from);
        assert_eq!(names(&files), ["nola", "lora", "nola-2", "nola-3"]);
    }
}
