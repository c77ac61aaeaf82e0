//! What the card of a data set, its `README.md`, says of configurations.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use yaml_rust2::parser::{Event, Parser};
use yaml_rust2::{Yaml, YamlLoader};

use super::super::HubError;
use super::{DatasetError, DatasetName};

/// A longer card is cut; what is read stands at its start.
const MAX_BYTES: u64 = 1 << 20;
/// What people write has far fewer levels.
const MAX_DEPTH: usize = 32;

/// A configuration, as a card has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Its name.
    pub name: String,
    /// Whether it is meant where none is named.
    pub is_default: bool,
    /// The folder that its files are in; empty: the whole repository.
    pub folder: String,
    /// Patterns of the files of each split; empty: file names say it.
    pub splits: Vec<(String, Vec<String>)>,
}

/// The configurations that a card declares; none if it has no such part.
///
/// # Errors
/// If the file cannot be read, or that part means nothing.
pub fn read(name: &DatasetName, file: &Path) -> Result<Vec<Config>, HubError> {
    let mut bytes = Vec::new();
    let read = File::open(file).and_then(|file| file.take(MAX_BYTES).read_to_end(&mut bytes));
    read.map_err(|source| HubError::Io { file: file.to_path_buf(), source })?;
    let text = String::from_utf8_lossy(&bytes);
    parse(&text).map_err(|problem| {
        let (name, example) = (name.repository.id.clone(), name.with("data/*.parquet"));
        Box::new(DatasetError::Card { name, problem, example }).into()
    })
}

fn parse(card: &str) -> Result<Vec<Config>, String> {
    let Some(text) = configs(card) else { return Ok(Vec::new()) };
    check_plain(&text)?;
    let documents = YamlLoader::load_from_str(&text).map_err(|error| error.to_string())?;
    let configs = documents.first().map(|document| &document["configs"]);
    match configs.and_then(Yaml::as_vec) {
        Some(configs) => configs.iter().map(config).collect(),
        None => Err("`configs` is not a list".to_string()),
    }
}

/// The key `configs` with its value, out of the YAML between the two lines `---` at the start; the rest is not read.
fn configs(card: &str) -> Option<String> {
    let mut lines = card.trim_start_matches('\u{feff}').lines();
    lines.next().filter(|line| line.trim_end() == "---")?;
    let header = lines.take_while(|line| line.trim_end() != "---");
    let mut header = header.skip_while(|line| !line.starts_with("configs:"));
    let first = header.next()?;
    let goes_on = |line: &&str| line.is_empty() || line.starts_with([' ', '-', '#', ']']);
    Some([first].into_iter().chain(header.take_while(goes_on)).collect::<Vec<_>>().join("\n"))
}

/// Refuses what could take any time or memory to read: aliases, and more levels than people write.
fn check_plain(text: &str) -> Result<(), String> {
    let mut parser = Parser::new_from_str(text);
    let mut depth = 0;
    loop {
        let (event, _) = parser.next_token().map_err(|error| error.to_string())?;
        match event {
            Event::StreamEnd => return Ok(()),
            Event::Alias(_) => return Err("it has aliases (`*name`)".to_string()),
            Event::MappingStart(..) | Event::SequenceStart(..) => depth += 1,
            Event::MappingEnd | Event::SequenceEnd => depth -= 1,
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(format!("it has more than {MAX_DEPTH} levels"));
        }
    }
}

fn config(yaml: &Yaml) -> Result<Config, String> {
    let name = yaml["config_name"].as_str().unwrap_or("default").to_string();
    let folder = yaml["data_dir"].as_str().unwrap_or_default().trim_matches('/').trim_start_matches("./");
    let is_default = yaml["default"].as_bool().unwrap_or(false) || name == "default";
    let splits = splits(&yaml["data_files"]).ok_or_else(|| format!("`data_files` of `{name}`"))?;
    Ok(Config { name, is_default, folder: folder.to_string(), splits })
}

/// The splits in `data_files`: patterns, splits with their `path`, or a table of splits.
fn splits(yaml: &Yaml) -> Option<Vec<(String, Vec<String>)>> {
    let train = |patterns| vec![("train".to_string(), patterns)];
    match yaml {
        Yaml::BadValue | Yaml::Null => Some(Vec::new()),
        Yaml::String(_) => Some(train(patterns(yaml)?)),
        Yaml::Array(list) if list.iter().all(|item| item.as_str().is_some()) => Some(train(patterns(yaml)?)),
        Yaml::Array(list) => list
            .iter()
            .map(|item| Some((item["split"].as_str()?.to_string(), patterns(&item["path"])?)))
            .collect(),
        Yaml::Hash(table) => {
            table.iter().map(|(split, paths)| Some((split.as_str()?.to_string(), patterns(paths)?))).collect()
        }
        _ => None,
    }
}

/// One pattern or a list of them.
fn patterns(yaml: &Yaml) -> Option<Vec<String>> {
    match yaml {
        Yaml::String(pattern) => Some(vec![pattern.clone()]),
        Yaml::Array(list) => list.iter().map(|item| item.as_str().map(str::to_string)).collect(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(card: &str) -> Vec<String> {
        let shown = |config: Config| {
            let splits = config.splits.iter().map(|(split, paths)| format!("{split}={}", paths.join("+")));
            let mark = if config.is_default { "*" } else { "" };
            format!("{}{mark} {} {}", config.name, config.folder, splits.collect::<Vec<_>>().join(" "))
        };
        parse(card).expect(card).into_iter().map(shown).collect()
    }

    #[test]
    fn a_card_without_configurations_declares_none() {
        for card in
            ["", "# Title\nconfigs:\n- x", "---\nlicense: mit\n---\nconfigs:\n- x", "---\nlicense: mit"]
        {
            assert!(shown(card).is_empty(), "{card}");
        }
    }

    #[test]
    fn configurations_are_read_in_every_form_that_the_hub_knows() {
        let card = "---\nlicense: mit\nconfigs:\n- config_name: main\n  default: true\n  data_files:\n  - split: train\n    \
                    path: main/train-*\n  - split: test\n    path:\n    - main/a.csv\n    - main/b.csv\n- config_name: extra\n  \
                    data_files: extra/*.csv\n- config_name: list\n  data_files: [\"a.csv\", \"b.csv\"]\n- config_name: \
                    table\n  data_files:\n    dev: d.csv\n- config_name: folder\n  data_dir: ./deep/\nsize: 3\n---\n# Text";
        assert_eq!(
            shown(card),
            [
                "main*  train=main/train-* test=main/a.csv+main/b.csv",
                "extra  train=extra/*.csv",
                "list  train=a.csv+b.csv",
                "table  dev=d.csv",
                "folder deep "
            ]
        );
    }

    #[test]
    fn a_card_that_makes_no_sense_is_refused() {
        for (configs, problem) in [
            ("configs: 3", "not a list"),
            ("configs:\n- config_name: a\n  data_files:\n  - 3", "`data_files` of `a`"),
            ("configs:\n- &a [b]\n- *a", "aliases"),
            ("configs: [[", ""),
        ] {
            let message = parse(&format!("---\n{configs}\n---\n")).expect_err(configs);
            assert!(message.contains(problem), "{message}");
        }
        let deep = format!("---\nconfigs: {}\n---\n", "[".repeat(100_000));
        assert!(parse(&deep).is_err());
    }
}
