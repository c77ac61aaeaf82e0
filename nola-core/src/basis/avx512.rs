//! The kernel for AVX-512: sixteen lanes in one register.
//!
//! Philox runs on the low halves of 64-bit lanes, as `vpmuludq` reads them: a product's low word is the next round's
//! input where it stands, and its high word is one shift away. Two such registers, for even and odd lanes, are
//! packed into sixteen words in the last round.

#![allow(unsafe_code, reason = "intrinsics of the processor, and reads and writes of whole registers")]

use std::arch::x86_64::*;
use std::array::from_fn;

use super::generator::Generator;
use super::kernel::{Entries, Kernel, LANES, SIGN_BATCH, STEPS, Sums, Tile, Words};
use crate::instructions::Instructions;
use crate::philox::{FirstRounds, MULTIPLIERS};

/// Proof that the processor has AVX-512 F.
#[derive(Debug)]
pub(super) struct Avx512(());

impl Avx512 {
    pub(super) fn detect() -> Option<&'static Self> {
        is_x86_feature_detected!("avx512f").then_some(&Self(()))
    }
}

impl Kernel for Avx512 {
    fn instructions(&self) -> Instructions {
        Instructions::Avx512
    }

    fn uniform(
        &self,
        generator: &Generator,
        tile: u32,
        first_index: u32,
        count: usize,
        entries: &mut Entries,
    ) {
        // SAFETY: `self` exists only where the processor has AVX-512 F; so in every method.
        unsafe { uniform(generator, tile, first_index, count, entries) }
    }

    fn sign_words(
        &self,
        generator: &Generator,
        block: u32,
        first_index: u32,
        count: usize,
        words: &mut Words,
    ) {
        // SAFETY: as above.
        unsafe { sign_words(generator, block, first_index, count, words) }
    }

    fn mix_entries(&self, entries: &[Tile], coefficients: &[f32], sums: &mut Tile) {
        // SAFETY: as above.
        unsafe { mix_entries(entries, coefficients, sums) }
    }

    fn mix_signs(&self, words: &Words, coefficients: &[f32], sums: &mut Tile) {
        // SAFETY: as above.
        unsafe { mix_signs(words, coefficients, sums) }
    }

    fn dot_entries(&self, entries: &[Tile], gradient: &Tile, sums: &mut [Sums]) {
        // SAFETY: as above.
        unsafe { dot_entries(entries, gradient, sums) }
    }

    fn dot_signs(&self, words: &Words, gradient: &Tile, sums: &mut [Sums]) {
        // SAFETY: as above.
        unsafe { dot_signs(words, gradient, sums) }
    }
}

#[target_feature(enable = "avx512f")]
fn uniform(generator: &Generator, tile: u32, first_index: u32, count: usize, entries: &mut Entries) {
    let first_rounds = generator.first_rounds();
    let keys = Keys::new(&first_rounds);
    let blocks = first_rounds.of_blocks(tile.wrapping_mul(LANES as u32));
    let (mut even, mut odd) = ([_mm512_setzero_si512(); 4], [_mm512_setzero_si512(); 4]);
    for ((even, odd), words) in even.iter_mut().zip(&mut odd).zip(&blocks) {
        *even = load_words(words);
        *odd = _mm512_srli_epi64::<32>(*even);
    }
    let mut index = first_index;
    let (groups, _) = entries[..count.next_multiple_of(TOGETHER)].as_chunks_mut::<TOGETHER>();
    for group in groups {
        let mut states = [[even, odd]; TOGETHER];
        for pair in &mut states {
            let product = first_rounds.of_index(index);
            let [high, low] = [(product >> 32) as i32, product as i32];
            for state in pair {
                *state = joined([_mm512_set1_epi32(high), _mm512_set1_epi32(low)], *state);
            }
            index = index.wrapping_add(1);
        }
        for key in &keys.following {
            states.as_flattened_mut().iter_mut().for_each(|state| *state = round(*state, key));
        }
        for (tile, states) in group.iter_mut().zip(states) {
            for (pair, word) in tile.0.chunks_exact_mut(2).zip(packed(states, &keys.last)) {
                store(&mut pair[0], uniform_of(_mm512_slli_epi32::<7>(word)));
                store(&mut pair[1], uniform_of(_mm512_srli_epi32::<9>(word)));
            }
        }
    }
}

/// The uniform values of half-words that stand in bits 7 to 22: as mantissa of a number in [2, 4), less 3.
#[target_feature(enable = "avx512f")]
#[inline]
fn uniform_of(half_words: __m512i) -> __m512 {
    const MASKED_OR: i32 = 0xEA;
    let mantissa = _mm512_set1_epi32(0xFFFF << 7);
    let two_and_a_half_step = _mm512_set1_epi32(0x4000_0040);
    let bits = _mm512_ternarylogic_epi32::<MASKED_OR>(half_words, mantissa, two_and_a_half_step);
    _mm512_sub_ps(_mm512_castsi512_ps(bits), _mm512_set1_ps(3.0))
}

#[target_feature(enable = "avx512f")]
fn sign_words(generator: &Generator, block: u32, first_index: u32, count: usize, words: &mut Words) {
    let first_rounds = generator.first_rounds();
    let keys = Keys::new(&first_rounds);
    let block = first_rounds.of_blocks(block).map(|[word]| _mm512_set1_epi32(word as i32));
    let index_key = _mm512_set1_epi32(first_rounds.index_key() as i32);
    let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for start in (0..count.min(SIGN_BATCH)).step_by(TOGETHER * LANES) {
        let mut states = [[block; 2]; TOGETHER];
        for (n, [even, odd]) in states.iter_mut().enumerate() {
            let first = first_index.wrapping_add((start + n * LANES) as u32);
            let keyed = _mm512_xor_si512(_mm512_add_epi32(_mm512_set1_epi32(first as i32), lanes), index_key);
            for (state, keyed) in [(even, keyed), (odd, _mm512_srli_epi64::<32>(keyed))] {
                let product = multiplied(0, keyed);
                *state = joined([_mm512_srli_epi64::<32>(product), product], *state);
            }
        }
        for key in &keys.following {
            states.as_flattened_mut().iter_mut().for_each(|state| *state = round(*state, key));
        }
        for (n, states) in states.into_iter().enumerate() {
            for (row, made) in words.0.iter_mut().zip(packed(states, &keys.last)) {
                store_words(&mut row[start + n * LANES..], made);
            }
        }
    }
}

#[target_feature(enable = "avx512f")]
fn mix_entries(entries: &[Tile], coefficients: &[f32], sums: &mut Tile) {
    let mut running: [__m512; STEPS] = from_fn(|step| load(&sums.0[step]));
    for (tile, &coefficient) in entries.iter().zip(coefficients) {
        let coefficient = _mm512_set1_ps(coefficient);
        for (sum, entries) in running.iter_mut().zip(&tile.0) {
            *sum = _mm512_add_ps(*sum, _mm512_mul_ps(coefficient, load(entries)));
        }
    }
    sums.0.iter_mut().zip(running).for_each(|(row, sum)| store(row, sum));
}

#[target_feature(enable = "avx512f")]
fn mix_signs(words: &Words, coefficients: &[f32], sums: &mut Tile) {
    let mut running: [__m512; STEPS] = from_fn(|step| load(&sums.0[step]));
    for (index, &coefficient) in coefficients.iter().enumerate().take(SIGN_BATCH) {
        let (plus, minus) = (_mm512_set1_ps(coefficient), _mm512_set1_ps(-coefficient));
        for (pair, row) in running.chunks_exact_mut(2).zip(&words.0) {
            for (sum, signs) in pair.iter_mut().zip(signs(row[index])) {
                *sum = _mm512_add_ps(*sum, _mm512_mask_blend_ps(signs, plus, minus));
            }
        }
    }
    sums.0.iter_mut().zip(running).for_each(|(row, sum)| store(row, sum));
}

#[target_feature(enable = "avx512f")]
fn dot_entries(entries: &[Tile], gradient: &Tile, sums: &mut [Sums]) {
    let gradient: [__m512; STEPS] = from_fn(|step| load(&gradient.0[step]));
    for (tile, sums) in entries.iter().zip(sums) {
        let mut lanes = _mm512_setzero_ps();
        for (entries, gradient) in tile.0.iter().zip(gradient) {
            lanes = _mm512_add_ps(lanes, _mm512_mul_ps(load(entries), gradient));
        }
        add_lanes(lanes, sums);
    }
}

#[target_feature(enable = "avx512f")]
fn dot_signs(words: &Words, gradient: &Tile, sums: &mut [Sums]) {
    let gradient: [__m512; STEPS] = from_fn(|step| load(&gradient.0[step]));
    for (index, sums) in sums.iter_mut().enumerate().take(SIGN_BATCH) {
        let mut lanes = _mm512_setzero_ps();
        for (pair, row) in gradient.chunks_exact(2).zip(&words.0) {
            for (gradient, signs) in pair.iter().zip(signs(row[index])) {
                lanes = _mm512_mask_add_ps(lanes, signs, lanes, *gradient);
            }
        }
        add_lanes(lanes, sums);
    }
}

fn signs(word: u32) -> [__mmask16; 2] {
    [word as u16, (word >> 16) as u16]
}

#[target_feature(enable = "avx512f")]
#[inline]
fn add_lanes(lanes: __m512, sums: &mut Sums) {
    let second =
        _mm512_castpd_ps(_mm512_castpd256_pd512(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(lanes))));
    let folded = _mm512_castps512_ps256(_mm512_add_ps(lanes, second));
    // SAFETY: eight sums have 64 bytes.
    unsafe {
        let sums = sums.0.as_mut_ptr();
        _mm512_storeu_pd(sums, _mm512_add_pd(_mm512_loadu_pd(sums), _mm512_cvtps_pd(folded)));
    }
}

/// The four words of eight Philox calls, each in the low half of a 64-bit lane.
type State = [__m512i; 4];

/// Pairs of states whose rounds are made side by side.
const TOGETHER: usize = 2;

/// Keys of the rounds after the first three.
///
/// The loops over `following` stand in the two callers: as a function it is too long to be inlined, and the states would
/// go through memory.
struct Keys {
    following: [[__m512i; 2]; FirstRounds::FOLLOWING - 1],
    last: [__m512i; 2],
}

impl Keys {
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn new(first_rounds: &FirstRounds) -> Self {
        let mut keys = [[_mm512_setzero_si512(); 2]; FirstRounds::FOLLOWING];
        for (key, words) in keys.iter_mut().zip(first_rounds.following_keys()) {
            *key = [_mm512_set1_epi32(words[0] as i32), _mm512_set1_epi32(words[1] as i32)];
        }
        let [following @ .., last] = keys;
        Self { following, last }
    }
}

/// Joins the parts of an index and of blocks, or of indices and a block, after the third round.
#[target_feature(enable = "avx512f")]
#[inline]
fn joined(index: [__m512i; 2], block: State) -> State {
    let product = multiplied(1, _mm512_xor_si512(index[0], block[0]));
    let high = _mm512_srli_epi64::<32>(product);
    [_mm512_xor_si512(high, block[1]), product, _mm512_xor_si512(index[1], block[2]), block[3]]
}

#[target_feature(enable = "avx512f")]
#[inline]
fn round(state: State, key: &[__m512i; 2]) -> State {
    let (product_0, product_1) = (multiplied(0, state[0]), multiplied(1, state[2]));
    [
        xor(_mm512_srli_epi64::<32>(product_1), state[1], key[0]),
        product_1,
        xor(_mm512_srli_epi64::<32>(product_0), state[3], key[1]),
        product_0,
    ]
}

/// The last round, and the words of even and odd lanes in turn.
#[target_feature(enable = "avx512f")]
#[inline]
fn packed([even, odd]: [State; 2], key: &[__m512i; 2]) -> State {
    let (even_0, odd_0) = (multiplied(0, even[0]), multiplied(0, odd[0]));
    let (even_1, odd_1) = (multiplied(1, even[2]), multiplied(1, odd[2]));
    [
        xor(high_words(even_1, odd_1), low_words(even[1], odd[1]), key[0]),
        low_words(even_1, odd_1),
        xor(high_words(even_0, odd_0), low_words(even[3], odd[3]), key[1]),
        low_words(even_0, odd_0),
    ]
}

#[target_feature(enable = "avx512f")]
#[inline]
fn multiplied(multiplier: usize, words: __m512i) -> __m512i {
    _mm512_mul_epu32(_mm512_set1_epi32(MULTIPLIERS[multiplier] as i32), words)
}

#[target_feature(enable = "avx512f")]
#[inline]
fn xor(first: __m512i, second: __m512i, third: __m512i) -> __m512i {
    const EXCLUSIVE_OR_OF_THREE: i32 = 0x96;
    _mm512_ternarylogic_epi32::<EXCLUSIVE_OR_OF_THREE>(first, second, third)
}

/// The low words of 64-bit lanes, those of `even` and `odd` in turn.
#[target_feature(enable = "avx512f")]
#[inline]
fn low_words(even: __m512i, odd: __m512i) -> __m512i {
    _mm512_mask_shuffle_epi32::<0b10_10_00_00>(even, 0xAAAA, odd)
}

/// The high words of 64-bit lanes, those of `even` and `odd` in turn.
#[target_feature(enable = "avx512f")]
#[inline]
fn high_words(even: __m512i, odd: __m512i) -> __m512i {
    _mm512_mask_shuffle_epi32::<0b11_11_01_01>(odd, 0x5555, even)
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load(row: &[f32; LANES]) -> __m512 {
    // SAFETY: a row of lanes has 64 bytes.
    unsafe { _mm512_loadu_ps(row.as_ptr()) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store(row: &mut [f32; LANES], values: __m512) {
    // SAFETY: a row of lanes has 64 bytes.
    unsafe { _mm512_storeu_ps(row.as_mut_ptr(), values) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load_words(row: &[u32; LANES]) -> __m512i {
    // SAFETY: a row of lanes has 64 bytes.
    unsafe { _mm512_loadu_si512(row.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store_words(row: &mut [u32], words: __m512i) {
    let row: &mut [u32; LANES] = row.first_chunk_mut().expect("sixteen words");
    // SAFETY: sixteen words have 64 bytes.
    unsafe { _mm512_storeu_si512(row.as_mut_ptr().cast(), words) }
}
