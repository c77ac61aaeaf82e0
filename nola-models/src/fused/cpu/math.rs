//! Functions that compilers vectorise: no branches, no calls, no fused multiply-add, so every machine finds the same bits.

/// Polynomials were fitted for the least largest error; each says how large it is.
#[inline(always)]
fn polynomial<const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    let mut sum = coefficients[N - 1];
    for n in (0..N - 1).rev() {
        sum = sum * x + coefficients[n];
    }
    sum
}

/// eˣ, to about 1e-7 of itself; 0 below −87, and at most e⁸⁸.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    /// Adding it leaves the nearest whole number in the low bits.
    const ROUNDING: f32 = 12_582_912.0;
    // ln 2 in two parts, the first short enough that its product with a whole number is exact.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    let limited = x.clamp(-87.0, 88.0);
    let shifted = limited * std::f32::consts::LOG2_E + ROUNDING;
    let whole = shifted - ROUNDING;
    let rest = limited - whole * LN_2[0] - whole * LN_2[1];
    // (eʳ − 1 − r) / r² for |r| ≤ ln 2 / 2, to 3e-9 of eʳ.
    let tail = polynomial(rest, [0.499_999_94, 0.166_665_2, 0.041_668_4, 0.008_368_852, 0.001_381_431_5]);
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3F80_0000));
    let value = (1.0 + (rest + rest * rest * tail)) * power;
    if x < -87.0 { 0.0 } else { value }
}

/// 1 / (1 + e⁻ˣ).
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Φ(x) of the standard normal distribution and its density φ(x).
#[inline(always)]
pub(super) fn normal(x: f32) -> (f32, f32) {
    let bell = exp(-0.5 * x * x);
    let y = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    // erf(y)/y for y ≤ 1, to 1.3e-9 of itself.
    let small = [
        std::f32::consts::FRAC_2_SQRT_PI,
        -0.376_126_26,
        0.112_835_854,
        -0.026_853_81,
        0.005_188_326_4,
        -8.010_182e-4,
        7.853_823e-5,
    ];
    let small = y * polynomial(y * y, small);
    // erfc(y)·e^(y²) in t = 1/(1 + y/2) for y > 1, to 5e-11 of 1 after the product.
    let large =
        [0.002_482_706_7, 0.252_725_2, 0.427_401_5, -0.135_808, 0.729_947_4, -0.295_618_33, 0.018_710_28];
    let large = 1.0 - bell * polynomial(1.0 / (1.0 + 0.5 * y), large);
    let erf = if y < 1.0 { small } else { large };
    (0.5 + 0.5 * erf.copysign(x), bell * 0.398_942_3)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 0 to 1 in steps, stretched to a range.
    fn range(from: f64, to: f64) -> impl Iterator<Item = f64> {
        (0..=20_000).map(move |n| from + (to - from) * f64::from(n) / 20_000.0)
    }

    #[test]
    fn exp_is_right_to_two_units_in_the_last_place() {
        for x in range(-86.9, 87.9) {
            let x = f64::from(x as f32);
            let error = (f64::from(exp(x as f32)) / x.exp() - 1.0).abs();
            assert!(error < 2.4e-7, "exp({x}) is wrong by {error}");
        }
    }

    #[test]
    fn exp_of_what_is_hidden_is_nothing() {
        assert_eq!([exp(-87.1), exp(f32::MIN / 8.0), exp(f32::NEG_INFINITY)], [0.0; 3]);
    }

    #[test]
    fn exp_of_what_is_no_number_is_no_number() {
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn normal_has_the_published_values() {
        // scipy.stats.norm.cdf and pdf.
        let known = [
            (-3.0, 0.001_349_898, 0.004_431_848_4),
            (-1.0, 0.158_655_25, 0.241_970_72),
            (0.5, 0.691_462_46, 0.352_065_33),
            (1.4, 0.919_243_34, 0.149_727_47),
            (2.5, 0.993_790_3, 0.017_528_3),
        ];
        for (x, below, density) in known {
            let found = normal(x);
            assert!((found.0 - below).abs() < 1e-7 && (found.1 - density).abs() < 1e-7, "{x}: {found:?}");
        }
    }

    #[test]
    fn normal_is_smooth_where_its_formulas_meet() {
        let x = std::f32::consts::SQRT_2;
        let (below, above) = (normal(x - 1e-6).0, normal(x + 1e-6).0);
        assert!((above - below).abs() < 1e-6, "{below} and {above}");
    }
}
