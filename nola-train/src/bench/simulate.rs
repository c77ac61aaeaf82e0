//! `bench simulate`: how often the matrices of an adapter are there when it is asked for, with far more adapters than can be tried.
//!
//! The cache is that of the server; requests are drawn. Replicas stand behind a router that sends each adapter to the replica
//! whose hash with it is the largest (rendezvous hashing), or each request to any.

use clap::{Args, ValueEnum};
use comfy_table::{CellAlignment, Table};
use nola_core::philox::philox4x32_10;
use serde::Serialize;

use super::Output;
use super::statistics::rounded;
use super::traffic::Traffic;
use crate::Error;
use crate::option_values::positive;
use crate::serve::{Lru, Size};

/// Options of `bench simulate`.
#[derive(Debug, Args)]
pub struct SimulateArgs {
    /// Numbers of adapters, with commas between them.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "10000,100000,1000000,10000000,100000000",
        value_name = "COUNTS",
        value_parser = positive()
    )]
    adapters: Vec<usize>,
    /// How often each adapter is asked.
    #[arg(long, value_enum, default_value_t = Traffic::Zipf, value_name = "KIND")]
    traffic: Traffic,
    /// Exponent of Zipf's law.
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    exponent: f64,
    /// Numbers of replicas, with commas between them.
    #[arg(long, value_delimiter = ',', default_value = "1,4,16", value_name = "COUNTS", value_parser = positive())]
    replicas: Vec<usize>,
    /// How requests are sent to replicas, with commas between the ways.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "hashed", value_name = "WAYS")]
    routing: Vec<Routing>,
    /// Requests that are counted, after as many that are not.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = positive())]
    requests: usize,
    /// Bytes of the matrices of an adapter (`matrix_bytes` of `bench serve`, of one).
    #[arg(long, value_name = "N", default_value_t = 1_200_000, value_parser = positive())]
    matrix_bytes: usize,
    /// Bytes of the coefficients of an adapter in memory.
    #[arg(long, value_name = "N", default_value_t = 30_000, value_parser = positive())]
    coefficient_bytes: usize,
    /// MiB of matrices that each replica keeps (`--adapter-mib` of `serve`).
    #[arg(long, value_name = "N", default_value_t = 4096)]
    adapter_mib: u64,
}

/// How requests are sent to replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Routing {
    /// By a hash of the adapter's name: always to the same one.
    Hashed,
    /// In turn, whatever the adapter.
    InTurn,
}

impl Routing {
    /// The replica, from 0, that the request number `request` goes to.
    fn replica(self, adapter: u64, request: usize, replicas: usize) -> usize {
        match self {
            Self::InTurn => request % replicas,
            Self::Hashed => {
                let hash = |replica: &usize| {
                    let [word, more, ..] =
                        philox4x32_10([adapter as u32, (adapter >> 32) as u32, *replica as u32, 0], [0, 0]);
                    u64::from(word) << 32 | u64::from(more)
                };
                (0..replicas).max_by_key(hash).unwrap_or(0)
            }
        }
    }

    /// How many adapters a replica has to know.
    fn adapters_of_each(self, adapters: usize, replicas: usize) -> usize {
        match self {
            Self::Hashed => adapters.div_ceil(replicas),
            Self::InTurn => adapters,
        }
    }

    fn name(self) -> String {
        self.to_possible_value().expect("no way is hidden").get_name().to_owned()
    }
}

/// What `bench simulate` found of one case.
#[derive(Debug, Serialize)]
pub struct SimulateLine {
    what: &'static str,
    adapters: usize,
    traffic: Traffic,
    exponent: f64,
    replicas: usize,
    routing: Routing,
    /// Requests that were counted.
    requests: usize,
    /// How often matrices were there, and how often they had to be made.
    found: u64,
    made: u64,
    /// Share of requests whose matrices were there.
    found_share: f64,
    /// Adapters whose matrices all replicas keep at the end.
    kept: usize,
    /// Bytes of the coefficients and of the matrices in each replica.
    coefficient_bytes: u64,
    matrix_bytes: u64,
    /// Requests of the busiest replica, as a multiple of those of all on average.
    busiest: f64,
}

/// Simulates each number of adapters with each number of replicas.
///
/// # Errors
/// If a line cannot be printed.
pub fn run(args: &SimulateArgs, output: &mut Output<SimulateLine>) -> Result<(), Error> {
    for &adapters in &args.adapters {
        for (&replicas, &routing) in
            args.replicas.iter().flat_map(|count| args.routing.iter().map(move |routing| (count, routing)))
        {
            output.note(&format!("{adapters} adapters, {replicas} replicas, {}", routing.name()));
            output.line(line(args, adapters, replicas, routing))?;
        }
    }
    Ok(())
}

fn line(args: &SimulateArgs, adapters: usize, replicas: usize, routing: Routing) -> SimulateLine {
    let size = Size { own: args.matrix_bytes as u64, shared: None };
    let mut caches: Vec<Lru<()>> = (0..replicas).map(|_| Lru::new(args.adapter_mib << 20)).collect();
    let mut asked = vec![0_usize; replicas];
    let mut made = 0;
    let requests = args.traffic.requests(adapters as u64, args.exponent);
    for (number, adapter) in requests.take(2 * args.requests).enumerate() {
        let replica = routing.replica(adapter, number, replicas);
        let is_made = !is_found(&mut caches[replica], adapter, size);
        if number >= args.requests {
            made += u64::from(is_made);
            asked[replica] += 1;
        }
    }
    let found = args.requests as u64 - made;
    let largest = asked.iter().copied().max().unwrap_or(0);
    let of_each = routing.adapters_of_each(adapters, replicas) as u64;
    SimulateLine {
        what: "simulate",
        adapters,
        traffic: args.traffic,
        exponent: args.exponent,
        replicas,
        routing,
        requests: args.requests,
        found,
        made,
        found_share: rounded(found as f64 / args.requests as f64, 4),
        kept: caches.iter().map(Lru::len).sum(),
        coefficient_bytes: of_each * args.coefficient_bytes as u64,
        matrix_bytes: caches.iter().map(Lru::bytes).max().unwrap_or(0),
        busiest: rounded(largest as f64 * replicas as f64 / args.requests as f64, 3),
    }
}

/// Asks a cache for an adapter, which is then in it; whether it was there.
pub(super) fn is_found(cache: &mut Lru<()>, adapter: u64, size: Size) -> bool {
    if cache.get(adapter).is_some() {
        return true;
    }
    cache.insert(adapter, (), size, |()| false);
    false
}

/// The lines for people.
pub fn table(lines: &[SimulateLine], table: &mut Table) {
    table.set_header([
        "adapters",
        "replicas",
        "routing",
        "found %",
        "made of 1000",
        "kept",
        "coefficients GB, each",
        "matrices GB, each",
        "busiest",
    ]);
    let gb = |bytes: u64| format!("{:.3}", bytes as f64 / 1e9);
    for line in lines {
        table.add_row([
            line.adapters.to_string(),
            line.replicas.to_string(),
            line.routing.name(),
            format!("{:.2}", 100.0 * line.found_share),
            format!("{:.2}", 1000.0 * line.made as f64 / line.requests as f64),
            line.kept.to_string(),
            gb(line.coefficient_bytes),
            gb(line.matrix_bytes),
            format!("{:.3}", line.busiest),
        ]);
    }
    for column in table.column_iter_mut() {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(adapters: usize, replicas: usize) -> SimulateArgs {
        SimulateArgs {
            adapters: vec![adapters],
            traffic: Traffic::Zipf,
            exponent: 1.0,
            replicas: vec![replicas],
            routing: vec![Routing::Hashed],
            requests: 20_000,
            matrix_bytes: 1 << 20,
            coefficient_bytes: 1000,
            adapter_mib: 100,
        }
    }

    fn simulated(adapters: usize, replicas: usize, routing: Routing) -> SimulateLine {
        line(&args(adapters, replicas), adapters, replicas, routing)
    }

    #[test]
    fn where_all_fit_everything_is_found() {
        let line = simulated(100, 1, Routing::Hashed);
        assert_eq!((line.made, line.kept, line.matrix_bytes), (0, 100, 100 << 20));
    }

    #[test]
    fn more_adapters_are_found_less_often() {
        let found = [200, 2000, 200_000].map(|adapters| simulated(adapters, 1, Routing::Hashed).found_share);
        assert!(found.is_sorted_by(|one, next| one > next) && found[0] > 0.5 && found[2] < 0.5, "{found:?}");
    }

    #[test]
    fn replicas_that_have_adapters_of_their_own_keep_more_of_them() {
        let [hashed, in_turn] = [Routing::Hashed, Routing::InTurn].map(|way| simulated(5000, 4, way));
        assert!(hashed.found_share > in_turn.found_share + 0.05, "{hashed:?} {in_turn:?}");
        assert_eq!(hashed.coefficient_bytes * 4, in_turn.coefficient_bytes);
    }

    #[test]
    fn a_hash_moves_few_adapters_when_a_replica_comes() {
        let moved = |adapter: u64| {
            let [four, five] = [4, 5].map(|replicas| Routing::Hashed.replica(adapter, 0, replicas));
            four != five
        };
        let moved = (0..10_000).filter(|&adapter| moved(adapter)).count();
        assert!((1800..2200).contains(&moved), "a fifth of them: {moved}");
    }
}
