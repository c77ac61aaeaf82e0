//! Bundles of a small model's adapters.

use std::fs;
use std::path::Path;

use burn::module::Module;
use burn::nn::LinearConfig;
use burn::tensor::{Device, Tensor, TensorData, Tolerance};
use serde_json::{Value, json};

use super::*;
use crate::adapter::{DoraConfig, LoraConfig, LoraXsConfig, NolaConfig, VeraConfig};
use crate::joint::Kind;
use crate::{Adapted, AdapterConfig, Linear, Targets, adapted};

#[derive(Module, Debug)]
struct Model {
    up: Linear,
    down: Linear,
    head: Linear,
}

impl Model {
    fn new() -> Self {
        let layer = |d_in, d_out, from: usize| {
            let mut layer = LinearConfig::new(d_in, d_out).with_bias(false).init(&Device::flex());
            layer.weight = layer.weight.map(|_| tensor([d_in, d_out], from));
            Linear::from(layer)
        };
        // As wide as long, or no basis would hold the updates of all kinds.
        Self { up: layer(8, 8, 0), down: layer(8, 8, 100), head: layer(8, 3, 200) }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        adapted(&self.head, adapted(&self.down, adapted(&self.up, x)))
    }
}

fn tensor(shape: [usize; 2], from: usize) -> Tensor<2> {
    let values = (0..shape[0] * shape[1]).map(|n| ((n * n + from) as f32 * 0.37).sin());
    Tensor::from_data(TensorData::new(values.collect::<Vec<f32>>(), shape), &Device::flex())
}

fn base() -> BaseIdentity {
    BaseIdentity::of("small", &Model::new())
}

/// As if it had been trained.
fn trained(config: impl Into<AdapterConfig>, targets: &str, beside: &[&str], from: usize) -> Adapted<Model> {
    let targets = Targets::matching(targets);
    let model = Adapted::attach(Model::new(), &config.into(), &targets, beside, &Device::flex());
    let model = model.expect("they fit");
    let mut state = model.state();
    for (number, data) in state.values_mut().enumerate() {
        let values = (0..data.shape().num_elements()).map(|n| ((n + 7 * number + from) as f32 * 0.9).cos());
        *data = TensorData::new(values.collect::<Vec<f32>>(), data.shape());
    }
    model.with_state(state).expect("its own names")
}

fn about(name: &str) -> About {
    let (method, labels, data) = ("lora".to_owned(), Vec::new(), json!({"format": "e2e"}));
    About { name: name.to_owned(), method, labels, data }
}

fn lora(rank: usize) -> LoraConfig {
    LoraConfig { rank, alpha: Some(3.0), ..LoraConfig::default() }
}

/// Adapters of all kinds that can be compressed, on different weights.
fn every_kind() -> Vec<(&'static str, Adapted<Model>)> {
    vec![
        ("lora", trained(lora(2), "up|down", &[], 1)),
        ("with a head", trained(lora(1), "up", &["head"], 2)),
        ("nola", trained(NolaConfig { rank: 2, k: 4, ..NolaConfig::default() }, "up|down", &[], 3)),
        ("vera", trained(VeraConfig { rank: 3, ..VeraConfig::default() }, "down", &[], 4)),
        ("lora-xs", trained(LoraXsConfig { rank: 2, ..LoraXsConfig::default() }, "up|down", &[], 5)),
    ]
}

fn compressed(all: &[(&str, Adapted<Model>)], options: Options) -> Bundle {
    let adapter = |(name, model): &(&str, Adapted<Model>)| {
        LowRankAdapter::of(model, about(name)).expect("low-rank updates")
    };
    Bundle::compressed(all.iter().map(adapter).collect(), base(), options, |_| ()).expect("one base")
}

/// With bases as wide as the weights.
const WHOLE: Options = Options { kind: Kind::Full, rank: 8, clusters: 1, iterations: 3 };
const SMALL: Options = Options { kind: Kind::Full, rank: 3, clusters: 2, iterations: 10 };

fn attached(bundle: &Bundle, name: &str) -> Adapted<Model> {
    let member = bundle.place(name).expect("a member");
    let file = Path::new("bundle.json");
    bundle.attach(member, Model::new(), file, &base(), &Device::flex()).expect("its own base")
}

fn assert_same(left: &Adapted<Model>, right: &Adapted<Model>) {
    let x = tensor([4, 8], 50);
    let [left, right] = [left, right].map(|model| model.model.forward(x.clone()).into_data());
    left.assert_approx_eq::<f32>(&right, Tolerance::rel_abs(1e-4, 1e-4));
}

#[test]
fn members_in_bases_of_full_rank_compute_what_their_adapters_did() {
    let all = every_kind();
    let bundle = compressed(&all, WHOLE);
    for (name, model) in &all {
        assert_same(&attached(&bundle, name), model);
        let lost = bundle.manifest().members[bundle.place(name).expect("a member")].lost;
        assert!(lost < 1e-9, "{name}: {lost}");
    }
}

#[test]
fn a_bundle_that_is_read_is_the_one_that_was_written() {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    for (place, kind) in [Kind::Full, Kind::Diagonal].into_iter().enumerate() {
        let folder = scratch.path().join(place.to_string());
        let bundle = compressed(&every_kind(), Options { kind, ..SMALL });
        let bytes = bundle.write(&folder).expect("a free place");
        let files = fs::read_dir(&folder).expect("a folder").flatten();
        assert_eq!(bytes, files.map(|file| file.metadata().expect("a file").len()).sum::<u64>());
        assert!(is_bundle(&folder) && bundle.write(&folder).is_err());
        let read = Bundle::read(&folder).expect("it was just written");
        for (name, _) in every_kind() {
            assert_same(&attached(&read, name), &attached(&bundle, name));
        }
        let members = |bundle: &Bundle| bundle.manifest().members.clone();
        assert_eq!(members(&read), members(&bundle));
    }
}

#[test]
fn rows_of_a_batch_get_what_each_member_computes_alone() {
    use std::sync::Arc;
    for kind in [Kind::Full, Kind::Diagonal] {
        let bundle = compressed(&every_kind(), Options { kind, ..SMALL });
        let (model, rows) = crate::with_row_adapters(Model::new(), &|path| path.ends_with(".weight"));
        let names = ["lora", "nola", "vera", "lora-xs"];
        let clusters: Vec<_> = (0..bundle.manifest().clusters)
            .map(|cluster| Arc::new(bundle.shared_factors(cluster, &Device::flex())))
            .collect();
        let updates = |name: &str| {
            let member = bundle.place(name).expect("a member");
            let factors = Arc::clone(&clusters[bundle.cluster(member)]);
            Arc::new(crate::Updates::between(factors, bundle.core(member), &Device::flex()))
        };
        rows.choose(names.iter().map(|name| (2, Some(updates(name)))).collect());
        let x = tensor([8, 8], 90);
        let found = model.forward(x.clone());
        let of_row = |(place, name): (usize, &&str)| {
            attached(&bundle, name).model.forward(x.clone().narrow(0, 2 * place, 2))
        };
        let expected = Tensor::cat(names.iter().enumerate().map(of_row).collect(), 0);
        found.into_data().assert_approx_eq::<f32>(&expected.into_data(), Tolerance::rel_abs(1e-5, 1e-5));
    }
}

#[test]
fn a_member_that_comes_later_is_what_it_would_have_been() {
    let all = every_kind();
    let bundle = compressed(&all, SMALL);
    let again = LowRankAdapter::of(&all[0].1, about("again")).expect("low-rank updates");
    let added = bundle.clone().with_added(again).expect("the same weights");
    assert_eq!(added.manifest().members.len(), all.len() + 1);
    assert_same(&attached(&added, "again"), &attached(&bundle, "lora"));
    for (name, _) in &all {
        assert_same(&attached(&added, name), &attached(&bundle, name));
    }
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let folder = scratch.path().join("bundle");
    bundle.write(&folder).expect("a free place");
    added.replace(&folder).expect("room");
    assert_eq!(fs::read_dir(&folder).expect("a folder").count(), 2, "no file of the old one is left");
    let read = Bundle::read(&folder).expect("it was just written");
    assert_same(&attached(&read, "again"), &attached(&bundle, "lora"));
}

#[test]
fn what_does_not_fit_into_a_bundle_is_refused_by_name() {
    let all = every_kind();
    let of = |model: &Adapted<Model>, name: &str| LowRankAdapter::of(model, about(name));
    let dora = of(&trained(DoraConfig(lora(2)), "up", &[], 1), "dora").expect_err("lengths of columns");
    assert!(dora.to_string().contains("`dora`: at `up` it trains the lengths"), "{dora}");
    assert!(matches!(of(&all[0].1, "a/b"), Err(Error::BadName { .. })));
    let bundle = compressed(&all, SMALL);
    let taken = bundle.clone().with_added(of(&all[0].1, "lora").expect("low-rank")).expect_err("a name");
    assert!(taken.to_string().contains("two adapters are called `lora`"), "{taken}");
    let wider = trained(lora(1), "up|head", &[], 1);
    let other = bundle.with_added(of(&wider, "wide").expect("low-rank")).expect_err("another weight");
    assert!(other.to_string().contains("`wide` changes `head`"), "{other}");
    assert!(matches!(Bundle::compressed(Vec::new(), base(), SMALL, |_| ()), Err(Error::NothingToCompress)));
}

#[test]
fn a_member_is_for_its_base_alone() {
    let bundle = compressed(&every_kind(), SMALL);
    let other = BaseIdentity { name: "other".to_owned(), config_sha256: "0".to_owned(), ..base() };
    let refused = bundle.attach(0, Model::new(), Path::new("b"), &other, &Device::flex());
    assert!(matches!(refused.expect_err("another base"), Error::WrongBase { .. }));
}

#[test]
fn a_model_whose_weight_has_another_size_is_refused_by_its_path() {
    let bundle = compressed(&every_kind(), SMALL);
    let file = Path::new("bundle");
    bundle.check_fits(&Model::new(), file).expect("its own base");
    let up = Linear::from(LinearConfig::new(8, 4).with_bias(false).init(&Device::flex()));
    let other = bundle.check_fits(&Model { up, ..Model::new() }, file).expect_err("another size");
    assert!(other.to_string().contains("`up` of 8 x 8 is not in the model"), "{other}");
}

#[test]
fn a_bundle_that_could_not_be_read_is_not_made() {
    let wide = Options { rank: MAX_RANK + 1, ..SMALL };
    let adapter = |model: &Adapted<Model>| LowRankAdapter::of(model, about("one"));
    let refused =
        Bundle::compressed(vec![adapter(&every_kind()[0].1).expect("low-rank")], base(), wide, |_| ());
    assert!(matches!(refused, Err(Error::BadSetting { field: "rank", .. })));
    // Its factors are finite, and their update is not.
    let model = trained(LoraConfig { alpha: Some(1e300), ..lora(1) }, "up", &[], 1);
    assert!(matches!(adapter(&model), Err(Error::NotFinite { .. })));
}

/// The error of reading a bundle after `damage`.
fn error_of(damage: impl FnOnce(&Path)) -> String {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let folder = scratch.path().join("bundle");
    compressed(&every_kind(), SMALL).write(&folder).expect("a free place");
    damage(&folder);
    Bundle::read(&folder).expect_err("it is damaged").to_string()
}

fn edit(folder: &Path, change: impl FnOnce(&mut Value)) {
    let file = folder.join("bundle.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&file).expect("a file")).expect("JSON");
    change(&mut manifest);
    fs::write(file, manifest.to_string()).expect("a file");
}

fn tensors_file(folder: &Path) -> std::path::PathBuf {
    let files = fs::read_dir(folder).expect("a folder").flatten().map(|file| file.path());
    files
        .into_iter()
        .find(|file| file.extension().is_some_and(|end| end == "safetensors"))
        .expect("it is there")
}

#[test]
fn a_damaged_bundle_says_what_is_wrong() {
    type Damage = fn(&Path);
    let cases: [(Damage, &[&str]); 9] = [
        (
            |folder| fs::remove_file(folder.join("bundle.json")).expect("a file"),
            &["bundle.json", "cannot read"],
        ),
        (|folder| fs::write(folder.join("bundle.json"), "{").expect("a file"), &["bundle.json"]),
        (|folder| fs::remove_file(tensors_file(folder)).expect("a file"), &[".safetensors", "cannot read"]),
        (|folder| fs::write(tensors_file(folder), "no").expect("a file"), &[".safetensors", "SHA-256"]),
        (|folder| edit(folder, |manifest| manifest["rank"] = 2.into()), &["`check`", "edited"]),
        (
            |folder| edit(folder, |manifest| manifest["format_version"] = 2.into()),
            &["`format_version` is `2`"],
        ),
        (
            |folder| edit(folder, |manifest| manifest["members"][0]["name"] = "../x".into()),
            &["../x", "no slash"],
        ),
        (
            |folder| edit(folder, |manifest| manifest["members"][1]["cluster"] = 9.into()),
            &["is in cluster 9, of 2"],
        ),
        (
            |folder| edit(folder, |manifest| manifest["tensors_sha256"] = "../../../../../etc".into()),
            &["`tensors` is no name"],
        ),
    ];
    for (damage, parts) in cases {
        let error = error_of(damage);
        assert!(parts.iter().all(|part| error.contains(part)), "{parts:?}: {error}");
    }
}

#[test]
fn a_path_into_a_bundle_means_a_member() {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let folder = scratch.path().join("bundle");
    compressed(&every_kind(), SMALL).write(&folder).expect("a free place");
    assert_eq!(member_at(&folder.join("lora")), Some((folder.clone(), "lora".to_owned())));
    assert_eq!(member_at(&folder), None);
    assert_eq!(member_at(&scratch.path().join("other/lora")), None);
}
