//! The figures of two chains beside each other: medians, the smallest and the largest, and the ratio
//! within pairs.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::round::Outcome;

/// Two contestants' rounds.
pub struct Comparison {
    subject: &'static str,
    against: &'static str,
    setting: String,
    pairs: Vec<[Outcome; 2]>,
    open: Vec<(&'static str, f64, Outcome)>,
}

/// A figure of a round.
struct Figure {
    name: &'static str,
    key: &'static str,
    of: fn(&Outcome) -> f64,
}

const FIGURES: &[Figure] = &[
    Figure { name: "callbacks/s", key: "callbacks_per_second", of: |outcome| outcome.calls_per_second },
    Figure { name: "settled orders/s", key: "settled_per_second", of: |outcome| outcome.settled_per_second },
    Figure { name: "callback p50, ms", key: "callback_p50_ms", of: |outcome| outcome.latency_ms(0.5) },
    Figure { name: "callback p95, ms", key: "callback_p95_ms", of: |outcome| outcome.latency_ms(0.95) },
    Figure { name: "callback p99, ms", key: "callback_p99_ms", of: |outcome| outcome.latency_ms(0.99) },
    Figure {
        name: "services, µs/order",
        key: "services_cpu_us",
        of: |outcome| micros(outcome, outcome.cost.services()),
    },
    Figure { name: "  order", key: "order_cpu_us", of: |outcome| micros(outcome, outcome.cost.order) },
    Figure { name: "  product", key: "product_cpu_us", of: |outcome| micros(outcome, outcome.cost.product) },
    Figure { name: "servers, µs/order", key: "servers_cpu_us", of: |outcome| micros(outcome, outcome.cost.servers()) },
    Figure { name: "  Kafka", key: "kafka_cpu_us", of: |outcome| micros(outcome, outcome.cost.kafka) },
    Figure { name: "  MariaDB", key: "mariadb_cpu_us", of: |outcome| micros(outcome, outcome.cost.mariadb) },
    Figure { name: "  Consul", key: "consul_cpu_us", of: |outcome| micros(outcome, outcome.cost.consul) },
    Figure {
        name: "generator, µs/order",
        key: "generator_cpu_us",
        of: |outcome| micros(outcome, outcome.cost.generator),
    },
    Figure { name: "order, MiB resident", key: "order_rss_mib", of: |outcome| outcome.resident_kib[0] as f64 / 1024.0 },
    Figure {
        name: "product, MiB resident",
        key: "product_rss_mib",
        of: |outcome| outcome.resident_kib[1] as f64 / 1024.0,
    },
    Figure {
        name: "both, MiB resident",
        key: "services_rss_mib",
        of: |outcome| (outcome.resident_kib[0] + outcome.resident_kib[1]) as f64 / 1024.0,
    },
    Figure { name: "statements/order", key: "statements_per_order", of: Outcome::statements_per_order },
    Figure { name: "  commits", key: "commits_per_order", of: |outcome| outcome.statements_of("Com_commit") },
    Figure { name: "  selects", key: "selects_per_order", of: |outcome| outcome.statements_of("Com_select") },
    Figure { name: "  inserts", key: "inserts_per_order", of: |outcome| outcome.statements_of("Com_insert") },
    Figure { name: "  updates", key: "updates_per_order", of: |outcome| outcome.statements_of("Com_update") },
    Figure { name: "  deletes", key: "deletes_per_order", of: |outcome| outcome.statements_of("Com_delete") },
    Figure { name: "  prepares", key: "prepares_per_order", of: |outcome| outcome.statements_of("Com_stmt_prepare") },
];

fn micros(outcome: &Outcome, time: std::time::Duration) -> f64 {
    outcome.micros_per_order(time)
}

/// Median, smallest, largest.
#[derive(Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    min: f64,
    max: f64,
}

impl Comparison {
    /// Of these two under this setting.
    pub fn new(subject: &'static str, against: &'static str, setting: String) -> Self {
        Self { subject, against, setting, pairs: Vec::new(), open: Vec::new() }
    }

    /// Adds a round of each.
    pub fn add_pair(&mut self, subject: Outcome, against: Outcome) {
        self.pairs.push([subject, against]);
    }

    /// Adds a round with calls at fixed times.
    pub fn add_open(&mut self, name: &'static str, per_second: f64, outcome: Outcome) {
        self.open.push((name, per_second, outcome));
    }

    /// The medians of the settled orders a second.
    pub fn settled_rates(&self) -> [f64; 2] {
        [0, 1].map(|side| self.spread(side, |outcome| outcome.settled_per_second).median)
    }

    /// For reading.
    pub fn table(&self) -> String {
        let mut text = format!(
            "\n{}; {} pairs, A B B A; median [smallest to largest]\n{:<22} {:>28} {:>28} {:>24}\n",
            self.setting,
            self.pairs.len(),
            "",
            self.subject,
            self.against,
            "ratio within pairs"
        );
        for figure in FIGURES {
            let [subject, against] = [0, 1].map(|side| shown(self.spread(side, figure.of)));
            let ratio = shown(self.ratio(figure.of));
            writeln!(text, "{:<22} {subject:>28} {against:>28} {ratio:>24}", figure.name).expect("a string takes all");
        }
        if !self.open.is_empty() {
            writeln!(text, "calls at fixed times, latency from when each was due").expect("a string takes all");
        }
        for (name, per_second, outcome) in &self.open {
            writeln!(
                text,
                "{name:<10} at {per_second:6.0}/s: p50 {:.1} p95 {:.1} p99 {:.1} max {:.1} ms, services {:.0} µs an order, \
                 latest sending {:.1} ms after its time",
                outcome.latency_ms(0.5),
                outcome.latency_ms(0.95),
                outcome.latency_ms(0.99),
                outcome.latency_micros.max() as f64 / 1e3,
                micros(outcome, outcome.cost.services()),
                outcome.lag_max.as_secs_f64() * 1e3,
            )
            .expect("a string takes all");
        }
        text
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let figures = FIGURES.iter().map(|figure| {
            let [subject, against] = [0, 1].map(|side| json_of(self.spread(side, figure.of)));
            let of_figure = json!({
                self.subject: subject, self.against: against, "ratio": json_of(self.ratio(figure.of)),
            });
            (figure.key.to_owned(), of_figure)
        });
        let open = self.open.iter().map(|(name, per_second, outcome)| {
            json!({
                "who": name,
                "per_second": per_second,
                "p50_ms": outcome.latency_ms(0.5),
                "p95_ms": outcome.latency_ms(0.95),
                "p99_ms": outcome.latency_ms(0.99),
                "lag_max_ms": outcome.lag_max.as_secs_f64() * 1e3,
            })
        });
        json!({
            "setting": self.setting,
            "pairs": self.pairs.len(),
            "figures": figures.collect::<serde_json::Map<_, _>>(),
            "open_loop": open.collect::<Vec<_>>(),
        })
    }

    fn spread(&self, side: usize, of: fn(&Outcome) -> f64) -> Spread {
        Spread::of(self.pairs.iter().map(|pair| of(&pair[side])))
    }

    fn ratio(&self, of: fn(&Outcome) -> f64) -> Spread {
        Spread::of(self.pairs.iter().map(|[subject, against]| of(subject) / of(against)))
    }
}

impl Spread {
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match values.len() {
            0 => f64::NAN,
            count if count % 2 == 0 => (values[middle - 1] + values[middle]) / 2.0,
            _ => values[middle],
        };
        Self {
            median,
            min: values.first().copied().unwrap_or(f64::NAN),
            max: values.last().copied().unwrap_or(f64::NAN),
        }
    }
}

pub(crate) fn shown(spread: Spread) -> String {
    let digits = match spread.median {
        median if median < 10.0 => 2,
        median if median < 100.0 => 1,
        _ => 0,
    };
    format!("{:.digits$} [{:.digits$} to {:.digits$}]", spread.median, spread.min, spread.max)
}

pub(crate) fn json_of(spread: Spread) -> Value {
    json!({ "median": spread.median, "min": spread.min, "max": spread.max })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_count_is_between_the_two_in_the_middle() {
        let spread = Spread::of([4.0, 1.0, 3.0, 2.0].into_iter());
        assert_eq!((spread.median, spread.min, spread.max), (2.5, 1.0, 4.0));
        assert_eq!(Spread::of([3.0, 1.0, 2.0].into_iter()).median, 2.0);
    }
}
