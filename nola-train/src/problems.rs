//! What is wrong in many places: equal problems are told once, with their number and the first places.

/// What is wrong, and where.
#[derive(Debug)]
pub struct Problems<P> {
    limits: Limits,
    total: usize,
    groups: Vec<Group<P>>,
}

/// How much is listed; the rest is only counted.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Different problems.
    pub problems: usize,
    /// Places of each.
    pub places: usize,
}

#[derive(Debug)]
struct Group<P> {
    problem: String,
    count: usize,
    /// The first of them.
    places: Vec<P>,
}

impl<P> Problems<P> {
    /// None yet.
    pub fn new(limits: Limits) -> Self {
        Self { limits, total: 0, groups: Vec::new() }
    }

    /// Adds one.
    pub fn push(&mut self, place: P, problem: String) {
        self.total += 1;
        if let Some(group) = self.groups.iter_mut().find(|group| group.problem == problem) {
            group.count += 1;
            if group.places.len() < self.limits.places {
                group.places.push(place);
            }
        } else if self.groups.len() < self.limits.problems {
            self.groups.push(Group { problem, count: 1, places: vec![place] });
        }
    }

    /// Adds those that were found elsewhere.
    pub fn extend(&mut self, others: Self) {
        self.total += others.total;
        for others in others.groups {
            if let Some(group) = self.groups.iter_mut().find(|group| group.problem == others.problem) {
                group.count += others.count;
                let room = self.limits.places.saturating_sub(group.places.len());
                group.places.extend(others.places.into_iter().take(room));
            } else if self.groups.len() < self.limits.problems {
                self.groups.push(others);
            }
        }
    }

    /// How many there are.
    pub fn total(&self) -> usize {
        self.total
    }

    /// A line for each different problem, in the order of the first places; `things` is what there are many of, and
    /// `shown` says several places.
    pub fn lines(&self, things: &str, shown: impl Fn(&[P]) -> String) -> Vec<String> {
        let line = |group: &Group<P>| {
            let Group { problem, count, places } = group;
            let (shown, more) = (shown(places), count - places.len());
            match (count, more) {
                (1, _) => format!("{shown}: {problem}"),
                (_, 0) => format!("{count} {things}: {problem} ({shown})"),
                (_, more) => format!("{count} {things}: {problem} ({shown} and {more} more)"),
            }
        };
        let mut lines: Vec<String> = self.groups.iter().map(line).collect();
        let others = self.total - self.groups.iter().map(|group| group.count).sum::<usize>();
        if others > 0 {
            lines.push(format!("and {others} more"));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_problems_are_told_once_with_their_number_and_first_places() {
        let mut problems = Problems::new(Limits { problems: 2, places: 2 });
        for (place, problem) in [(1, "x"), (2, "y"), (3, "x"), (4, "x"), (5, "z"), (6, "y"), (7, "w")] {
            problems.push(place, problem.to_owned());
        }
        let shown = |places: &[i32]| places.iter().map(i32::to_string).collect::<Vec<_>>().join(", ");
        assert_eq!(problems.total(), 7);
        assert_eq!(
            problems.lines("rows", shown),
            ["3 rows: x (1, 3 and 1 more)", "2 rows: y (2, 6)", "and 2 more"]
        );
    }

    #[test]
    fn what_is_found_elsewhere_is_told_with_the_rest() {
        let limits = Limits { problems: 2, places: 2 };
        let [mut here, mut there] = [Problems::new(limits), Problems::new(limits)];
        here.push("a:1", "x".to_owned());
        for (place, problem) in [("b:1", "x"), ("b:2", "y"), ("b:3", "x"), ("b:4", "z")] {
            there.push(place, problem.to_owned());
        }
        here.extend(there);
        let lines = here.lines("rows", |places| places.join(", "));
        assert_eq!(lines, ["3 rows: x (a:1, b:1 and 1 more)", "b:2: y", "and 1 more"]);
    }

    #[test]
    fn a_problem_of_its_own_begins_with_its_place() {
        let mut problems = Problems::new(Limits { problems: 2, places: 2 });
        problems.push("a.png", "is empty".to_owned());
        assert_eq!(problems.lines("images", |names| names.join(", ")), ["a.png: is empty"]);
    }
}
