//! Two variants in turn, A B B A, and what their ratio is.

use std::fs;

/// What one turn of a variant measured.
#[derive(Clone, Copy)]
pub(crate) struct Turn {
    /// Messages a second.
    pub(crate) rate: f64,
    /// Processor time of this process for each message, in microseconds.
    pub(crate) cpu: f64,
}

/// Processor time of this process so far, in seconds, in steps of 10 ms.
pub(crate) fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in brackets may hold blanks; user and system time are the 12th and 13th behind it.
    let behind = stat.rsplit(')').next().unwrap_or_default();
    behind.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// Peak resident memory of this process, in MiB.
pub(crate) fn memory_peak() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).unwrap_or_default() / 1024.0
}

/// Prints the median ratio of the pairs with its quartiles, and the medians behind it.
pub(crate) fn show(what: &str, ours: &[Turn], raw: &[Turn], target: f64) {
    let ratios = sorted(ours.iter().zip(raw).map(|(ours, raw)| ours.rate / raw.rate));
    let rates = [ours, raw].map(|turns| sorted(turns.iter().map(|turn| turn.rate)));
    let cpus = [ours, raw].map(|turns| sorted(turns.iter().map(|turn| turn.cpu)));
    println!(
        "{what}: {:.2} [{:.2} to {:.2}] of raw over {} pairs, target {target} ({:.0} / {:.0} messages a second, {:.2} / \
         {:.2} µs of processor time a message)",
        at(&ratios, 2),
        at(&ratios, 1),
        at(&ratios, 3),
        ratios.len(),
        at(&rates[0], 2),
        at(&rates[1], 2),
        at(&cpus[0], 2),
        at(&cpus[1], 2),
    );
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// A quartile: 1, 2 (the median) or 3.
fn at(sorted: &[f64], quarter: usize) -> f64 {
    sorted[(sorted.len() * quarter / 4).min(sorted.len() - 1)]
}
