//! Layouts of data sets, of images and of text, under one key.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::text::TextFormat;

/// What a model answers about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Modality {
    /// Images; the answer is a class.
    Images,
    /// Text; the answer is the next token.
    Text,
}

/// Layout of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DataFormat {
    /// Labelled images.
    Images(ImageFormat),
    /// Text.
    Text(TextFormat),
}

/// Layout of labelled images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "kebab-case")]
pub enum ImageFormat {
    /// One folder for each class, images at any depth in it.
    Folder,
    /// CIFAR-10, binary version.
    Cifar10,
    /// CIFAR-100, binary version; the fine labels.
    Cifar100,
    /// MNIST's IDX files, plain or gzipped.
    Mnist,
    /// Fashion-MNIST's IDX files, plain or gzipped.
    FashionMnist,
}

impl DataFormat {
    /// Every layout, by the name that recipes and the command line use.
    pub const ALL: [(&'static str, Self); 14] = [
        ("folder", Self::Images(ImageFormat::Folder)),
        ("cifar10", Self::Images(ImageFormat::Cifar10)),
        ("cifar100", Self::Images(ImageFormat::Cifar100)),
        ("mnist", Self::Images(ImageFormat::Mnist)),
        ("fashion-mnist", Self::Images(ImageFormat::FashionMnist)),
        ("text", Self::Text(TextFormat::Text)),
        ("prompt-completion", Self::Text(TextFormat::PromptCompletion)),
        ("template", Self::Text(TextFormat::Template)),
        ("alpaca", Self::Text(TextFormat::Alpaca)),
        ("sharegpt", Self::Text(TextFormat::ShareGpt)),
        ("chat", Self::Text(TextFormat::Chat)),
        ("e2e", Self::Text(TextFormat::E2e)),
        ("dart", Self::Text(TextFormat::Dart)),
        ("webnlg", Self::Text(TextFormat::WebNlg)),
    ];

    /// What it holds.
    pub fn modality(self) -> Modality {
        match self {
            Self::Images(_) => Modality::Images,
            Self::Text(_) => Modality::Text,
        }
    }
}

impl fmt::Display for DataFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Self::ALL.iter().find(|(_, format)| format == self);
        f.write_str(named.expect("every format has a name").0)
    }
}

impl JsonSchema for DataFormat {
    fn schema_name() -> Cow<'static, str> {
        "DataFormat".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let images = ImageFormat::json_schema(generator);
        let text = TextFormat::json_schema(generator);
        let choices = [images, text].into_iter().filter_map(|mut schema| schema.remove("oneOf"));
        let choices: Vec<_> = choices.filter_map(|choices| choices.as_array().cloned()).flatten().collect();
        json_schema!({ "oneOf": choices })
    }
}

impl From<DataFormat> for String {
    fn from(format: DataFormat) -> Self {
        format.to_string()
    }
}

impl FromStr for DataFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = Self::ALL.iter().find(|(name, _)| *name == text);
        named.map(|(_, format)| *format).ok_or_else(|| {
            let names = Self::ALL.map(|(name, _)| format!("`{name}`"));
            format!("there is no format `{text}`; the formats are {}", names.join(", "))
        })
    }
}

impl TryFrom<String> for DataFormat {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_reads_back_as_it_is_written() {
        for (name, format) in DataFormat::ALL {
            assert_eq!(format.to_string(), name);
            assert_eq!(name.parse(), Ok(format));
        }
    }

    #[test]
    fn every_format_is_in_the_schema_with_what_it_is() {
        let schema = schemars::schema_for!(DataFormat).to_value();
        let choices = schema["oneOf"].as_array().expect("choices");
        let names: Vec<_> = choices.iter().map(|choice| choice["const"].as_str().expect("a name")).collect();
        assert_eq!(names, DataFormat::ALL.map(|(name, _)| name));
        assert!(choices.iter().all(|choice| choice["description"].is_string()));
    }

    #[test]
    fn a_typo_lists_the_formats() {
        let message = "alpacca".parse::<DataFormat>().expect_err("no format");
        assert!(message.contains("`alpaca`") && message.contains("`fashion-mnist`"), "{message}");
    }
}
