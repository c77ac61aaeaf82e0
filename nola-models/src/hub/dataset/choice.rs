//! From a name to the files that it means.

use std::collections::BTreeSet;

use super::card::Config;
use super::subsets::{self, Subset, UNNAMED, best, matching};
use super::{DatasetError, DatasetName, DatasetSplit, Readable};

/// The branch on which the hub keeps data sets as Parquet, as it is typed.
const PARQUET: &str = "@refs/convert/parquet";

impl DatasetSplit {
    /// Names of splits that mean it, the usual one first.
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Train => &["train", "training"],
            Self::Validation => &["validation", "valid", "dev", "val"],
        }
    }
}

/// A name, and the repository it is about.
pub struct Choice<'a> {
    pub name: &'a DatasetName,
    /// All files of the repository.
    pub files: &'a BTreeSet<String>,
    /// What its card declares.
    pub card: &'a [Config],
    pub readable: Readable<'a>,
}

impl Choice<'_> {
    /// The files that the name means; what is named inside is a configuration, a split, both, a file, a pattern of files or a
    /// folder, whichever there is first.
    ///
    /// # Errors
    /// If it is none of these, or leaves open which files are meant.
    pub fn files(&self, split: DatasetSplit) -> Result<Vec<String>, DatasetError> {
        let mut subsets = subsets::subsets(self.name, self.files, self.card, self.readable)?;
        subsets.retain(|subset| !subset.splits.is_empty());
        let inside = self.name.inside.as_str();
        if inside.is_empty() {
            return self.split_of(self.only(&subsets)?, split);
        }
        if let Some(subset) = subsets.iter().find(|subset| subset.name == inside) {
            return self.split_of(subset, split);
        }
        if let Some(files) = named_split(&subsets, inside) {
            return Ok(files);
        }
        let matched = best(matching(self.name, self.files, inside)?, self.readable);
        if !matched.is_empty() {
            return Ok(matched);
        }
        let splits = subsets::splits(self.files, inside, self.readable);
        match &splits[..] {
            [] => Err(self.nothing_inside(&subsets)),
            [(unnamed, files)] if unnamed == UNNAMED => Ok(files.clone()),
            _ => self.split_of(&Subset { name: inside.to_string(), is_default: false, splits }, split),
        }
    }

    /// The configuration that is meant where none is named.
    fn only<'s>(&self, subsets: &'s [Subset]) -> Result<&'s Subset, DatasetError> {
        match subsets {
            [] => Err(self.nothing_readable()),
            [one] => Ok(one),
            several => several.iter().find(|subset| subset.is_default).ok_or_else(|| DatasetError::Subsets {
                name: self.name.repository().to_string(),
                subsets: names(several),
                example: self.name.with(&several[0].name),
            }),
        }
    }

    fn split_of(&self, subset: &Subset, wanted: DatasetSplit) -> Result<Vec<String>, DatasetError> {
        let find = |name: &&str| subset.splits.iter().find(|(split, _)| split == name);
        if let Some((_, files)) = wanted.names().iter().find_map(find) {
            return Ok(files.clone());
        }
        // Scores are hardly meant to be of what is learned.
        let is_likely = |split: &&String| wanted == DatasetSplit::Train || *split != UNNAMED;
        let mut names = subset.splits.iter().map(|(split, _)| split);
        let other = names.find(is_likely).unwrap_or(&subset.splits[0].0);
        let example = match subset.name.as_str() {
            "" => self.name.with(other),
            name => self.name.with(&format!("{name}/{other}")),
        };
        let named = self.name.with(&subset.name);
        let splits = subset.splits.iter().map(|(split, _)| split.clone()).collect();
        Err(DatasetError::NoSplit { name: named, wanted: wanted.names()[0], splits, example })
    }

    fn nothing_inside(&self, subsets: &[Subset]) -> DatasetError {
        let of_first = subsets.first().map(|subset| subset.splits.iter().map(|(split, _)| split.clone()));
        DatasetError::NothingInside {
            name: self.name.repository().to_string(),
            inside: self.name.inside.clone(),
            subsets: names(subsets),
            splits: of_first.into_iter().flatten().collect(),
        }
    }

    fn nothing_readable(&self) -> DatasetError {
        let name = self.name.repository().to_string();
        let script = format!("{}.py", name.rsplit('/').next().unwrap_or(&name));
        if self.files.contains(&script) {
            let example = format!("{name}{PARQUET}");
            return DatasetError::OnlyScript { name, script, example };
        }
        let ending = |file: &String| Some(format!(".{}", file.rsplit_once('.')?.1));
        let endings: BTreeSet<String> = self.files.iter().filter_map(ending).collect();
        DatasetError::NothingReadable { name, endings: endings.into_iter().collect() }
    }
}

/// The files of `SPLIT` or `CONFIGURATION/SPLIT`.
fn named_split(subsets: &[Subset], inside: &str) -> Option<Vec<String>> {
    let of = |subset: &Subset, name: &str| {
        subset.splits.iter().find(|(split, _)| split == name).map(|(_, files)| files.clone())
    };
    let in_named = |subset: &Subset| of(subset, inside.strip_prefix(&subset.name)?.strip_prefix('/')?);
    let alone = match subsets {
        [one] => Some(one),
        several => several.iter().find(|subset| subset.is_default),
    };
    subsets.iter().find_map(in_named).or_else(|| of(alone?, inside))
}

fn names(subsets: &[Subset]) -> Vec<String> {
    subsets.iter().map(|subset| subset.name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readable(file: &str) -> Option<u8> {
        [".parquet", ".jsonl", ".json", ".csv"]
            .iter()
            .position(|end| file.ends_with(end))
            .map(|rank| rank as u8)
    }

    fn chosen(name: &str, files: &[&str], card: &[Config], split: DatasetSplit) -> Result<String, String> {
        let files = files.iter().map(|file| file.to_string()).collect();
        let name = DatasetName::parse(name).expect(name);
        let choice = Choice { name: &name, files: &files, card, readable: &readable };
        choice.files(split).map(|files| files.join(" ")).map_err(|error| error.to_string())
    }

    fn train(name: &str, files: &[&str]) -> Result<String, String> {
        chosen(name, files, &[], DatasetSplit::Train)
    }

    fn validation(name: &str, files: &[&str]) -> Result<String, String> {
        chosen(name, files, &[], DatasetSplit::Validation)
    }

    #[test]
    fn a_split_is_found_as_the_datasets_library_finds_it() {
        for (files, of_train, of_validation) in [
            (
                &[
                    "data/train-00000-of-00002.parquet",
                    "data/train-00001-of-00002.parquet",
                    "data/validation-00000-of-00001.parquet",
                    "README.md",
                ][..],
                "data/train-00000-of-00002.parquet data/train-00001-of-00002.parquet",
                "data/validation-00000-of-00001.parquet",
            ),
            (&["train.csv", "valid.csv", "test.csv", ".gitattributes"], "train.csv", "valid.csv"),
            (
                &["train/a.jsonl", "train/b.jsonl", "dev/train_ish.jsonl"],
                "train/a.jsonl train/b.jsonl",
                "dev/train_ish.jsonl",
            ),
            (&["my_train_1.json", "my-val.json", "dataset_infos.json"], "my_train_1.json", "my-val.json"),
            (&["train.csv", "train.parquet", "val.csv"], "train.parquet", "val.csv"),
        ] {
            assert_eq!(train("ada/small", files).as_deref(), Ok(of_train), "{files:?}");
            assert_eq!(validation("ada/small", files).as_deref(), Ok(of_validation), "{files:?}");
        }
    }

    #[test]
    fn files_without_a_word_of_a_split_are_for_training() {
        let files = ["dolly.jsonl", "README.md", "__cache/x.jsonl", ".hidden.jsonl"];
        assert_eq!(train("ada/small", &files).as_deref(), Ok("dolly.jsonl"));
        assert_eq!(
            validation("ada/small", &files).unwrap_err(),
            "`hf://datasets/ada/small` has no validation split; it has train: name the one to take, as in \
             `hf://datasets/ada/small/train`"
        );
    }

    #[test]
    fn of_several_configurations_one_is_named() {
        let files = [
            "en/train-00000-of-00001.parquet",
            "en/test-00000-of-00001.parquet",
            "de/train-00000-of-00001.parquet",
        ];
        let message = train("ada/small", &files).unwrap_err();
        assert_eq!(
            message,
            "`ada/small` has several configurations: de, en; name one of them, as in `hf://datasets/ada/small/de`"
        );
        assert_eq!(train("ada/small/en", &files).as_deref(), Ok(files[0]));
        assert_eq!(validation("ada/small/en/test", &files).as_deref(), Ok(files[1]));
        let message = validation("ada/small@v1/en", &files).unwrap_err();
        assert!(
            message.contains("has no validation split; it has train, test")
                && message.contains("ada/small@v1/en/test"),
            "{message}"
        );
        let message = train("ada/small/fr", &files).unwrap_err();
        assert_eq!(
            message,
            "`ada/small` has no configuration, split, folder or file `fr`; its configurations are de, en, the splits train"
        );
    }

    #[test]
    fn what_the_card_declares_wins_over_names() {
        let of = |name: &str, is_default, paths: &str| Config {
            name: name.to_owned(),
            is_default,
            folder: String::new(),
            splits: vec![("train".to_owned(), vec![paths.to_owned()])],
        };
        let files = ["a/train-1.csv", "a/train-2.csv", "b/x.csv"];
        let card = [of("first", false, "a/train-*"), of("second", true, "b/**")];
        let train = |name: &str| chosen(name, &files, &card, DatasetSplit::Train);
        assert_eq!(train("ada/small").as_deref(), Ok("b/x.csv"));
        assert_eq!(train("ada/small/first").as_deref(), Ok("a/train-1.csv a/train-2.csv"));
        assert_eq!(train("ada/small/a/train-2.csv").as_deref(), Ok("a/train-2.csv"));
    }

    #[test]
    fn files_are_named_by_path_by_pattern_and_by_folder() {
        let files = ["deep/part/train.csv", "deep/part/test.csv", "other/b.csv", "other/notes.md"];
        assert_eq!(validation("ada/small/deep/part/test.csv", &files).as_deref(), Ok("deep/part/test.csv"));
        assert_eq!(
            train("ada/small/deep/*/t*.csv", &files).as_deref(),
            Ok("deep/part/test.csv deep/part/train.csv")
        );
        assert_eq!(train("ada/small/deep/part", &files).as_deref(), Ok("deep/part/train.csv"));
        assert_eq!(validation("ada/small/other", &files).as_deref(), Ok("other/b.csv"));
        assert!(train("ada/small/other/**b", &files).unwrap_err().contains("is not a pattern of file names"));
        assert!(
            train("ada/small/*.parquet", &files)
                .unwrap_err()
                .contains("no configuration, split, folder or file")
        );
    }

    #[test]
    fn a_repository_of_a_script_is_refused_by_name() {
        let message = train("ada/small", &["small.py", "README.md"]).unwrap_err();
        assert!(
            message.contains("only a loading script (small.py)")
                && message.contains("`ada/small@refs/convert/parquet`"),
            "{message}"
        );
        let message = train("ada/small", &["data-00000.arrow", "state.zip"]).unwrap_err();
        assert_eq!(message, "`ada/small` holds nothing that is read here; its files are .arrow, .zip");
    }
}
