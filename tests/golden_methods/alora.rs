//! ALoRA: the curve with two rounds in it, what each round scores, takes and gives, and the ranks at the end.

use burn::optim::GradientsParams;
use burn::tensor::Device;
use nola_core::adapter::AloraConfig;
use nola_core::{Adapted, Error, RankMove, Site};
use nola_models::{CausalLm, Checkpoint};
use nola_train::model_with_loss::{ModelWithLoss, TextBatch};
use nola_train::text::Sample;
use nola_train::train::Optimizer;

use super::loraplus::{Sites, targets, with_given_pairs};
use super::{Case, on_cases};
use crate::curves;
use crate::devices::{device, transposed, values};
use crate::test_model::{TestModel, rows_of, text_batch};

#[test]
fn golden_alora_moves_the_ranks_of_the_reference() {
    on_cases("alora", |case| {
        let folder = case.root.join("models").join(case.settings["model"].as_str().expect("a model"));
        let checkpoint = Checkpoint::open(&folder).map_err(|error| error.to_string())?;
        let device = device();
        check(case, CausalLm::load(&checkpoint, &device).map_err(|error| error.to_string())?, &device);
        Ok(())
    });
}

/// Every token but the first is learned.
fn batch(case: &Case, name: &str, device: &Device) -> TextBatch {
    let sample = |ids: Vec<u32>| Sample { trained: std::iter::once(1..ids.len()).collect(), ids };
    text_batch(&rows_of(case.tensor(name)).into_iter().map(sample).collect::<Vec<_>>(), device)
}

/// Texts of which every token has its logits; the last is only predicted, so one more comes behind.
fn with_all_logits(case: &Case, name: &str, device: &Device) -> TextBatch {
    let sample = |row: Vec<u32>| Sample {
        trained: std::iter::once(1..row.len()).collect(),
        ids: [row, vec![0]].concat(),
    };
    text_batch(&rows_of(case.tensor(name)).into_iter().map(sample).collect::<Vec<_>>(), device)
}

fn check(case: &Case, model: CausalLm, device: &Device) {
    let sites = case.sites(&model);
    let config = AloraConfig {
        rank: case.number("r") as usize,
        rounds: case.settings["rounds"].as_array().expect("a list of rounds").len(),
        ..AloraConfig::default()
    };
    let model = Adapted::attach(model, &config.into(), &targets(&sites), &[], device);
    let mut model = with_given_pairs(case, model.expect("sites that exist"), &sites);
    let (train, dev) = (batch(case, "train_ids", device), batch(case, "dev_ids", device));
    let all_of_dev = with_all_logits(case, "dev_ids", device);
    let losses = case.curve()["losses"].clone();
    let golden_loss = |step: usize| losses[step].as_f64().expect("a loss");
    let mut optimizer = Optimizer::new(&curves::settings(&case.curve()), &model);
    let phases: Vec<usize> = serde_json::from_value(case.settings["steps"].clone()).expect("steps");
    let mut made = 0;
    for (round, steps) in phases.into_iter().enumerate() {
        if round > 0 {
            model = moved(case, round, &model, &sites, &dev);
            case.check(
                &format!("logits_pruned.{round}"),
                &model.model.logits_of(&all_of_dev),
                case.expected(&format!("round{round}.logits_pruned")).f64(),
            );
        }
        for _ in 0..steps {
            let loss = model.model.loss(&train, 0.0);
            case.check_loss(made, values(loss.clone())[0], golden_loss(made));
            let gradients = GradientsParams::from_grads(loss.backward(), &model);
            model = optimizer.step(made, model, gradients).expand();
            made += 1;
        }
    }
    case.check_loss(made, values(model.model.loss(&train, 0.0))[0], golden_loss(made));
    case.check_expected("final.logits", &model.model.logits_of(&all_of_dev));
    for factors in model.factors() {
        let name = &sites.iter().find(|(_, site)| *site == factors.site).expect("one of them").0;
        assert_eq!(factors.rank, case.expected(&format!("final.{name}.A")).shape[0], "{name}");
        case.check_transposed(&format!("final.{name}.A"), factors.a.as_deref().expect("no identity"));
        case.check_transposed(&format!("final.{name}.B"), &factors.b);
    }
}

/// The model after a round whose scores and decisions are the golden ones.
fn moved(
    case: &Case,
    round: usize,
    model: &Adapted<CausalLm>,
    sites: &Sites,
    dev: &TextBatch,
) -> Adapted<CausalLm> {
    let name_of = |site: &Site| &sites.iter().find(|(_, known)| known == site).expect("one of them").0;
    let drawn = |site: &Site, rank: usize| {
        let golden = case.tensor(&format!("round{round}.new.{}.A", name_of(site)));
        assert_eq!(golden.shape, [rank, site.d_in], "{}", site.path);
        transposed(&golden.f32(), rank, site.d_in)
    };
    let mut score = |model: &CausalLm| Ok::<f64, Error>(-f64::from(values(model.loss(dev, 0.0))[0]));
    let count = case.number("prune") as usize;
    let (after, RankMove { site_of, scores, moved }) =
        model.move_ranks(count, &drawn, &mut score).expect("ranks enough");
    let scores: Vec<f32> = scores.iter().map(|score| *score as f32).collect();
    case.check(&format!("score.{round}"), &scores, case.expected(&format!("round{round}.score")).f64());
    // The fixture's order of sites may be another one than the model's.
    let places: Vec<usize> = model
        .sites()
        .iter()
        .map(|site| sites.iter().position(|(_, known)| known == site).expect("one"))
        .collect();
    let rank_index: Vec<i64> = case.tensor(&format!("expected.round{round}.rank_index")).i64().to_vec();
    let golden_sites: Vec<i64> = rank_index.chunks(2).map(|pair| pair[0]).collect();
    assert_eq!(site_of.iter().map(|site| places[*site] as i64).collect::<Vec<_>>(), golden_sites);
    let pruned: Vec<i64> =
        moved.pruned.iter().flat_map(|place| rank_index[2 * place..2 * place + 2].to_vec()).collect();
    assert_eq!(pruned, case.tensor(&format!("expected.round{round}.pruned")).i64(), "round {round}");
    let granted: Vec<i64> = moved.granted.iter().map(|rank| *rank as i64).collect();
    assert_eq!(granted, case.tensor(&format!("expected.round{round}.granted")).i64(), "round {round}");
    after
}
