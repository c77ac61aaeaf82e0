//! Which part of a data set is used: a split, and a share of the training data that is held out for validation.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::amounts::thousands;
use crate::random::{Purpose, permutation, random};

/// How a share of a data set is held out: a function of the seed alone, the same on every machine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HoldOut {
    /// The share, above 0 and below 1.
    pub share: f64,
    /// Seed of the choice.
    pub seed: u64,
    /// Which file of the training data, or which class of images; each is drawn from on its own.
    pub place: usize,
}

/// Which part of a data set is used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Portion {
    /// All of it.
    Whole,
    /// What is not held out.
    Kept(HoldOut),
    /// What is held out.
    HeldOut(HoldOut),
}

/// A part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// What is trained on.
    Train,
    /// What is only measured on.
    Validation,
}

/// Where data lies, and which part of it is used.
#[derive(Debug, Clone, PartialEq)]
pub struct DataSource {
    /// What the user calls it, for messages.
    pub name: PathBuf,
    /// Its files, or folders of them, in the order in which they are read.
    pub paths: Vec<PathBuf>,
    /// The part.
    pub portion: Portion,
    /// Rows of it that are used at most, the first ones; 0: all.
    pub most: usize,
}

impl DataSource {
    /// All of a file or a folder.
    pub fn whole(path: &Path) -> Self {
        Self::part(path, Portion::Whole)
    }

    /// A part of a file or a folder.
    pub fn part(path: &Path, portion: Portion) -> Self {
        Self { name: path.to_owned(), paths: vec![path.to_owned()], portion, most: 0 }
    }
}

impl HoldOut {
    /// Which of `len` things are held out: the share of them, rounded, at least one, and never all; none if there is but one.
    pub fn chosen(&self, len: usize) -> Vec<bool> {
        let wanted = (self.share * len as f64).round() as usize;
        let count = wanted.max(1).min(len.saturating_sub(1));
        let mut is_held_out = vec![false; len];
        let order = permutation(len, &mut random(self.seed, Purpose::HoldOut, self.place as u64, 0));
        order[..count].iter().for_each(|&index| is_held_out[index] = true);
        is_held_out
    }
}

impl Portion {
    /// Which of `len` things belong to it; see [`HoldOut::chosen`].
    pub fn chosen(&self, len: usize) -> Vec<bool> {
        match self {
            Self::Whole => vec![true; len],
            Self::HeldOut(hold_out) => hold_out.chosen(len),
            Self::Kept(hold_out) => hold_out.chosen(len).into_iter().map(|is_held| !is_held).collect(),
        }
    }
}

/// How much of a data set is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drawn {
    /// What is used.
    pub used: usize,
    /// What there is.
    pub of: usize,
    /// What is counted.
    pub unit: DrawnUnit,
}

/// What a portion of a data set is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DrawnUnit {
    /// Rows of files.
    Rows,
    /// Pieces of running text, each of `data.text.max_tokens`.
    Pieces,
    /// Images.
    Images,
}

impl Drawn {
    /// Counts what is chosen.
    pub fn of(chosen: &[bool], unit: DrawnUnit) -> Self {
        let used = chosen.iter().filter(|&&is_chosen| is_chosen).count();
        Self { used, of: chosen.len(), unit }
    }

    /// Both together, counted in the same unit.
    pub fn plus(self, other: Self) -> Self {
        Self { used: self.used + other.used, of: self.of + other.of, ..self }
    }
}

impl fmt::Display for Drawn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} {}", thousands(self.used as u64), thousands(self.of as u64), self.unit)
    }
}

impl fmt::Display for DrawnUnit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rows => "rows",
            Self::Pieces => "pieces of text",
            Self::Images => "images",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn count(chosen: &[bool]) -> usize {
        chosen.iter().filter(|&&is_chosen| is_chosen).count()
    }

    proptest! {
        #[test]
        fn what_is_kept_and_what_is_held_out_is_the_whole(len in 2usize..200, share in 0.001f64..0.999, seed: u64) {
            let hold_out = HoldOut { share, seed, place: 0 };
            let (kept, held_out) = (Portion::Kept(hold_out).chosen(len), Portion::HeldOut(hold_out).chosen(len));
            prop_assert!(kept.iter().zip(&held_out).all(|(kept, held_out)| kept != held_out));
            prop_assert!((1..len).contains(&count(&held_out)));
            prop_assert!((count(&held_out) as f64 - share * len as f64).abs() <= 1.0);
        }
    }

    #[test]
    fn a_tenth_of_1120_is_112() {
        assert_eq!(count(&HoldOut { share: 0.1, seed: 3, place: 0 }.chosen(1120)), 112);
    }

    #[test]
    fn seeds_and_places_choose_differently() {
        let chosen = |seed, place| HoldOut { share: 0.5, seed, place }.chosen(100);
        assert_eq!(chosen(1, 0), chosen(1, 0));
        assert_ne!(chosen(1, 0), chosen(2, 0));
        assert_ne!(chosen(1, 0), chosen(1, 1));
    }

    #[test]
    fn the_choice_is_the_same_on_every_machine_and_in_every_version() {
        let chosen = HoldOut { share: 0.3, seed: 7, place: 0 }.chosen(10);
        let places: Vec<usize> = (0..10).filter(|&place| chosen[place]).collect();
        assert_eq!(places, PINNED);
    }

    /// Also what a ChaCha8 written from its description alone gives.
    const PINNED: [usize; 3] = [3, 7, 9];
}
