//! Laws of the vision transformers' files: every family is written as its library reads it, and read back as it was.

use std::fs;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use nola_core::folder::peft::{ForeignModule, Part, Shares};
use nola_models::checkpoint::{ModelFolder, NamedTensor, save};
use nola_models::vit::{Family, Format, MlpKind, Pooling};
use nola_models::{Activation, Checkpoint, Preprocessor, Vit, VitConfig, WeightDtype};
use serde_json::{Value, json};

use crate::devices::values;
use crate::fixtures;
use crate::shared::shared;
use crate::test_model::TestModel;
use crate::tiny::{batch, config, dinov2_json, tiny_dinov2, vision_jsons, with};

fn read(json: &Value) -> VitConfig {
    VitConfig::from_json(json, Path::new("config.json")).expect("a small model")
}

/// With other weights than zero everywhere but in the head's place, where a fresh one has no information.
fn model(config: &VitConfig) -> Vit {
    Vit::init(config, 11, &Device::flex())
}

fn logits(vit: &Vit) -> Vec<f32> {
    vit.logits_of(&batch(2, 3, &Device::flex()))
}

/// The model of the folder that `vit` is written to.
fn written(vit: &Vit) -> (Checkpoint, Vit) {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let folder = scratch.path().join("saved");
    vit.save(&folder, &Preprocessor::standard(8), WeightDtype::F32).expect("a free folder");
    let checkpoint = Checkpoint::open(&folder).expect("a whole folder");
    let loaded = Vit::load(&checkpoint, &Device::flex()).unwrap_or_else(|error| panic!("{error}"));
    (checkpoint, loaded)
}

#[test]
fn every_family_of_hugging_face_is_read_back_as_it_was_written() {
    for json in vision_jsons() {
        let vit = model(&read(&json));
        assert_eq!(vit.config().format(), Format::HuggingFace, "{json}");
        let (checkpoint, loaded) = written(&vit);
        assert_eq!(loaded.config(), vit.config(), "{json}");
        assert_eq!(checkpoint.config()["model_type"], json["model_type"]);
        assert_eq!(checkpoint.config()["architectures"], json["architectures"]);
        assert_eq!(logits(&loaded), logits(&vit), "{json}");
    }
}

#[test]
fn every_family_without_a_head_is_read_back_as_it_was_written() {
    for json in vision_jsons() {
        let vit = model(&read(&json)).with_head(&[]);
        let (checkpoint, loaded) = written(&vit);
        assert_eq!(loaded.config(), vit.config(), "{json}");
        let class = checkpoint.config()["architectures"][0].as_str().expect("a class");
        assert!(class.ends_with("Model"), "{class}");
        assert_eq!(logits(&loaded), logits(&vit), "{json}");
    }
}

/// What timm has and no class of transformers.
fn of_timm() -> [(&'static str, VitConfig); 8] {
    let plain = config();
    let scaled = VitConfig { layer_scale: Some(1e-5), ..plain.clone() };
    let gap = VitConfig { class_token: false, n_positioned: 0, pooling: Pooling::Mean, ..plain.clone() };
    [
        ("dinov2", scaled.clone()),
        ("dinov2 with registers", VitConfig { n_registers: 3, n_positioned: 0, ..scaled.clone() }),
        ("dinov2 giant", VitConfig { mlp: MlpKind::Gated, activation: Activation::Silu, ..scaled }),
        (
            "clip",
            VitConfig { embedding_norm: true, patch_bias: false, layer_norm_eps: 1e-5, ..plain.clone() },
        ),
        ("siglip, mean", gap.clone()),
        ("siglip", VitConfig { pooling: Pooling::Attention, ..gap }),
        ("mean, then norm", VitConfig { pooling: Pooling::MeanThenNorm, ..plain.clone() }),
        ("mean, no norm", VitConfig { pooling: Pooling::MeanWithoutNorm, ..plain }),
    ]
}

#[test]
fn what_only_timm_computes_is_written_for_timm_and_read_back() {
    for (name, config) in of_timm() {
        let vit = model(&config);
        assert_eq!(config.format(), Format::Timm, "{name}");
        let (checkpoint, loaded) = written(&vit);
        assert!(checkpoint.config()["architecture"].is_string(), "{name}");
        assert_eq!(loaded.config(), &config, "{name}");
        assert_eq!(logits(&loaded), logits(&vit), "{name}");
    }
}

#[test]
fn a_distilled_deit_of_timm_is_the_one_of_hugging_face() {
    // timm has no other epsilon.
    let vit = model(&VitConfig { layer_norm_eps: 1e-6, ..read(&vision_jsons()[1]) });
    let loaded = Vit::load(&as_timm(&vit), &Device::flex()).expect("a DeiT of timm's");
    assert_eq!(loaded.config().format(), Format::HuggingFace);
    assert_eq!(logits(&loaded), logits(&vit));
}

/// The same model in timm's layout.
fn as_timm(vit: &Vit) -> Checkpoint {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let folder = scratch.path().join("timm");
    let tensors: Vec<NamedTensor> = vit.to_tensors();
    let get = |name: &str| {
        let found =
            tensors.iter().find(|tensor| tensor.name == name || tensor.name == format!("deit.{name}"));
        found.unwrap_or_else(|| panic!("no {name}")).clone()
    };
    let named = |ours: &str, theirs: &str| NamedTensor { name: theirs.to_owned(), ..get(ours) };
    let both = |ours: &str, theirs: &str| {
        ["weight", "bias"].map(|leaf| named(&format!("{ours}.{leaf}"), &format!("{theirs}.{leaf}")))
    };
    let mut renamed = vec![
        named("embeddings.cls_token", "cls_token"),
        named("embeddings.distillation_token", "dist_token"),
        named("embeddings.position_embeddings", "pos_embed"),
    ];
    renamed.extend(both("embeddings.patch_embeddings.projection", "patch_embed.proj"));
    renamed.extend(both("layernorm", "norm"));
    renamed.extend(both("cls_classifier", "head"));
    renamed.extend(both("distillation_classifier", "head_dist"));
    for block in 0..2 {
        let (from, to) = (format!("encoder.layer.{block}"), format!("blocks.{block}"));
        for (ours, theirs) in [
            ("layernorm_before", "norm1"),
            ("attention.output.dense", "attn.proj"),
            ("layernorm_after", "norm2"),
            ("intermediate.dense", "mlp.fc1"),
            ("output.dense", "mlp.fc2"),
        ] {
            renamed.extend(both(&format!("{from}.{ours}"), &format!("{to}.{theirs}")));
        }
        for leaf in ["weight", "bias"] {
            let parts = ["query", "key", "value"]
                .map(|part| get(&format!("{from}.attention.attention.{part}.{leaf}")));
            let mut shape = parts[0].shape.clone();
            shape[0] *= 3;
            let values = parts.into_iter().flat_map(|part| part.values).collect();
            renamed.push(NamedTensor { name: format!("{to}.attn.qkv.{leaf}"), shape, values });
        }
    }
    let config = json!({
        "architecture": "deit_tiny_distilled_patch16_224", "num_classes": 3, "global_pool": "token",
        "label_names": ["one", "two", "three"], "model_args": {"img_size": 8},
    });
    write(&folder, &config, &renamed);
    Checkpoint::open(&folder).expect("a whole folder")
}

fn write(folder: &Path, config: &Value, tensors: &[NamedTensor]) {
    let model = ModelFolder { config, preprocessor: None, tensors, dtype: WeightDtype::F32, companions: &[] };
    save(folder, &model).expect("a free folder");
}

/// A CLIP with a text tower.
fn whole_clip(folder: &Path) -> Vit {
    let [.., clip, _] = &vision_jsons();
    let vit = model(&read(clip)).with_head(&[]);
    let mut tensors = vit.to_tensors();
    for name in ["text_model.embeddings.token_embedding.weight", "text_projection.weight", "logit_scale"] {
        tensors.push(NamedTensor { name: name.to_owned(), shape: vec![2], values: vec![1.0, 2.0] });
    }
    let config = with(with(clip.clone(), "architectures", vec!["CLIPModel"]), "id2label", Value::Null);
    write(folder, &config, &tensors);
    vit
}

#[test]
fn of_a_model_of_images_and_texts_the_vision_tower_is_opened_and_the_rest_is_named() {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let folder = scratch.path().join("clip");
    let vit = whole_clip(&folder);
    let checkpoint = Checkpoint::open(&folder).expect("a whole folder");
    let loaded = Vit::load(&checkpoint, &Device::flex()).expect("a vision tower");
    assert_eq!(logits(&loaded), logits(&vit));
    assert_eq!(loaded.config().left_out_of(&checkpoint), ["`text_model.`", "`text_projection.`"]);
}

#[test]
fn a_tensor_that_belongs_to_no_tower_is_refused() {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let folder = scratch.path().join("clip");
    let mut tensors = whole_clip(&scratch.path().join("whole")).to_tensors();
    tensors.push(NamedTensor { name: "audio_model.weight".to_owned(), shape: vec![1], values: vec![1.0] });
    let [.., clip, _] = vision_jsons();
    write(&folder, &with(clip, "architectures", vec!["CLIPModel"]), &tensors);
    let checkpoint = Checkpoint::open(&folder).expect("a whole folder");
    let error = Vit::load(&checkpoint, &Device::flex()).expect_err("a tensor too many").to_string();
    assert!(error.contains("audio_model.weight"), "{error}");
}

#[test]
fn golden_models_are_written_under_the_names_of_their_files() {
    let Some(models) = shared("fixtures/models") else { return };
    for (name, left_out) in [
        ("dinov2_tiny", ""),
        ("dinov2_reg_tiny", ""),
        ("deit_tiny", ""),
        ("clip_vision_tiny", ""),
        ("siglip_vision_tiny", "vision_model.head."),
    ] {
        let checkpoint = Checkpoint::open(&models.join(name)).expect("a fixture");
        let vit = Vit::load(&checkpoint, &Device::flex()).expect("a vision transformer");
        let mut found: Vec<String> = vit.to_tensors().into_iter().map(|tensor| tensor.name).collect();
        let is_kept = |tensor: &&str| left_out.is_empty() || !tensor.contains(left_out);
        let mut expected: Vec<&str> = checkpoint.tensor_names().filter(is_kept).collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{name}");
        for tensor in vit.to_tensors() {
            assert_eq!(Some(tensor.shape.as_slice()), checkpoint.shape(&tensor.name), "{}", tensor.name);
        }
    }
}

#[test]
fn golden_configurations_are_written_so_that_they_are_read_back() {
    let Some(models) = shared("fixtures/models") else { return };
    for name in ["dinov2_tiny", "dinov2_reg_tiny", "deit_tiny", "clip_vision_tiny", "siglip_vision_tiny"] {
        let file = models.join(name).join("config.json");
        let config = VitConfig::from_json(&fixtures::json(&file), &file).expect("a fixture");
        assert_eq!(read(&config.to_json()), config, "{name}");
    }
}

/// Names that transformers 5.24 has in memory, and those of transformers 4.
#[test]
fn sites_have_the_names_of_peft() {
    let [deit, with_teacher, dinov2, gated, clip, siglip] = vision_jsons().map(|json| model(&read(&json)));
    for (vit, site, names) in [
        (
            &deit,
            "attention.query",
            ["deit.layers.1.attention.q_proj", "deit.encoder.layer.1.attention.attention.query"],
        ),
        (
            &dinov2,
            "attention.output",
            ["dinov2.encoder.layer.1.attention.o_proj", "dinov2.encoder.layer.1.attention.output.dense"],
        ),
        (&dinov2, "mlp.up", ["dinov2.encoder.layer.1.mlp.fc1"; 2]),
        (
            &gated,
            "mlp.down",
            [
                "dinov2_with_registers.encoder.layer.1.mlp.down_proj",
                "dinov2_with_registers.encoder.layer.1.mlp.weights_out",
            ],
        ),
        (&clip, "attention.value", ["vision_model.encoder.layers.1.self_attn.v_proj"; 2]),
        (&siglip, "mlp.down", ["vision_model.encoder.layers.1.mlp.fc2"; 2]),
    ] {
        let module = vit.peft_module(&format!("blocks.1.{site}"));
        assert_eq!(module, ForeignModule::whole(names.map(str::to_owned)), "{site}");
        assert_eq!(module.part, Part::Whole);
    }
    let up = gated.peft_module("blocks.1.mlp.up");
    let names =
        ["up_proj", "weights_in"].map(|name| format!("dinov2_with_registers.encoder.layer.1.mlp.{name}"));
    let parts = [Part::Whole, Part::Outputs(Shares::nth(1, 2))];
    assert_eq!(
        (up.names, [up.part, up.part_before]),
        (names, parts),
        "transformers 4 has gate and up in one"
    );
    assert_eq!(clip.peft_module("head").names, ["classifier"; 2]);
    assert_eq!(with_teacher.peft_module("head").names, ["classifier"; 2]);
}

#[test]
fn a_new_head_of_a_deit_with_teacher_reads_the_class_token_alone() {
    let vit = model(&read(&vision_jsons()[1]));
    assert_eq!(vit.config().pooling, Pooling::ClassAndDistillation);
    let replaced = vit.with_head(&["a", "b"].map(str::to_owned));
    assert!(replaced.distillation_head.is_none());
    assert_eq!((replaced.config().pooling, logits(&replaced).len()), (Pooling::ClassToken, 4));
    assert_eq!(written(&replaced).0.config()["architectures"], json!(["DeiTForImageClassification"]));
}

#[test]
fn two_heads_answer_with_their_mean() {
    let vit = model(&read(&vision_jsons()[1]));
    let pixels = batch(2, 3, &Device::flex()).pixels;
    let features = vit.features(pixels.clone());
    let of = |head: &nola_core::Linear, start: usize| {
        values(nola_core::adapted(head, features.clone().narrow(1, start, 24)))
    };
    let (head, second) =
        (vit.head.as_ref().expect("a head"), vit.distillation_head.as_ref().expect("a second"));
    let mean: Vec<f64> =
        of(head, 0).into_iter().zip(of(second, 24)).map(|(a, b)| f64::from(a + b) / 2.0).collect();
    fixtures::assert_close("mean", &values(vit.forward(pixels)), &mean, 1e-6);
}

#[test]
fn patches_leave_the_rest_of_an_image_to_the_right_and_below_unseen() {
    let sizes = VitConfig { image_size: 10, ..config() };
    let vit = model(&sizes);
    assert_eq!(sizes.n_patches(), 4);
    let pixels = |rest: f32| {
        let pixel = |n: usize| if n % 10 >= 8 || n / 10 % 10 >= 8 { rest } else { (n as f32).sin() };
        Tensor::<4>::from_data(
            TensorData::new((0..300).map(pixel).collect::<Vec<_>>(), [1, 3, 10, 10]),
            &Device::flex(),
        )
    };
    assert_eq!(values(vit.forward(pixels(0.0))), values(vit.forward(pixels(5.0))));
}

#[test]
fn layer_scales_start_at_what_the_configuration_says() {
    let vit = tiny_dinov2(&Device::flex()).base;
    let scale = vit.blocks[1].scale_mlp.as_ref().expect("a layer scale");
    assert_eq!(values(scale.lambda1.val()), [0.7; 24]);
}

#[test]
fn register_tokens_have_no_position() {
    let vit = tiny_dinov2(&Device::flex()).base;
    assert_eq!(vit.positions.val().dims(), [1, 1 + 4, 24]);
    assert_eq!(vit.embeddings(batch(1, 1, &Device::flex()).pixels).dims(), [1, 1 + 2 + 4, 24]);
    let [_, registers, _] = vit.register_tokens.as_ref().expect("two").val().dims();
    let embedded = vit.embeddings(batch(1, 1, &Device::flex()).pixels).narrow(1, 1, registers);
    assert_eq!(values(embedded), values(vit.register_tokens.as_ref().expect("two").val()));
}

#[test]
fn a_width_that_no_channel_is_left_of_is_refused() {
    let json = with(dinov2_json(), "mlp_ratio", 0);
    let error = VitConfig::from_json(&json, Path::new("config.json")).expect_err("no MLP").to_string();
    assert!(error.contains("`mlp_ratio`"), "{error}");
}

#[test]
fn a_folder_of_images_and_texts_without_sizes_of_the_tower_is_refused() {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    fs::write(scratch.path().join("config.json"), json!({"model_type": "clip"}).to_string()).expect("a file");
    let error = VitConfig::read(scratch.path()).expect_err("no sizes").to_string();
    assert!(error.contains("`vision_config`"), "{error}");
}

#[test]
fn the_family_decides_how_a_classifier_pools() {
    let pooling = vision_jsons().map(|json| read(&json).pooling);
    assert_eq!(
        pooling,
        [
            Pooling::ClassToken,
            Pooling::ClassAndDistillation,
            Pooling::ClassAndMean,
            Pooling::ClassAndMean,
            Pooling::MeanWithoutNorm,
            Pooling::Mean,
        ]
    );
    assert_eq!(config().family, &Family::VIT);
}
