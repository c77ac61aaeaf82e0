//! Image files to the RGB pixels that Pillow gives, within a bound on memory.

use std::fmt;
use std::io::Cursor;
use std::path::Path;

use image::error::{DecodingError, ImageFormatHint, UnsupportedError, UnsupportedErrorKind};
use image::metadata::Orientation;
use image::{
    ColorType, DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, ImageResult, Limits,
    RgbImage,
};

use super::gif::Still;
use crate::Error;

/// Longest side that is decoded, in pixels.
const MAX_SIDE: u32 = 16384;
/// Memory that one image may take while it is decoded, in bytes: what the decoder holds, and what becomes of it.
pub const MAX_BYTES: u64 = 256 << 20;

/// Decodes an image whose format is told by its content, whatever `file`, which only names it, ends in.
///
/// The result is upright (EXIF rotation is applied) and RGB: grey is repeated, palettes are looked up, alpha is dropped
/// as PIL's `convert("RGB")` does, 16-bit grey is cut off at 255 and other 16-bit values lose their low byte; of an
/// animation it is the first image.
///
/// # Errors
/// If it is no image, cut short, or too large to be one.
pub fn decode(bytes: &[u8], file: &Path) -> Result<RgbImage, Error> {
    Encoded::open(bytes, file)?.decode()
}

/// An image whose header was read and fits the limits.
pub struct Encoded<'a> {
    file: &'a Path,
    pixels: Pixels<'a>,
    memory: u64,
}

/// What grey of 16 bits with alpha was in the file.
#[derive(Clone, Copy)]
enum DeepGrey {
    /// Grey with one transparent value, from which the decoder made the alpha.
    Alone,
    /// The same.
    WithAlpha,
}

impl DeepGrey {
    fn of(format: Option<ImageFormat>, bytes: &[u8]) -> Self {
        // Depth and colour type in the header of a PNG.
        let alone = format == Some(ImageFormat::Png) && bytes.get(24..26) == Some(&[16, 0]);
        if alone { Self::Alone } else { Self::WithAlpha }
    }
}

enum Pixels<'a> {
    Gif(Box<Still<'a>>),
    Other { decoder: Box<dyn ImageDecoder + 'a>, orientation: Orientation, deep: DeepGrey },
}

impl fmt::Debug for Encoded<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.debug_struct("Encoded").field("file", &self.file).field("memory", &self.memory).finish()
    }
}

impl<'a> Encoded<'a> {
    /// Reads the header.
    ///
    /// # Errors
    /// If it is no image, cut short, or too large to be one.
    pub fn open(bytes: &'a [u8], file: &'a Path) -> Result<Self, Error> {
        let failed = |error| failed(error, file);
        if is_cut_short(bytes) {
            return Err(Error::ImageCutShort { file: file.to_path_buf() });
        }
        let mut reader = ImageReader::new(Cursor::new(bytes))
            .with_guessed_format()
            .map_err(|error| failed(ImageError::IoError(error)))?;
        let opened = match reader.format() {
            Some(ImageFormat::Gif) => Self::open_gif(bytes, file).map_err(failed)?,
            format => {
                reader.limits(limits());
                Self::open_other(reader.into_decoder().map_err(failed)?, format, bytes, file)
            }
        };
        if opened.memory > MAX_BYTES { Err(too_large(file)) } else { Ok(opened) }
    }

    fn open_gif(bytes: &'a [u8], file: &'a Path) -> ImageResult<Self> {
        let still = Still::open(bytes, MAX_BYTES).map_err(gif_error)?;
        let still = still.ok_or_else(|| ImageError::Decoding(DecodingError::from_format_hint(GIF)))?;
        let [width, height] = still.canvas().map(|side| side as u32);
        limits().check_dimensions(width, height)?;
        Ok(Self { file, memory: still.memory(), pixels: Pixels::Gif(Box::new(still)) })
    }

    fn open_other(
        mut decoder: impl ImageDecoder + 'a,
        format: Option<ImageFormat>,
        bytes: &[u8],
        file: &'a Path,
    ) -> Self {
        let orientation = orientation(&mut decoder);
        let memory = memory(&decoder, format, bytes).saturating_add(turned(&decoder, orientation));
        let deep = DeepGrey::of(format, bytes);
        Self { file, pixels: Pixels::Other { decoder: Box::new(decoder), orientation, deep }, memory }
    }

    /// Bytes that decoding takes, beside those of the file.
    pub fn memory(&self) -> u64 {
        self.memory
    }

    /// The pixels, as [`decode`] describes them.
    ///
    /// # Errors
    /// If the image is damaged.
    pub fn decode(self) -> Result<RgbImage, Error> {
        let decoded = match self.pixels {
            Pixels::Gif(still) => still.decode().map_err(gif_error),
            Pixels::Other { decoder, orientation, deep } => upright(decoder, orientation, deep),
        };
        decoded.map_err(|error| failed(error, self.file))
    }
}

const GIF: ImageFormatHint = ImageFormatHint::Exact(ImageFormat::Gif);

fn gif_error(error: gif::DecodingError) -> ImageError {
    match error {
        gif::DecodingError::Io(error) => ImageError::IoError(error),
        error => ImageError::Decoding(DecodingError::new(GIF, error)),
    }
}

fn failed(error: ImageError, file: &Path) -> Error {
    match error {
        ImageError::Limits(_) => too_large(file),
        source => Error::Image { file: file.to_path_buf(), source },
    }
}

fn too_large(file: &Path) -> Error {
    Error::ImageTooLarge { file: file.to_path_buf(), max_side: MAX_SIDE, max_bytes: MAX_BYTES }
}

fn limits() -> Limits {
    let mut limits = Limits::default();
    (limits.max_image_width, limits.max_image_height) = (Some(MAX_SIDE), Some(MAX_SIDE));
    limits.max_alloc = Some(MAX_BYTES);
    limits
}

/// Bytes of RGB pixels.
fn rgb_bytes(decoder: &impl ImageDecoder) -> u64 {
    let (width, height) = decoder.dimensions();
    3 * u64::from(width) * u64::from(height)
}

/// What the decoder holds, what it puts out, and the RGB pixels where they do not fit in the place of that.
fn memory(decoder: &impl ImageDecoder, format: Option<ImageFormat>, bytes: &[u8]) -> u64 {
    let (out, rgb) = (decoder.total_bytes(), rgb_bytes(decoder));
    let held = match format {
        Some(ImageFormat::Jpeg) if is_progressive(bytes) => 2 * rgb + bytes.len() as u64,
        Some(ImageFormat::Jpeg) => bytes.len() as u64,
        Some(ImageFormat::Tiff) => out,
        Some(ImageFormat::WebP) => rgb / 3 * 4,
        Some(_) | None => 0,
    };
    let converted = match decoder.color_type() {
        ColorType::Rgb8 | ColorType::Rgba8 => 0,
        _ => rgb,
    };
    held.saturating_add(out).saturating_add(converted)
}

/// Bytes of the copy that a turn by a quarter makes.
fn turned(decoder: &impl ImageDecoder, orientation: Orientation) -> u64 {
    match orientation {
        Orientation::Rotate90
        | Orientation::Rotate270
        | Orientation::Rotate90FlipH
        | Orientation::Rotate270FlipH => rgb_bytes(decoder),
        Orientation::NoTransforms
        | Orientation::Rotate180
        | Orientation::FlipHorizontal
        | Orientation::FlipVertical => 0,
    }
}

/// How the image lies: by EXIF or the format's own field, else by XMP; upright if nothing readable says otherwise.
fn orientation(decoder: &mut impl ImageDecoder) -> Orientation {
    let exif = decoder.exif_metadata().ok().flatten();
    let of_exif = exif.and_then(|exif| Orientation::from_exif_chunk(&exif));
    let of_file = || decoder.orientation().ok().filter(|&found| found != Orientation::NoTransforms);
    of_exif.or_else(of_file).or_else(|| of_xmp(decoder)).unwrap_or(Orientation::NoTransforms)
}

/// `tiff:Orientation` as an attribute or an element.
fn of_xmp(decoder: &mut impl ImageDecoder) -> Option<Orientation> {
    const NAME: &str = "tiff:Orientation";
    let xmp = decoder.xmp_metadata().ok().flatten()?;
    let text = String::from_utf8_lossy(&xmp);
    let behind = &text[text.find(NAME)? + NAME.len()..];
    let value = behind.strip_prefix("=\"").or_else(|| behind.strip_prefix('>'))?;
    Orientation::from_exif(value.bytes().next().filter(u8::is_ascii_digit)? - b'0')
}

fn upright(
    decoder: Box<dyn ImageDecoder + '_>,
    orientation: Orientation,
    deep: DeepGrey,
) -> ImageResult<RgbImage> {
    let mut image = DynamicImage::from(rgb(DynamicImage::from_decoder(decoder)?, deep)?);
    image.apply_orientation(orientation);
    Ok(image.into_rgb8())
}

/// The pixels of Pillow's `convert("RGB")`.
fn rgb(image: DynamicImage, deep: DeepGrey) -> ImageResult<RgbImage> {
    let (width, height) = (image.width(), image.height());
    let bytes = match image {
        DynamicImage::ImageRgb8(image) => return Ok(image),
        DynamicImage::ImageLuma8(image) => image.iter().flat_map(|&grey| [grey; 3]).collect(),
        DynamicImage::ImageLumaA8(image) => {
            image.as_chunks::<2>().0.iter().flat_map(|&[grey, _]| [grey; 3]).collect()
        }
        DynamicImage::ImageRgba8(image) => without_alpha(image.into_raw()),
        DynamicImage::ImageLuma16(image) => image.iter().flat_map(|&grey| [cut_off(grey); 3]).collect(),
        DynamicImage::ImageLumaA16(image) => {
            let byte = match deep {
                DeepGrey::Alone => cut_off,
                DeepGrey::WithAlpha => high,
            };
            image.as_chunks::<2>().0.iter().flat_map(|&[grey, _]| [byte(grey); 3]).collect()
        }
        DynamicImage::ImageRgb16(image) => image.iter().map(|&value| high(value)).collect(),
        DynamicImage::ImageRgba16(image) => {
            image.as_chunks::<4>().0.iter().flat_map(|&[r, g, b, _]| [r, g, b].map(high)).collect()
        }
        other => return Err(unsupported(other.color())),
    };
    Ok(RgbImage::from_raw(width, height, bytes).expect("three bytes a pixel"))
}

/// Pillow holds grey of 16 bits as whole numbers, and cuts off what a byte cannot hold.
fn cut_off(grey: u16) -> u8 {
    u8::try_from(grey).unwrap_or(u8::MAX)
}

/// All other values of 16 bits it reads by their high byte.
fn high(value: u16) -> u8 {
    (value >> 8) as u8
}

/// Three of every four bytes, in their own place.
fn without_alpha(mut bytes: Vec<u8>) -> Vec<u8> {
    let pixels = bytes.len() / 4;
    for pixel in 0..pixels {
        bytes.copy_within(4 * pixel..4 * pixel + 3, 3 * pixel);
    }
    bytes.truncate(3 * pixels);
    bytes
}

fn unsupported(color: ColorType) -> ImageError {
    let kind = UnsupportedErrorKind::Color(color.into());
    ImageError::Unsupported(UnsupportedError::from_format_and_kind(ImageFormatHint::Unknown, kind))
}

/// A JPEG's markers and lengths up to its first scan, since an embedded thumbnail has markers of its own.
struct Segments<'a>(&'a [u8]);

impl<'a> Iterator for Segments<'a> {
    /// The marker, and what follows it.
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let &[0xff, marker, high, low, ..] = self.0 else { return None };
        let found = (marker, self.0);
        let length = usize::from(u16::from_be_bytes([high, low]));
        // Fill bytes before a marker are allowed.
        let step = if marker == 0xff { 1 } else { 2 + length };
        self.0 = if marker == SCAN { &[] } else { self.0.get(step..).unwrap_or_default() };
        Some(found)
    }
}

const SCAN: u8 = 0xda;

fn segments(bytes: &[u8]) -> Option<Segments<'_>> {
    bytes.strip_prefix(&[0xff, 0xd8]).map(Segments)
}

/// Whether a JPEG lacks its end marker; the decoder would fill the rest with grey.
fn is_cut_short(bytes: &[u8]) -> bool {
    let Some(mut segments) = segments(bytes) else { return false };
    let scan = segments.find(|&(marker, _)| marker == SCAN);
    scan.is_none_or(|(_, rest)| !rest.windows(2).any(|pair| pair == [0xff, 0xd9]))
}

/// Whether a JPEG comes in several passes, between which all coefficients are held.
fn is_progressive(bytes: &[u8]) -> bool {
    segments(bytes)
        .is_some_and(|mut segments| segments.any(|(marker, _)| matches!(marker, 0xc2 | 0xc6 | 0xca)))
}

#[cfg(test)]
mod tests {
    use image::{ImageBuffer, Luma, LumaA, Rgb, Rgba};

    use super::*;

    /// The image the golden pixels were made from.
    fn pattern(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            Rgb([0, 1, 2].map(|c| ((x * 37 + y * 91 + c * 53 + x * y * 7) % 256) as u8))
        })
    }

    fn encoded(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.into().write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    fn decoded(bytes: &[u8]) -> Result<RgbImage, Error> {
        decode(bytes, Path::new("a.png"))
    }

    #[test]
    fn an_image_is_told_by_its_content_not_its_name() {
        let bytes = encoded(pattern(5, 4), ImageFormat::Png);
        assert_eq!(decode(&bytes, Path::new("named.jpg")).unwrap(), pattern(5, 4));
    }

    #[test]
    fn grey_becomes_three_equal_channels() {
        let grey = image::GrayImage::from_pixel(2, 2, Luma([77]));
        assert_eq!(decoded(&encoded(grey, ImageFormat::Png)).unwrap().into_raw(), [77; 12]);
    }

    #[test]
    fn alpha_is_dropped_and_leaves_the_colour_under_it() {
        let clear = image::RgbaImage::from_pixel(1, 1, Rgba([10, 20, 30, 0]));
        assert_eq!(decoded(&encoded(clear, ImageFormat::Png)).unwrap().into_raw(), [10, 20, 30]);
        let clear = image::GrayAlphaImage::from_pixel(1, 1, LumaA([10, 0]));
        assert_eq!(decoded(&encoded(clear, ImageFormat::Png)).unwrap().into_raw(), [10; 3]);
    }

    #[test]
    fn a_palette_is_looked_up() {
        // A 2x1 GIF of red and blue, since the encoder here writes its own palettes.
        let image = RgbImage::from_fn(2, 1, |x, _| if x == 0 { Rgb([255, 0, 0]) } else { Rgb([0, 0, 255]) });
        let rgba = DynamicImage::from(image.clone()).into_rgba8();
        assert_eq!(decoded(&encoded(rgba, ImageFormat::Gif)).unwrap(), image);
    }

    #[test]
    fn exif_rotation_is_applied() {
        let mut bytes = encoded(RgbImage::from_pixel(16, 8, Rgb([9, 9, 9])), ImageFormat::Jpeg);
        // One EXIF entry: orientation (0x0112), short, 6 = turn by a quarter to the right.
        let exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
        let mut segment = vec![0xff, 0xe1];
        segment.extend(u16::to_be_bytes(exif.len() as u16 + 2));
        segment.extend(exif);
        bytes.splice(2..2, segment);
        assert_eq!(decoded(&bytes).unwrap().dimensions(), (8, 16));
    }

    #[test]
    fn every_image_that_is_cut_short_is_refused() {
        for format in
            [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP, ImageFormat::Bmp, ImageFormat::Tiff]
        {
            let whole = encoded(pattern(32, 32), format);
            assert!(decoded(&whole).is_ok(), "{format:?}");
            for part in [0, 1, 9, whole.len() / 2, whole.len() - 20] {
                let error = decoded(&whole[..part]).expect_err(&format!("{format:?} cut to {part} bytes"));
                assert!(error.to_string().starts_with("a.png: "), "{error}");
            }
        }
    }

    #[test]
    fn a_bomb_is_refused_by_its_header() {
        let mut bytes = encoded(pattern(2, 2), ImageFormat::Bmp);
        bytes[18..22].copy_from_slice(&60_000u32.to_le_bytes());
        bytes[22..26].copy_from_slice(&60_000u32.to_le_bytes());
        assert!(matches!(decoded(&bytes), Err(Error::ImageTooLarge { .. })));
        bytes[18..22].copy_from_slice(&16_000u32.to_le_bytes());
        bytes[22..26].copy_from_slice(&16_000u32.to_le_bytes());
        assert!(matches!(decoded(&bytes), Err(Error::ImageTooLarge { .. })));
    }

    #[test]
    fn text_that_calls_itself_an_image_is_refused() {
        assert!(matches!(decoded(b"<html>not found</html>"), Err(Error::Image { .. })));
    }

    #[test]
    fn grey_of_sixteen_bits_is_cut_off_at_255() {
        let values = [0, 1, 200, 255, 256, 0x8080, 0xffff];
        let deep = ImageBuffer::<Luma<u16>, _>::from_fn(7, 1, |x, _| Luma([values[x as usize]]));
        let expected = [0, 1, 200, 255, 255, 255, 255].map(|grey| [grey; 3]).concat();
        for format in [ImageFormat::Png, ImageFormat::Tiff] {
            assert_eq!(decoded(&encoded(deep.clone(), format)).unwrap().into_raw(), expected, "{format:?}");
        }
    }

    #[test]
    fn colours_of_sixteen_bits_are_their_high_bytes() {
        let rgb = ImageBuffer::<Rgb<u16>, _>::from_pixel(1, 1, Rgb([0x12ff, 0x80, 0xfffe]));
        assert_eq!(decoded(&encoded(rgb.clone(), ImageFormat::Png)).unwrap().into_raw(), [0x12, 0, 0xff]);
        assert_eq!(decoded(&encoded(rgb, ImageFormat::Tiff)).unwrap().into_raw(), [0x12, 0, 0xff]);
        let rgba = ImageBuffer::<Rgba<u16>, _>::from_pixel(1, 1, Rgba([0x12ff, 0x80, 0xfffe, 3]));
        assert_eq!(decoded(&encoded(rgba, ImageFormat::Png)).unwrap().into_raw(), [0x12, 0, 0xff]);
        let grey = ImageBuffer::<LumaA<u16>, _>::from_pixel(1, 1, LumaA([0x12ff, 3]));
        assert_eq!(decoded(&encoded(grey, ImageFormat::Png)).unwrap().into_raw(), [0x12; 3]);
    }

    #[test]
    fn what_becomes_of_an_image_counts_too() {
        let memory = |image: DynamicImage, format| {
            Encoded::open(&encoded(image, format), Path::new("a")).unwrap().memory()
        };
        // One byte of grey and three of RGB; RGB alone; RGBA, whose pixels move within it.
        assert_eq!(memory(DynamicImage::new_luma8(10, 10), ImageFormat::Png), 400);
        assert_eq!(memory(DynamicImage::new_rgb8(10, 10), ImageFormat::Png), 300);
        assert_eq!(memory(DynamicImage::new_rgba8(10, 10), ImageFormat::Png), 400);
        assert_eq!(memory(DynamicImage::new_rgb16(10, 10), ImageFormat::Png), 900);
        // A TIFF is held twice.
        assert_eq!(memory(DynamicImage::new_luma8(10, 10), ImageFormat::Tiff), 500);
    }

    #[test]
    fn an_image_whose_rgb_is_too_large_is_refused_before_it_is_decoded() {
        // The header of a grey PNG of 16384 x 16383, and no pixels.
        let mut bytes = encoded(DynamicImage::new_luma8(1, 1), ImageFormat::Png);
        bytes[16..24].copy_from_slice(&[0, 0, 0x40, 0, 0, 0, 0x3f, 0xff]);
        bytes[29..33].copy_from_slice(&0x72474456u32.to_be_bytes());
        assert!(matches!(decoded(&bytes), Err(Error::ImageTooLarge { .. })));
    }
}
