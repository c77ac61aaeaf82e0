//! Scores of a model on data it was not trained on.

mod choices;
mod images;
mod text;
mod written;

use burn::tensor::Tensor;

pub use choices::{ChoiceScores, answer_choices};
pub use images::{Evaluation, Prediction, evaluate, largest};
pub use text::{TextEvaluation, evaluate_text};
pub use written::{Decoding, TextScores, Written, score_written, with_room, write_all};

/// The rows of a matrix on the host.
pub fn host_rows(matrix: Tensor<2>) -> Vec<Vec<f32>> {
    let [_, columns] = matrix.dims();
    let values: Vec<f32> =
        matrix.into_data().convert::<f32>().try_into_vec().expect("the type was asked for");
    values.chunks(columns).map(<[f32]>::to_vec).collect()
}
