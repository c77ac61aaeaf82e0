//! Recipes.

use std::path::Path;

use nola_train::recipe::Recipe;

use super::input::accepted;

/// A recipe, which must mean the same run when it is written with every default.
pub fn read(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let file = Path::new("my.toml");
    let Some(recipe) = accepted(Recipe::from_text(text, file, &[]), bytes) else { return };
    let resolved = recipe.resolved_toml();
    let again = Recipe::from_text(&resolved, file, &[]);
    let again = again.unwrap_or_else(|error| panic!("{error}\n{resolved}"));
    assert_eq!(again.resolved_toml(), resolved);
    let steps = recipe.for_samples(1000).train.steps;
    assert!(steps > 0);
}
