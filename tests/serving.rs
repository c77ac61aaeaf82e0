//! The engine of `serve`: an answer does not depend on who else is in the batch.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::{Device, TensorData};
use nola_core::adapter::{Format, LoraXsConfig, VeraConfig};
use nola_core::bundle::{About, Bundle, LowRankAdapter};
use nola_core::folder::{self, CoefficientBits, Description, peft};
use nola_core::joint::{Kind, Options};
use nola_core::{Adapted, AdapterConfig, Targets};
use nola_models::CausalLm;
use nola_models::generate::{Cached, Finish, GenerationConfig, Prompt, generate};
use nola_train::serve::{Engine, EngineOptions, Event, Rejection, ServedAdapter, TextRequest};
use nola_train::session::{Base, ReadAdapter, ReadBundle, Silent, TextBase};
use nola_train::settings::ModelSettings;
use tokio::sync::mpsc::Receiver;

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
        write_adapted(base, &tiny.perturbed(&settings(place)), &folder.join(place.to_string()));
    }
}

/// An adapter of these settings with numbers of its own.
fn write_adapter(base: &TextBase, config: &AdapterConfig, place: usize, folder: &Path) {
    let targets = Targets::matching("query|value|up|down");
    let fresh = Adapted::attach(base.model.clone(), config, &targets, &[], &Device::flex()).expect("layers");
    let state = fresh.state().into_iter().map(|(name, data)| {
        let value = |n: usize| 0.5 * ((n * (place + 2)) as f32 * 0.37).sin();
        let values: Vec<f32> = (0..data.shape().num_elements()).map(value).collect();
        (name, TensorData::new(values, data.shape()))
    });
    write_adapted(base, &fresh.clone().with_state(state.collect()).expect("its own names"), folder);
}

fn write_adapted(base: &TextBase, adapted: &Adapted<CausalLm>, folder: &Path) {
    let (labels, summary, data) = (Vec::new(), String::new(), serde_json::Value::Null);
    let description = Description { base: base.identity().clone(), labels, summary, data };
    let modules = |site: &str| base.model.peft_module(site);
    let bytes = match adapted.config().map(|config| config.method().format()) {
        Some(Format::Peft) => {
            let (generation, task) = (peft::Generation::default(), peft::Task::CausalLanguageModel);
            peft::write(folder, adapted, &modules, generation, task, &description)
        }
        Some(Format::Native) | None => folder::write(folder, adapted, &description, CoefficientBits::B32),
    };
    bytes.expect("a free folder");
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
fn completed(mut receiver: Receiver<Event>) -> (Vec<u32>, Finish) {
    let mut tokens = Vec::new();
    loop {
        match receiver.blocking_recv().expect("a last event") {
            Event::Token(new) => tokens.push(new.token),
            Event::Finished(finish) => return (tokens, finish),
            Event::Failed(problem) => panic!("{problem}"),
            Event::Cut => panic!("nobody cut it"),
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
        // Two texts ask the base alone.
        assert_eq!(counts.adapters_made + counts.adapters_found, 62, "{counts:?}");
    }
}

/// The tokens of a greedy text of `adapter`, which is a folder or a member of a bundle, as `generate` writes them.
fn generated(base: &TextBase, adapter: &Path, prompt: Vec<u32>, tokens: usize) -> (Vec<u32>, Finish) {
    let read = ReadAdapter::open(adapter).expect("an adapter");
    let device = Device::flex();
    let model = base.clone().with_adapter(read, &device, &|_| {}).expect("it fits").adapted.model;
    let prompts = [Prompt { row: 0, tokens: prompt }];
    let texts = generate(&mut Cached::new(&model, &device), &prompts, &greedy(tokens));
    let text = &texts.expect("a usable prompt")[0][0];
    (text.tokens.clone(), text.finish)
}

/// A bundle of all adapters in `folder` that can be compressed, each as a member of the name of its folder.
fn write_bundle(base: &TextBase, folder: &Path, count: usize, options: Options) -> Bundle {
    let member = |place: usize| {
        let read = ReadAdapter::open(&folder.join(place.to_string())).expect("an adapter");
        let (name, method) = (place.to_string(), read.method());
        let attached = base.clone().with_adapter(read, &Device::flex(), &|_| {}).expect("it fits");
        let (labels, data) = (Vec::new(), serde_json::Value::Null);
        LowRankAdapter::of(&attached.adapted, About { name, method, labels, data }).ok()
    };
    let members: Vec<LowRankAdapter> = (0..count).filter_map(member).collect();
    assert!(members.len() > count / 2, "most kinds are low-rank updates");
    let identity = base.identity().clone();
    let bundle = Bundle::compressed(members, identity, options, |_| ()).expect("one base");
    bundle.write(&folder.join("bundle")).expect("a free folder");
    bundle
}

/// Writes a member of a bundle as PEFT's LoRA.
fn export(base: &TextBase, member: &Path, to: &Path) {
    let read = ReadAdapter::open(member).expect("a member");
    let attached = base.clone().with_adapter(read, &Device::flex(), &|_| {}).expect("it fits");
    let (labels, summary, data) = (Vec::new(), String::new(), serde_json::Value::Null);
    let description = Description { base: base.identity().clone(), labels, summary, data };
    let modules = |site: &str| base.model.peft_module(site);
    let (generation, task) = (peft::Generation::default(), peft::Task::CausalLanguageModel);
    peft::write(to, &attached.adapted, &modules, generation, task, &description).expect("a free folder");
}

#[test]
fn members_of_a_bundle_answer_as_generate_over_their_exported_loras() {
    const ADAPTERS: usize = 20;
    for (name, kind) in [("base", Kind::Full), ("llama", Kind::Full), ("base", Kind::Diagonal)] {
        let workshop = text_workshop();
        let (base, folder) = (opened(&workshop, name), workshop.at("adapters"));
        write_adapters(&base, &folder, ADAPTERS);
        let options = Options { kind, rank: 6, clusters: 3, iterations: 5 };
        let written = write_bundle(&base, &folder, ADAPTERS, options);
        let bundle = ReadBundle::open(&folder.join("bundle")).expect("it was just written");
        let members = written.manifest().members.len();
        let member = |place: usize| {
            let adapter = ServedAdapter::of_member(&bundle, "bundle", place, 1000 + place as u64);
            Arc::new(adapter.expect("a member"))
        };
        let members: Vec<_> = (0..members).map(member).collect();
        let others: Vec<_> = (0..ADAPTERS).map(|place| served(&folder, place)).collect();
        let options = EngineOptions { most_running: 12, chunk_tokens: 8, ..EngineOptions::default() };
        let engine = Engine::start(&base, &Device::flex(), options);
        let requests = (0..48).map(|n| match n % 3 {
            0 | 1 => request(Some(Arc::clone(&members[n * 5 % members.len()])), prompt(n), greedy(4 + n % 9)),
            _ => request(Some(Arc::clone(&others[n % ADAPTERS])), prompt(n), greedy(4 + n % 9)),
        });
        let receivers = engine.submit(requests.collect()).expect("there is room");
        for (n, receiver) in receivers.into_iter().enumerate() {
            let adapter = match n % 3 {
                0 | 1 => {
                    let name = written.manifest().members[n * 5 % members.len()].name.clone();
                    let exported = folder.join(format!("exported-{name}"));
                    if !exported.exists() {
                        export(&base, &folder.join("bundle").join(&name), &exported);
                    }
                    exported
                }
                _ => folder.join((n % ADAPTERS).to_string()),
            };
            let expected = generated(&base, &adapter, prompt(n), 4 + n % 9);
            assert_eq!(completed(receiver), expected, "{name}, {kind:?}, request {n}, {}", adapter.display());
        }
        engine.close();
        engine.join();
    }
}

#[test]
fn adapters_with_factors_in_common_answer_as_each_alone_and_take_them_once() {
    const ADAPTERS: usize = 6;
    let workshop = text_workshop();
    let base = opened(&workshop, "base");
    let configs: [(&str, AdapterConfig); 2] = [
        ("lora-xs", LoraXsConfig { rank: 4, alpha: Some(6.0), seed: 3 }.into()),
        ("vera", VeraConfig { rank: 4, ..VeraConfig::default() }.into()),
    ];
    for (name, config) in configs {
        let folder = workshop.at(name);
        for place in 0..ADAPTERS {
            write_adapter(&base, &config, place, &folder.join(place.to_string()));
        }
        let adapters: Vec<_> = (0..ADAPTERS).map(|place| served(&folder, place)).collect();
        let engine = Engine::start(&base, &Device::flex(), EngineOptions::default());
        let requests =
            (0..18).map(|n| request(Some(Arc::clone(&adapters[n % ADAPTERS])), prompt(n), greedy(4 + n % 9)));
        let receivers = engine.submit(requests.collect()).expect("there is room");
        for (n, receiver) in receivers.into_iter().enumerate() {
            let adapter = folder.join((n % ADAPTERS).to_string());
            assert_eq!(completed(receiver), generated(&base, &adapter, prompt(n), 4 + n % 9), "{name} {n}");
        }
        engine.close();
        engine.join();
        let counts = engine.counts();
        assert_eq!((counts.adapters_ready, counts.adapters_made), (ADAPTERS, ADAPTERS as u64), "{counts:?}");
        let own: u64 = adapters.iter().map(|adapter| adapter.bytes()).sum();
        let first = base.clone().with_adapter(adapters[0].content.clone(), &Device::flex(), &|_| {});
        let first = first.expect("it fits").adapted;
        let of_one = first.updates().expect("adapters alone").bytes();
        assert!(counts.adapter_bytes <= own + of_one, "{name}: {counts:?}, {own} + {of_one}");
        // What the folder alone gives is what the attached adapter has.
        let (parts, content) = (first.shared_parts().expect("it shares factors"), &adapters[0].content);
        let factors = parts.factors(&Device::flex());
        assert_eq!(content.numbers_between(&factors).as_deref(), Some(parts.numbers()));
        let keys: BTreeSet<_> = adapters.iter().map(|adapter| adapter.content.factors_key()).collect();
        assert!(keys.len() == 1 && !keys.contains(&None), "{keys:?}");
    }
}

#[test]
fn a_prompt_is_read_once_for_all_texts_of_it() {
    let workshop = text_workshop();
    let base = opened(&workshop, "base");
    let options = EngineOptions { chunk_tokens: 16, most_running: 3, ..EngineOptions::default() };
    let engine = Engine::start(&base, &Device::flex(), options);
    let long: Vec<u32> = (0..100).map(|n| (n * 31) % 250).collect();
    let drawn = |sequence| TextRequest {
        sequence,
        ..request(None, long.clone(), GenerationConfig { do_sample: true, seed: 7, ..greedy(6) })
    };
    let alone: Vec<_> = (0..5)
        .map(|sequence| completed(engine.submit(vec![drawn(sequence)]).expect("there is room").remove(0)))
        .collect();
    assert_eq!(engine.counts().prompt_tokens, 500);
    let receivers = engine.submit((0..5).map(drawn).collect()).expect("there is room");
    let together: Vec<_> = receivers.into_iter().map(completed).collect();
    assert_eq!(together, alone);
    assert_eq!(engine.counts().prompt_tokens, 600, "the prompt was read once more");
}

#[test]
fn a_prompt_is_read_on_when_the_text_that_read_it_is_gone() {
    let workshop = text_workshop();
    let base = opened(&workshop, "base");
    let options = EngineOptions { chunk_tokens: 4, ..EngineOptions::default() };
    let engine = Engine::start(&base, &Device::flex(), options);
    let long: Vec<u32> = (0..200).map(|n| (n * 31) % 250).collect();
    let requests = (0..3).map(|sequence| TextRequest { sequence, ..request(None, long.clone(), greedy(4)) });
    let mut receivers = engine.submit(requests.collect()).expect("there is room");
    drop(receivers.remove(0));
    let texts: Vec<_> = receivers.into_iter().map(completed).collect();
    assert!(texts.iter().all(|(tokens, _)| tokens.len() == 4) && texts[0] == texts[1], "{texts:?}");
}

#[test]
fn a_text_that_nobody_reads_rests_and_others_go_on() {
    let workshop = text_workshop();
    let engine = Engine::start(&opened(&workshop, "base"), &Device::flex(), EngineOptions::default());
    let long =
        || vec![request(None, prompt(1), GenerationConfig { eos_token_id: Vec::new(), ..greedy(200) })];
    let resting = engine.submit(long()).expect("there is room").remove(0);
    for _ in 0..3 {
        assert_eq!(completed(engine.submit(long()).expect("there is room").remove(0)).0.len(), 200);
    }
    // A text is counted as finished after its last token was sent.
    while engine.counts().finished < 3 {
        std::thread::yield_now();
    }
    let counts = engine.counts();
    assert!(counts.running == 1 && counts.new_tokens < 700, "{counts:?}");
    assert_eq!(completed(resting).0.len(), 200, "it goes on when somebody reads");
}

#[test]
fn texts_that_are_cut_hear_of_it() {
    let workshop = text_workshop();
    let options = EngineOptions { most_running: 1, ..EngineOptions::default() };
    let engine = Engine::start(&opened(&workshop, "base"), &Device::flex(), options);
    let long =
        |n: usize| request(None, prompt(n), GenerationConfig { eos_token_id: Vec::new(), ..greedy(200) });
    let receivers = engine.submit(vec![long(1), long(2)]).expect("there is room");
    engine.cut();
    for mut receiver in receivers {
        let mut last = None;
        while let Some(event) = receiver.blocking_recv() {
            last = Some(event);
        }
        assert_eq!(last, Some(Event::Cut));
    }
    engine.join();
    assert!(matches!(engine.submit(vec![long(3)]), Err(Rejection::Closing)));
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
