//! The engine of `serve`: an answer does not depend on who else is in the batch.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use nola_core::AdapterConfig;
use nola_core::folder::{self, CoefficientBits, Description};
use nola_models::generate::{Cached, Finish, GenerationConfig, Prompt, generate};
use nola_train::serve::{Engine, EngineOptions, Event, Rejection, ServedAdapter, TextRequest};
use nola_train::session::{Base, ReadAdapter, Silent, TextBase};
use nola_train::settings::ModelSettings;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::program::Workshop;
use crate::text_workshop::text_workshop;
use crate::tiny::{Tiny, every_adapter, numbered_texts};

fn opened(workshop: &Workshop, name: &str) -> TextBase {
    let settings = ModelSettings { path: workshop.at(name), ..ModelSettings::default() };
    TextBase::open(&settings, 0, &Device::flex(), &Silent).expect("a model folder")
}

/// The settings of adapter `place`: every kind there is, again and again with other seeds.
fn settings(place: usize) -> AdapterConfig {
    let all = every_adapter();
    let (_, mut config) = all[place % all.len()].clone();
    config.method_mut().set_seed(place as u64);
    config
}

/// Adapter folders `0`, `1` and so on.
fn write_adapters(base: &TextBase, folder: &Path, count: usize) {
    let device = Device::flex();
    let batch = numbered_texts(&[0, 1], 1, &device);
    let tiny = Tiny { base: base.model.clone(), trained_beside: &[], batch, device };
    for place in 0..count {
        let adapted = tiny.perturbed(&settings(place));
        let (labels, summary, data) = (Vec::new(), String::new(), serde_json::Value::Null);
        let description = Description { base: base.identity().clone(), labels, summary, data };
        let folder = folder.join(place.to_string());
        folder::write(&folder, &adapted, &description, CoefficientBits::B32).expect("a free folder");
    }
}

fn served(folder: &Path, place: usize) -> Arc<ServedAdapter> {
    let name = place.to_string();
    let adapter = ServedAdapter::open(name.clone(), place as u64 + 1, &folder.join(name));
    Arc::new(adapter.expect("an adapter folder"))
}

fn greedy(max_new_tokens: usize) -> GenerationConfig {
    GenerationConfig { max_new_tokens, ..GenerationConfig::default() }
}

fn request(
    adapter: Option<Arc<ServedAdapter>>,
    prompt: Vec<u32>,
    generation: GenerationConfig,
) -> TextRequest {
    let (frequency_penalty, presence_penalty) = (0.0, 0.0);
    TextRequest {
        adapter,
        prompt,
        generation,
        sequence: 0,
        frequency_penalty,
        presence_penalty,
        top_scores: None,
    }
}

/// The tokens of a text and how it ended.
fn completed(mut receiver: UnboundedReceiver<Event>) -> (Vec<u32>, Finish) {
    let mut tokens = Vec::new();
    loop {
        match receiver.blocking_recv().expect("a last event") {
            Event::Token(new) => tokens.push(new.token),
            Event::Finished(finish) => return (tokens, finish),
            Event::Failed(problem) => panic!("{problem}"),
        }
    }
}

/// A prompt of 1 to 40 tokens.
fn prompt(place: usize) -> Vec<u32> {
    (0..1 + place * 7 % 40).map(|n| ((n * 31 + place * 17) % 250) as u32).collect()
}

#[test]
fn sixty_four_requests_over_fifty_adapters_get_what_generate_gives_each() {
    const ADAPTERS: usize = 50;
    for name in ["base", "llama"] {
        let workshop = text_workshop();
        let (base, folder) = (opened(&workshop, name), workshop.at("adapters"));
        write_adapters(&base, &folder, ADAPTERS);
        let adapters: Vec<_> = (0..ADAPTERS).map(|place| served(&folder, place)).collect();
        let options = EngineOptions {
            most_running: 9,
            chunk_tokens: 8,
            adapter_bytes: 200_000,
            ..EngineOptions::default()
        };
        let engine = Engine::start(&base, &Device::flex(), options);
        let asked: Vec<usize> = (0..64).map(|n| n * 37 % 64).collect();
        let receivers: Vec<_> = asked
            .iter()
            .map(|&n| {
                // Two of them ask the base alone.
                let adapter = (n % 32 != 5).then(|| Arc::clone(&adapters[n % ADAPTERS]));
                let all = vec![request(adapter, prompt(n), greedy(4 + n % 9))];
                engine.submit(all).expect("there is room").pop().expect("one text")
            })
            .collect();
        for (&n, receiver) in asked.iter().zip(receivers) {
            let found = completed(receiver);
            let model = match n % 32 {
                5 => base.model.clone(),
                _ => {
                    let read = ReadAdapter::open(&folder.join((n % ADAPTERS).to_string())).expect("a folder");
                    base.clone().with_adapter(read, &Device::flex(), &|_| {}).expect("it fits").adapted.model
                }
            };
            let prompts = [Prompt { row: 0, tokens: prompt(n) }];
            let texts = generate(&mut Cached::new(&model, &Device::flex()), &prompts, &greedy(4 + n % 9));
            let expected = &texts.expect("a usable prompt")[0][0];
            assert_eq!(found, (expected.tokens.clone(), expected.finish), "{name}, request {n}");
        }
        engine.close();
        engine.join();
        let counts = engine.counts();
        assert_eq!((counts.finished, counts.failed, counts.waiting, counts.running), (64, 0, 0, 0));
        // The cache of matrices held fewer than all adapters, so some were made again.
        assert!(counts.adapter_bytes <= 200_000 && counts.adapters_ready < ADAPTERS, "{counts:?}");
    }
}

#[test]
fn what_is_drawn_depends_on_the_seed_and_not_on_the_batch() {
    let workshop = text_workshop();
    let base = opened(&workshop, "base");
    let engine = Engine::start(&base, &Device::flex(), EngineOptions::default());
    let drawn = |seed| GenerationConfig { do_sample: true, seed, ..greedy(12) };
    let texts = |requests: Vec<TextRequest>| {
        engine.submit(requests).expect("there is room").into_iter().map(completed).collect::<Vec<_>>()
    };
    let alone = texts(vec![request(None, prompt(3), drawn(7))]);
    let beside = texts((0..6).map(|seed| request(None, prompt(3), drawn(seed + 4))).collect());
    assert_eq!(alone[0], beside[3]);
    assert_ne!(alone[0], beside[0]);
}

#[test]
fn a_text_whose_receiver_is_gone_ends() {
    let workshop = text_workshop();
    let engine = Engine::start(&opened(&workshop, "base"), &Device::flex(), EngineOptions::default());
    let mut receivers = engine.submit(vec![request(None, prompt(9), greedy(50))]).expect("there is room");
    let first = receivers[0].blocking_recv();
    assert!(matches!(first, Some(Event::Token(_))), "{first:?}");
    drop(receivers);
    let kept = engine.submit(vec![request(None, prompt(2), greedy(5))]).expect("there is room");
    assert!(kept.into_iter().all(|receiver| completed(receiver).0.len() == 5));
    engine.close();
    engine.join();
    let counts = engine.counts();
    assert!(counts.new_tokens < 55, "{counts:?}");
}

#[test]
fn texts_that_do_not_fit_are_refused_before_they_wait() {
    let workshop = text_workshop();
    let options = EngineOptions { most_running: 1, most_waiting: 2, ..EngineOptions::default() };
    let engine = Engine::start(&opened(&workshop, "base"), &Device::flex(), options);
    let long = engine.submit(vec![request(None, vec![1; 5000], greedy(5))]);
    assert!(matches!(long, Err(Rejection::Unusable(_))), "{long:?}");
    let many = (0..3).map(|n| request(None, prompt(n), greedy(5))).collect();
    assert!(matches!(engine.submit(many), Err(Rejection::Busy { .. })));
    engine.close();
    assert!(matches!(engine.submit(vec![request(None, prompt(1), greedy(5))]), Err(Rejection::Closing)));
}

#[test]
fn an_adapter_that_does_not_fit_the_base_fails_alone() {
    let workshop = text_workshop();
    let (base, other) = (opened(&workshop, "base"), opened(&workshop, "llama"));
    let folder = workshop.at("adapters");
    write_adapters(&other, &folder, 1);
    let engine = Engine::start(&base, &Device::flex(), EngineOptions::default());
    let texts =
        vec![request(Some(served(&folder, 0)), prompt(1), greedy(5)), request(None, prompt(1), greedy(5))];
    let mut receivers = engine.submit(texts).expect("there is room");
    assert_eq!(completed(receivers.pop().expect("two")).0.len(), 5);
    let event = receivers.pop().expect("one").blocking_recv();
    assert!(
        matches!(&event, Some(Event::Failed(problem)) if problem.contains("made for the base")),
        "{event:?}"
    );
}

#[test]
fn scores_are_those_of_the_model_and_penalties_change_what_comes() {
    let workshop = text_workshop();
    let engine = Engine::start(&opened(&workshop, "base"), &Device::flex(), EngineOptions::default());
    let scored = TextRequest { top_scores: Some(3), ..request(None, prompt(4), greedy(6)) };
    let penalized = TextRequest { presence_penalty: 1e6, ..scored.clone() };
    let tokens = |request: TextRequest| {
        let mut receiver = engine.submit(vec![request]).expect("there is room").pop().expect("one");
        let mut tokens = Vec::new();
        while let Some(Event::Token(new)) = receiver.blocking_recv() {
            let (log, likeliest) = new.scores.expect("they were asked for");
            assert_eq!(likeliest.len(), 3);
            assert!(likeliest.is_sorted_by(|one, other| one.log_probability >= other.log_probability));
            assert!(
                likeliest.iter().all(|score| score.log_probability <= 0.0)
                    && log <= likeliest[0].log_probability
            );
            tokens.push(new.token);
        }
        tokens
    };
    assert_eq!(tokens(scored).len(), 6);
    let mut once = tokens(penalized);
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), 6, "no token comes twice");
}
