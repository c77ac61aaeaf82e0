//! What all ranks of a run have in common, compared before its first step.

use std::collections::BTreeMap;

use nola_core::basis::GENERATOR;
use serde::{Deserialize, Serialize};
use sysinfo::{CpuRefreshKind, RefreshKind, System};
use toml::{Table, Value};

use super::resume::{Origin, is_same_base, leaves};
use crate::Error;
use crate::data_hash::DataHash;
use crate::ranks::{RankError, Ranks, Topic};
use crate::recipe::CheckedRecipe;
use crate::task::Task;
use crate::terminal::err_line;

/// What only the first rank uses.
const ITS_OWN: &str = "output.dir";
/// Names of devices of which one process needs the whole.
const GPUS: [&str; 2] = ["cuda:", "wgpu:"];
/// The name of the device that computes in threads.
const CPU: &str = "cpu";

/// What a rank trains with.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Setup {
    origin: Origin,
    /// Of random numbers.
    generator: String,
    machine: String,
    /// Logical cores of the machine.
    cores: usize,
    /// Threads that compute in this process.
    threads: usize,
}

/// Compares recipe, base, data, versions and generator with those of the other ranks, and warns of a GPU that is used twice and
/// of cores that are idle or used twice.
///
/// # Errors
/// If they differ, or a rank ended.
pub fn compare_setup<T: Task>(
    ranks: &Ranks,
    task: &T,
    recipe: &CheckedRecipe,
    device: &str,
) -> Result<(), Error> {
    if ranks.size() == 1 {
        return Ok(());
    }
    let own = Setup {
        origin: Origin::of(task, recipe, device),
        generator: GENERATOR.to_owned(),
        machine: System::host_name().unwrap_or_default(),
        cores: cores(),
        threads: rayon::current_num_threads(),
    };
    let own = serde_json::to_vec(&own).expect("text");
    let messages = ranks.all_gather(Topic::Setup, own)?;
    let read = |(rank, message): (usize, &Vec<u8>)| {
        serde_json::from_slice(message).map_err(|_| ranks.unreadable(rank, Topic::Setup))
    };
    let setups: Vec<Setup> = messages.iter().enumerate().map(read).collect::<Result<_, _>>()?;
    let (first, others) = setups.split_first().expect("there is a first rank");
    let of_other = |(other, setup): (usize, &Setup)| {
        let name = ranks.name(other + 1);
        setup.differences_to(first).into_iter().map(move |what| format!("{name}: {what}"))
    };
    let differences: Vec<String> = others.iter().enumerate().flat_map(of_other).collect();
    if !differences.is_empty() {
        return Err(RankError::Differ { differences }.into());
    }
    if ranks.is_first() {
        let warnings = shared_devices(&setups).into_iter().chain(unfit_threads(&setups));
        warnings.for_each(|warning| err_line(&format!("warning: {warning}")));
    }
    Ok(())
}

impl Setup {
    /// What is not as on the first rank.
    fn differences_to(&self, first: &Self) -> Vec<String> {
        let (own, first_origin) = (&self.origin, &first.origin);
        let mut found = Vec::new();
        let mut compare = |what: &str, own: &str, first_value: &str| {
            if own != first_value {
                found.push(format!("its {what} is {own}, and {first_value} on rank 0"));
            }
        };
        compare("version of nola-train", &own.version, &first_origin.version);
        compare("generator of random numbers", &self.generator, &first.generator);
        found.extend(differing_keys(&own.recipe, &first_origin.recipe));
        if !is_same_base(&own.base, &first_origin.base) {
            found.push(format!(
                "its base `{}` has other bytes than `{}` on rank 0",
                own.base.name, first_origin.base.name
            ));
        }
        let data = own.data.iter().zip(&first_origin.data).filter(|(own, first)| own.sha256 != first.sha256);
        let difference = |(own, _): (&DataHash, _)| {
            format!("`{}`: {} holds something else than on rank 0", own.key, own.name)
        };
        found.extend(data.map(difference));
        found
    }
}

/// Keys of a recipe with other values than on the first rank.
fn differing_keys(own: &str, first: &str) -> Vec<String> {
    let [own, first] = [own, first]
        .map(|recipe| toml::from_str::<Table>(recipe).map(|table| leaves(&table)).unwrap_or_default());
    let value = |leaves: &[(String, Value)], key: &str| {
        leaves
            .iter()
            .find(|(known, _)| known == key)
            .map_or("absent".to_owned(), |(_, value)| value.to_string())
    };
    let mut keys: Vec<&String> = own.iter().chain(&first).map(|(key, _)| key).collect();
    keys.sort();
    keys.dedup();
    let differing = keys.into_iter().filter(|key| *key != ITS_OWN).filter_map(|key| {
        let (own, first_value) = (value(&own, key), value(&first, key));
        (own != first_value).then(|| format!("`{key}` is {own}, and {first_value} on rank 0"))
    });
    differing.collect()
}

/// GPUs that several ranks of one machine compute on.
fn shared_devices(setups: &[Setup]) -> Vec<String> {
    let is_gpu = |setup: &&Setup| GPUS.iter().any(|gpu| setup.origin.device.starts_with(gpu));
    let place = |setup: &Setup| (setup.machine.clone(), setup.origin.device.clone());
    let mut places: Vec<(String, String)> = setups.iter().filter(is_gpu).map(place).collect();
    places.sort();
    let alike = places.chunk_by(|one, other| one == other).filter(|alike| alike.len() > 1);
    let warnings = alike.map(|alike| {
        let (machine, device) = &alike[0];
        format!(
            "{} ranks compute on one device, {device} of {machine}, unless their launcher shows each one its own GPU alone; --device \
             cuda:local or wgpu:local gives each its own",
            alike.len()
        )
    });
    warnings.collect()
}

/// Machines whose ranks compute on the CPU with more threads than there are cores, or with less than half as many.
fn unfit_threads(setups: &[Setup]) -> Vec<String> {
    let on_cpu = setups.iter().filter(|setup| setup.origin.device.starts_with(CPU));
    let mut machines: BTreeMap<&str, Vec<&Setup>> = BTreeMap::new();
    on_cpu.for_each(|setup| machines.entry(&setup.machine).or_default().push(setup));
    let warnings = machines.into_iter().filter_map(|(machine, setups)| {
        let (ranks, cores) = (setups.len(), setups[0].cores);
        let threads: usize = setups.iter().map(|setup| setup.threads).sum();
        let cure = match threads {
            _ if threads > cores && ranks > cores => "start fewer".to_owned(),
            _ if threads > cores => format!("set RAYON_NUM_THREADS={}", cores / ranks),
            _ if 2 * threads <= cores => format!(
                "mpirun binds a rank to one core where there are few ranks: add --bind-to none, and set RAYON_NUM_THREADS={}",
                cores / ranks
            ),
            _ => return None,
        };
        Some(format!("{ranks} ranks compute with {threads} threads on the {cores} cores of {machine}; {cure}"))
    });
    warnings.collect()
}

/// Logical cores of this machine, whichever of them this process may use.
fn cores() -> usize {
    let cpus = RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing());
    System::new_with_specifics(cpus).map_or(1, |system| system.cpus().len()).max(1)
}

#[cfg(test)]
mod tests {
    use nola_core::BaseIdentity;

    use super::*;

    fn setup() -> Setup {
        let hash = |key: &str, sha256: &str| DataHash {
            key: key.to_owned(),
            name: "rows.txt".to_owned(),
            sha256: sha256.to_owned(),
        };
        let origin = Origin {
            version: "1.0".to_owned(),
            recipe: "[train]\nseed = 1\n[output]\ndir = \"runs/a\"\n".to_owned(),
            base: BaseIdentity {
                name: "base".to_owned(),
                config_sha256: "5".to_owned(),
                weights_sha256: "6".to_owned(),
                tensors_sha256: None,
                quantization: None,
            },
            data: vec![hash("data.train", "1"), hash("data.validation", "2")],
            device: "cuda:0 H200".to_owned(),
        };
        let machine = "node1".to_owned();
        Setup { origin, generator: GENERATOR.to_owned(), machine, cores: 8, threads: 8 }
    }

    /// The differences that are reported of a rank that differs from the first by `change`.
    fn differences(change: impl Fn(&mut Setup)) -> String {
        let mut other = setup();
        change(&mut other);
        other.differences_to(&setup()).join("\n")
    }

    #[test]
    fn every_difference_to_the_first_rank_is_named() {
        assert_eq!(differences(|_| ()), "");
        assert_eq!(
            differences(|other| other.origin.recipe = other.origin.recipe.replace("runs/a", "runs/b")),
            ""
        );
        let seed =
            differences(|other| other.origin.recipe = other.origin.recipe.replace("seed = 1", "seed = 2"));
        assert_eq!(seed, "`train.seed` is 2, and 1 on rank 0");
        let data = differences(|other| other.origin.data[0].sha256 = "3".to_owned());
        assert_eq!(data, "`data.train`: rows.txt holds something else than on rank 0");
        let base = differences(|other| other.origin.base.weights_sha256 = "4".to_owned());
        assert!(base.contains("has other bytes"), "{base}");
        let version = differences(|other| other.origin.version = "2.0".to_owned());
        assert_eq!(version, "its version of nola-train is 2.0, and 1.0 on rank 0");
        assert!(
            differences(|other| other.generator = "another".to_owned())
                .contains("generator of random numbers")
        );
    }

    #[test]
    fn a_gpu_of_two_ranks_is_told_and_the_same_one_of_two_machines_is_not() {
        let (first, mut second) = (setup(), setup());
        let warnings = shared_devices(&[first.clone(), second.clone()]);
        assert!(
            warnings[0].starts_with("2 ranks compute on one device, cuda:0 H200 of node1"),
            "{warnings:?}"
        );
        second.machine = "node2".to_owned();
        assert!(shared_devices(&[first.clone(), second]).is_empty());
        let on_cpu = Setup { origin: Origin { device: "cpu".to_owned(), ..first.origin.clone() }, ..first };
        assert!(shared_devices(&[on_cpu.clone(), on_cpu]).is_empty());
    }

    #[test]
    fn cores_that_are_idle_or_used_twice_are_told_with_the_cure() {
        let of = |device: &str, ranks: usize, threads: usize| {
            let mut setup = Setup { threads, ..setup() };
            setup.origin.device = device.to_owned();
            unfit_threads(&vec![setup; ranks]).join("\n")
        };
        assert_eq!(of("cpu", 2, 4), "");
        assert_eq!(of("cuda:0 H200", 2, 8), "", "a GPU does not compute in threads");
        let twice = of("cpu", 4, 8);
        assert!(twice.starts_with("4 ranks compute with 32 threads on the 8 cores of node1"), "{twice}");
        assert!(twice.ends_with("set RAYON_NUM_THREADS=2"), "{twice}");
        assert!(of("cpu", 9, 1).ends_with("start fewer"));
        assert!(of("cpu", 2, 1).contains("--bind-to none, and set RAYON_NUM_THREADS=4"));
    }
}
