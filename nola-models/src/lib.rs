//! Models as burn modules that take adapters, and what stands between them and files: checkpoints and images.
//!
//! Each model is told top to bottom by its own module; [`checkpoint`] knows none of them by name.

pub mod augment;
pub mod checkpoint;
mod error;
mod fields;
pub mod image;
pub mod vit;

pub use augment::Augmentation;
pub use checkpoint::{Checkpoint, StoredDtype};
pub use error::Error;
pub use image::Preprocessor;
pub use vit::{Vit, VitConfig};
