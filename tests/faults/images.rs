//! Faults of images and of the folders of their classes.

use std::fs;

use image::{Rgb, RgbImage};

use super::{TRAIN, refused};
use crate::program::Workshop;

/// Asserts that `bytes` as a training image are refused by name, and that they can be left out.
fn with_image(name: &str, bytes: &[u8], parts: &[&str]) {
    let workshop = Workshop::new();
    fs::write(workshop.at("train/red").join(name), bytes).expect("a file");
    refused(&workshop, &TRAIN, 4, &[&[name, "on_bad_image"], parts].concat());
    let skipped = workshop.run(&["train", "colours.toml", "--set", "data.on_bad_image=skip", "--json"]);
    assert_eq!(skipped.code, 0, "{}", skipped.stderr);
    assert!(skipped.stderr.contains(&format!("left out: train/red/{name}")), "{}", skipped.stderr);
}

fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let image = RgbImage::from_fn(width, height, |x, y| Rgb([x as u8, y as u8, 7]));
    image.write_to(&mut bytes, image::ImageFormat::Png).expect("writing into memory");
    bytes.into_inner()
}

#[test]
fn fault_18_a_corrupt_image_is_named_or_left_out() {
    let mut bytes = png(8, 8);
    let middle = bytes.len() / 2;
    bytes[middle..middle + 8].fill(0xEE);
    with_image("corrupt.png", &bytes, &[]);
}

#[test]
fn fault_18_an_image_that_is_cut_short_is_named_or_left_out() {
    let bytes = png(64, 64);
    with_image("cut.png", &bytes[..bytes.len() / 2], &[]);
}

#[test]
fn fault_18_an_empty_image_is_named_or_left_out() {
    with_image("empty.png", b"", &["the file is empty"]);
}

#[test]
fn fault_18_a_text_that_is_called_an_image_is_named_or_left_out() {
    with_image("text.jpg", b"<html>no such page</html>", &[]);
}

#[test]
fn fault_19_an_image_that_says_it_is_enormous_is_not_decoded() {
    for sides in [[1 << 16, 1 << 16], [50_000, 50_000], [1, 1 << 30]] {
        with_image("bomb.png", &that_says(sides, COLOURED), &["larger than 16384 pixels"]);
    }
    // Within the longest side, but not within the memory.
    with_image(
        "grey.png",
        &that_says([16_384, 16_384], GREY),
        &["bytes of memory to decode it", "scale it down"],
    );
}

/// Kinds of pixels of a PNG.
const GREY: u8 = 0;
const COLOURED: u8 = 2;

/// A PNG whose header claims these sides, in pixels, and these pixels.
fn that_says(sides: [u32; 2], pixels: u8) -> Vec<u8> {
    let mut bytes = png(8, 8);
    // Width, height, bits and kind of pixels stand after the signature and the header's length and name; then comes a checksum.
    bytes[16..20].copy_from_slice(&sides[0].to_be_bytes());
    bytes[20..24].copy_from_slice(&sides[1].to_be_bytes());
    bytes[25] = pixels;
    let checksum = crc32(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

/// The checksum of PNG chunks (ISO 3309).
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    })
}

#[test]
fn fault_18_an_image_with_another_formats_ending_is_read_all_the_same() {
    let workshop = Workshop::new();
    fs::rename(workshop.at("train/red/0.png"), workshop.at("train/red/0.jpg")).expect("an image");
    assert_eq!(workshop.run(&TRAIN).code, 0);
}

#[test]
fn fault_21_an_empty_class_folder_is_named() {
    let workshop = Workshop::new();
    fs::create_dir(workshop.at("train/yellow")).expect("a folder");
    refused(&workshop, &TRAIN, 4, &["train: no images in yellow", "remove the folder"]);
}

#[test]
fn fault_21_classes_of_training_and_validation_that_differ_are_listed() {
    let workshop = Workshop::new();
    fs::rename(workshop.at("val/red"), workshop.at("val/pink")).expect("a class");
    refused(&workshop, &TRAIN, 4, &["classes differ", "red", "pink"]);
}

#[test]
fn fault_21_images_of_other_classes_than_the_adapters_are_refused() {
    let workshop = Workshop::new();
    workshop.trained();
    fs::rename(workshop.at("val/red"), workshop.at("val/pink")).expect("a class");
    refused(&workshop, &["evaluate", "--run", "runs/colours"], 4, &["pink", "red"]);
}

#[test]
fn fault_18_a_kind_of_image_that_is_not_decoded_is_named_or_left_out() {
    with_image("photo.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", &["BMP, GIF, JPEG, PNG, TIFF or WebP"]);
}

#[test]
fn fault_18_every_image_that_cannot_be_used_is_listed_at_once() {
    let workshop = Workshop::new();
    fs::write(workshop.at("train/red/cut.png"), &png(64, 64)[..60]).expect("a file");
    fs::write(workshop.at("train/blue/empty.png"), b"").expect("a file");
    fs::write(workshop.at("val/green/text.png"), b"no image").expect("a file");
    refused(&workshop, &TRAIN, 4, &["2 images cannot be used", "train/red/cut.png", "train/blue/empty.png"]);
}

/// Grey, grey with alpha, palettes and alpha are turned to RGB as Pillow turns them: alpha is dropped.
#[test]
fn fault_20_images_of_every_kind_of_pixels_are_the_same_image() {
    use image::DynamicImage;
    let workshop = Workshop::new();
    workshop.trained();
    let grey =
        DynamicImage::ImageLuma8(image::GrayImage::from_fn(8, 8, |x, y| image::Luma([(x * 30 + y) as u8])));
    let kinds = [
        ("grey.png", grey.clone()),
        ("rgb.png", grey.to_rgb8().into()),
        ("rgba.png", grey.to_rgba8().into()),
        ("grey-alpha.png", grey.to_luma_alpha8().into()),
        ("grey.bmp", grey.clone()),
        ("rgb.tiff", grey.to_rgb8().into()),
    ];
    let answers = kinds.map(|(name, image)| {
        image.save(workshop.at(name)).expect("an image");
        let found = workshop.run(&["predict", "--run", "runs/colours", "--json", name]).json();
        found["predictions"][0]["classes"].clone()
    });
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{answers:?}");
}

#[test]
fn fault_21_hidden_files_and_other_files_are_no_images() {
    let workshop = Workshop::new();
    let plain = workshop.trained()["accuracy"].clone();
    for file in ["train/red/.DS_Store", "train/.hidden/0.png", "train/notes.txt", "train/blue/Thumbs.db"] {
        workshop.write(file, "no image");
    }
    let trained = workshop.run(&["train", "colours.toml", "--json", "--set=output.dir=runs/again"]).json();
    assert_eq!(trained["accuracy"], plain);
}

#[cfg(unix)]
#[test]
fn fault_21_links_in_a_circle_or_out_of_the_data_are_not_followed() {
    use std::os::unix::fs::symlink;
    let workshop = Workshop::new();
    symlink("..", workshop.at("train/red/circle")).expect("a link");
    assert_eq!(workshop.run(&TRAIN).code, 0, "a circle is left alone");
    fs::remove_dir_all(workshop.at("runs")).expect("the run");
    fs::create_dir(workshop.at("train/yellow")).expect("a folder");
    symlink("../../val/red/0.png", workshop.at("train/yellow/0.png")).expect("a link");
    refused(&workshop, &TRAIN, 4, &["train: no images in yellow", "links that leave the data folder"]);
}
