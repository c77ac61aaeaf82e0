//! A run of two processes on two networks, with a slow line between them: `ip netns` and `tc`, as far as the machine allows.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use crate::program::{Outcome, Workshop};
use crate::program_mpi::{TEXT, mpirun, program, whole};
use crate::program_resume::assert_same;
use crate::text_workshop::text_workshop;

/// The networks, the ends of the line between them, and their addresses.
const ENDS: [(&str, &str, &str); 2] =
    [("nola-test-a", "nola-a", "10.213.7.1"), ("nola-test-b", "nola-b", "10.213.7.2")];
/// Both.
const NETWORK: &str = "10.213.7.0/24";
/// What makes the line slow.
const DELAY: &str = "netem delay 10ms";
/// What makes it narrow, where there is no delay.
const NARROW: &str = "tbf rate 20mbit burst 32kbit latency 100ms";

/// Two networks with a line between them; removed when dropped.
struct Networks;

impl Networks {
    /// None, with the reason, where the machine does not allow it.
    fn new() -> Option<Self> {
        if !run("ip", "netns list") {
            println!("skipped: there is no `ip`");
            return None;
        }
        let networks = Self;
        let made = ENDS.iter().all(|(name, ..)| run("ip", &format!("netns add {name}")));
        if !made {
            println!("skipped: no network can be made (ip netns add), which takes root");
            return None;
        }
        let [(_, end, _), (_, other, _)] = ENDS;
        assert!(run("ip", &format!("link add {end} type veth peer name {other}")));
        for (name, end, address) in ENDS {
            assert!(run("ip", &format!("link set {end} netns {name}")));
            assert!(run("ip", &format!("-n {name} addr add {address}/24 dev {end}")));
            assert!(run("ip", &format!("-n {name} link set lo up")));
            assert!(run("ip", &format!("-n {name} link set {end} up")));
        }
        Some(networks)
    }

    /// Makes the line slow, as far as this system can.
    fn slow_down(&self) {
        let is_slow = |how: &str| {
            let end = |(name, end, _): &(&str, &str, &str)| {
                run("ip", &format!("netns exec {name} tc qdisc replace dev {end} root {how}"))
            };
            ENDS.iter().all(end)
        };
        if is_slow(DELAY) {
            return println!("the line between the networks: {DELAY}");
        }
        println!("skipped the delay: this system has no netem");
        if is_slow(NARROW) {
            return println!("the line between the networks: {NARROW}");
        }
        println!("skipped the narrow line: this system has no tbf");
    }
}

impl Drop for Networks {
    fn drop(&mut self) {
        for (name, ..) in ENDS {
            run("ip", &format!("netns del {name}"));
        }
    }
}

fn run(program: &str, arguments: &str) -> bool {
    let mut command = Command::new(program);
    let status = command.args(arguments.split(' ')).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// Starts processes of the second network, in place of ssh: the first argument is a host.
fn write_agent(workshop: &Workshop) {
    let agent = format!("#!/bin/sh\nshift\nexec ip netns exec {} sh -c \"$*\"\n", ENDS[1].0);
    workshop.write("agent", agent);
    std::fs::set_permissions(workshop.at("agent"), std::fs::Permissions::from_mode(0o755)).expect("a file");
}

#[test]
fn a_run_over_a_slow_network_leaves_the_bytes_of_one_process() {
    let Some(program) = program() else { return };
    let Some(networks) = Networks::new() else { return };
    networks.slow_down();
    let workshop = text_workshop();
    whole(&workshop, 2, &TEXT);
    write_agent(&workshop);
    let of_ranks = mpirun(&workshop);
    let mut command = Command::new("ip");
    command.current_dir(workshop.at(".")).args(["netns", "exec", ENDS[0].0, "mpirun"]);
    command.envs(of_ranks.get_envs().filter_map(|(name, value)| Some((name, value?))));
    for (key, value) in [
        ("plm", "rsh"),
        ("oob_tcp_if_include", NETWORK),
        ("btl", "self,tcp"),
        ("btl_tcp_if_include", NETWORK),
    ] {
        command.args(["--mca", key, value]);
    }
    command.args(["--mca", "plm_rsh_agent"]).arg(workshop.at("agent"));
    // What is set here does not reach the other network by itself.
    command.args(["-x", "NOLA_CACHE", "-x", "RAYON_NUM_THREADS", "-wdir"]).arg(workshop.at("."));
    command.args(["-H", &format!("{}:1,{}:1", ENDS[0].2, ENDS[1].2), "-n", "2"]).arg(program);
    command.args(["--device", "cpu"]).args(TEXT).args(["--set=output.dir=runs/ranks", "--json"]);
    let run = Outcome::of(command.stdin(Stdio::null()).output().expect("ip starts"));
    assert_eq!(run.json()["steps"], 8);
    assert_same(&workshop, "runs/ranks", "runs/whole");
}
