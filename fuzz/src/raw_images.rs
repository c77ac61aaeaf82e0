//! Files of raw images.

use std::path::Path;
use std::sync::OnceLock;

use nola_train::data::{Dataset, Images, OnBadImage};
use nola_train::recipe::{DataRecipe, Recipe};

use super::input::{accepted, in_folder, parts};

/// Images that are unpacked of one input.
const MOST_IMAGES: usize = 4;

/// A file of CIFAR-10 and one of CIFAR-100.
pub fn cifar(bytes: &[u8]) {
    thread_local! {
        static RECIPES: [OnceLock<DataRecipe>; 2] = const { [OnceLock::new(), OnceLock::new()] };
    }
    let [ten, hundred] = parts(bytes);
    in_folder(&[("test_batch.bin", ten), ("test.bin", hundred)], |folder| {
        RECIPES.with(|recipes| {
            for (recipe, format) in recipes.iter().zip(["cifar10", "cifar100"]) {
                open(recipe.get_or_init(|| of_format(format, folder)), bytes);
            }
        });
    });
}

/// Images, then labels.
pub fn idx(bytes: &[u8]) {
    thread_local! {
        static RECIPE: OnceLock<DataRecipe> = const { OnceLock::new() };
    }
    let [images, labels] = parts(bytes);
    // Packed ones have another name.
    for ending in ["", ".gz"] {
        let [images_name, labels_name] =
            ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"].map(|name| format!("{name}{ending}"));
        in_folder(&[(&images_name, images), (&labels_name, labels)], |folder| {
            RECIPE.with(|recipe| open(recipe.get_or_init(|| of_format("mnist", folder)), bytes));
        });
    }
}

fn of_format(format: &str, folder: &Path) -> DataRecipe {
    let folder = folder.display();
    let text = format!(
        "[model]\npath = \"m\"\n[data]\nformat = \"{format}\"\ntrain = \"{folder}\"\nvalidation = \"{folder}\"\n"
    );
    Recipe::from_text(&text, Path::new("my.toml"), &[]).expect("a recipe").into_inner().data
}

fn open(recipe: &DataRecipe, bytes: &[u8]) {
    let Some((dataset, _)) =
        accepted(recipe.images(0).and_then(|sources| Dataset::scored_on(&sources)), bytes)
    else {
        return;
    };
    let samples = dataset.samples.len();
    let images = accepted(Images::load(dataset, OnBadImage::Fail, 0), bytes);
    let (images, _) = images.expect("raw images cannot be damaged");
    assert_eq!(images.len(), samples);
    for index in 0..images.len().min(MOST_IMAGES) {
        assert!(images.label(index) < images.classes().len());
        images.image(index).expect("raw images cannot be damaged");
    }
}
