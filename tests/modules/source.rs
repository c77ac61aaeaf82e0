//! What a Rust file defines, imports and names, as far as that can be read without a compiler.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The path of a module in its crate; empty for the crate itself.
pub type Module = Vec<String>;

/// A file without its comments, texts and tests.
#[derive(Debug, Default)]
pub struct Source {
    /// Its path from `src`.
    pub file: String,
    /// Names of what it defines.
    pub defined: BTreeSet<String>,
    /// Names that a `use` makes known, with the path that each stands for.
    pub imported: BTreeMap<String, Vec<String>>,
    /// Every path of several parts, those of `use` among them.
    pub paths: BTreeSet<Vec<String>>,
    /// Modules of tests alone.
    tests: BTreeSet<String>,
}

/// Every file below a `src`, by the path of its module, but those of tests.
pub fn read(src: &Path) -> BTreeMap<Module, Source> {
    let (mut sources, mut folders) = (BTreeMap::new(), vec![src.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let file =
                    path.strip_prefix(src).expect("a file inside").to_string_lossy().replace('\\', "/");
                let text = std::fs::read_to_string(&path).expect("text");
                sources.extend([parse(&file, &text)]);
            }
        }
    }
    let tests: Vec<Module> = sources
        .iter()
        .flat_map(|(module, source): (&Module, &Source)| {
            source.tests.iter().map(|name| [module.as_slice(), std::slice::from_ref(name)].concat())
        })
        .collect();
    sources.retain(|module, _| !tests.iter().any(|test| module.starts_with(test)));
    sources
}

/// The module of a file, and what is in it.
pub fn parse(file: &str, text: &str) -> (Module, Source) {
    let mut module: Module = file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    module.pop_if(|last| last == "mod" || last == "lib");
    let mut source = Source { file: file.to_owned(), ..Source::default() };
    let words = without_tests(words(text), &mut source.tests);
    let mut at = 0;
    while at < words.len() {
        let word = words[at].as_str();
        let next = words.get(at + 1).cloned().unwrap_or_default();
        if word == "use" {
            let end = at + words[at..].iter().position(|word| word == ";").unwrap_or(words.len() - at);
            used(&words[at + 1..end], &[], &mut source);
            at = end;
        } else if ["struct", "enum", "trait", "fn", "type", "const", "static", "union"].contains(&word) {
            source.defined.insert(next);
        } else if is_name(word) && next == "::" && (at == 0 || words[at - 1] != "::") {
            let mut path = vec![word.to_owned()];
            while words.get(at + 1).is_some_and(|word| word == "::") && is_name(&words[at + 2]) {
                path.push(words[at + 2].clone());
                at += 2;
            }
            source.paths.insert(path);
        }
        at += 1;
    }
    (module, source)
}

/// Takes up the paths of a `use`, which may be a tree.
fn used(words: &[String], before: &[String], source: &mut Source) {
    let mut depth = 0;
    let of_parts = words.split(|word| {
        depth += i32::from(word == "{") - i32::from(word == "}");
        word == "," && depth == 0
    });
    for part in of_parts {
        let open = part.iter().position(|word| word == "{");
        let (path, alias) = match part.iter().position(|word| word == "as").filter(|_| open.is_none()) {
            Some(at) => (&part[..at], part.last().cloned()),
            None => (&part[..open.unwrap_or(part.len())], None),
        };
        let own = path.iter().filter(|word| *word != "::").cloned();
        let mut path: Vec<String> = before.iter().cloned().chain(own).collect();
        if let Some(open) = open {
            used(&part[open + 1..part.len() - 1], &path, source);
            continue;
        }
        path.pop_if(|last| last == "self" && !before.is_empty());
        let Some(name) = alias.or(path.last().cloned()) else { continue };
        source.paths.insert(path.clone());
        source.imported.insert(name, path);
    }
}

fn is_name(word: &str) -> bool {
    word.starts_with(|letter: char| letter.is_alphabetic() || letter == '_')
}

/// Leaves out the items behind `#[cfg(test)]`; `tests` takes up the modules that are files of their own.
fn without_tests(words: Vec<String>, tests: &mut BTreeSet<String>) -> Vec<String> {
    let (mut kept, mut at) = (Vec::new(), 0);
    while at < words.len() {
        let follow = |expected: &[&str]| {
            words[at..].iter().map(String::as_str).take(expected.len()).eq(expected.iter().copied())
        };
        if !follow(&["#", "[", "cfg", "(", "test"]) && !follow(&["#", "[", "cfg", "(", "all", "(", "test"]) {
            kept.push(words[at].clone());
            at += 1;
            continue;
        }
        let (start, mut depth) = (at, 0);
        loop {
            match words[at].as_str() {
                "{" | "(" | "[" => depth += 1,
                "}" | ")" | "]" => depth -= 1,
                _ => {}
            }
            at += 1;
            let last = words[at - 1].as_str();
            if at >= words.len() || depth == 0 && (last == "}" || last == ";") {
                break;
            }
        }
        if let [.., word, name, end] = &words[start..at]
            && word == "mod"
            && end == ";"
        {
            tests.insert(name.clone());
        }
    }
    kept
}

/// The words and signs of a text, without comments, texts and characters.
fn words(text: &str) -> Vec<String> {
    let letters: Vec<char> = text.chars().collect();
    let (mut words, mut at) = (Vec::new(), 0);
    while at < letters.len() {
        let rest = &letters[at..];
        let word: String = rest.iter().take_while(|c| c.is_alphanumeric() || **c == '_').collect();
        if rest.starts_with(&['/', '/']) {
            at += rest.iter().position(|c| *c == '\n').unwrap_or(rest.len());
        } else if rest.starts_with(&['/', '*']) {
            at += rest.windows(2).position(|two| two == ['*', '/']).map_or(rest.len(), |end| end + 2);
        } else if ["r", "br"].contains(&word.as_str()) && matches!(rest.get(word.len()), Some('"' | '#')) {
            at += word.len();
            let marks = letters[at..].iter().take_while(|c| **c == '#').count();
            let end: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', marks)).collect();
            let inside = at + marks + 1;
            let length = letters[inside..].windows(end.len()).position(|found| found == end);
            at = inside + length.expect("a raw text ends") + end.len();
        } else if !word.is_empty() {
            at += word.chars().count();
            words.push(word);
        } else if rest[0] == '"' {
            at += 1 + quoted(&rest[1..], '"');
        } else if rest[0] == '\'' && (rest.get(1) == Some(&'\\') || rest.get(2) == Some(&'\'')) {
            at += 1 + quoted(&rest[1..], '\'');
        } else if rest.starts_with(&[':', ':']) {
            words.push("::".to_owned());
            at += 2;
        } else {
            words.extend((!rest[0].is_whitespace()).then(|| rest[0].to_string()));
            at += 1;
        }
    }
    words
}

/// How many letters there are up to the end of a text or character, its mark included.
fn quoted(rest: &[char], mark: char) -> usize {
    let mut at = 0;
    while rest[at] != mark {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}
