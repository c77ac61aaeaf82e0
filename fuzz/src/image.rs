//! Encoded images.

use std::path::Path;

use nola_models::image::Encoded;

use super::input::accepted;

/// What takes more memory than this, in bytes, is decoded well too, but takes long.
const MOST_BYTES: u64 = 64 << 20;

/// PNG, JPEG, GIF, WebP, BMP or TIFF.
pub fn decode(bytes: &[u8]) {
    let Some(encoded) = accepted(Encoded::open(bytes, Path::new("a.png")), bytes) else { return };
    if encoded.memory() > MOST_BYTES {
        return;
    }
    let Some(image) = accepted(encoded.decode(), bytes) else { return };
    let (width, height) = image.dimensions();
    assert!(width > 0 && height > 0, "an image without pixels");
    assert_eq!(image.as_raw().len(), 3 * width as usize * height as usize);
}
