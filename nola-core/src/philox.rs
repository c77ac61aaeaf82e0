//! Philox4x32-10: the counter-based generator behind every basis.
//!
//! # Source
//! Salmon, Moraes, Dror, Shaw: *Parallel random numbers: as easy as 1, 2, 3* (SC 2011).

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// The four output words of one counter under one key.
pub fn philox4x32_10(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    philox4x32_10_lanes(counter.map(|word| [word]), key).map(|[word]| word)
}

/// `N` counters at once, word by word: the shape in which compilers vectorise the ten rounds.
///
/// # Shapes
/// - `counters` and output: word `w` of counter `n` stands at `[w][n]`
pub(crate) fn philox4x32_10_lanes<const N: usize>(
    mut counters: [[u32; N]; 4],
    mut key: [u32; 2],
) -> [[u32; N]; 4] {
    for _ in 0..ROUNDS {
        let [first, second, third, fourth] = &mut counters;
        for (((c0, c1), c2), c3) in first.iter_mut().zip(second).zip(third).zip(fourth) {
            let product_0 = u64::from(MULTIPLIERS[0]) * u64::from(*c0);
            let product_1 = u64::from(MULTIPLIERS[1]) * u64::from(*c2);
            *c0 = (product_1 >> 32) as u32 ^ *c1 ^ key[0];
            *c2 = (product_0 >> 32) as u32 ^ *c3 ^ key[1];
            *c1 = product_1 as u32;
            *c3 = product_0 as u32;
        }
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counters
}

/// FNV-1a, 32 bits: names a site or a shape inside a counter.
///
/// # Source
/// Fowler, Noll, Vo: *The FNV Non-Cryptographic Hash Algorithm* (IETF draft).
pub fn fnv1a_32(text: &str) -> u32 {
    text.bytes().fold(0x811C_9DC5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_counter_and_key_give_the_published_words() {
        let words = philox4x32_10([0; 4], [0; 2]);
        assert_eq!(words, [0x6627_E8D5, 0xE169_C58D, 0xBC57_AC4C, 0x9B00_DBD8]);
    }

    #[test]
    fn lanes_equal_one_call_each() {
        let counters = [[1, 2, u32::MAX], [7, 8, 9], [0, 5, 6], [3, 4, 2]];
        let lanes = philox4x32_10_lanes(counters, [11, 12]);
        for lane in 0..3 {
            let single = philox4x32_10(counters.map(|word| word[lane]), [11, 12]);
            assert_eq!(lanes.map(|word| word[lane]), single);
        }
    }

    #[test]
    fn the_hash_of_the_empty_text_is_the_offset_basis() {
        assert_eq!(fnv1a_32(""), 2_166_136_261);
    }
}
