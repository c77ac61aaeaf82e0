//! Names of classes: when two are the same, and which outputs of a model they stand for.

use std::collections::{BTreeMap, BTreeSet};

use unicode_normalization::UnicodeNormalization;

use super::{DataError, Dataset, ImageSource, Sample};

/// A name in the form in which names are compared: macOS and Linux store the same letters differently.
pub fn composed(name: &str) -> String {
    name.nfc().collect()
}

/// A data set whose labels are the outputs of a model.
#[derive(Debug, Clone)]
pub struct Matched {
    /// With the model's classes, in the model's order.
    pub dataset: Dataset,
    /// Classes of the model without images.
    pub missing: Vec<String>,
    /// Whether the model has numbers for names, so that its classes were taken in the order of the data's.
    pub by_order: bool,
}

impl Dataset {
    /// Requires images of two classes or more, and of every class.
    ///
    /// # Errors
    /// With the only class and the folders inside it, or with the classes without images.
    pub fn check_learnable(&self) -> Result<(), DataError> {
        let present: BTreeSet<usize> = self.samples.iter().map(|sample| sample.label).collect();
        if let Some(&only) = present.first().filter(|_| present.len() == 1) {
            let (root, class) = (self.root.clone(), self.classes[only].clone());
            return Err(DataError::OneClass { root, class, folders: self.folders_inside() });
        }
        let absent = self.classes.iter().enumerate().filter(|(label, _)| !present.contains(label));
        let classes: Vec<String> = absent.map(|(_, class)| class.clone()).collect();
        if classes.is_empty() {
            return Ok(());
        }
        Err(DataError::EmptyClasses { root: self.root.clone(), classes })
    }

    /// Requires both splits to have the same classes.
    ///
    /// # Errors
    /// With the classes that only one of them has.
    pub fn check_same_classes(train: &Self, validation: &Self) -> Result<(), DataError> {
        let missing = |from: &Self, other: &Self| -> Vec<String> {
            from.classes.iter().filter(|class| !other.classes.contains(class)).cloned().collect()
        };
        if train.classes == validation.classes {
            return Ok(());
        }
        Err(DataError::DifferentClasses {
            train: train.root.clone(),
            validation: validation.root.clone(),
            only_train: missing(train, validation),
            only_validation: missing(validation, train),
        })
    }

    /// The same images, their classes found by name among `labels`, which a model has in an order of its own.
    ///
    /// Where `labels` are only numbers, as of an adapter that does not say them, and as many, the classes are taken in
    /// the order of their names, which is that of every library that reads such folders.
    ///
    /// # Errors
    /// With the classes that the model does not know, or has twice.
    pub fn matched_to(self, labels: &[String]) -> Result<Matched, DataError> {
        let names: Vec<String> = labels.iter().map(|label| composed(label)).collect();
        let present: BTreeSet<usize> = self.samples.iter().map(|sample| sample.label).collect();
        let place = |class: &usize| names.iter().position(|name| *name == self.classes[*class]);
        let places: BTreeMap<usize, usize> =
            present.iter().filter_map(|class| Some((*class, place(class)?))).collect();
        if places.is_empty() && labels.len() == self.classes.len() && are_numbers(labels) {
            return Ok(Matched { dataset: self, missing: Vec::new(), by_order: true });
        }
        if places.len() < present.len() {
            let unknown = present.iter().filter(|class| !places.contains_key(class));
            return Err(self.foreign(unknown.map(|&class| self.classes[class].clone()).collect(), labels));
        }
        let is_twice = |place: &usize| names.iter().filter(|name| **name == names[*place]).count() > 1;
        if let Some((class, _)) = places.iter().find(|(_, place)| is_twice(place)) {
            let (root, class) = (self.root.clone(), self.classes[*class].clone());
            return Err(DataError::RepeatedLabel { root, class });
        }
        let used: BTreeSet<usize> = places.values().copied().collect();
        let missing = labels.iter().enumerate().filter(|(place, _)| !used.contains(place));
        let missing = missing.map(|(_, label)| label.clone()).collect();
        let samples = (self.samples.into_iter())
            .map(|sample| Sample { label: places[&sample.label], ..sample })
            .collect();
        let dataset = Self { classes: labels.to_vec(), samples, ..self };
        Ok(Matched { dataset, missing, by_order: false })
    }

    fn foreign(&self, unknown: Vec<String>, labels: &[String]) -> DataError {
        let folders = if self.classes.len() == 1 { self.folders_inside() } else { Vec::new() };
        DataError::ForeignClasses { root: self.root.clone(), unknown, labels: labels.to_vec(), folders }
    }

    /// Folders between the class folders and the images: classes themselves, if the root is one level too high.
    fn folders_inside(&self) -> Vec<String> {
        let inside = self.samples.iter().filter_map(|sample| {
            let ImageSource::File(file) = &sample.source else { return None };
            let mut parts = file.strip_prefix(&self.root).ok()?.components().skip(1);
            let folder = parts.next()?;
            parts.next()?;
            Some(folder.as_os_str().to_string_lossy().into_owned())
        });
        inside.collect::<BTreeSet<String>>().into_iter().collect()
    }
}

/// Whether labels are those that a model without names has.
fn are_numbers(labels: &[String]) -> bool {
    labels.iter().enumerate().all(|(number, label)| *label == format!("LABEL_{number}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dataset(files: &[&str]) -> Dataset {
        let classes: BTreeSet<&str> = files.iter().map(|file| file.split('/').next().unwrap()).collect();
        let classes: Vec<String> = classes.into_iter().map(str::to_owned).collect();
        let sample = |file: &&str| Sample {
            label: classes.iter().position(|class| file.starts_with(&format!("{class}/"))).unwrap(),
            source: ImageSource::File(format!("data/{file}").into()),
            part: 0,
        };
        let samples = files.iter().map(sample).collect();
        Dataset { root: "data".into(), classes, samples, links_outside: 0, notes: Vec::new() }
    }

    fn owned(labels: &[&str]) -> Vec<String> {
        labels.iter().map(|&label| label.to_owned()).collect()
    }

    fn labels(dataset: &Dataset) -> Vec<usize> {
        dataset.samples.iter().map(|sample| sample.label).collect()
    }

    #[test]
    fn classes_are_found_by_name_in_the_order_of_the_model() {
        for (order, expected) in
            [(["c", "a", "b"], [1, 2, 0]), (["a", "b", "c"], [0, 1, 2]), (["b", "c", "a"], [2, 0, 1])]
        {
            let matched = dataset(&["a/0", "b/0", "c/0"]).matched_to(&owned(&order)).unwrap();
            assert_eq!(labels(&matched.dataset), expected);
            assert_eq!(matched.dataset.classes, order);
            assert!(matched.missing.is_empty() && !matched.by_order);
        }
    }

    #[test]
    fn classes_without_images_are_named_and_no_error() {
        let matched = dataset(&["b/0", "d/0"]).matched_to(&owned(&["d", "a", "b", "c"])).unwrap();
        assert_eq!(labels(&matched.dataset), [2, 0]);
        assert_eq!(matched.missing, ["a", "c"]);
    }

    #[test]
    fn classes_that_the_model_does_not_know_are_named() {
        let error = dataset(&["a/0", "x/0", "y/0"]).matched_to(&owned(&["a", "b"])).unwrap_err().to_string();
        assert!(error.contains("does not know x, y") && error.contains("it knows a, b"), "{error}");
    }

    #[test]
    fn a_folder_one_level_too_high_is_told_when_scored() {
        let error = dataset(&["all/a/0", "all/b/0"]).matched_to(&owned(&["a", "b"])).unwrap_err().to_string();
        assert!(error.contains("holds the folders a, b") && error.ends_with("name data/all"), "{error}");
    }

    #[test]
    fn names_in_another_unicode_form_are_the_same() {
        for (folder, label) in
            [("p\u{ea}che", "pe\u{302}che"), ("\u{e5}", "a\u{30a}"), ("\u{ac00}", "\u{1100}\u{1161}")]
        {
            let data = dataset(&[&format!("{folder}/0"), "zoo/0"]);
            let matched = data.matched_to(&owned(&["zoo", label])).unwrap();
            assert_eq!(labels(&matched.dataset), [1, 0], "{folder}");
        }
    }

    #[test]
    fn a_model_without_names_takes_the_classes_in_order() {
        let numbers = owned(&["LABEL_0", "LABEL_1"]);
        let matched = dataset(&["a/0", "b/0"]).matched_to(&numbers).unwrap();
        assert!(matched.by_order);
        assert_eq!(matched.dataset.classes, ["a", "b"]);
        assert!(dataset(&["a/0", "b/0", "c/0"]).matched_to(&numbers).is_err());
    }

    #[test]
    fn classes_of_a_format_without_images_need_not_be_known() {
        let mut data = dataset(&["a/0", "b/0", "c/0"]);
        data.samples.retain(|sample| sample.label != 1);
        let matched = data.matched_to(&owned(&["c", "a"])).unwrap();
        assert_eq!(labels(&matched.dataset), [1, 0]);
    }

    #[test]
    fn a_label_that_a_model_has_twice_is_refused() {
        let error = dataset(&["a/0", "b/0"]).matched_to(&owned(&["a", "b", "a"])).unwrap_err().to_string();
        assert!(error.contains("`a`"), "{error}");
    }

    #[test]
    fn one_class_is_refused_with_the_folders_inside_it() {
        for (files, inside) in [
            (vec!["fruit/apple/0", "fruit/pear/0"], Some("apple, pear")),
            (vec!["photos/x/y/0", "photos/z/0"], Some("x, z")),
            (vec!["cat/0", "cat/1"], None),
        ] {
            let error = dataset(&files).check_learnable().unwrap_err().to_string();
            assert!(error.contains("one class"), "{error}");
            assert_eq!(error.contains("one level too high"), inside.is_some(), "{error}");
            assert!(inside.is_none_or(|inside| error.contains(inside)), "{error}");
        }
        assert!(dataset(&["a/0", "b/0"]).check_learnable().is_ok());
    }

    #[test]
    fn records_of_one_label_are_one_class() {
        let mut data = dataset(&["a/0", "b/0"]);
        data.samples.retain(|sample| sample.label == 1);
        assert!(data.check_learnable().unwrap_err().to_string().contains("`b`"));
    }

    #[test]
    fn a_class_without_images_is_named() {
        let mut data = dataset(&["a/0", "b/0", "c/0"]);
        data.samples.retain(|sample| sample.label != 1);
        assert!(data.check_learnable().unwrap_err().to_string().contains("no images in b"));
    }

    #[test]
    fn classes_that_differ_are_listed_from_both_sides() {
        let (train, validation) = (dataset(&["cat/0", "dog/0"]), dataset(&["cat/0", "fox/0"]));
        let message = Dataset::check_same_classes(&train, &validation).unwrap_err().to_string();
        assert!(message.contains("dog") && message.contains("fox") && !message.contains("cat"), "{message}");
        assert!(Dataset::check_same_classes(&train, &train).is_ok());
    }
}
