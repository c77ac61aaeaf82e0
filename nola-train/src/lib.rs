//! nola-train
