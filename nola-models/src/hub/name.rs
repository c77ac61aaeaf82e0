//! Names of repositories, as users type them.

use super::HubError;

/// Longest name of an owner or a repository, in bytes.
const MAX_NAME_BYTES: usize = 96;
/// Longest revision, in bytes.
const MAX_REVISION_BYTES: usize = 255;

/// What a repository of the hub holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A model.
    Model,
    /// A data set.
    Dataset,
}

/// A repository and one of its revisions, as in `openai-community/gpt2@main`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RepositoryName {
    /// What it holds.
    pub kind: Kind,
    /// `owner/name`, or a single name of the hub's first years.
    pub id: String,
    /// A branch, a tag or a commit.
    pub revision: String,
}

impl RepositoryName {
    /// Reads `owner/name`, `owner/name@revision` or a single legacy name.
    ///
    /// What passes is safe as a part of a path and of an address.
    ///
    /// # Errors
    /// If it is none of these.
    pub fn parse(text: &str) -> Result<Self, HubError> {
        let (id, revision) = text.split_once('@').unwrap_or((text, "main"));
        let parts: Vec<_> = id.split('/').collect();
        if parts.len() > 2 || !parts.iter().all(|part| is_name(part)) || !is_revision(revision) {
            return Err(HubError::NeitherFolderNorName { text: text.to_string() });
        }
        Ok(Self { kind: Kind::Model, id: id.to_string(), revision: revision.to_string() })
    }

    /// A data set, if owner, name and revision are such as the hub has; likewise safe.
    pub fn dataset(owner: &str, name: &str, revision: &str) -> Option<Self> {
        let is_safe = is_name(owner) && is_name(name) && is_revision(revision);
        let id = format!("{owner}/{name}");
        is_safe.then(|| Self { kind: Kind::Dataset, id, revision: revision.to_string() })
    }

    /// Name of its folder in the cache.
    pub fn folder(&self) -> String {
        let kind = match self.kind {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
        };
        format!("{kind}--{}", self.id.replace('/', "--"))
    }

    /// Its place in the hub's interface, behind `/api/`.
    pub fn api(&self) -> String {
        let kind = match self.kind {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
        };
        format!("{kind}/{}", self.id)
    }

    /// Its page on the hub, behind the hub's address.
    pub fn page(&self) -> String {
        match self.kind {
            Kind::Model => self.id.clone(),
            Kind::Dataset => format!("datasets/{}", self.id),
        }
    }
}

fn is_name(part: &str) -> bool {
    let letters = part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    let edges = part.starts_with(['-', '.']) || part.ends_with(['-', '.']) || part.ends_with(".git");
    letters
        && !edges
        && !part.contains("--")
        && !part.contains("..")
        && (1..=MAX_NAME_BYTES).contains(&part.len())
}

fn is_revision(text: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'+' | b'=');
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && part.bytes().all(letter);
    text.split('/').all(part) && !text.contains("..") && text.len() <= MAX_REVISION_BYTES
}

/// Whether the text is a full commit, which is also the name of a folder of the cache.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && is_hex(text)
}

/// Whether the text is made of lower-case hexadecimal digits.
pub(super) fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_without_a_revision_means_main() {
        let name = RepositoryName::parse("openai-community/gpt2").unwrap();
        assert_eq!((name.id.as_str(), name.revision.as_str()), ("openai-community/gpt2", "main"));
        assert_eq!(name.folder(), "models--openai-community--gpt2");
    }

    #[test]
    fn a_legacy_name_and_a_revision_with_slashes_are_understood() {
        let name = RepositoryName::parse("gpt2@refs/pr/1").unwrap();
        assert_eq!((name.folder().as_str(), name.revision.as_str()), ("models--gpt2", "refs/pr/1"));
    }

    #[test]
    fn what_is_no_name_is_refused_with_both_possibilities() {
        for text in [
            "",
            "/models/gpt2",
            "./gpt2",
            "~/gpt2",
            "a/b/c",
            "a/",
            "a--b/c",
            "..",
            "a\\b",
            "a@",
            "a b",
            "a/b.git",
        ] {
            let message = RepositoryName::parse(text).expect_err(text).to_string();
            assert!(message.contains("no such folder") && message.contains("`owner/name`"), "{message}");
        }
    }

    proptest! {
        #[test]
        fn no_accepted_name_leaves_the_cache(text in "[a-zA-Z0-9./@_\\\\:-]{1,24}") {
            if let Ok(name) = RepositoryName::parse(&text) {
                let path = Path::new(&name.folder()).join("refs").join(&name.revision);
                prop_assert!(path.components().all(|part| matches!(part, Component::Normal(_))), "{path:?}");
            }
        }
    }
}
