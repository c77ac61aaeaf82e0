//! The first image of a GIF on its canvas, filled as Pillow fills it.

use std::io::Cursor;

use gif::{ColorOutput, DecodeOptions, Decoder, DecodingError, MemoryLimit};
use image::RgbImage;

/// A GIF whose header and first frame header were read.
pub(super) struct Still<'a> {
    decoder: Decoder<Cursor<&'a [u8]>>,
    size: [usize; 2],
    at: [usize; 2],
    canvas: [usize; 2],
    palette: Option<Vec<u8>>,
    /// Index of what is outside the frame.
    outside: u8,
}

impl<'a> Still<'a> {
    /// Reads up to the pixels; none for a file without an image.
    pub(super) fn open(bytes: &'a [u8], max_bytes: u64) -> Result<Option<Self>, DecodingError> {
        let mut options = DecodeOptions::new();
        options.set_color_output(ColorOutput::Indexed);
        options.set_memory_limit(max_bytes.try_into().map_or(MemoryLimit::Unlimited, MemoryLimit::Bytes));
        let mut decoder = options.read_info(Cursor::new(bytes))?;
        let Some(frame) = decoder.next_frame_info()? else { return Ok(None) };
        let [width, height, left, top] = [frame.width, frame.height, frame.left, frame.top].map(usize::from);
        let (local, outside) = (frame.palette.clone(), frame.transparent.unwrap_or(0));
        let global = decoder.global_palette().map(<[u8]>::to_vec);
        // Pillow passes over palettes that only count up, and takes the other one if there is one.
        let palette = local.filter(|palette| !is_ramp(palette)).or(global);
        let screen = [decoder.width(), decoder.height()].map(usize::from);
        Ok(Some(Self {
            size: [width, height],
            at: [left, top],
            // A frame beyond the screen makes the image larger.
            canvas: [screen[0].max(left + width), screen[1].max(top + height)],
            palette,
            outside,
            decoder,
        }))
    }

    /// Width and height of the whole image, in pixels.
    pub(super) fn canvas(&self) -> [usize; 2] {
        self.canvas
    }

    /// Bytes that decoding takes.
    pub(super) fn memory(&self) -> u64 {
        let area = |[width, height]: [usize; 2]| width as u64 * height as u64;
        area(self.size) + 3 * area(self.canvas)
    }

    pub(super) fn decode(mut self) -> Result<RgbImage, DecodingError> {
        let mut indices = vec![0; self.decoder.buffer_size()];
        self.decoder.read_into_buffer(&mut indices)?;
        let ([width, height], [left, top], [canvas_width, canvas_height]) = (self.size, self.at, self.canvas);
        let mut pixels = self.colour(self.outside).repeat(canvas_width * canvas_height);
        if width > 0 {
            for (row, indices) in indices.chunks_exact(width).take(height).enumerate() {
                let start = 3 * ((top + row) * canvas_width + left);
                let line = pixels[start..start + 3 * width].as_chunks_mut::<3>().0;
                line.iter_mut().zip(indices).for_each(|(pixel, &index)| *pixel = self.colour(index));
            }
        }
        Ok(RgbImage::from_raw(canvas_width as u32, canvas_height as u32, pixels)
            .expect("three bytes a pixel"))
    }

    /// What an index shows: grey without a palette, black beyond its end; transparent pixels keep their colour.
    fn colour(&self, index: u8) -> [u8; 3] {
        let Some(palette) = &self.palette else { return [index; 3] };
        palette.as_chunks::<3>().0.get(usize::from(index)).copied().unwrap_or_default()
    }
}

/// Whether each index shows its own value as grey.
fn is_ramp(palette: &[u8]) -> bool {
    palette
        .as_chunks::<3>()
        .0
        .iter()
        .enumerate()
        .all(|(index, colour)| colour.iter().all(|&v| usize::from(v) == index))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GLOBAL: [[u8; 3]; 4] = [[210, 40, 90], [20, 160, 60], [30, 50, 220], [250, 240, 10]];
    const LOCAL: [[u8; 3]; 4] = [[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12]];
    const RAMP: [[u8; 3]; 4] = [[0; 3], [1; 3], [2; 3], [3; 3]];

    /// A GIF of one frame of 2 x 1 pixels with the indices 1 and 2.
    fn gif(
        screen: [u8; 2],
        [left, top]: [u8; 2],
        local: Option<[[u8; 3]; 4]>,
        transparent: Option<u8>,
    ) -> Vec<u8> {
        let mut bytes = [b"GIF89a".as_slice(), &[screen[0], 0, screen[1], 0, 0x81, 0, 0]].concat();
        bytes.extend(GLOBAL.concat());
        if let Some(index) = transparent {
            bytes.extend([b'!', 0xf9, 4, 1, 0, 0, index, 0]);
        }
        bytes.extend([b',', left, 0, top, 0, 2, 0, 1, 0, if local.is_some() { 0x81 } else { 0 }]);
        bytes.extend(local.unwrap_or_default().concat().into_iter().take(if local.is_some() {
            12
        } else {
            0
        }));
        // Codes of three bits: clear (4), 1, 2, end (5).
        let codes = 4u16 | 1 << 3 | 2 << 6 | 5 << 9;
        bytes.extend([2, 2, codes.to_le_bytes()[0], codes.to_le_bytes()[1], 0, b';']);
        bytes
    }

    fn pixels(bytes: &[u8]) -> (u32, u32, Vec<u8>) {
        let image = Still::open(bytes, 1 << 20).unwrap().unwrap().decode().unwrap();
        (image.width(), image.height(), image.into_raw())
    }

    // Golden: Pillow 13.0.0, `Image.open(file).convert("RGB")`.

    #[test]
    fn outside_the_frame_is_the_first_colour() {
        let (_, _, found) = pixels(&gif([3, 2], [1, 1], None, None));
        let outside = GLOBAL[0];
        assert_eq!(found, [outside, outside, outside, outside, GLOBAL[1], GLOBAL[2]].concat());
    }

    #[test]
    fn outside_the_frame_is_the_transparent_colour_where_there_is_one() {
        for index in [3, 1, 0] {
            let (_, _, found) = pixels(&gif([3, 1], [1, 0], None, Some(index)));
            assert_eq!(found, [GLOBAL[usize::from(index)], GLOBAL[1], GLOBAL[2]].concat());
        }
    }

    #[test]
    fn a_frame_has_its_own_palette() {
        let (_, _, found) = pixels(&gif([3, 1], [0, 0], Some(LOCAL), Some(3)));
        assert_eq!(found, [LOCAL[1], LOCAL[2], LOCAL[3]].concat());
        // Beyond its end is black.
        let (_, _, found) = pixels(&gif([3, 1], [0, 0], Some(LOCAL), Some(200)));
        assert_eq!(found, [LOCAL[1], LOCAL[2], [0; 3]].concat());
    }

    #[test]
    fn a_palette_that_only_counts_up_is_passed_over() {
        let (_, _, found) = pixels(&gif([2, 1], [0, 0], Some(RAMP), None));
        assert_eq!(found, [GLOBAL[1], GLOBAL[2]].concat());
    }

    #[test]
    fn a_frame_beyond_the_screen_makes_the_image_larger() {
        let (width, height, found) = pixels(&gif([1, 1], [1, 0], None, None));
        assert_eq!((width, height), (3, 1));
        assert_eq!(found, [GLOBAL[0], GLOBAL[1], GLOBAL[2]].concat());
    }
}
