//! The recipes that the program brings along.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use include_dir::File;
use nola_assets::FOLDERS;
use serde::Serialize;

use super::{CheckedRecipe, Recipe, RecipeError, TrainingPaths, ValidationPaths};

/// Where shipped recipes look for what is shipped beside them.
const ASSETS: &str = "assets";

/// A recipe that is shipped.
#[derive(Debug, Clone, Copy)]
pub struct ShippedRecipe {
    /// Its name.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
}

/// What a shipped recipe is about, in short.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Its name.
    pub name: &'static str,
    /// What it is for.
    pub purpose: &'static str,
    /// Folder of the base model, or its name on the Hugging Face hub.
    pub model: PathBuf,
    /// Layout of the data.
    pub format: String,
    /// Training data.
    pub train: TrainingPaths,
    /// Validation data.
    pub validation: ValidationPaths,
    /// What is trained.
    pub method: &'static str,
    /// What it needs that is not shipped: a model, files or folders.
    pub needs: Vec<PathBuf>,
}

impl ShippedRecipe {
    /// All of them, by name.
    pub fn all() -> impl Iterator<Item = Self> {
        let folder = FOLDERS.iter().find(|folder| folder.name == "recipes").expect("recipes are shipped");
        let recipe = |file: &'static File<'static>| {
            let name = file.path().file_stem().and_then(OsStr::to_str).expect("a name in UTF-8");
            Self { name, text: file.contents_utf8().expect("a recipe is text") }
        };
        let mut recipes: Vec<Self> = folder.dir.files().map(recipe).collect();
        recipes.sort_by_key(|recipe| recipe.name);
        recipes.into_iter()
    }

    /// The one of that name.
    ///
    /// # Errors
    /// If there is none.
    pub fn named(name: &str) -> Result<Self, RecipeError> {
        let not_shipped = || RecipeError::NotShipped { name: name.to_owned(), shipped: names() };
        Self::all().find(|recipe| recipe.name == name).ok_or_else(not_shipped)
    }

    /// The recipe with `overrides`.
    ///
    /// # Errors
    /// As [`Recipe::from_text`].
    pub fn read(self, overrides: &[String]) -> Result<CheckedRecipe, RecipeError> {
        Recipe::from_text(self.text, Path::new(self.name), overrides)
    }

    /// What it is about.
    pub fn summary(self) -> Summary {
        let recipe = self.recipe();
        let data = recipe.data.train.paths().chain(recipe.data.validation.paths());
        let paths = std::iter::once(recipe.model.path.as_path()).chain(data);
        let mut needs: Vec<PathBuf> =
            paths.filter(|path| !path.starts_with(ASSETS)).map(Path::to_owned).collect();
        needs.dedup();
        Summary {
            name: self.name,
            purpose: self.purpose(),
            model: recipe.model.path.clone(),
            format: recipe.data.format.to_string(),
            train: recipe.data.train.clone(),
            validation: recipe.data.validation.clone(),
            method: recipe.method.kind(),
            needs,
        }
    }

    /// Its first line, which says what it is for.
    fn purpose(self) -> &'static str {
        self.text.lines().next().unwrap_or_default().trim_start_matches(['#', ' '])
    }

    fn recipe(self) -> CheckedRecipe {
        self.read(&[]).expect("a test reads every shipped recipe")
    }
}

/// The names of all.
pub(super) fn names() -> Vec<String> {
    ShippedRecipe::all().map(|recipe| recipe.name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
    }

    #[test]
    fn every_recipe_in_the_folder_is_shipped() {
        let mut names: Vec<String> = std::fs::read_dir(folder().join("assets/recipes"))
            .expect("the recipes")
            .map(|entry| entry.expect("a file").file_name().to_string_lossy().replace(".toml", ""))
            .collect();
        names.sort();
        assert_eq!(names, super::names());
    }

    #[test]
    fn every_recipe_says_first_what_it_is_for() {
        for recipe in ShippedRecipe::all() {
            assert!(recipe.text.starts_with("# ") && recipe.purpose().len() > 10, "{}", recipe.name);
        }
    }

    #[test]
    fn a_recipe_whose_data_is_not_shipped_says_how_to_get_it() {
        for recipe in ShippedRecipe::all() {
            let summary = recipe.summary();
            let train = summary.train.paths().next().expect("training data");
            let is_needed = summary.needs.iter().any(|path| path == train);
            let note = Recipe::data_note(Path::new(recipe.name));
            assert_eq!(note.is_some(), is_needed, "{}", recipe.name);
            if let Some(note) = note {
                let folder = train.parent().expect("a folder").to_string_lossy().into_owned();
                let names_source =
                    ["https://", "generate.rs", "your own images"].iter().any(|place| note.contains(place));
                assert!(names_source && note.contains(&folder), "{}: {note}", recipe.name);
            }
        }
    }

    #[test]
    fn what_a_recipe_does_not_need_is_there() {
        for summary in ShippedRecipe::all().map(ShippedRecipe::summary) {
            let data = summary.train.paths().chain(summary.validation.paths());
            for path in std::iter::once(summary.model.as_path()).chain(data) {
                let is_there = folder().join(path).exists();
                assert_eq!(
                    is_there,
                    !summary.needs.iter().any(|need| need == path),
                    "{}: {}",
                    summary.name,
                    path.display()
                );
            }
        }
    }
}
