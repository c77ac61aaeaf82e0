//! Folders that come, change and go.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::Device;
use nola_core::adapter::LoraConfig;
use nola_core::bundle::{About, Bundle, LowRankAdapter};
use nola_core::folder::BaseIdentity;
use nola_core::joint::{Kind, Options};
use nola_core::{Adapted, Targets};

use super::*;

/// A folder for adapters.
struct Shelf(tempfile::TempDir);

impl Shelf {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    /// Puts a good adapter into it.
    fn put(&self, golden: &str, name: &str) {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/golden/adapters").join(golden);
        let to = self.0.path().join(name);
        fs::create_dir_all(&to).expect("a folder");
        for file in fs::read_dir(from).expect("it is shipped").flatten() {
            fs::copy(file.path(), to.join(file.file_name())).expect("a file");
        }
    }

    fn registry(&self) -> Registry {
        let folders = [self.0.path().to_owned()];
        Registry::open("base".to_owned(), &folders, None, Box::new(|_| Ok(()))).expect("a folder")
    }
}

fn generation(registry: &Registry, name: &str) -> Option<u64> {
    registry.get(name).ok().map(|adapter| adapter.generation)
}

/// A bundle of two members.
fn put_bundle(folder: &Path) {
    let layer = || {
        let config = burn::nn::LinearConfig::new(4, 4);
        nola_core::Linear::from(config.init(&Device::flex()))
    };
    let member = |name: &str| {
        let lora = LoraConfig { rank: 1, seed: name.len() as u64, ..LoraConfig::default() };
        let targets = Targets::matching("0");
        let model = Adapted::attach(vec![layer()], &lora.into(), &targets, &[], &Device::flex());
        let (name, method) = (name.to_owned(), "lora".to_owned());
        let about = About { name, method, labels: Vec::new(), data: serde_json::Value::Null };
        LowRankAdapter::of(&model.expect("it fits"), about).expect("a low-rank update")
    };
    let base = BaseIdentity::of("base", &vec![layer()]);
    let options = Options { kind: Kind::Full, rank: 2, clusters: 1, iterations: 1 };
    let bundle = Bundle::compressed(vec![member("one"), member("two")], base, options, |_| ());
    bundle.expect("one base").write(folder).expect("a free place");
}

#[test]
fn members_of_a_bundle_are_found_behind_its_name() {
    let shelf = Shelf::new();
    put_bundle(&shelf.0.path().join("many"));
    let registry = shelf.registry();
    assert_eq!(registry.scan(), [Change::Served("many".to_owned(), 1)]);
    let found = ["many/one", "many/two"].map(|name| generation(&registry, name));
    assert_eq!(found, [Some(1), Some(2)]);
    for (name, expected) in [
        ("many", Missing::Bundle("many/one".to_owned())),
        ("many/three", Missing::Unknown),
        ("many/one/more", Missing::Unknown),
        ("other/one", Missing::Unknown),
    ] {
        assert_eq!(registry.find(name).err(), Some(expected), "{name}");
    }
    assert!(registry.entry("many/two").is_some() && registry.entry("many/three").is_none());
    assert!(matches!(registry.unload("many/one", Expected::Anything), Err(ChangeError::Name(_))));
    assert_eq!(registry.unload("many", Expected::Generation(1)), Ok(()));
    assert!(registry.find("many/one").is_err());
    let again = registry.load("many", Path::new("many"), Expected::Nothing).expect("it lies there");
    assert_eq!((again.generation(), generation(&registry, "many/two")), (3, Some(4)));
}

#[test]
fn a_damaged_bundle_is_listed_with_its_problem() {
    let shelf = Shelf::new();
    let folder = shelf.0.path().join("many");
    put_bundle(&folder);
    fs::write(folder.join("bundle.json"), "{}").expect("a file");
    let registry = shelf.registry();
    assert!(matches!(&registry.scan()[..], [Change::Damaged(name, _)] if name == "many"));
    assert!(matches!(registry.find("many/one"), Err(Missing::Damaged(_))));
}

#[cfg(unix)]
#[test]
fn a_request_for_a_member_follows_no_link_out_of_the_folders() {
    let (shelf, outside) = (Shelf::new(), Shelf::new());
    put_bundle(&outside.0.path().join("many"));
    std::os::unix::fs::symlink(outside.0.path().join("many"), shelf.0.path().join("many")).expect("a link");
    let registry = shelf.registry();
    assert!(matches!(&registry.scan()[..], [Change::Damaged(name, _)] if name == "many"));
    for name in ["many/one", "many/three"] {
        assert!(matches!(registry.find(name), Err(Missing::Damaged(_))), "{name}");
    }
}

#[cfg(unix)]
#[test]
fn a_request_for_a_member_does_not_bring_in_what_a_link_leads_to() {
    let (shelf, outside) = (Shelf::new(), Shelf::new());
    outside.put("nola", "a");
    let link = || std::os::unix::fs::symlink(outside.0.path().join("a"), shelf.0.path().join("a"));
    link().expect("a link");
    let registry = shelf.registry();
    assert!(matches!(&registry.scan()[..], [Change::Damaged(name, _)] if name == "a"));
    assert!(matches!(registry.find("a/any"), Err(Missing::Damaged(_))));
    assert!(matches!(registry.get("a"), Err(Missing::Damaged(_))));
    // The same if the link takes the place of a folder that was served.
    fs::remove_file(shelf.0.path().join("a")).expect("it was there");
    shelf.put("lora", "a");
    registry.scan();
    assert!(registry.get("a").is_ok());
    fs::remove_dir_all(shelf.0.path().join("a")).expect("it was there");
    link().expect("a link");
    assert!(registry.find("a/any").is_err());
    assert!(matches!(registry.get("a"), Err(Missing::Damaged(_))));
}

#[test]
fn what_a_request_brings_is_told() {
    let shelf = Shelf::new();
    let (sender, changes) = std::sync::mpsc::channel();
    let callback = move |change: &Change| sender.send(change.clone()).expect("somebody listens");
    let registry = shelf.registry().on_change(callback);
    shelf.put("nola", "a");
    registry.find("a").expect("it came");
    registry.unload("a", Expected::Anything).expect("it is there");
    registry.load("b", Path::new("a"), Expected::Nothing).expect("it lies there");
    let expected =
        [Change::Served("a".to_owned(), 1), Change::Gone("a".to_owned()), Change::Served("b".to_owned(), 2)];
    assert_eq!(changes.try_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn what_is_loaded_while_folders_are_scanned_stays() {
    let shelf = Shelf::new();
    shelf.put("nola", "a");
    shelf.put("lora", "b");
    let registry = std::sync::OnceLock::<std::sync::Arc<Registry>>::new();
    // The check of the scan's reading of `a` loads something else in its place.
    let inside: &'static std::sync::OnceLock<std::sync::Arc<Registry>> = Box::leak(Box::new(registry));
    let check = |adapter: &ServedAdapter| {
        if adapter.name == "a" && adapter.content.method() == "nola" && inside.get().is_some() {
            let registry = inside.get().expect("it was set");
            registry.load("a", Path::new("b"), Expected::Anything).expect("another adapter");
        }
        Ok(())
    };
    let folders = [shelf.0.path().to_owned()];
    let registry = Registry::open("base".to_owned(), &folders, None, Box::new(check)).expect("a folder");
    let registry = inside.get_or_init(|| std::sync::Arc::new(registry));
    registry.scan();
    let served = registry.get("a").expect("it is served").content.method();
    assert_ne!(served, "nola", "what was loaded meanwhile is newer than what the scan read");
}

#[test]
fn adapters_of_a_folder_are_found_and_read_once() {
    let shelf = Shelf::new();
    shelf.put("nola", "a");
    shelf.put("lora", "b");
    let registry = shelf.registry();
    assert_eq!(registry.scan().len(), 2);
    let before = ["a", "b"].map(|name| generation(&registry, name));
    assert!(before.iter().all(Option::is_some));
    assert_eq!(registry.scan(), []);
    assert_eq!(["a", "b"].map(|name| generation(&registry, name)), before);
}

#[test]
fn an_adapter_that_came_since_is_found_by_its_name() {
    let shelf = Shelf::new();
    let registry = shelf.registry();
    registry.scan();
    shelf.put("nola", "new");
    assert!(registry.get("new").is_err());
    assert!(registry.find("new").is_ok());
    assert!(matches!(registry.find("other"), Err(Missing::Unknown)));
    assert_eq!(registry.scan(), []);
}

#[test]
fn a_changed_adapter_is_a_new_generation_and_the_old_one_stays_whole() {
    let shelf = Shelf::new();
    shelf.put("nola", "a");
    let registry = shelf.registry();
    registry.scan();
    let old = registry.get("a").expect("it is served");
    fs::remove_dir_all(shelf.0.path().join("a")).expect("it was there");
    shelf.put("lora", "a");
    assert_eq!(registry.scan(), [Change::Served("a".to_owned(), old.generation + 1)]);
    assert_ne!(registry.get("a").expect("it is served").content.method(), old.content.method());
    fs::remove_dir_all(shelf.0.path().join("a")).expect("it was there");
    assert_eq!(registry.scan(), [Change::Gone("a".to_owned())]);
    assert!(matches!(registry.find("a"), Err(Missing::Unknown)));
}

#[test]
fn a_damaged_adapter_is_listed_with_its_problem_and_not_served() {
    let shelf = Shelf::new();
    shelf.put("nola", "a");
    fs::write(shelf.0.path().join("a/adapter_model.safetensors"), "no tensors").expect("a file");
    let registry = shelf.registry();
    assert!(matches!(&registry.scan()[..], [Change::Damaged(name, _)] if name == "a"));
    assert!(matches!(registry.find("a"), Err(Missing::Damaged(_))));
    assert!(matches!(&registry.list()[..], [(name, entry)] if name == "a" && entry.served.is_err()));
    assert_eq!(registry.scan(), [], "its problem is reported once");
    shelf.put("nola", "a");
    assert!(matches!(registry.scan()[..], [Change::Served(..)]));
}

#[test]
fn an_adapter_that_does_not_pass_the_check_is_not_served() {
    let shelf = Shelf::new();
    shelf.put("nola", "a");
    let check = |_: &ServedAdapter| Err(Error::NoPrompt);
    let folders = [shelf.0.path().to_owned()];
    let registry = Registry::open("base".to_owned(), &folders, None, Box::new(check)).expect("a folder");
    registry.scan();
    assert!(matches!(registry.get("a"), Err(Missing::Damaged(_))));
}

#[test]
fn a_change_is_made_only_to_what_is_expected() {
    let shelf = Shelf::new();
    shelf.put("nola", "a");
    shelf.put("lora", "other/b");
    let registry = shelf.registry();
    registry.scan();
    let load = |name, path: &str, expected| {
        registry.load(name, Path::new(path), expected).map(|served| served.generation())
    };
    let first = generation(&registry, "a");
    assert_eq!(load("a", "a", Expected::Nothing), Err(ChangeError::Conflict { found: first }));
    assert_eq!(load("a", "a", Expected::Generation(99)), Err(ChangeError::Conflict { found: first }));
    assert_eq!(load("c", "a", Expected::Something), Err(ChangeError::Conflict { found: None }));
    let second = load("a", "other/b", Expected::Generation(first.expect("served"))).expect("as expected");
    assert_eq!(generation(&registry, "a"), Some(second));
    assert_eq!(registry.scan(), [], "what was loaded stays");
    assert_eq!(
        registry.unload("a", Expected::Generation(99)),
        Err(ChangeError::Conflict { found: Some(second) })
    );
    assert_eq!(registry.unload("a", Expected::Generation(second)), Ok(()));
    assert_eq!(registry.unload("a", Expected::Anything), Err(ChangeError::Unknown));
    assert_eq!(registry.scan(), [], "what was unloaded is not found again");
    assert!(registry.find("a").is_err());
    assert!(load("a", "a", Expected::Nothing).is_ok());
}

#[test]
fn a_load_that_fails_changes_nothing() {
    let shelf = Shelf::new();
    shelf.put("nola", "a");
    shelf.put("nola", "deep/bad");
    fs::write(shelf.0.path().join("deep/bad/adapter_model.safetensors"), "no tensors").expect("a file");
    let registry = shelf.registry();
    registry.scan();
    let before = generation(&registry, "a");
    for (path, is_missing) in [("deep/bad", false), ("../a", false), ("/etc", true), ("nowhere", true)] {
        let refused = registry.load("a", Path::new(path), Expected::Anything);
        let as_expected = match refused {
            Err(ChangeError::NoFolder(_)) => is_missing,
            Err(ChangeError::Folder(_)) => !is_missing,
            _ => false,
        };
        assert!(as_expected, "{path}");
    }
    for name in ["base", "..", "a/b", ""] {
        let refused = registry.load(name, Path::new("a"), Expected::Anything);
        assert!(matches!(refused, Err(ChangeError::Name(_))), "{name}");
    }
    assert_eq!(generation(&registry, "a"), before);
}

#[test]
fn adapters_of_a_folder_that_cannot_be_read_for_a_while_stay() {
    let shelf = Shelf::new();
    shelf.put("nola", "a");
    let registry = shelf.registry();
    registry.scan();
    let (root, away) = (shelf.0.path(), shelf.0.path().with_extension("away"));
    fs::rename(root, &away).expect("a free place");
    fs::write(root, "no folder").expect("a file");
    let changes = [registry.scan(), registry.scan()];
    fs::remove_file(root).expect("it was just written");
    fs::rename(&away, root).expect("it was just there");
    assert!(matches!(&changes[0][..], [Change::Unreadable(..)]), "{changes:?}");
    assert_eq!(changes[1], [], "it is reported once");
    assert_eq!(generation(&registry, "a"), Some(1));
}

#[test]
fn what_changes_while_it_is_read_leaves_the_old_one_in_its_place() {
    let shelf = Shelf::new();
    shelf.put("nola", "a");
    let folder = shelf.0.path().join("a");
    let (root, changing) = ([shelf.0.path().to_owned()], Arc::new(AtomicBool::new(false)));
    let is_changing = Arc::clone(&changing);
    let note = folder.join("note");
    let check = move |_: &ServedAdapter| {
        if is_changing.load(Ordering::Relaxed) {
            let text = fs::read_to_string(&note).unwrap_or_default();
            fs::write(&note, text + "more").expect("a file");
        }
        Ok(())
    };
    let registry = Registry::open("base".to_owned(), &root, None, Box::new(check)).expect("a folder");
    registry.scan();
    fs::write(folder.join("README.md"), "new").expect("a file");
    changing.store(true, Ordering::Relaxed);
    assert_eq!(registry.scan(), []);
    assert_eq!(generation(&registry, "a"), Some(1), "the old one");
    changing.store(false, Ordering::Relaxed);
    assert!(matches!(&registry.scan()[..], [Change::Served(name, _)] if name == "a"));
}
