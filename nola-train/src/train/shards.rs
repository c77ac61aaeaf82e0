//! The parts that the samples of an optimizer step are cut into, each of which one process computes.

/// A part of a step's samples.
#[derive(Debug, Clone)]
pub struct Shard<B> {
    /// Which of the shards of a step it is, from 0.
    pub index: usize,
    /// Its passes.
    pub passes: Vec<B>,
}

/// What a process computes of an optimizer step: one shard or several, in their order.
#[derive(Debug, Clone)]
pub struct StepPasses<B>(pub Vec<Shard<B>>);

impl<B> StepPasses<B> {
    /// All passes of these shards.
    pub fn into_passes(self) -> Vec<B> {
        self.0.into_iter().flat_map(|shard| shard.passes).collect()
    }
}

impl<B> From<Vec<B>> for StepPasses<B> {
    /// A step that is one shard.
    fn from(passes: Vec<B>) -> Self {
        Self(vec![Shard { index: 0, passes }])
    }
}
