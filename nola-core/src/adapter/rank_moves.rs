//! Ranks that move between weights during training: when, and which ones.

use crate::Error;

/// When ranks move, and how many.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RankMoves {
    /// How often.
    pub rounds: usize,
    /// Share of the run before the first time.
    pub first_phase: f64,
    /// Share of the run between two times.
    pub phase: f64,
    /// Ranks that are taken away each time, for each adapted weight on average.
    pub per_weight: f64,
    /// Seed of new ranks.
    pub seed: u64,
}

impl RankMoves {
    /// Optimizer steps of a run of `steps` after which ranks move.
    pub(crate) fn steps(&self, steps: usize) -> impl Iterator<Item = usize> {
        let (first, phase) = (self.first_phase * steps as f64, self.phase * steps as f64);
        (0..self.rounds).map(move |round| (first + round as f64 * phase).round() as usize)
    }

    /// The round after `done` of `steps` optimizer steps, from 0.
    pub(crate) fn round(&self, done: usize, steps: usize) -> Option<usize> {
        self.steps(steps).position(|step| step == done)
    }

    /// Ranks that are taken away each time from `weights`.
    pub(crate) fn count(&self, weights: usize) -> usize {
        (self.per_weight * weights as f64).round().max(1.0) as usize
    }

    /// Refuses a run in which there is no step between two rounds, or none after the last.
    pub(crate) fn check_run(&self, steps: usize) -> Result<(), Error> {
        let rounds: Vec<usize> = self.steps(steps).collect();
        let in_order = rounds.windows(2).all(|pair| pair[0] < pair[1]);
        if in_order
            && rounds.first().is_none_or(|&first| first > 0)
            && rounds.last().is_none_or(|&last| last < steps)
        {
            return Ok(());
        }
        let value = format!("{} in a run of {steps} optimizer steps", self.rounds);
        let cure = "there is no step of training after each of them: use fewer rounds, another first_phase or phase, or more \
                    steps";
        Err(Error::BadSetting { field: "rounds", value, cure })
    }
}

/// What becomes of ranks: which are taken away, and how many each site gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// Places among the scored ranks, ascending.
    pub pruned: Vec<usize>,
    /// New ranks of each site.
    pub granted: Vec<usize>,
}

/// Takes the `count` ranks of the lowest scores away, of equals the earlier, and gives as many to the sites that had ranks
/// and lost none: evenly, and what is left over to those of the highest mean scores, of equals the earlier. If every site
/// lost one, nobody gets any.
///
/// `site_of` says to which of `sites` each scored rank belongs.
///
/// # Source
/// ALoRA (Liu et al., NAACL 2024), algorithm 1.
pub fn moved(scores: &[f64], site_of: &[usize], sites: usize, count: usize) -> Moved {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&left, &right| scores[left].total_cmp(&scores[right]));
    let mut pruned = order[..count.min(order.len())].to_vec();
    pruned.sort_unstable();
    let mut granted = vec![0; sites];
    let means: Vec<Option<f64>> = (0..sites).map(|site| mean_score(scores, site_of, site)).collect();
    let lost = |site: &usize| pruned.iter().any(|&rank| site_of[rank] == *site);
    let mut heirs: Vec<usize> = (0..sites).filter(|site| means[*site].is_some() && !lost(site)).collect();
    if heirs.is_empty() {
        return Moved { pruned, granted };
    }
    // The sort keeps the order of equals.
    let mean = |site: usize| means[site].unwrap_or(f64::NEG_INFINITY);
    heirs.sort_by(|&left, &right| mean(right).total_cmp(&mean(left)));
    let (each, left_over) = (pruned.len() / heirs.len(), pruned.len() % heirs.len());
    for (place, site) in heirs.into_iter().enumerate() {
        granted[site] = each + usize::from(place < left_over);
    }
    Moved { pruned, granted }
}

/// The mean score of the ranks of `site`, if it has any.
fn mean_score(scores: &[f64], site_of: &[usize], site: usize) -> Option<f64> {
    let of_site: Vec<f64> =
        scores.iter().zip(site_of).filter(|(_, of)| **of == site).map(|(score, _)| *score).collect();
    (!of_site.is_empty()).then(|| of_site.iter().sum::<f64>() / of_site.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::shared;

    #[test]
    fn golden_ranks_move_as_in_the_fixtures() {
        let Some(fixtures) = shared("fixtures") else {
            return println!("skipped: no fixtures");
        };
        let text = std::fs::read_to_string(fixtures.join("methods/alora_rules.json")).expect("a file");
        let cases: Vec<serde_json::Value> = serde_json::from_str(&text).expect("JSON");
        assert!(cases.len() > 3);
        let numbers = |value: &serde_json::Value| -> Vec<usize> {
            serde_json::from_value(value.clone()).expect("whole numbers")
        };
        for case in cases {
            let scores: Vec<f64> = serde_json::from_value(case["score"].clone()).expect("numbers");
            let [sites, count] =
                ["modules", "prune"].map(|key| case[key].as_u64().expect("a number") as usize);
            let found = moved(&scores, &numbers(&case["module"]), sites, count);
            let golden = Moved { pruned: numbers(&case["pruned"]), granted: numbers(&case["granted"]) };
            assert_eq!(found, golden, "{case}");
        }
    }

    fn moves(rounds: usize, first_phase: f64, phase: f64) -> RankMoves {
        RankMoves { rounds, first_phase, phase, per_weight: 1.0, seed: 0 }
    }

    #[test]
    fn rounds_come_after_their_shares_of_the_run() {
        let moves = moves(2, 0.4, 0.3);
        let rounds: Vec<Option<usize>> = (0..=10).map(|done| moves.round(done, 10)).collect();
        assert_eq!(rounds.iter().flatten().collect::<Vec<_>>(), [&0, &1]);
        assert_eq!([rounds[4], rounds[7]], [Some(0), Some(1)]);
        moves.check_run(10).expect("steps around each round");
    }

    #[test]
    fn a_run_too_short_for_its_rounds_is_refused_with_a_cure() {
        for (moves, steps) in [
            (moves(8, 0.2, 0.05), 15),
            (moves(60, 0.1, 0.025), 1000),
            (moves(1, 0.2, 0.1), 2),
            (moves(2, 0.5, 0.5), 8),
        ] {
            let error = moves.check_run(steps).expect_err("no step between").to_string();
            assert!(error.contains("`rounds`") && error.contains("fewer rounds"), "{error}");
        }
        moves(8, 0.2, 0.05).check_run(100).expect("five steps a round");
    }
}
