//! The kernel for AVX2: a row of lanes is two registers of eight.
//!
//! The same plan as for AVX-512, with eight words packed at a time.

#![allow(unsafe_code, reason = "intrinsics of the processor, and reads and writes of whole registers")]

use std::arch::x86_64::*;
use std::array::from_fn;

use super::generator::Generator;
use super::kernel::{Entries, Kernel, LANES, SIGN_BATCH, STEPS, Sums, Tile, Words};
use crate::instructions::Instructions;
use crate::philox::{FirstRounds, MULTIPLIERS};

/// Numbers in a register.
const WIDTH: usize = 8;

/// Proof that the processor has AVX2 and FMA.
#[derive(Debug)]
pub(super) struct Avx2(());

impl Avx2 {
    pub(super) fn detect() -> Option<&'static Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(&Self(()))
    }
}

impl Kernel for Avx2 {
    fn instructions(&self) -> Instructions {
        Instructions::Avx2
    }

    fn uniform(
        &self,
        generator: &Generator,
        tile: u32,
        first_index: u32,
        count: usize,
        entries: &mut Entries,
    ) {
        // SAFETY: `self` exists only where the processor has AVX2 and FMA; so in every method.
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

#[target_feature(enable = "avx2,fma")]
fn uniform(generator: &Generator, tile: u32, first_index: u32, count: usize, entries: &mut Entries) {
    let first_rounds = generator.first_rounds();
    let keys = Keys::new(&first_rounds);
    let low_half = _mm256_set1_epi32(0xFFFF);
    for start in (0..LANES).step_by(WIDTH) {
        let first_block = tile.wrapping_mul(LANES as u32).wrapping_add(start as u32);
        let blocks = first_rounds.of_blocks(first_block);
        let (mut even, mut odd) = ([_mm256_setzero_si256(); 4], [_mm256_setzero_si256(); 4]);
        for ((even, odd), words) in even.iter_mut().zip(&mut odd).zip(&blocks) {
            *even = load_words(words);
            *odd = _mm256_srli_epi64::<32>(*even);
        }
        let mut index = first_index;
        let (groups, _) = entries[..count.next_multiple_of(TOGETHER)].as_chunks_mut::<TOGETHER>();
        for group in groups {
            let mut states = [[even, odd]; TOGETHER];
            for pair in &mut states {
                let product = first_rounds.of_index(index);
                let [high, low] = [(product >> 32) as i32, product as i32];
                for state in pair {
                    *state = joined([_mm256_set1_epi32(high), _mm256_set1_epi32(low)], *state);
                }
                index = index.wrapping_add(1);
            }
            for key in &keys.following {
                states.as_flattened_mut().iter_mut().for_each(|state| *state = round(*state, key));
            }
            for (tile, states) in group.iter_mut().zip(states) {
                for (pair, word) in tile.0.chunks_exact_mut(2).zip(packed(states, &keys.last)) {
                    store(&mut pair[0], start, uniform_of(_mm256_and_si256(word, low_half)));
                    store(&mut pair[1], start, uniform_of(_mm256_srli_epi32::<16>(word)));
                }
            }
        }
    }
}

/// The uniform values of half-words; the fused product and sum are exact.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn uniform_of(half_words: __m256i) -> __m256 {
    const STEP: f32 = 1.0 / 32768.0;
    let floats = _mm256_cvtepi32_ps(half_words);
    _mm256_fmadd_ps(floats, _mm256_set1_ps(STEP), _mm256_set1_ps(STEP / 2.0 - 1.0))
}

#[target_feature(enable = "avx2")]
fn sign_words(generator: &Generator, block: u32, first_index: u32, count: usize, words: &mut Words) {
    let first_rounds = generator.first_rounds();
    let keys = Keys::new(&first_rounds);
    let block = first_rounds.of_blocks(block).map(|[word]| _mm256_set1_epi32(word as i32));
    let index_key = _mm256_set1_epi32(first_rounds.index_key() as i32);
    let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    for start in (0..count.min(SIGN_BATCH)).step_by(WIDTH) {
        let first = _mm256_set1_epi32(first_index.wrapping_add(start as u32) as i32);
        let keyed = _mm256_xor_si256(_mm256_add_epi32(first, lanes), index_key);
        let mut states = [block; 2];
        for (state, keyed) in states.iter_mut().zip([keyed, _mm256_srli_epi64::<32>(keyed)]) {
            let product = multiplied(0, keyed);
            *state = joined([_mm256_srli_epi64::<32>(product), product], *state);
        }
        for key in &keys.following {
            states = [round(states[0], key), round(states[1], key)];
        }
        for (row, made) in words.0.iter_mut().zip(packed(states, &keys.last)) {
            store_words(&mut row[start..], made);
        }
    }
}

#[target_feature(enable = "avx2")]
fn mix_entries(entries: &[Tile], coefficients: &[f32], sums: &mut Tile) {
    for start in (0..LANES).step_by(WIDTH) {
        let mut running: [__m256; STEPS] = from_fn(|step| load(&sums.0[step], start));
        for (tile, &coefficient) in entries.iter().zip(coefficients) {
            let coefficient = _mm256_set1_ps(coefficient);
            for (sum, entries) in running.iter_mut().zip(&tile.0) {
                *sum = _mm256_add_ps(*sum, _mm256_mul_ps(coefficient, load(entries, start)));
            }
        }
        sums.0.iter_mut().zip(running).for_each(|(row, sum)| store(row, start, sum));
    }
}

#[target_feature(enable = "avx2")]
fn mix_signs(words: &Words, coefficients: &[f32], sums: &mut Tile) {
    for (sums, rows) in sums.0.chunks_exact_mut(STEPS / 2).zip(words.0.chunks_exact(2)) {
        let mut running: [__m256; STEPS] = from_fn(|n| load(&sums[n / 2], n % 2 * WIDTH));
        for (index, &coefficient) in coefficients.iter().enumerate().take(SIGN_BATCH) {
            let (plus, minus) = (_mm256_set1_ps(coefficient), _mm256_set1_ps(-coefficient));
            for (sums, row) in running.chunks_exact_mut(STEPS / 2).zip(rows) {
                for (sum, signs) in sums.iter_mut().zip(signs(row[index])) {
                    *sum = _mm256_add_ps(*sum, _mm256_blendv_ps(plus, minus, signs));
                }
            }
        }
        running.iter().enumerate().for_each(|(n, &sum)| store(&mut sums[n / 2], n % 2 * WIDTH, sum));
    }
}

#[target_feature(enable = "avx2")]
fn dot_entries(entries: &[Tile], gradient: &Tile, sums: &mut [Sums]) {
    for (tile, sums) in entries.iter().zip(sums) {
        let mut lanes = [_mm256_setzero_ps(); 2];
        for (entries, gradient) in tile.0.iter().zip(&gradient.0) {
            for (lanes, start) in lanes.iter_mut().zip([0, WIDTH]) {
                *lanes = _mm256_add_ps(*lanes, _mm256_mul_ps(load(entries, start), load(gradient, start)));
            }
        }
        add_lanes(lanes, sums);
    }
}

#[target_feature(enable = "avx2")]
fn dot_signs(words: &Words, gradient: &Tile, sums: &mut [Sums]) {
    for (index, sums) in sums.iter_mut().enumerate().take(SIGN_BATCH) {
        let mut lanes = [_mm256_setzero_ps(); 2];
        for (gradients, row) in gradient.0.chunks_exact(2).zip(&words.0) {
            for (n, signs) in signs(row[index]).into_iter().enumerate() {
                let gradient = load(&gradients[n / 2], n % 2 * WIDTH);
                let chosen = _mm256_blendv_ps(_mm256_setzero_ps(), gradient, signs);
                lanes[n % 2] = _mm256_add_ps(lanes[n % 2], chosen);
            }
        }
        add_lanes(lanes, sums);
    }
}

/// The bits of a word, eight a register, each as the sign of a lane.
#[target_feature(enable = "avx2")]
#[inline]
fn signs(word: u32) -> [__m256; 4] {
    let last = _mm256_setr_epi32(31, 30, 29, 28, 27, 26, 25, 24);
    from_fn(|n| {
        let shifts = _mm256_sub_epi32(last, _mm256_set1_epi32((n * WIDTH) as i32));
        _mm256_castsi256_ps(_mm256_sllv_epi32(_mm256_set1_epi32(word as i32), shifts))
    })
}

#[target_feature(enable = "avx2")]
#[inline]
fn add_lanes([first, second]: [__m256; 2], sums: &mut Sums) {
    let folded = _mm256_add_ps(first, second);
    let halves = [_mm256_castps256_ps128(folded), _mm256_extractf128_ps::<1>(folded)];
    for (sums, lanes) in sums.0.chunks_exact_mut(WIDTH / 2).zip(halves) {
        // SAFETY: four sums have 32 bytes.
        unsafe {
            let sums = sums.as_mut_ptr();
            _mm256_storeu_pd(sums, _mm256_add_pd(_mm256_loadu_pd(sums), _mm256_cvtps_pd(lanes)));
        }
    }
}

/// The four words of four Philox calls, each in the low half of a 64-bit lane.
type State = [__m256i; 4];

/// Pairs of states whose rounds are made side by side.
const TOGETHER: usize = 2;

/// Keys of the rounds after the first three.
///
/// The loops over `following` stand in the two callers: as a function it is too long to be inlined, and the states would
/// go through memory.
struct Keys {
    following: [[__m256i; 2]; FirstRounds::FOLLOWING - 1],
    last: [__m256i; 2],
}

impl Keys {
    #[target_feature(enable = "avx2")]
    #[inline]
    fn new(first_rounds: &FirstRounds) -> Self {
        let mut keys = [[_mm256_setzero_si256(); 2]; FirstRounds::FOLLOWING];
        for (key, words) in keys.iter_mut().zip(first_rounds.following_keys()) {
            *key = [_mm256_set1_epi32(words[0] as i32), _mm256_set1_epi32(words[1] as i32)];
        }
        let [following @ .., last] = keys;
        Self { following, last }
    }
}

/// Joins the parts of an index and of blocks, or of indices and a block, after the third round.
#[target_feature(enable = "avx2")]
#[inline]
fn joined(index: [__m256i; 2], block: State) -> State {
    let product = multiplied(1, _mm256_xor_si256(index[0], block[0]));
    let high = _mm256_srli_epi64::<32>(product);
    [_mm256_xor_si256(high, block[1]), product, _mm256_xor_si256(index[1], block[2]), block[3]]
}

#[target_feature(enable = "avx2")]
#[inline]
fn round(state: State, key: &[__m256i; 2]) -> State {
    let (product_0, product_1) = (multiplied(0, state[0]), multiplied(1, state[2]));
    [
        xor(_mm256_srli_epi64::<32>(product_1), state[1], key[0]),
        product_1,
        xor(_mm256_srli_epi64::<32>(product_0), state[3], key[1]),
        product_0,
    ]
}

/// The last round, and the words of even and odd lanes in turn.
#[target_feature(enable = "avx2")]
#[inline]
fn packed([even, odd]: [State; 2], key: &[__m256i; 2]) -> State {
    let (even_0, odd_0) = (multiplied(0, even[0]), multiplied(0, odd[0]));
    let (even_1, odd_1) = (multiplied(1, even[2]), multiplied(1, odd[2]));
    [
        xor(high_words(even_1, odd_1), low_words(even[1], odd[1]), key[0]),
        low_words(even_1, odd_1),
        xor(high_words(even_0, odd_0), low_words(even[3], odd[3]), key[1]),
        low_words(even_0, odd_0),
    ]
}

#[target_feature(enable = "avx2")]
#[inline]
fn multiplied(multiplier: usize, words: __m256i) -> __m256i {
    _mm256_mul_epu32(_mm256_set1_epi32(MULTIPLIERS[multiplier] as i32), words)
}

#[target_feature(enable = "avx2")]
#[inline]
fn xor(first: __m256i, second: __m256i, third: __m256i) -> __m256i {
    _mm256_xor_si256(first, _mm256_xor_si256(second, third))
}

/// The low words of 64-bit lanes, those of `even` and `odd` in turn.
#[target_feature(enable = "avx2")]
#[inline]
fn low_words(even: __m256i, odd: __m256i) -> __m256i {
    _mm256_blend_epi32::<0xAA>(even, _mm256_slli_epi64::<32>(odd))
}

/// The high words of 64-bit lanes, those of `even` and `odd` in turn.
#[target_feature(enable = "avx2")]
#[inline]
fn high_words(even: __m256i, odd: __m256i) -> __m256i {
    _mm256_blend_epi32::<0xAA>(_mm256_srli_epi64::<32>(even), odd)
}

/// Eight lanes of a row, from `start`, which is 0 or 8.
#[target_feature(enable = "avx2")]
#[inline]
fn load(row: &[f32; LANES], start: usize) -> __m256 {
    let row: &[f32; WIDTH] = row[start..start + WIDTH].try_into().expect("eight lanes");
    // SAFETY: eight lanes have 32 bytes.
    unsafe { _mm256_loadu_ps(row.as_ptr()) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn store(row: &mut [f32; LANES], start: usize, values: __m256) {
    let row: &mut [f32; WIDTH] = (&mut row[start..start + WIDTH]).try_into().expect("eight lanes");
    // SAFETY: eight lanes have 32 bytes.
    unsafe { _mm256_storeu_ps(row.as_mut_ptr(), values) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn load_words(row: &[u32; WIDTH]) -> __m256i {
    // SAFETY: eight words have 32 bytes.
    unsafe { _mm256_loadu_si256(row.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn store_words(row: &mut [u32], words: __m256i) {
    let row: &mut [u32; WIDTH] = row.first_chunk_mut().expect("eight words");
    // SAFETY: eight words have 32 bytes.
    unsafe { _mm256_storeu_si256(row.as_mut_ptr().cast(), words) }
}
