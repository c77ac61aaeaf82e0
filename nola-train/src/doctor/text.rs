//! What was found, for people.

use comfy_table::{CellAlignment, Table, presets};

use super::check::Checked;
use super::models::{Fits, Needed, Way};
use super::{Diagnosis, Examined, Verdict};
use crate::amounts::{bytes, thousands};

/// The whole text, without the end of its last line.
pub(super) fn of(diagnosis: &Diagnosis) -> String {
    let processor = &diagnosis.processor;
    let fusion = if diagnosis.fusion { "with fusion" } else { "without fusion" };
    let mut lines = vec![
        format!("nola-train {} on burn {}, {fusion}", diagnosis.version, diagnosis.burn),
        format!("processor: {}, {} threads", processor.name, processor.threads),
        format!("features: {}", processor.features.join(" ")),
        format!(
            "kernels: basis in {}, products with bf16 in {}",
            processor.kernels.basis, processor.kernels.products_bf16
        ),
    ];
    for device in &diagnosis.devices {
        lines.push(String::new());
        lines.extend(examined(device));
    }
    if !diagnosis.absent.is_empty() {
        lines.push(String::new());
    }
    lines.extend(diagnosis.absent.iter().map(|absent| format!("{}: {}", absent.device, absent.reason)));
    lines.push(String::new());
    lines.push(format!("examined in {} s", diagnosis.seconds));
    lines.join("\n")
}

fn examined(device: &Examined) -> Vec<String> {
    let mut lines = vec![format!("{}: {}", device.device, device.name)];
    if device.software {
        lines.push("a software renderer, slower than the CPU; auto leaves it out".to_owned());
    }
    lines.extend(device.driver.as_ref().map(|driver| format!("driver: {driver}")));
    let known =
        [device.memory_bytes.map(bytes), device.free_bytes.map(|free| format!("{} free", bytes(free)))];
    let known: Vec<String> = known.into_iter().flatten().collect();
    lines.push(format!("memory: {}", if known.is_empty() { "unknown".to_owned() } else { known.join(", ") }));
    lines.extend(
        (device.limits.as_ref())
            .map(|limits| format!("largest buffer: {}", bytes(limits.largest_buffer_bytes))),
    );
    lines.push(format!("number types: {}", device.dtypes.names().join(" ")));
    lines.push(checks(&device.checks));
    let growth = device.memory_growth.mib.map_or("unknown".to_owned(), |mib| format!("{mib:.1} MiB"));
    lines.push(format!("growth of memory in twenty training steps: {growth}"));
    lines.push("what training with NOLA takes, about:".to_owned());
    lines.push(models(&device.models));
    match device.verdict {
        Verdict::Ok => lines.push(format!("{} is ok", device.device)),
        Verdict::Wrong => {
            lines.extend(
                device.problems.iter().map(|problem| format!("{} is wrong: {problem}", device.device)),
            );
            lines.extend(device.cure.iter().map(|cure| format!("what helps: {cure}")));
        }
    }
    lines
}

/// One row for each group.
fn checks(all: &[Checked]) -> String {
    let mut groups: Vec<&'static str> = Vec::new();
    all.iter().for_each(|check| {
        if !groups.contains(&check.group) {
            groups.push(check.group);
        }
    });
    let mut table =
        table(["checked", "comparisons", "numbers", "largest difference, of what is allowed", ""]);
    for group in groups {
        let of_group: Vec<&Checked> = all.iter().filter(|check| check.group == group).collect();
        let numbers: usize = of_group.iter().map(|check| check.numbers).sum();
        let used = of_group.iter().map(|check| check.used()).fold(0.0, f32::max);
        let is_right = of_group.iter().all(|check| check.problem().is_none());
        table.add_row([
            group.to_owned(),
            of_group.len().to_string(),
            thousands(numbers as u64),
            if used.is_finite() { format!("{:.1} %", 100.0 * used) } else { "beyond".to_owned() },
            if is_right { "ok" } else { "wrong" }.to_owned(),
        ]);
    }
    table.to_string()
}

fn models(all: &[Needed]) -> String {
    let mut table = table([
        "model",
        "parameters",
        "tokens",
        "in f32",
        "in bf16",
        "in bf16, recomputing blocks",
        "in int8, the same",
        "in nf4, the same",
    ]);
    for model in all {
        let head =
            [model.model.to_owned(), thousands(model.parameters as u64), thousands(model.tokens as u64)];
        table.add_row(head.into_iter().chain(model.ways.iter().map(way)));
    }
    table.to_string()
}

fn way(way: &Way) -> String {
    let needed = bytes(way.bytes);
    match way.fits {
        Fits::Yes => format!("{needed} fits"),
        Fits::No => format!("{needed} too large"),
        Fits::NoBuffer => format!("{needed} with a weight of {}, too large", bytes(way.largest_weight_bytes)),
        Fits::Unknown => needed,
    }
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
