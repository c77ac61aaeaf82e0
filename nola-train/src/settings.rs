//! What a caller chooses, as plain values: the model, the layout of its data, and how it is trained.
//!
//! A recipe is made of them; a library user sets them without one.

mod format;
mod model;
mod period;
mod save_every;
mod train;

pub use format::{DataFormat, ImageFormat, Modality};
pub use model::{Init, ModelSettings, Quantize};
pub use period::Period;
pub use save_every::SaveEvery;
pub(crate) use train::{FULL_LEARNING_RATE, LINEAR_LEARNING_RATE, MAX_SAMPLES};
pub use train::{OnNonFinite, OptimizerKind, ScheduleKind, TrainSettings};
