//! `nola-train recipes`: the shipped recipes.

use clap::Args;

use super::print_line;
use crate::Error;
use crate::recipe::RecipeError;

/// Every recipe in `assets/recipes`, by name; a test compares the list with the folder.
pub const SHIPPED: &[(&str, &str)] = &[
    ("gpt2-large-dart-nola-mlp", include_str!("../../../assets/recipes/gpt2-large-dart-nola-mlp.toml")),
    ("gpt2-large-dart-nola-qv", include_str!("../../../assets/recipes/gpt2-large-dart-nola-qv.toml")),
    ("gpt2-large-e2e-nola-mlp", include_str!("../../../assets/recipes/gpt2-large-e2e-nola-mlp.toml")),
    ("gpt2-large-e2e-nola-qv", include_str!("../../../assets/recipes/gpt2-large-e2e-nola-qv.toml")),
    ("gpt2-large-webnlg-nola-mlp", include_str!("../../../assets/recipes/gpt2-large-webnlg-nola-mlp.toml")),
    ("gpt2-large-webnlg-nola-qv", include_str!("../../../assets/recipes/gpt2-large-webnlg-nola-qv.toml")),
    ("gpt2-medium-dart-nola-mlp", include_str!("../../../assets/recipes/gpt2-medium-dart-nola-mlp.toml")),
    ("gpt2-medium-dart-nola-qv", include_str!("../../../assets/recipes/gpt2-medium-dart-nola-qv.toml")),
    ("gpt2-medium-e2e-nola-mlp", include_str!("../../../assets/recipes/gpt2-medium-e2e-nola-mlp.toml")),
    ("gpt2-medium-e2e-nola-qv", include_str!("../../../assets/recipes/gpt2-medium-e2e-nola-qv.toml")),
    ("gpt2-medium-webnlg-nola-mlp", include_str!("../../../assets/recipes/gpt2-medium-webnlg-nola-mlp.toml")),
    ("gpt2-medium-webnlg-nola-qv", include_str!("../../../assets/recipes/gpt2-medium-webnlg-nola-qv.toml")),
    ("llama2-13b-alpaca-nola", include_str!("../../../assets/recipes/llama2-13b-alpaca-nola.toml")),
    ("llama2-7b-alpaca-nola", include_str!("../../../assets/recipes/llama2-7b-alpaca-nola.toml")),
    ("text-museum-full", include_str!("../../../assets/recipes/text-museum-full.toml")),
    ("text-museum-lora", include_str!("../../../assets/recipes/text-museum-lora.toml")),
    ("text-museum-nola", include_str!("../../../assets/recipes/text-museum-nola.toml")),
    ("text-world-pretrain", include_str!("../../../assets/recipes/text-world-pretrain.toml")),
    ("vit-cifar10-pretrain", include_str!("../../../assets/recipes/vit-cifar10-pretrain.toml")),
    ("vit-digits-full", include_str!("../../../assets/recipes/vit-digits-full.toml")),
    ("vit-digits-linear", include_str!("../../../assets/recipes/vit-digits-linear.toml")),
    ("vit-digits-lora", include_str!("../../../assets/recipes/vit-digits-lora.toml")),
    ("vit-digits-nola", include_str!("../../../assets/recipes/vit-digits-nola.toml")),
    ("vit-large-cifar10-nola", include_str!("../../../assets/recipes/vit-large-cifar10-nola.toml")),
];

#[derive(Debug, Args)]
pub struct RecipesArgs {
    /// Print this one.
    name: Option<String>,
}

pub fn run(args: &RecipesArgs) -> Result<(), Error> {
    match &args.name {
        Some(name) => print_line(shipped(name)?.trim_end())?,
        None => {
            for (name, text) in SHIPPED {
                print_line(&format!("{name:30} {}", purpose(text)))?;
            }
        }
    }
    Ok(())
}

/// The text of a shipped recipe.
///
/// # Errors
/// If there is none of that name.
pub fn shipped(name: &str) -> Result<&'static str, Error> {
    let found = SHIPPED.iter().find(|(known, _)| *known == name);
    let names = || SHIPPED.iter().map(|(name, _)| (*name).to_owned()).collect();
    let text = found.map(|(_, text)| *text);
    text.ok_or_else(|| RecipeError::NotShipped { name: name.to_owned(), shipped: names() }.into())
}

/// The first line of a recipe, which says what it is for.
fn purpose(text: &str) -> &str {
    text.lines().next().unwrap_or_default().trim_start_matches(['#', ' '])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recipe_in_the_folder_is_shipped() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/recipes");
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .expect("the recipes")
            .map(|entry| entry.expect("a file").file_name().to_string_lossy().replace(".toml", ""))
            .collect();
        names.sort();
        assert_eq!(names, SHIPPED.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    }

    #[test]
    fn every_recipe_says_first_what_it_is_for() {
        for (name, text) in SHIPPED {
            assert!(text.starts_with("# ") && purpose(text).len() > 10, "{name}");
        }
    }
}
