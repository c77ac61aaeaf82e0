//! How a run of several ranks ends when one of them does not go on as the others: with its name, and soon.
#![expect(clippy::result_large_err, reason = "an error of the program ends it, so none is moved about")]

use std::time::{Duration, Instant};

use burn::tensor::Device;
use nola_models::CausalLm;
use nola_train::Error;
use nola_train::ranks::{RankError, Ranks, Topic};
use nola_train::settings::TrainSettings;
use nola_train::stop::{Interrupt, Stop};
use nola_train::train::Start;

use crate::ranks::{Before, LONG, Outcome, as_ranks, lora, nola, recipe, run};
use crate::tiny::tiny_gpt2;

/// How long ranks wait where one is missing.
const SHORT: Duration = Duration::from_secs(3);

/// A run as one of three ranks.
fn trained(ranks: &Ranks, before: Before) -> Outcome<CausalLm> {
    let tiny = tiny_gpt2(&Device::flex().autodiff());
    run(ranks, &tiny, tiny.adapted(&nola()), &recipe(), Start::Beginning, before)
}

/// What ended a run after something was evaluated, or before.
fn failure(outcome: Outcome<CausalLm>) -> Error {
    match outcome.trained {
        Ok(trained) => trained.failure.expect("it did not come to its end"),
        Err(error) => error,
    }
}

/// The errors of the ranks that go on when rank 1 does something else before its step 3, counted from 0.
fn ends(limit: Duration, of_rank_1: impl Fn() -> Error + Sync) -> Vec<(usize, Error, usize)> {
    let found = as_ranks(3, limit, |ranks| {
        let rank = ranks.rank();
        let before: Before = &|ranks, step| match (ranks.rank(), step) {
            (1, 3) => Err(of_rank_1()),
            _ => Ok(()),
        };
        let outcome = trained(&ranks, before);
        let saved = outcome.states.last().expect("a state").step;
        (rank, failure(outcome), saved)
    });
    found.into_iter().filter(|(rank, ..)| *rank != 1).collect()
}

#[test]
fn an_error_of_one_rank_ends_all_with_its_name_and_its_words() {
    let no_batch = || Error::Input { source: std::io::Error::other("no batch") };
    for (rank, error, saved) in ends(LONG, no_batch) {
        assert!(matches!(error, Error::Ranks(RankError::Failed { .. })), "rank {rank}: {error}");
        let message = error.to_string();
        assert!(
            message.starts_with("rank 1 (process ") && message.ends_with("as text: no batch"),
            "{message}"
        );
        assert_eq!((error.exit_code(), saved), (10, 3), "the last state is kept");
    }
}

#[test]
fn a_rank_that_is_gone_or_silent_is_named_in_time() {
    // A thread that panics drops its end, as a process does that is killed.
    let started = Instant::now();
    let found = as_ranks(3, LONG, |ranks| {
        if ranks.rank() == 1 {
            return None;
        }
        Some(failure(trained(&ranks, &|_, _| Ok(()))).to_string())
    });
    for message in found.into_iter().flatten() {
        assert!(
            message.starts_with("rank 1 said nothing for ") && message.contains("gradients"),
            "{message}"
        );
    }
    assert!(started.elapsed() < LONG, "nobody waits for one that is gone");
    let silent = ends(SHORT, || {
        std::thread::sleep(3 * SHORT);
        Error::Input { source: std::io::Error::other("too late") }
    });
    for (rank, error, _) in silent {
        let message = error.to_string();
        // The first rank waits half as long as the others.
        let time = format!("said nothing for {} s", SHORT.as_secs() * if rank == 0 { 1 } else { 2 });
        let expected = ["rank 1 (process ", &time, "NOLA_RANK_SECONDS"];
        assert!(expected.iter().all(|part| message.contains(part)), "{message}");
    }
}

#[test]
fn an_interrupt_of_one_rank_ends_all_after_the_same_step() {
    let stops: Vec<Stop> = (0..3).map(|_| Stop::default()).collect();
    let ranks = Ranks::in_threads(&stops, LONG);
    let stops = &stops;
    let found: Vec<_> = std::thread::scope(|scope| {
        let of = |ranks: Ranks| {
            scope.spawn(move || {
                let before: Before = &|ranks, step| {
                    if (ranks.rank(), step) == (2, 1) {
                        stops[2].interrupt(Interrupt::Terminate);
                    }
                    Ok(())
                };
                let trained = trained(&ranks, before).trained.expect("it is no error");
                (trained.steps, trained.interrupted, trained.last.state())
            })
        };
        let threads: Vec<_> = ranks.into_iter().map(of).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    assert_eq!((found[0].0, found[0].1), (2, Some(Interrupt::Terminate)));
    assert!(found.iter().all(|one| *one == found[0]));
}

#[test]
fn ranks_with_other_trained_values_are_found_before_anything_is_kept() {
    let found = as_ranks(2, LONG, |ranks| {
        let tiny = tiny_gpt2(&Device::flex().autodiff());
        let model = if ranks.rank() == 1 { tiny.perturbed(&nola()) } else { tiny.adapted(&nola()) };
        let recipe = TrainSettings { shards: Some(2), ..recipe() };
        let outcome = run(&ranks, &tiny, model, &recipe, Start::Beginning, &|_, _| Ok(()));
        assert!(outcome.states.is_empty(), "nothing is saved of it");
        failure(outcome)
    });
    for error in found {
        assert!(matches!(error, Error::Ranks(RankError::Diverged { step: 1, .. })), "{error}");
        assert!(error.to_string().contains("rank 1 (process "), "{error}");
    }
}

#[test]
fn a_rank_with_another_model_is_named() {
    let found = as_ranks(2, LONG, |ranks| {
        let tiny = tiny_gpt2(&Device::flex().autodiff());
        let adapter = if ranks.rank() == 1 { lora() } else { nola() };
        let recipe = TrainSettings { shards: Some(2), ..recipe() };
        failure(run(&ranks, &tiny, tiny.adapted(&adapter), &recipe, Start::Beginning, &|_, _| Ok(())))
    });
    let message = found[0].to_string();
    assert!(
        message.contains("rank 1 (process ") && message.contains("something else than gradients"),
        "{message}"
    );
}

#[test]
fn work_is_shared_and_every_rank_has_all_results_in_their_order() {
    for count in [1, 2, 3, 5] {
        let found = as_ranks(count, LONG, |ranks| {
            let own = |things: Vec<usize>| {
                assert!(count == 1 || things.len() <= 7_usize.div_ceil(count));
                Ok::<_, RankError>(things.into_iter().map(|thing| 10 * thing).collect())
            };
            ranks.share(Topic::Evaluation, 7, own).expect("all are there")
        });
        assert!(found.iter().all(|all| *all == [0, 10, 20, 30, 40, 50, 60]), "{count}: {found:?}");
    }
}

#[test]
fn a_warning_of_another_rank_reaches_the_first_once_and_with_its_name() {
    let found = as_ranks(3, LONG, |ranks| {
        let is_shown = ranks.line_filter();
        assert_eq!(is_shown("nola: step 3/4"), ranks.is_first());
        is_shown("warning: all ranks say so");
        if ranks.rank() == 2 {
            is_shown("nola: warning: the disk is slow");
        }
        ranks.all_gather(Topic::Score, Vec::new()).expect("all are there");
        if ranks.is_first() { ranks.warnings() } else { Vec::new() }
    });
    assert_eq!(found[0].len(), 1, "{found:?}");
    assert!(
        found[0][0].starts_with("rank 2 (process ") && found[0][0].ends_with("): warning: the disk is slow")
    );
}
