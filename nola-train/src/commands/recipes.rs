//! `nola-train recipes`: the shipped recipes, and what can be written in one.

use clap::Args;
use clap_complete::ArgValueCandidates;
use serde::Serialize;

use super::completions::{keys, recipes};
use super::{Global, print_json, print_line, print_part};
use crate::Error;
use crate::recipe::{ShippedRecipe, Summary, explained, keys_of, schema, schema_text};

#[derive(Debug, Args)]
pub struct RecipesArgs {
    /// Print this recipe.
    #[arg(conflicts_with_all = ["schema", "explain"], add = ArgValueCandidates::new(recipes))]
    name: Option<String>,
    /// Print the JSON schema of recipes, by which editors complete and check them.
    #[arg(long, conflicts_with = "explain")]
    schema: bool,
    /// Say what a key of recipes means, such as `train.warmup`, or list those of a section, such as `train`.
    #[arg(long, value_name = "KEY", add = ArgValueCandidates::new(keys))]
    explain: Option<String>,
}

/// The JSON object of `recipes --json`.
#[derive(Debug, Serialize)]
struct List {
    recipes: Vec<Summary>,
}

/// The JSON object of `recipes NAME --json`.
#[derive(Debug, Serialize)]
struct Printed {
    #[serde(flatten)]
    summary: Summary,
    text: &'static str,
}

/// The JSON object of `recipes --explain KEY --json`.
#[derive(Debug, Serialize)]
struct Explained {
    sections: Vec<crate::recipe::Section>,
}

pub fn run(args: &RecipesArgs, global: &Global) -> Result<(), Error> {
    match args {
        RecipesArgs { schema: true, .. } if global.json => print_json(schema())?,
        RecipesArgs { schema: true, .. } => print_part(&schema_text())?,
        RecipesArgs { explain: Some(key), .. } if global.json => {
            print_json(&Explained { sections: keys_of(key)? })?;
        }
        RecipesArgs { explain: Some(key), .. } => print_part(&explained(key)?)?,
        RecipesArgs { name: Some(name), .. } => print(ShippedRecipe::named(name)?, global)?,
        RecipesArgs { name: None, .. } if global.json => {
            print_json(&List { recipes: ShippedRecipe::all().map(ShippedRecipe::summary).collect() })?;
        }
        RecipesArgs { name: None, .. } => list()?,
    }
    Ok(())
}

fn print(recipe: ShippedRecipe, global: &Global) -> Result<(), Error> {
    if global.json {
        return Ok(print_json(&Printed { summary: recipe.summary(), text: recipe.text })?);
    }
    Ok(print_line(recipe.text.trim_end())?)
}

fn list() -> Result<(), Error> {
    for summary in ShippedRecipe::all().map(ShippedRecipe::summary) {
        print_line(&format!("{:28} {}", summary.name, summary.purpose))?;
        if !summary.needs.is_empty() {
            let needs: Vec<String> = summary.needs.iter().map(|path| path.display().to_string()).collect();
            print_line(&format!("{:28} needs {}", "", needs.join(", ")))?;
        }
    }
    Ok(())
}
