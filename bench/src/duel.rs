//! Two contestants of workers, turn by turn, and the ratios within their pairs.

use std::{fmt::Write as _, time::Duration};

use serde_json::{Value, json};

use crate::{
    Result,
    process::cpu_time,
    report::{Spread, json_of, shown},
    worker::{Turn, Worker},
};

/// One side: who works, and the processes whose cost counts beside it.
pub struct Contestant {
    /// Its name in reports.
    pub name: &'static str,
    /// Calls or publishes.
    pub worker: Worker,
    /// What it works against: a server of its own, or one that both share.
    pub server: u32,
}

/// What a duel is about.
#[derive(Clone, Copy, Debug)]
pub struct Subject {
    /// Its heading.
    pub name: &'static str,
    /// Its name for programs.
    pub key: &'static str,
    /// What is counted, for `calls/s` and the like.
    pub unit: &'static str,
    /// What the other process is.
    pub server: &'static str,
    /// What the ratios must reach.
    pub targets: &'static [Target],
}

/// A bound of a figure's ratio.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The figure's key.
    pub figure: &'static str,
    /// The bound.
    pub bound: Bound,
}

/// On which side of a number a ratio is to be.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}

/// What a turn of one side measured.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Answers or receipts.
    pub count: u64,
    /// How long it took.
    pub seconds: f64,
    /// Processor time of the worker.
    pub worker_cpu: Duration,
    /// Processor time of what it works against.
    pub server_cpu: Duration,
}

struct Figure {
    name: &'static str,
    key: &'static str,
    of: fn(&Measured) -> f64,
}

const FIGURES: [Figure; 5] = [
    Figure { name: "a second", key: "rate", of: |turn| turn.count as f64 / turn.seconds },
    Figure {
        name: "a processor second",
        key: "per_cpu_second",
        of: |turn| turn.count as f64 / (turn.worker_cpu + turn.server_cpu).as_secs_f64(),
    },
    Figure { name: "client, µs each", key: "client_cpu_us", of: |turn| micros(turn.worker_cpu, turn.count) },
    Figure { name: "server, µs each", key: "server_cpu_us", of: |turn| micros(turn.server_cpu, turn.count) },
    Figure { name: "both, µs each", key: "cpu_us", of: |turn| micros(turn.worker_cpu + turn.server_cpu, turn.count) },
];

fn micros(time: Duration, count: u64) -> f64 {
    time.as_secs_f64() * 1e6 / count as f64
}

/// The pairs of a duel.
pub struct Outcome {
    subject: Subject,
    turn: Turn,
    names: [&'static str; 2],
    pairs: Vec<[Measured; 2]>,
}

/// Has the two take turns, A B B A; one pair before warms up.
pub async fn fight(subject: Subject, sides: &mut [Contestant; 2], turn: Turn, pair_count: u32) -> Result<Outcome> {
    let names = [sides[0].name, sides[1].name];
    let mut pairs = Vec::new();
    for pair in 0..=pair_count {
        let order = if pair % 2 == 0 { [0, 1] } else { [1, 0] };
        let mut measured = [None; 2];
        for side in order {
            measured[side] = Some(take(&mut sides[side], turn).await?);
        }
        if let ([Some(first), Some(second)], 1..) = (measured, pair) {
            pairs.push([first, second]);
        }
    }
    Ok(Outcome { subject, turn, names, pairs })
}

async fn take(side: &mut Contestant, turn: Turn) -> Result<Measured> {
    let cost = |side: &Contestant| Ok::<_, crate::Failure>([cpu_time(side.worker.id())?, cpu_time(side.server)?]);
    let before = cost(side)?;
    let done = side.worker.turn(turn).await?;
    let after = cost(side)?;
    let [worker_cpu, server_cpu] = [0, 1].map(|index| after[index].saturating_sub(before[index]));
    Ok(Measured { count: done.count, seconds: done.seconds, worker_cpu, server_cpu })
}

impl Outcome {
    /// For reading.
    pub fn table(&self) -> String {
        let Subject { name, unit, server, .. } = self.subject;
        let Turn { width, millis } = self.turn;
        let [subject, against] = self.names;
        let mut text = format!(
            "\n{name}, {width} at a time; {} pairs of {millis} ms a turn, A B B A; median [smallest to largest]; \
             the server is {server}\n{unit:<20} {subject:>28} {against:>28} {:>24}\n",
            self.pairs.len(),
            "ratio within pairs",
        );
        for figure in &FIGURES {
            let [subject, against] = [0, 1].map(|side| shown(self.spread(side, figure.of)));
            let verdict = self.target(figure).map(|bound| verdict(bound, self.ratio(figure.of).median));
            let (ratio, verdict) = (shown(self.ratio(figure.of)), verdict.unwrap_or_default());
            writeln!(text, "{:<20} {subject:>28} {against:>28} {ratio:>24}{verdict}", figure.name)
                .expect("a string takes all");
        }
        text
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let figures = FIGURES.iter().map(|figure| {
            let [subject, against] = [0, 1].map(|side| json_of(self.spread(side, figure.of)));
            let mut of_figure = json!({
                self.names[0]: subject, self.names[1]: against, "ratio": json_of(self.ratio(figure.of)),
            });
            match self.target(figure) {
                Some(Bound::AtLeast(bound)) => of_figure["at_least"] = json!(bound),
                Some(Bound::AtMost(bound)) => of_figure["at_most"] = json!(bound),
                None => {}
            }
            (figure.key.to_owned(), of_figure)
        });
        json!({
            "subject": self.subject.key,
            "width": self.turn.width,
            "millis": self.turn.millis,
            "pairs": self.pairs.len(),
            "figures": figures.collect::<serde_json::Map<_, _>>(),
        })
    }

    fn target(&self, figure: &Figure) -> Option<Bound> {
        self.subject.targets.iter().find(|target| target.figure == figure.key).map(|target| target.bound)
    }

    fn spread(&self, side: usize, of: fn(&Measured) -> f64) -> Spread {
        Spread::of(self.pairs.iter().map(|pair| of(&pair[side])))
    }

    fn ratio(&self, of: fn(&Measured) -> f64) -> Spread {
        Spread::of(self.pairs.iter().map(|[subject, against]| of(subject) / of(against)))
    }
}

fn verdict(bound: Bound, ratio: f64) -> String {
    let (text, is_met) = match bound {
        Bound::AtLeast(least) => (format!("≥ {least:.2}"), ratio >= least),
        Bound::AtMost(most) => (format!("≤ {most:.2}"), ratio <= most),
    };
    format!("  target {text}{}", if is_met { "" } else { ", missed" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(count: u64, cpu_millis: u64) -> Measured {
        let cpu = Duration::from_millis(cpu_millis);
        Measured { count, seconds: 1.0, worker_cpu: cpu, server_cpu: cpu }
    }

    #[test]
    fn ratios_are_within_pairs_and_targets_are_judged_by_their_median() {
        let targets = &[
            Target { figure: "rate", bound: Bound::AtLeast(2.0) },
            Target { figure: "client_cpu_us", bound: Bound::AtMost(0.2) },
        ];
        let subject = Subject { name: "Calls", key: "calls", unit: "calls", server: "its own", targets };
        let pairs = vec![
            [measured(2_000, 500), measured(1_000, 1_000)],
            [measured(3_000, 500), measured(1_000, 1_000)],
            [measured(4_000, 500), measured(4_000, 1_000)],
        ];
        let outcome = Outcome { subject, turn: Turn { width: 16, millis: 1_000 }, names: ["ours", "theirs"], pairs };
        let json = outcome.json();
        assert_eq!(json["figures"]["rate"]["ratio"]["median"], 2.0);
        assert_eq!(json["figures"]["rate"]["at_least"], 2.0);
        assert_eq!(json["figures"]["client_cpu_us"]["ours"]["median"], 500_000.0 / 3_000.0);
        // 250 / 1,000, 167 / 1,000, 125 / 250
        assert_eq!(json["figures"]["client_cpu_us"]["ratio"]["median"], 0.25);
        assert_eq!(json["figures"]["per_cpu_second"]["ratio"]["median"], 4.0);
        let table = outcome.table();
        assert!(table.contains("target ≥ 2.00\n"), "{table}");
        assert!(table.contains("target ≤ 0.20, missed\n"), "{table}");
    }
}
