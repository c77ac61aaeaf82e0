//! Where data lies: one place, or several.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How often the rows of a file come in an epoch, at most; a larger number is a typo.
const MOST_WEIGHT: usize = 1000;

/// Where the training data lies, and how often each part of it comes in an epoch.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Written<TrainingItem>", into = "Written<TrainingItem>")]
pub struct TrainingPaths(Vec<WeightedPath>);

/// Training data, and how often it comes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WeightedPath {
    /// A folder, or a file of the format.
    #[schemars(length(min = 1), example = &"images/train")]
    pub path: PathBuf,
    /// How often its rows come in an epoch.
    #[serde(default = "once")]
    #[schemars(range(max = MOST_WEIGHT), extend("exclusiveMinimum" = 0))]
    pub weight: f64,
}

/// Where the validation data lies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written<PathItem>", into = "Written<PathItem>")]
pub struct ValidationPaths(Vec<PathBuf>);

/// One path or a list, as a recipe writes them.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Written<T> {
    One(PathBuf),
    Several(Vec<T>),
}

/// A part of the training data, as a recipe writes it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(extend("x-type" = "text or a table `{ path, weight }`"))]
pub(super) enum TrainingItem {
    Path(#[schemars(length(min = 1), example = &"images/train")] PathBuf),
    Weighted(WeightedPath),
}

/// A part of the validation data, as a recipe writes it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub(super) struct PathItem(#[schemars(length(min = 1), example = &"images/val")] PathBuf);

const fn once() -> f64 {
    1.0
}

impl WeightedPath {
    /// Data whose rows come once in an epoch.
    pub fn once(path: PathBuf) -> Self {
        Self { path, weight: once() }
    }
}

impl TrainingPaths {
    /// The parts, in the order of the recipe.
    pub fn parts(&self) -> &[WeightedPath] {
        &self.0
    }

    /// The places of the parts.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().map(|part| part.path.as_path())
    }

    /// The same with what `change` makes of each path.
    ///
    /// # Errors
    /// As `change`.
    pub(crate) fn mapped<E>(&self, change: impl Fn(&Path) -> Result<PathBuf, E>) -> Result<Self, E> {
        let changed =
            |part: &WeightedPath| Ok(WeightedPath { path: change(&part.path)?, weight: part.weight });
        self.0.iter().map(changed).collect::<Result<_, E>>().map(Self)
    }
}

impl ValidationPaths {
    /// The places, in the order of the recipe.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().map(PathBuf::as_path)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As [`TrainingPaths::mapped`].
    ///
    /// # Errors
    /// As `change`.
    pub(crate) fn mapped<E>(&self, change: impl Fn(&Path) -> Result<PathBuf, E>) -> Result<Self, E> {
        self.paths().map(change).collect::<Result<_, E>>().map(Self)
    }
}

/// The first path that stands twice in a list.
pub(super) fn repeated<'a>(paths: impl Iterator<Item = &'a Path>) -> Option<&'a Path> {
    let mut seen = std::collections::BTreeSet::new();
    paths.into_iter().find(|path| !seen.insert(*path))
}

impl From<PathBuf> for TrainingPaths {
    fn from(path: PathBuf) -> Self {
        Self(vec![WeightedPath::once(path)])
    }
}

impl From<PathBuf> for ValidationPaths {
    fn from(path: PathBuf) -> Self {
        Self(vec![path])
    }
}

impl From<Written<TrainingItem>> for TrainingPaths {
    fn from(written: Written<TrainingItem>) -> Self {
        let part = |item| match item {
            TrainingItem::Path(path) => WeightedPath::once(path),
            TrainingItem::Weighted(part) => part,
        };
        match written {
            Written::One(path) if path.as_os_str().is_empty() => Self::default(),
            Written::One(path) => path.into(),
            Written::Several(items) => Self(items.into_iter().map(part).collect()),
        }
    }
}

impl From<TrainingPaths> for Written<TrainingItem> {
    fn from(TrainingPaths(parts): TrainingPaths) -> Self {
        let is_plain = |part: &WeightedPath| part.weight == once();
        match &parts[..] {
            [] => Self::One(PathBuf::new()),
            [only] if is_plain(only) => Self::One(only.path.clone()),
            // A list of texts or of tables: programs that read TOML need not know lists of both.
            _ if parts.iter().all(is_plain) => {
                Self::Several(parts.into_iter().map(|part| TrainingItem::Path(part.path)).collect())
            }
            _ => Self::Several(parts.into_iter().map(TrainingItem::Weighted).collect()),
        }
    }
}

impl From<Written<PathItem>> for ValidationPaths {
    fn from(written: Written<PathItem>) -> Self {
        match written {
            Written::One(path) if path.as_os_str().is_empty() => Self::default(),
            Written::One(path) => path.into(),
            Written::Several(items) => Self(items.into_iter().map(|PathItem(path)| path).collect()),
        }
    }
}

impl From<ValidationPaths> for Written<PathItem> {
    fn from(ValidationPaths(paths): ValidationPaths) -> Self {
        match &paths[..] {
            [] => Self::One(PathBuf::new()),
            [only] => Self::One(only.clone()),
            _ => Self::Several(paths.into_iter().map(PathItem).collect()),
        }
    }
}

impl std::fmt::Display for ValidationPaths {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let paths: Vec<String> = self.paths().map(|path| path.display().to_string()).collect();
        f.write_str(&paths.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::recipe::{CheckedRecipe, Recipe, RecipeError};

    fn read(data: &str, overrides: &[&str]) -> Result<CheckedRecipe, RecipeError> {
        let text = format!("[model]\npath = \"base\"\n[data]\nformat = \"alpaca\"\n{data}");
        let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
        Recipe::from_text(&text, Path::new("my.toml"), &overrides)
    }

    fn message(data: &str, overrides: &[&str]) -> String {
        read(data, overrides).expect_err("the recipe should be refused").to_string()
    }

    fn parts(recipe: &CheckedRecipe) -> Vec<(String, f64)> {
        let parts = recipe.data.train.parts().iter();
        parts.map(|part| (part.path.display().to_string(), part.weight)).collect()
    }

    #[test]
    fn training_data_is_a_path_a_list_or_a_list_with_weights() {
        let path = |path: &str, weight| (path.to_owned(), weight);
        for (written, expected) in [
            ("\"a\"", vec![path("a", 1.0)]),
            ("[\"a\", \"b\"]", vec![path("a", 1.0), path("b", 1.0)]),
            ("[{ path = \"a\", weight = 2 }, \"b\"]", vec![path("a", 2.0), path("b", 1.0)]),
            ("[{ path = \"a\" }, { path = \"b\", weight = 0.5 }]", vec![path("a", 1.0), path("b", 0.5)]),
        ] {
            let validation = "validation = [\"v\", \"w\"]\n";
            let of_file = read(&format!("train = {written}\n{validation}"), &[]).unwrap();
            assert_eq!(parts(&of_file), expected);
            let typed =
                read(&format!("train = \"other\"\n{validation}"), &[&format!("data.train={written}")]);
            assert_eq!(parts(&typed.unwrap()), expected, "--set data.train={written}");
            let again = Recipe::from_text(&of_file.resolved_toml(), Path::new("my.toml"), &[]).unwrap();
            assert_eq!(again, of_file, "{}", of_file.resolved_toml());
        }
    }

    #[test]
    fn wrong_lists_are_told_with_their_line() {
        for (data, expected) in [
            ("train = 3", "my.toml:5: `data.train` is 3; expected text, or a list of texts and of tables"),
            ("train = [\"a\", 3]", "`data.train[1]` is 3; expected text or a table `{ path, weight }`"),
            (
                "train = [{ path = \"a\", wieght = 2 }]",
                "unknown key `data.train[0].wieght`; did you mean `weight`?",
            ),
            ("train = [{ weight = 2 }]", "`data.train[0].path` is missing"),
            ("train = [{ path = \"a\", weight = 0 }]", "`data.train[0].weight` is 0; it must be above 0"),
            ("train = [\"a\", \"a\"]", "`data.train` is `a` twice; it must be a list of different paths"),
            ("train = []", "`data.train` is missing"),
            ("train = [\"\"]", "is missing"),
        ] {
            let error = message(&format!("{data}\nvalidation = \"v\""), &[]);
            assert!(error.contains(expected), "{error}");
        }
        let error = message("train = \"a\"\nvalidation = [{ path = \"a\" }]", &[]);
        assert!(error.contains("`data.validation[0]` is a table; expected text"), "{error}");
    }

    #[test]
    fn a_recipe_has_validation_data_or_holds_out_a_share() {
        let split = read("train = \"a\"\nvalidation_split = 0.1", &[]).unwrap();
        let again = Recipe::from_text(&split.resolved_toml(), Path::new("my.toml"), &[]).unwrap();
        assert_eq!(again, split);
        let both = message("train = \"a\"\nvalidation = \"v\"\nvalidation_split = 0.1", &[]);
        assert!(
            both.contains("my.toml:7: `data.validation_split` has no effect with data.validation"),
            "{both}"
        );
        let none = message("train = \"a\"", &[]);
        assert!(
            none.contains("`data.validation` is missing") && none.contains("validation_split = 0.1"),
            "{none}"
        );
        for share in ["0", "1", "-0.1", "1.5", "10"] {
            let error = message("train = \"a\"", &[&format!("data.validation_split={share}")]);
            assert!(error.contains("it must be above 0 and below 1"), "{error}");
        }
    }

    #[test]
    fn what_is_typed_replaces_the_other_way_of_validation() {
        let file = "train = \"a\"\nvalidation = \"v\"";
        let split = read(file, &["data.validation_split=0.2"]).unwrap();
        assert_eq!((split.data.validation_split, split.data.validation.is_empty()), (Some(0.2), true));
        let file = "train = \"a\"\nvalidation_split = 0.2";
        let given = read(file, &["data.validation=v"]).unwrap();
        assert_eq!((given.data.validation_split, given.data.validation.is_empty()), (None, false));
    }
}
