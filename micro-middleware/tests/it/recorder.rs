//! A metrics recorder that a test can read.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};

/// Sums by `name{label=value,…}`; of a histogram how often something was recorded.
#[derive(Clone, Default)]
pub(crate) struct Sums(Arc<Mutex<BTreeMap<String, f64>>>);

impl Sums {
    pub(crate) fn of(&self, series: &str) -> f64 {
        self.0.lock().unwrap().get(series).copied().unwrap_or(f64::NAN)
    }

    /// The series whose text begins so.
    pub(crate) fn series(&self, prefix: &str) -> Vec<String> {
        self.0.lock().unwrap().keys().filter(|series| series.starts_with(prefix)).cloned().collect()
    }

    fn slot(&self, key: &Key) -> Arc<Slot> {
        let labels: Vec<_> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        let series = format!("{}{{{}}}", key.name(), labels.join(","));
        self.0.lock().unwrap().entry(series.clone()).or_insert(0.0);
        Arc::new(Slot { series, sums: self.clone() })
    }
}

struct Slot {
    series: String,
    sums: Sums,
}

impl Slot {
    fn add(&self, value: f64) {
        *self.sums.0.lock().unwrap().get_mut(&self.series).unwrap() += value;
    }
}

impl CounterFn for Slot {
    fn increment(&self, value: u64) {
        self.add(value as f64);
    }

    fn absolute(&self, _: u64) {}
}

impl GaugeFn for Slot {
    fn increment(&self, value: f64) {
        self.add(value);
    }

    fn decrement(&self, value: f64) {
        self.add(-value);
    }

    fn set(&self, _: f64) {}
}

impl HistogramFn for Slot {
    fn record(&self, _: f64) {
        self.add(1.0);
    }
}

impl Recorder for Sums {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.slot(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.slot(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.slot(key))
    }
}
