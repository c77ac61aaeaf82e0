//! Philox4x32-10: the counter-based generator behind every basis.
//!
//! # Source
//! Salmon, Moraes, Dror, Shaw: *Parallel random numbers: as easy as 1, 2, 3* (SC 2011).

pub(crate) const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
pub(crate) const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
pub(crate) const ROUNDS: usize = 10;

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
    key: [u32; 2],
) -> [[u32; N]; 4] {
    for key in round_keys(key) {
        round(&mut counters, key);
    }
    counters
}

#[inline]
fn round<const N: usize>([first, second, third, fourth]: &mut [[u32; N]; 4], key: [u32; 2]) {
    for (((c0, c1), c2), c3) in first.iter_mut().zip(second).zip(third).zip(fourth) {
        let product_0 = u64::from(MULTIPLIERS[0]) * u64::from(*c0);
        let product_1 = u64::from(MULTIPLIERS[1]) * u64::from(*c2);
        *c0 = (product_1 >> 32) as u32 ^ *c1 ^ key[0];
        *c2 = (product_0 >> 32) as u32 ^ *c3 ^ key[1];
        *c1 = product_1 as u32;
        *c3 = product_0 as u32;
    }
}

#[inline]
fn round_keys(key: [u32; 2]) -> [[u32; 2]; ROUNDS] {
    std::array::from_fn(|round| [0, 1].map(|n| key[n].wrapping_add(WEYL[n].wrapping_mul(round as u32))))
}

/// The first three rounds for counters (block, index, site, stream) that share site, stream and key.
///
/// Word by word, until the third round nearly everything depends on the block alone or on the index alone:
/// kernels that run over many blocks and indices compute those parts once each, and join them with two
/// exclusive ors and one product. That saves a quarter of the generator.
///
/// With `b` of [`FirstRounds::of_blocks`], `p` of [`FirstRounds::of_index`] and the product
/// `q = MULTIPLIERS[1] · (high(p) ^ b[0])`, the state after three rounds is
/// `[high(q) ^ b[1], low(q), low(p) ^ b[2], b[3]]`.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy)]
pub(crate) struct FirstRounds {
    site_product: [u32; 2],
    stream: u32,
    keys: [[u32; 2]; ROUNDS],
}

#[cfg(target_arch = "x86_64")]
impl FirstRounds {
    /// Number of rounds that follow.
    pub(crate) const FOLLOWING: usize = ROUNDS - 3;

    #[inline]
    pub(crate) fn new(site: u32, stream: u32, key: [u32; 2]) -> Self {
        Self { site_product: product(1, site), stream, keys: round_keys(key) }
    }

    /// The parts of the blocks `first..first + N`, word by word.
    #[inline]
    pub(crate) fn of_blocks<const N: usize>(&self, first: u32) -> [[u32; N]; 4] {
        let [first_key, second_key, third_key] = [0, 1, 2].map(|round| self.keys[round]);
        let mut parts = [[0; N]; 4];
        let [joined, first_word, third_word, fourth_word] = &mut parts;
        let lanes = joined.iter_mut().zip(first_word).zip(third_word).zip(fourth_word);
        for (lane, (((joined, first_word), third_word), fourth_word)) in lanes.enumerate() {
            let [high, low] = product(0, first.wrapping_add(lane as u32));
            let [second_high, second_low] = product(1, high ^ self.stream ^ first_key[1]);
            let [third_high, third_low] = product(0, second_high ^ self.site_product[1] ^ second_key[0]);
            *joined = low ^ second_key[1];
            *first_word = second_low ^ third_key[0];
            *third_word = third_high ^ third_key[1];
            *fourth_word = third_low;
        }
        parts
    }

    /// What is joined with an index by an exclusive or before [`MULTIPLIERS`]`[0]` makes it the index's part.
    #[inline]
    pub(crate) fn index_key(&self) -> u32 {
        self.site_product[0] ^ self.keys[0][0]
    }

    /// The part of an index.
    #[inline]
    pub(crate) fn of_index(&self, index: u32) -> u64 {
        u64::from(MULTIPLIERS[0]) * u64::from(index ^ self.index_key())
    }

    /// Keys of the rounds that follow.
    #[inline]
    pub(crate) fn following_keys(&self) -> [[u32; 2]; Self::FOLLOWING] {
        std::array::from_fn(|round| self.keys[round + 3])
    }
}

/// High and low word of a product with one of the multipliers.
#[cfg(target_arch = "x86_64")]
#[inline]
fn product(multiplier: usize, word: u32) -> [u32; 2] {
    let product = u64::from(MULTIPLIERS[multiplier]) * u64::from(word);
    [(product >> 32) as u32, product as u32]
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

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn parts_of_blocks_and_indices_join_to_the_third_round() {
        let (key, site, stream) = ([0xDEAD_BEEF, 7], 0x1234_5678, 1);
        let rounds = FirstRounds::new(site, stream, key);
        let words = |product: u64| [(product >> 32) as u32, product as u32];
        for (block, index) in [(0, 0), (u32::MAX, 5), (77, 1 << 31)] {
            let b = rounds.of_blocks::<1>(block).map(|[word]| word);
            let p = words(rounds.of_index(index));
            let q = words(u64::from(MULTIPLIERS[1]) * u64::from(p[0] ^ b[0]));
            let mut state = [q[0] ^ b[1], q[1], p[1] ^ b[2], b[3]].map(|word| [word]);
            rounds.following_keys().into_iter().for_each(|key| round(&mut state, key));
            assert_eq!(state.map(|[word]| word), philox4x32_10([block, index, site, stream], key));
        }
    }

    #[test]
    fn the_hash_of_the_empty_text_is_the_offset_basis() {
        assert_eq!(fnv1a_32(""), 2_166_136_261);
    }
}
