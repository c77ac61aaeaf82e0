//! Scores of a model on data it was not trained on.

mod choices;
mod images;
mod text;
mod written;

pub use choices::{ChoiceScores, answer_choices};
pub use images::{Evaluation, Prediction, evaluate, evaluate_across, largest};
pub use text::{TextEvaluation, evaluate_text, evaluate_text_across};
pub use written::{Decoding, TextScores, Written, score_written, with_room, write_all};
