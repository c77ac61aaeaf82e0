//! The keys of recipes in words: one of them in a terminal, all of them in `docs/recipe.md`.

use std::fmt::Write;

use super::error::RecipeError;
use super::keys::{Key, KeyDefault, Section, sections};
use super::node::TAG;

/// What stands above the keys in `docs/recipe.md`.
const PREAMBLE: &str = include_str!("reference.md");

/// The key `name` in its sections, or the sections of that name and those in them.
///
/// # Errors
/// If there is none of that name.
pub fn keys_of(name: &str) -> Result<Vec<Section>, RecipeError> {
    let mut found = sections();
    found.iter_mut().for_each(|section| section.keys.retain(|key| key.path == name));
    found.retain(|section| !section.keys.is_empty());
    if !found.is_empty() {
        return Ok(found);
    }
    let within = format!("{name}.");
    let inside = |section: &Section| section.path == name || section.path.starts_with(&within);
    let (found, others): (Vec<_>, Vec<_>) = sections().into_iter().partition(inside);
    if !found.is_empty() {
        return Ok(found);
    }
    let names =
        |section: Section| std::iter::once(section.path).chain(section.keys.into_iter().map(|key| key.path));
    let expected = others.into_iter().flat_map(names).collect();
    Err(RecipeError::NoSuchKey { name: name.to_owned(), expected })
}

/// What `name` means, a key or a section of recipes.
///
/// # Errors
/// If there is none of that name.
pub fn explained(name: &str) -> Result<String, RecipeError> {
    let found = keys_of(name)?;
    if found.iter().any(|section| section.keys.iter().any(|key| key.path == name)) {
        let keys = same_kinds(&found);
        return Ok(keys.iter().map(|(kinds, key)| described(kinds, key)).collect::<Vec<_>>().join("\n"));
    }
    Ok(found.iter().map(listed).collect::<Vec<_>>().join("\n"))
}

/// The keys, each with the kinds it is for; those that are the same for several kinds are listed once.
fn same_kinds(sections: &[Section]) -> Vec<(Vec<&str>, &Key)> {
    let mut found: Vec<(Vec<&str>, &Key)> = Vec::new();
    for section in sections {
        for key in &section.keys {
            let kind = section.kind.as_deref();
            match found.iter_mut().find(|(_, known)| *known == key) {
                Some((kinds, _)) => kinds.extend(kind),
                None => found.push((kind.into_iter().collect(), key)),
            }
        }
    }
    found
}

/// A key in a terminal.
fn described(kinds: &[&str], key: &Key) -> String {
    let mut text = key.path.clone();
    if !kinds.is_empty() {
        let kinds: Vec<_> = kinds.iter().map(|kind| format!("\"{kind}\"")).collect();
        write!(text, "  (with {TAG} = {})", kinds.join(" or ")).expect("text grows");
    }
    write!(text, "\n  {}\n\n", key.effect).expect("text grows");
    for (title, value) in properties(key) {
        writeln!(text, "  {title:8} {value}").expect("text grows");
    }
    let width = key.choices.iter().map(|(name, _)| name.len() + 2).max().unwrap_or(0);
    for (index, (name, effect)) in key.choices.iter().enumerate() {
        let title = if index == 0 { "values" } else { "" };
        let name = format!("\"{name}\"");
        writeln!(text, "  {title:8} {name:width$}  {effect}").expect("text grows");
    }
    text
}

/// The keys of a section in a terminal, one a line.
fn listed(section: &Section) -> String {
    let mut text = format!("[{}]{}  {}\n", section.path, condition(section), section.effect);
    let width = section.keys.iter().map(|key| key.name().len()).max().unwrap_or(0);
    for key in &section.keys {
        let default = match &key.default {
            KeyDefault::Value(value) => format!("default {value}"),
            KeyDefault::Words(words) => format!("default: {words}"),
            KeyDefault::Required => "required".to_owned(),
        };
        writeln!(text, "  {:width$}  {} ({default})", key.name(), in_short(&key.effect)).expect("text grows");
    }
    text
}

/// The first clause of a sentence.
fn in_short(effect: &str) -> &str {
    let end = [": ", "; ", ". "].iter().filter_map(|sign| effect.find(sign)).min();
    end.map_or(effect.trim_end_matches('.'), |end| &effect[..end])
}

fn condition(section: &Section) -> String {
    section.kind.as_ref().map_or(String::new(), |kind| format!("  {TAG} = \"{kind}\""))
}

/// Type, unit, default, range and example of a key.
fn properties(key: &Key) -> Vec<(&'static str, String)> {
    let default = match &key.default {
        KeyDefault::Value(value) => value.clone(),
        KeyDefault::Words(words) => words.clone(),
        KeyDefault::Required => "none; the key is required".to_owned(),
    };
    let type_name = if key.choices.is_empty() { key.type_name.as_str() } else { "one of the values below" };
    let mut properties = vec![("type", type_name.trim_start_matches("a ").to_owned())];
    properties.extend(key.unit.clone().map(|unit| ("unit", unit)));
    properties.push(("default", default));
    properties.extend(key.range.clone().map(|range| ("range", range)));
    properties.push(("example", format!("{} = {}", key.name(), key.example)));
    properties
}

/// Every key, as `docs/recipe.md` lists it.
pub fn reference() -> String {
    let mut text = PREAMBLE.to_owned();
    for section in sections() {
        let heading = match &section.kind {
            Some(kind) => format!("`[{}]` with `{TAG} = \"{kind}\"`", section.path),
            None => format!("`[{}]`", section.path),
        };
        write!(text, "\n## {heading}\n\n{}\n", section.effect).expect("text grows");
        for key in &section.keys {
            text += &in_markdown(key);
        }
    }
    text
}

fn in_markdown(key: &Key) -> String {
    let mut text = format!("\n### `{}`\n\n{}\n\n", key.path, key.effect);
    for (title, value) in properties(key) {
        let is_code = title == "example" || title == "default" && matches!(key.default, KeyDefault::Value(_));
        let value = if is_code { format!("`{value}`") } else { value };
        writeln!(text, "- {title}: {value}").expect("text grows");
    }
    for (name, effect) in &key.choices {
        writeln!(text, "  - `\"{name}\"`: {effect}").expect("text grows");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::recipe::schema_text;

    /// Compares a file with what it is made from; with `NOLA_WRITE_DOCS` set it is written.
    fn assert_up_to_date(file: &str, text: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(file);
        if std::env::var_os("NOLA_WRITE_DOCS").is_some() {
            std::fs::write(&path, text).expect("a file that can be written");
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default().replace("\r\n", "\n");
        assert!(
            found == text,
            "docs/{file} is not what the recipe structs say; write it again with `NOLA_WRITE_DOCS=1 cargo test -p nola-train \
             --lib recipe::explain`"
        );
    }

    #[test]
    fn the_reference_in_the_docs_is_that_of_the_structs() {
        assert_up_to_date("recipe.md", &reference());
    }

    #[test]
    fn the_schema_in_the_docs_is_that_of_the_structs() {
        assert_up_to_date("recipe.schema.json", &schema_text());
    }

    #[test]
    fn every_key_says_what_it_does_and_has_an_example() {
        for key in sections().iter().flat_map(|section| &section.keys) {
            assert!(key.effect.len() > 10 && key.effect.ends_with('.'), "{}: {}", key.path, key.effect);
            assert!(!key.example.is_empty(), "{} has no example", key.path);
            for (name, effect) in &key.choices {
                assert!(!effect.is_empty(), "{} = {name}: what is it?", key.path);
            }
        }
    }

    #[test]
    fn a_key_is_told_with_unit_default_range_and_example() {
        let text = explained("train.warmup").unwrap();
        for line in [
            "  type     whole number",
            "  unit     optimizer steps",
            "  default  0",
            "  example  warmup = 100",
        ] {
            assert!(text.lines().any(|found| found == line), "no `{line}` in:\n{text}");
        }
        assert!(text.starts_with("train.warmup\n  Length of the warm-up"), "{text}");
    }

    #[test]
    fn a_key_of_several_methods_is_told_once_where_it_is_the_same() {
        assert_eq!(explained("method.exclude").unwrap().matches("method.exclude").count(), 1);
        // NOLA's differs from LoRA's, which is DoRA's too.
        let times = explained("method.rank").unwrap().matches("method.rank").count();
        assert!((2..nola_core::AdapterConfig::KINDS.len()).contains(&times), "{times}");
        assert_eq!(explained("method.k").unwrap().matches("method.k").count(), 2);
    }

    #[test]
    fn a_section_lists_its_keys_and_those_of_the_tables_in_it() {
        let text = explained("data").unwrap();
        assert!(text.contains("[data.text.columns]") && text.contains("  shots "), "{text}");
        assert!(!text.contains("[train]"), "{text}");
    }

    #[test]
    fn an_unknown_key_suggests_the_likely_one() {
        let error = explained("train.warmpu").unwrap_err().to_string();
        assert!(error.contains("did you mean `train.warmup`?"), "{error}");
    }
}
