//! How much data a run learns from, and how much of it is held out.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::amounts::thousands;
use crate::data::{DataError, WeightedSamples};
use crate::portion::Drawn;
use crate::printable::path_name;
use crate::recipe::TrainingPaths;

/// How much data a run learns from, and how much of it is held out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DataCounts {
    /// The parts of the training data, in the order of the recipe.
    pub training: Vec<PartCounts>,
    /// What is held out of it for validation; absent where there is other validation data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out: Option<Drawn>,
}

/// How much is learned from one part of the training data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PartCounts {
    /// File or folder, as the recipe names it.
    pub path: PathBuf,
    /// How often each of its samples comes in an epoch.
    pub weight: f64,
    /// Rows or images that are learned from, before bad ones are left out.
    pub rows: usize,
    /// Samples that come in an epoch; with packing, rows of several.
    pub samples_in_epoch: usize,
}

impl DataCounts {
    /// Counts the parts of a recipe, of which `rows` are read and `samples` are drawn.
    ///
    /// # Errors
    /// If a weight is so small that nothing comes of it.
    pub fn new(
        paths: &TrainingPaths,
        rows: &[usize],
        samples: &[WeightedSamples],
        held_out: Option<Drawn>,
    ) -> Result<Self, DataError> {
        let mut training = Vec::new();
        for ((part, &rows), samples) in paths.parts().iter().zip(rows).zip(samples) {
            let (path, weight) = (part.path.clone(), part.weight);
            let samples_in_epoch = samples.in_epoch();
            if samples_in_epoch == 0 {
                return Err(DataError::NothingInEpoch { path, weight, samples: samples.samples.len() });
            }
            training.push(PartCounts { path, weight, rows, samples_in_epoch });
        }
        Ok(Self { training, held_out })
    }

    /// Samples that come in an epoch.
    pub fn samples_in_epoch(&self) -> usize {
        self.training.iter().map(|part| part.samples_in_epoch).sum()
    }

    /// What an epoch is made of, where that is not plain.
    pub fn mixture(&self) -> Option<String> {
        let is_plain = self.training.iter().all(|part| part.weight == 1.0) && self.training.len() < 2;
        let parts: Vec<String> = self.training.iter().map(PartCounts::sentence).collect();
        let samples = thousands(self.samples_in_epoch() as u64);
        (!is_plain).then(|| format!("an epoch has {samples} samples: {}", parts.join("; ")))
    }

    /// Name and value of what a report shows.
    pub fn report_lines(&self) -> Vec<(String, String)> {
        let mixture = self.mixture().map(|mixture| ("training data".to_owned(), mixture));
        let held_out =
            self.held_out.map(|drawn| ("validation data".to_owned(), format!("{drawn}, held out")));
        mixture.into_iter().chain(held_out).collect()
    }
}

impl PartCounts {
    fn sentence(&self) -> String {
        let Self { path, weight, rows, samples_in_epoch } = self;
        let [rows, samples] = [*rows, *samples_in_epoch].map(|count| thousands(count as u64));
        format!("{samples} of {} ({rows} with weight {weight})", path_name(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::portion::DrawnUnit;

    fn paths(toml: &str) -> TrainingPaths {
        #[derive(Deserialize)]
        struct Data {
            train: TrainingPaths,
        }
        toml::from_str::<Data>(&format!("train = {toml}")).unwrap().train
    }

    fn samples(count: usize, weight: f64) -> WeightedSamples {
        WeightedSamples { samples: (0..count).collect(), weight }
    }

    #[test]
    fn a_mixture_is_told_with_rows_and_weight_of_each_file() {
        let paths = paths("[{ path = \"a\", weight = 2 }, { path = \"b\", weight = 0.5 }]");
        let counts =
            DataCounts::new(&paths, &[1200, 7], &[samples(1200, 2.0), samples(6, 0.5)], None).unwrap();
        let mixture =
            "an epoch has 2,403 samples: 2,400 of a (1,200 with weight 2); 3 of b (7 with weight 0.5)";
        assert_eq!(counts.mixture().as_deref(), Some(mixture));
        assert_eq!(counts.report_lines(), [("training data".to_owned(), mixture.to_owned())]);
    }

    #[test]
    fn one_file_is_no_mixture_but_what_is_held_out_is_told() {
        let held_out = Some(Drawn { used: 112, of: 1120, unit: DrawnUnit::Rows });
        let counts = DataCounts::new(&paths("\"a\""), &[1008], &[samples(1008, 1.0)], held_out).unwrap();
        assert_eq!(counts.mixture(), None);
        let expected = [("validation data".to_owned(), "112 of 1,120 rows, held out".to_owned())];
        assert_eq!(counts.report_lines(), expected);
    }

    #[test]
    fn a_weight_that_leaves_nothing_is_refused() {
        let paths = paths("[\"a\", { path = \"b\", weight = 0.1 }]");
        let counts = DataCounts::new(&paths, &[3, 4], &[samples(3, 1.0), samples(4, 0.1)], None);
        let message = counts.unwrap_err().to_string();
        assert!(message.starts_with("b: with weight 0.1 none of its 4 samples"), "{message}");
    }
}
