//! The figures of a run, as a table and as one JSON object.

use std::fmt;

use serde::Serialize;

use crate::options::WireName;

/// What a run came to. Units: counts, seconds, milliseconds, MiB.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// How the order service had goods deducted.
    pub wire: WireName,
    /// The name of the run: on servers what its databases' and topics' names begin with.
    pub run: String,
    /// Orders seeded.
    pub orders: u64,
    /// Orders whose callback was answered OK, in this run or an earlier one on the same files.
    pub accepted: u64,
    /// Orders paid and confirmed (status 4).
    pub paid: u64,
    /// Orders refused with a reason (status 5).
    pub refused: u64,
    /// Units taken from stock, less those given back.
    pub deducted_units: i64,
    /// Units in stock at first.
    pub stock_before: i64,
    /// Units in stock at the end.
    pub stock_after: i64,
    /// I1: accepted orders that did not settle, or settled without their one deduction.
    pub lost: u64,
    /// I2: orders deducted more than once.
    pub doubled: u64,
    /// I4: deductions of orders that nobody paid.
    pub ghosts: u64,
    /// I1: orders refused though all their goods were there to the end.
    pub needless_refusals: u64,
    /// I3: SKUs whose stock is not what the ledger says, or is negative.
    pub stock_mismatches: u64,
    /// I5: status changes that arrived out of order, or after a gap.
    pub out_of_order: u64,
    /// I5: settled orders of whose status changes some never arrived.
    pub missing_transitions: u64,
    /// I7: dead letters of this run.
    pub dead_letters: u64,
    /// I7: dead letters that are no poison, and poison that is no dead letter.
    pub dead_letter_mismatches: u64,
    /// Poison records injected.
    pub poison: u64,
    /// I6: outbox rows, parked deliveries and unsettled orders left at the end.
    pub left_over: u64,
    /// I12: callbacks that failed.
    pub failed_callbacks: u64,
    /// Callbacks sent, duplicates included.
    pub callbacks: u64,
    /// Records published again with the same event id.
    pub duplicate_records: u64,
    /// Whether an earlier run on the same files was gone on with.
    pub resumed: bool,
    /// From the first callback until everything had settled.
    pub seconds: f64,
    /// Orders settled in this run per second.
    pub orders_per_second: f64,
    /// Half of the callbacks were answered within.
    pub callback_p50_ms: f64,
    /// 95 of 100 callbacks were answered within.
    pub callback_p95_ms: f64,
    /// 99 of 100 callbacks were answered within.
    pub callback_p99_ms: f64,
    /// 95 of 100 orders were settled within, from their first callback.
    pub settled_p95_ms: f64,
    /// Processor time of the whole process, the driver's included, for each order settled.
    pub cpu_ms_per_order: f64,
    /// The most memory the process held.
    pub rss_mib: f64,
    /// Whether every invariant held.
    pub clean: bool,
}

impl Report {
    /// The invariants that are broken, each in a sentence.
    pub fn broken(&self) -> Vec<String> {
        let counts = [
            (self.lost, "I1 no loss: accepted orders did not settle properly"),
            (self.needless_refusals, "I1 no loss: orders were refused though there was enough stock"),
            (self.doubled, "I2 no double: orders were deducted more than once"),
            (self.stock_mismatches, "I3 conservation: SKUs whose stock differs from the ledger, or is negative"),
            (self.ghosts, "I4 no phantom: deductions of orders that nobody paid"),
            (self.out_of_order, "I5 order: status changes arrived out of order"),
            (self.missing_transitions, "I5 order: settled orders of whose status changes some never arrived"),
            (self.left_over, "I6 liveness: outbox rows, parked deliveries or orders were left over"),
            (self.dead_letter_mismatches, "I7 dead letters: they are not the injected poison"),
            (self.failed_callbacks, "I12 callbacks failed"),
        ];
        counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{what}: {count}")).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = [
            ("wire", self.wire.as_str().to_owned()),
            ("orders", format!("{} ({} accepted)", self.orders, self.accepted)),
            ("paid / refused", format!("{} / {}", self.paid, self.refused)),
            ("stock before → after", format!("{} → {}", self.stock_before, self.stock_after)),
            ("units deducted", self.deducted_units.to_string()),
            ("callbacks", format!("{} ({} failed)", self.callbacks, self.failed_callbacks)),
            ("records published again", self.duplicate_records.to_string()),
            ("poison → dead letters", format!("{} → {}", self.poison, self.dead_letters)),
            ("settled orders per second", format!("{:.0} (in {:.2} s)", self.orders_per_second, self.seconds)),
            (
                "callback p50 / p95 / p99",
                format!("{:.2} / {:.2} / {:.2} ms", self.callback_p50_ms, self.callback_p95_ms, self.callback_p99_ms),
            ),
            ("settled p95", format!("{:.1} ms", self.settled_p95_ms)),
            ("processor time per order", format!("{:.3} ms", self.cpu_ms_per_order)),
            ("peak memory", format!("{:.1} MiB", self.rss_mib)),
        ];
        for (name, value) in rows {
            writeln!(f, "  {name:<28}{value}")?;
        }
        let checks = [
            ("lost", self.lost),
            ("doubled", self.doubled),
            ("ghosts", self.ghosts),
            ("out of order", self.out_of_order),
            ("stock mismatches", self.stock_mismatches),
            ("left over", self.left_over),
        ];
        let checks: Vec<String> = checks.iter().map(|(name, count)| format!("{name} {count}")).collect();
        writeln!(f, "  {}", checks.join(" · "))?;
        let broken = self.broken();
        if broken.is_empty() {
            write!(f, "verdict: clean: nothing lost, nothing doubled, stock exact")
        } else {
            write!(f, "verdict: BROKEN\n  {}", broken.join("\n  "))
        }
    }
}

/// Several runs side by side.
pub struct SideBySide<'a>(pub &'a [Report]);

impl fmt::Display for SideBySide<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "  {:<8}{:>10}{:>16}{:>16}{:>14}{:>14}  when a process dies",
            "wire", "orders/s", "callback p50", "callback p95", "settled p95", "CPU/order"
        )?;
        for report in self.0 {
            writeln!(
                f,
                "  {:<8}{:>10.0}{:>13.2} ms{:>13.2} ms{:>11.1} ms{:>11.3} ms  {}",
                report.wire.as_str(),
                report.orders_per_second,
                report.callback_p50_ms,
                report.callback_p95_ms,
                report.settled_p95_ms,
                report.cpu_ms_per_order,
                report.wire.promise()
            )?;
        }
        let broken: Vec<&str> =
            self.0.iter().filter(|report| !report.clean).map(|report| report.wire.as_str()).collect();
        match broken[..] {
            [] => write!(f, "verdict: clean on every wire: nothing lost, nothing doubled, stock exact"),
            _ => write!(f, "verdict: BROKEN on {}", broken.join(", ")),
        }
    }
}

/// The processor time this process used so far, in seconds; 0 where the system does not tell.
pub fn cpu_seconds() -> f64 {
    // Fields 14 and 15, in ticks of 10 ms: what is in front of the last parenthesis may hold spaces.
    std::fs::read_to_string("/proc/self/stat")
        .ok()
        .and_then(|stat| {
            let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
            Some(fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?)
        })
        .map_or(0.0, |ticks| ticks / 100.0)
}

/// The most memory this process held so far, in MiB; 0 where the system does not tell.
pub fn peak_rss_mib() -> f64 {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status.lines().find(|line| line.starts_with("VmHWM:"))?.to_owned();
            line.split_whitespace().nth(1)?.parse::<f64>().ok()
        })
        .map_or(0.0, |kib| kib / 1024.0)
}
