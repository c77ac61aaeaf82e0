//! Rotary positions.

use pulp::Arch;
use rayon::prelude::*;

use super::super::Rotation;
use super::attention::Heads;

/// Rows that one task works on.
const ROWS: usize = 64;

/// Turns pairs of numbers; `result` is `[batch, tokens, heads, d_head]`, `cos` and `sin` `[batch or 1, tokens, d_head / 2]`.
pub(super) fn rotated(x: Heads, cos: &[f32], sin: &[f32], rotation: Rotation, result: &mut [f32]) {
    let [_, heads, tokens, d_head] = x.sizes;
    let half = d_head / 2;
    let angles = cos.len() / half;
    let sign = match rotation {
        Rotation::Forward => 1.0,
        Rotation::Inverse => -1.0,
    };
    result.par_chunks_mut(ROWS * d_head).enumerate().for_each(|(chunk, rows)| {
        Arch::new().dispatch(
            #[inline(always)]
            || {
                for (row, result) in (chunk * ROWS..).zip(rows.chunks_exact_mut(d_head)) {
                    let (head, place) = (row % heads, row / heads);
                    let angle = place % angles * half..(place % angles + 1) * half;
                    let (left, right) = x.row(place / tokens, head, place % tokens).split_at(half);
                    let (new_left, new_right) = result.split_at_mut(half);
                    let angles = cos[angle.clone()].iter().zip(&sin[angle]);
                    let pairs = left.iter().zip(right).zip(angles);
                    for ((new_left, new_right), ((&left, &right), (&cos, &sin))) in
                        new_left.iter_mut().zip(new_right).zip(pairs)
                    {
                        let sin = sign * sin;
                        *new_left = left * cos - right * sin;
                        *new_right = right * cos + left * sin;
                    }
                }
            },
        );
    });
}
