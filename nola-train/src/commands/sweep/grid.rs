//! What a sweep tries: every combination of the values that are typed.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::Error;

/// Keys that the runs of a combination decide.
const BY_SEED: [&str; 4] = ["train.seed", "data.shots_seed", "method.seed", "output.dir"];
/// Longest name of a combination, in bytes: file systems take 255.
const LONGEST_NAME: usize = 150;

/// Keys with several values, and those with one.
#[derive(Debug, PartialEq, Eq)]
pub struct Grid {
    /// `KEY=VALUE` for all runs.
    pub common: Vec<String>,
    axes: Vec<Axis>,
}

/// A key with the values to try.
#[derive(Debug, PartialEq, Eq)]
struct Axis {
    key: String,
    values: Vec<String>,
}

/// One combination.
#[derive(Debug, PartialEq)]
pub struct Point {
    /// What it is called in tables and folders.
    pub name: String,
    /// `KEY=VALUE` of each key.
    pub set: Vec<String>,
    /// The same as keys and what was typed for them.
    pub settings: Map<String, Value>,
}

impl Grid {
    /// Reads `KEY=VALUE,VALUE` for each key.
    ///
    /// # Errors
    /// If a value is empty or given twice, a key is given twice or decided by the seed, or no key has two values.
    pub fn parse(set: &[String]) -> Result<Self, Error> {
        let (mut common, mut axes) = (Vec::new(), Vec::<Axis>::new());
        let mut keys = BTreeSet::new();
        for text in set {
            let problem = |problem: &str| Error::Sweep { text: text.clone(), problem: problem.to_owned() };
            let Some((key, values)) = text.split_once('=') else {
                return Err(problem("expected KEY=VALUE,VALUE, as in --set train.learning_rate=1e-3,2e-3"));
            };
            let (key, values) = (key.trim(), separated(values));
            if !keys.insert(key.to_owned()) {
                return Err(problem("this key is given twice; write all its values behind one, with commas"));
            }
            if values.iter().any(String::is_empty) {
                return Err(problem("a value is missing before or after a comma"));
            }
            if values.iter().collect::<BTreeSet<_>>().len() < values.len() {
                return Err(problem("a value is given twice"));
            }
            if values.len() == 1 {
                common.push(text.clone());
                continue;
            }
            if BY_SEED.contains(&key) {
                return Err(problem(
                    "each run has a seed and a folder of its own; use --seeds N and --out FOLDER",
                ));
            }
            axes.push(Axis { key: key.to_owned(), values });
        }
        if axes.is_empty() {
            let text = set.join(" --set ");
            let problem =
                "nothing to try: give a key several values, as in --set train.learning_rate=1e-3,2e-3";
            return Err(Error::Sweep { text, problem: problem.to_owned() });
        }
        Ok(Self { common, axes })
    }

    /// Every combination; the last key changes first.
    pub fn points<'a>(&'a self) -> impl Iterator<Item = Point> {
        let mut combinations: Vec<Vec<&'a str>> = vec![Vec::new()];
        for axis in &self.axes {
            let longer = |before: Vec<&'a str>| {
                axis.values.iter().map(move |value| [before.as_slice(), &[value.as_str()]].concat())
            };
            combinations = combinations.into_iter().flat_map(longer).collect();
        }
        let mut taken = BTreeSet::new();
        combinations.into_iter().map(move |values| self.point(&values, &mut taken))
    }

    fn point(&self, values: &[&str], taken: &mut BTreeSet<String>) -> Point {
        let pairs = || self.axes.iter().zip(values);
        let parts: Vec<String> =
            pairs().map(|(axis, value)| format!("{}={}", self.short(&axis.key), for_files(value))).collect();
        Point {
            name: unique(&parts.join(","), taken),
            set: pairs().map(|(axis, value)| format!("{}={value}", axis.key)).collect(),
            settings: pairs().map(|(axis, value)| (axis.key.clone(), Value::from(*value))).collect(),
        }
    }

    /// A key without its section, unless another one ends alike.
    fn short<'a>(&self, key: &'a str) -> &'a str {
        let last = |key: &'a str| key.rsplit('.').next().unwrap_or(key);
        let alike = self.axes.iter().filter(|axis| axis.key.rsplit('.').next() == Some(last(key))).count();
        if alike > 1 { key } else { last(key) }
    }
}

/// The parts of `text` between commas that stand outside of brackets and quotes.
fn separated(text: &str) -> Vec<String> {
    let (mut parts, mut depth, mut quote) = (vec![String::new()], 0_usize, None);
    let mut is_escaped = false;
    for letter in text.chars() {
        match (quote, letter) {
            (Some(open), _) => {
                if letter == open && !is_escaped {
                    quote = None;
                }
                is_escaped = open == '"' && letter == '\\' && !is_escaped;
            }
            (None, '"' | '\'') => quote = Some(letter),
            (None, '[' | '{') => depth += 1,
            (None, ']' | '}') => depth = depth.saturating_sub(1),
            (None, ',') if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            (None, _) => {}
        }
        parts.last_mut().expect("there is always one").push(letter);
    }
    parts.into_iter().map(|part| part.trim().to_owned()).collect()
}

/// A value as it may stand in the name of a file.
fn for_files(value: &str) -> String {
    let may_stand = |letter: char| letter.is_alphanumeric() || ".-+".contains(letter);
    let letters: String = value.chars().map(|letter| if may_stand(letter) { letter } else { '_' }).collect();
    letters.trim_matches('_').to_owned()
}

/// `name`, made short, with a number if it is taken.
fn unique(name: &str, taken: &mut BTreeSet<String>) -> String {
    let end =
        name.char_indices().map(|(at, letter)| at + letter.len_utf8()).take_while(|end| *end <= LONGEST_NAME);
    let short = &name[..end.last().unwrap_or_default()];
    let numbered = (2..).map(|number| format!("{short}-{number}"));
    let free = std::iter::once(short.to_owned()).chain(numbered).find(|name| taken.insert(name.clone()));
    free.expect("numbers do not end")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(set: &[&str]) -> Result<Grid, Error> {
        Grid::parse(&set.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
    }

    fn names(set: &[&str]) -> Vec<String> {
        grid(set).expect("a grid").points().map(|point| point.name).collect()
    }

    #[test]
    fn every_combination_is_tried_and_a_single_value_is_common() {
        let grid =
            grid(&["train.learning_rate=1e-3,2e-3", "train.steps=7", "method.rank=1, 4"]).expect("a grid");
        assert_eq!(grid.common, ["train.steps=7"]);
        let points: Vec<Point> = grid.points().collect();
        let names: Vec<&str> = points.iter().map(|point| point.name.as_str()).collect();
        let expected = [
            "learning_rate=1e-3,rank=1",
            "learning_rate=1e-3,rank=4",
            "learning_rate=2e-3,rank=1",
            "learning_rate=2e-3,rank=4",
        ];
        assert_eq!(names, expected);
        assert_eq!(points[1].set, ["train.learning_rate=1e-3", "method.rank=4"]);
        assert_eq!(points[1].settings["method.rank"], "4");
    }

    #[test]
    fn commas_within_brackets_and_quotes_separate_nothing() {
        for (text, expected) in [
            ("[0],[0,1]", vec!["[0]", "[0,1]"]),
            (r#"["query","value"],all-linear"#, vec![r#"["query","value"]"#, "all-linear"]),
            (r#""a,b",'c,d',"e\",f""#, vec![r#""a,b""#, "'c,d'", r#""e\",f""#]),
            (r"'a\',b", vec![r"'a\'", "b"]),
            ("{a=1,b=2}", vec!["{a=1,b=2}"]),
        ] {
            assert_eq!(separated(text), expected, "{text}");
        }
    }

    #[test]
    fn names_are_names_of_files_and_no_two_are_alike() {
        assert_eq!(names(&["model.path=a/b,a:b"]), ["path=a_b", "path=a_b-2"]);
        assert_eq!(names(&["method.layers=[0],[0,1]"]), ["layers=0", "layers=0_1"]);
        let long = format!("data.train={},x", "ä".repeat(300));
        assert!(names(&[&long])[0].len() <= LONGEST_NAME);
    }

    #[test]
    fn keys_that_end_alike_keep_their_sections() {
        let names = names(&["model.path=a,b", "data.path=c,d"]);
        assert_eq!(names[0], "model.path=a,data.path=c");
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_what_to_type() {
        for (set, part) in [
            (vec!["train.steps"], "expected KEY=VALUE,VALUE"),
            (vec!["train.steps=1,"], "a value is missing"),
            (vec!["train.steps=1,1"], "a value is given twice"),
            (vec!["train.steps=1,2", "train.steps=3"], "this key is given twice"),
            (vec!["train.seed=0,1"], "--seeds N"),
            (vec!["train.steps=1"], "nothing to try"),
        ] {
            let error = grid(&set).expect_err("no grid");
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
