//! What an exchange takes over a network: arithmetic, for messages of published sizes.

use nola_core::Targets;

use super::{LORA_RANK, Preset};

/// A network between nodes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    /// Of each node, in both directions at once.
    pub mbit_s: u32,
    /// One way.
    pub latency_ms: u32,
}

/// The networks that are computed.
pub(super) const LINKS: [Link; 6] = [
    Link { mbit_s: 1000, latency_ms: 1 },
    Link { mbit_s: 1000, latency_ms: 20 },
    Link { mbit_s: 1000, latency_ms: 100 },
    Link { mbit_s: 100, latency_ms: 1 },
    Link { mbit_s: 100, latency_ms: 20 },
    Link { mbit_s: 100, latency_ms: 100 },
];

impl Link {
    /// Seconds until every one of `nodes` has the messages of all others, each of so many bytes: they go out at once, and what
    /// comes in shares the node's own line.
    pub(super) fn seconds(self, bytes: usize, nodes: usize) -> f64 {
        let bits = 8.0 * bytes as f64 * nodes.saturating_sub(1) as f64;
        f64::from(self.latency_ms) / 1e3 + bits / (1e6 * f64::from(self.mbit_s))
    }
}

/// What a rank sends in each step.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub model: String,
    pub method: &'static str,
    /// Numbers that are trained.
    pub trainable: usize,
}

impl Message {
    pub(super) fn bytes(&self) -> usize {
        self.trainable * size_of::<f32>()
    }
}

/// NOLA, LoRA and full fine-tuning of a model.
pub(super) fn messages(preset: Preset) -> [Message; 3] {
    let (sizes, k) = (preset.sizes(), preset.defaults().k);
    let sites = sizes.sites(&Targets::default()).expect("every preset has queries and values");
    let lora = sites.iter().map(|site| LORA_RANK * (site.d_in + site.d_out)).sum();
    let all = sizes.parameters();
    [("nola", 2 * k * sites.len()), ("lora", lora), ("full", all)].map(|(method, trainable)| Message {
        model: preset.name(),
        method,
        trainable,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_sizes_of_the_methods() {
        let bytes = |preset| messages(preset).map(|message| message.bytes());
        assert_eq!(bytes(Preset::Llama7b), [262_144, 16_777_216, 26_953_662_464]);
        assert_eq!(bytes(Preset::Gpt2), [196_608, 1_179_648, 497_759_232]);
    }

    #[test]
    fn an_exchange_takes_the_latency_once_and_the_line_for_all_others() {
        let link = Link { mbit_s: 100, latency_ms: 20 };
        assert_eq!(link.seconds(12_500_000, 2), 1.02);
        assert_eq!(link.seconds(12_500_000, 5), 4.02);
        assert_eq!(link.seconds(12_500_000, 1), 0.02);
    }
}
