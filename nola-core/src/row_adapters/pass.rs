//! Which rows of a batch have which adapter, and what they have in common.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::Tensor;

use super::{Content, Segment, SharedFactors, Updates};
use crate::update::Update;

/// The adapters of the rows of a batch, in runs of rows that are multiplied together.
#[derive(Debug, Default)]
pub(super) struct Pass {
    runs: Vec<Run>,
    /// Of all of them.
    rows: usize,
}

#[derive(Debug)]
struct Run {
    rows: usize,
    content: RunContent,
}

#[derive(Debug)]
enum RunContent {
    Nothing,
    Own(Arc<Updates>),
    Shared {
        factors: Arc<SharedFactors>,
        /// `[rows, numbers]`.
        numbers: Box<Tensor<2>>,
    },
}

/// What a run does at one weight.
pub(super) enum At<'a> {
    /// It is the base's.
    Nothing,
    /// It is changed as one adapter says.
    Own(&'a Update),
    /// It is changed as the numbers of each row say, `[rows, numbers]`.
    Shared(&'a SharedFactors, &'a Tensor<2>),
}

impl Pass {
    pub(super) fn of(segments: Vec<Segment>) -> Self {
        let segments: Vec<Segment> = segments.into_iter().filter(|(rows, _)| *rows > 0).collect();
        let runs: Vec<Run> = segments.chunk_by(have_factors_in_common).map(Run::of).collect();
        Self { rows: runs.iter().map(|run| run.rows).sum(), runs }
    }

    pub(super) fn changes(&self, path: &str) -> bool {
        self.runs.iter().any(|run| !matches!(run.at(path), At::Nothing))
    }

    /// The rows that `forward` makes of each run, one after the other; there are `rows` in all, as many tokens of each row of the
    /// batch.
    ///
    /// # Panics
    /// If the rows of the batch have not as many tokens each, as where positions are looked up once for all rows.
    pub(super) fn by_run(
        &self,
        path: &str,
        rows: usize,
        forward: impl Fn(At, Range<usize>) -> Tensor<2>,
    ) -> Tensor<2> {
        assert_eq!(rows % self.rows, 0, "as many tokens in each row of the batch");
        let tokens = rows / self.rows;
        let mut start = 0;
        let parts = self.runs.iter().map(|run| {
            start += run.rows * tokens;
            forward(run.at(path), start - run.rows * tokens..start)
        });
        Tensor::cat(parts.collect(), 0)
    }
}

impl Run {
    /// The run of segments that belong together.
    fn of(segments: &[Segment]) -> Self {
        let rows = segments.iter().map(|(rows, _)| rows).sum();
        let content = match segments.first().and_then(|(_, updates)| updates.as_ref()) {
            None => RunContent::Nothing,
            Some(updates) => match updates.shared() {
                None => RunContent::Own(Arc::clone(updates)),
                Some(factors) => {
                    let numbers = Box::new(gathered(segments));
                    RunContent::Shared { factors: Arc::clone(factors), numbers }
                }
            },
        };
        Self { rows, content }
    }

    fn at(&self, path: &str) -> At<'_> {
        match &self.content {
            RunContent::Nothing => At::Nothing,
            RunContent::Own(updates) => match &updates.content {
                Content::Own(by_path) => by_path.get(path).map_or(At::Nothing, At::Own),
                Content::Shared { .. } => unreachable!("they are in a run with their factors"),
            },
            RunContent::Shared { factors, numbers } if factors.changes(path) => At::Shared(factors, numbers),
            RunContent::Shared { .. } => At::Nothing,
        }
    }
}

/// Whether the rows of two segments are multiplied together.
fn have_factors_in_common((_, one): &Segment, (_, other): &Segment) -> bool {
    let shared = |updates: &Option<Arc<Updates>>| updates.as_ref()?.shared().map(Arc::as_ptr);
    shared(one).is_some_and(|factors| shared(other) == Some(factors))
}

/// The numbers of each row.
///
/// # Shapes
/// - output: `[rows, numbers]`
fn gathered(segments: &[Segment]) -> Tensor<2> {
    let of_segment = |(rows, updates): &Segment| {
        let numbers = match updates.as_ref().map(|updates| &updates.content) {
            Some(Content::Shared { numbers, .. }) => Tensor::clone(numbers),
            Some(Content::Own(_)) | None => unreachable!("they have factors in common"),
        };
        std::iter::repeat_n(numbers, *rows)
    };
    Tensor::cat(segments.iter().flat_map(of_segment).collect(), 0)
}
