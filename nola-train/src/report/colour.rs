//! Colours, and how well one is seen on another.

use std::fmt;

/// A colour of sRGB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Colour(pub u8, pub u8, pub u8);

/// What is drawn on, and a series, on light and on dark pages.
#[derive(Debug, Clone, Copy)]
pub(super) struct OnBoth {
    pub light: Colour,
    pub dark: Colour,
}

pub(super) const WHITE: Colour = Colour(255, 255, 255);
pub(super) const BLACK: Colour = Colour(0, 0, 0);

impl Colour {
    /// Between this colour (0) and another (1).
    pub(super) fn towards(self, other: Self, share: f64) -> Self {
        let mix = |a: u8, b: u8| (f64::from(a) + (f64::from(b) - f64::from(a)) * share).round() as u8;
        Self(mix(self.0, other.0), mix(self.1, other.1), mix(self.2, other.2))
    }

    /// Black or white, whichever is seen better on this colour; it always contrasts by 4.58 at least.
    pub(super) fn ink(self) -> Self {
        if self.contrast(BLACK) >= self.contrast(WHITE) { BLACK } else { WHITE }
    }

    /// From 1, for the same brightness, to 21, for black on white.
    ///
    /// # Source
    /// Web Content Accessibility Guidelines 2.2, contrast ratio.
    pub(super) fn contrast(self, other: Self) -> f64 {
        let (a, b) = (self.luminance(), other.luminance());
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    fn luminance(self) -> f64 {
        let linear = |value: u8| {
            let value = f64::from(value) / 255.0;
            if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * linear(self.0) + 0.7152 * linear(self.1) + 0.0722 * linear(self.2)
    }
}

impl fmt::Display for Colour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{:02x}{:02x}{:02x}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contrasts_are_those_of_the_guidelines() {
        for (a, b, contrast) in [
            (BLACK, WHITE, 21.0),
            (WHITE, WHITE, 1.0),
            (Colour(0x77, 0x77, 0x77), WHITE, 4.48),
            (Colour(255, 0, 0), WHITE, 4.0),
        ] {
            assert!((a.contrast(b) - contrast).abs() < 0.01, "{a} on {b}: {}", a.contrast(b));
            assert_eq!(a.contrast(b), b.contrast(a));
        }
    }

    #[test]
    fn the_ink_is_seen_on_every_grey() {
        for grey in 0..=255 {
            let fill = Colour(grey, grey, grey);
            assert!(fill.contrast(fill.ink()) >= 4.5, "{fill}");
        }
    }

    #[test]
    fn colours_are_written_as_pages_have_them() {
        assert_eq!(Colour(1, 171, 255).to_string(), "#01abff");
        assert_eq!(WHITE.towards(BLACK, 0.5).to_string(), "#808080");
    }
}
