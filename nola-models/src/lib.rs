//! nola-models
