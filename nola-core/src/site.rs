//! A weight of a model that an adapter can be attached to.

/// A weight an adapter can be attached to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Path of the layer in its model, such as `blocks.0.attention.query`.
    pub path: String,
    /// Input width; the number of rows of an embedding.
    pub d_in: usize,
    /// Output width.
    pub d_out: usize,
    /// What its layer does with it.
    pub kind: SiteKind,
}

/// What a layer does with the weight of a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SiteKind {
    /// A linear layer multiplies its inputs with it.
    Linear,
    /// An embedding looks its rows up.
    Embedding,
}

impl Site {
    /// The weight of a linear layer.
    pub fn linear(path: impl Into<String>, d_in: usize, d_out: usize) -> Self {
        Self { path: path.into(), d_in, d_out, kind: SiteKind::Linear }
    }

    /// The table of an embedding, `[rows, width]`.
    pub fn embedding(path: impl Into<String>, rows: usize, width: usize) -> Self {
        Self { path: path.into(), d_in: rows, d_out: width, kind: SiteKind::Embedding }
    }

    /// The last part of its path.
    pub fn name(&self) -> &str {
        self.path.rsplit('.').next().unwrap_or_default()
    }

    /// Path of the weight itself: what the site's random numbers are named after.
    pub fn weight_path(&self) -> String {
        format!("{}.weight", self.path)
    }

    /// Index of the block that holds the site: the first number in its path.
    pub fn layer(&self) -> Option<usize> {
        self.path.split('.').find_map(|part| part.parse().ok())
    }
}
