//! How the files of the crates import each other.
//!
//! Seen from any module, its children (each with all that is inside it) import each other in no circle; the file of the
//! module itself may use its children and be used by them, as Rust has it. So no circle of files crosses a module. A name
//! that is re-exported counts as the file that defines it.

mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use source::{Module, Source, read};

/// The crates, from the ground up.
const CRATES: [&str; 3] = ["nola-core", "nola-models", "nola-train"];

/// The files of a crate, by the path of their module.
struct Crate {
    name: &'static str,
    sources: BTreeMap<Module, Source>,
}

/// What one file takes from another: the paths, as written.
type Imports = BTreeMap<(Module, Module), BTreeSet<String>>;

impl Crate {
    fn read(name: &'static str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name).join("src");
        Self { name, sources: read(&folder) }
    }

    /// The module that a path starts in, and the rest of the path; none if it starts in another crate.
    fn start<'a>(&self, module: &Module, path: &'a [String]) -> Option<(Module, &'a [String])> {
        match path.first()?.as_str() {
            "crate" => Some((Vec::new(), &path[1..])),
            "self" => Some((module.clone(), &path[1..])),
            "super" => {
                let ups = path.iter().take_while(|part| *part == "super").count();
                Some((module[..module.len().checked_sub(ups)?].to_vec(), &path[ups..]))
            }
            child => {
                let child = [module.as_slice(), &[child.to_owned()]].concat();
                self.sources.contains_key(&child).then(|| (child, &path[1..]))
            }
        }
    }

    /// The module whose file defines what `path` means in `module`; none for what another crate defines.
    fn definition(&self, module: &Module, path: &[String], depth: usize) -> Option<Module> {
        let (mut module, mut rest) = self.start(module, path)?;
        while let Some(child) =
            rest.first().map(|name| [module.as_slice(), std::slice::from_ref(name)].concat())
            && self.sources.contains_key(&child)
        {
            (module, rest) = (child, &rest[1..]);
        }
        let source = self.sources.get(&module)?;
        let Some(name) = rest.first() else { return Some(module) };
        match source.imported.get(name).filter(|_| !source.defined.contains(name) && depth < 16) {
            Some(imported) => {
                let path = [imported.as_slice(), &rest[1..]].concat();
                self.definition(&module, &path, depth + 1)
            }
            None => Some(module),
        }
    }

    fn imports(&self) -> Imports {
        let mut imports = Imports::new();
        for (module, source) in &self.sources {
            for path in &source.paths {
                if let Some(target) = self.definition(module, path, 0).filter(|target| target != module) {
                    imports.entry((module.clone(), target)).or_default().insert(path.join("::"));
                }
            }
        }
        imports
    }

    /// The first circle among the children of `parent`, one line for each import in it.
    fn circle(&self, imports: &Imports, parent: &Module) -> Vec<String> {
        let inside = parent.len() + 1;
        let is_inside = |module: &Module| module.len() >= inside && module.starts_with(parent);
        let mut children = Children::new();
        for pair @ (from, to) in imports.keys().filter(|(from, to)| is_inside(from) && is_inside(to)) {
            if from[..inside] != to[..inside] {
                children.entry(&from[..inside]).or_default().entry(&to[..inside]).or_insert(pair);
            }
        }
        let circle = children.keys().find_map(|start| way_back(&children, start)).unwrap_or_default();
        let line = |pair: &(Module, Module)| {
            let [from, to] = [&pair.0, &pair.1].map(|module| self.sources[module].file.as_str());
            format!("{}: {from} -> {to}: {:?}", self.name, imports[pair])
        };
        circle.into_iter().map(line).collect()
    }
}

/// The children of a module that each of them imports, with the files that do.
type Children<'a> = BTreeMap<&'a [String], BTreeMap<&'a [String], &'a (Module, Module)>>;

/// The shortest way from `start` back to it.
fn way_back<'a>(children: &Children<'a>, start: &[String]) -> Option<Vec<&'a (Module, Module)>> {
    let (mut ways, mut seen) = (vec![(start, Vec::new())], BTreeSet::new());
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for (module, way) in ways {
            for (next, pair) in children.get(module).into_iter().flatten() {
                let way: Vec<_> = way.iter().copied().chain([*pair]).collect();
                if *next == start {
                    return Some(way);
                }
                if seen.insert(*next) {
                    longer.push((*next, way));
                }
            }
        }
        ways = longer;
    }
    None
}

/// The modules at the top of a crate that one of them imports, directly or through others, but not through `error`: an
/// error of the program wraps those of all layers.
fn reached(imports: &Imports, from: &str) -> BTreeSet<String> {
    let (mut reached, mut open) = (BTreeSet::new(), vec![from.to_owned()]);
    while let Some(module) = open.pop() {
        let of_module = imports.keys().filter(|(importer, _)| importer.first() == Some(&module));
        for top in of_module.filter_map(|(_, target)| target.first()) {
            if reached.insert(top.clone()) && top != "error" {
                open.push(top.clone());
            }
        }
    }
    reached
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    for name in CRATES {
        let found = Crate::read(name);
        let imports = found.imports();
        assert!(imports.len() > found.sources.len(), "{name}: hardly any import was understood");
        for parent in found.sources.keys() {
            let circle = found.circle(&imports, parent);
            assert!(circle.is_empty(), "a circle:\n{}", circle.join("\n"));
        }
    }
}

#[test]
fn a_library_without_commands_and_recipes_trains_and_answers() {
    let imports = Crate::read("nola-train").imports();
    for module in ["data", "text", "session", "model_with_loss", "train", "evaluate", "prompt"] {
        let reached = reached(&imports, module);
        for above in ["commands", "recipe", "run", "fit", "task", "bench", "report"] {
            assert!(!reached.contains(above), "`{module}` reaches `{above}`: {reached:?}");
        }
    }
}

#[test]
fn what_a_library_user_calls_prints_nothing() {
    let imports = Crate::read("nola-train").imports();
    for module in ["data", "text", "session", "settings", "model_with_loss", "train", "evaluate", "metrics"] {
        let prints = |(from, to): &&(Module, Module)| {
            from.first().is_some_and(|top| top == module) && to.first().is_some_and(|top| top == "terminal")
        };
        assert_eq!(imports.keys().find(prints), None);
    }
}

#[test]
fn only_the_program_imports_its_commands() {
    let imports = Crate::read("nola-train").imports();
    let is_commands = |module: &Module| module.first().is_some_and(|top| top == "commands");
    for (from, _) in imports.keys().filter(|(_, to)| is_commands(to)) {
        assert!(is_commands(from) || *from == ["program"], "`{}` imports commands", from.join("::"));
    }
}

#[test]
fn a_circle_is_found_and_named() {
    let source = |file: &str, text: &str| (file.to_owned(), text.to_owned());
    let files = [
        source("lib.rs", "mod a;\nmod b;\npub use b::inner::Inner;"),
        source("a.rs", "use crate::Inner; // crate::b\nfn f() -> &'static str { \"crate::b\" }"),
        source("b.rs", "pub mod inner;\n#[cfg(test)]\nmod tests { use crate::a::A; }"),
        source("b/inner.rs", "pub struct Inner;\nimpl Inner { fn g() { crate::a::f(); } }"),
    ];
    let sources = files.iter().map(|(file, text)| source::parse(file, text)).collect();
    let found = Crate { name: "made-up", sources };
    let imports = found.imports();
    let circle = found.circle(&imports, &Vec::new());
    assert_eq!(
        circle,
        [
            r#"made-up: a.rs -> b/inner.rs: {"crate::Inner"}"#,
            r#"made-up: b/inner.rs -> a.rs: {"crate::a::f"}"#,
        ]
    );
    assert!(found.circle(&imports, &vec!["b".to_owned()]).is_empty());
}
