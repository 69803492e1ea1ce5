//! Writes series in the text format of Prometheus, for those that the recorder cannot remove again.
//!
//! Source: <https://prometheus.io/docs/instrumenting/exposition_formats/>, read 2026-11-30.

use std::fmt::{Display, Write as _};

use super::series::Series;

/// The text of a page.
#[derive(Debug, Default)]
pub(super) struct MetricsText(String);

impl MetricsText {
    /// Starts with the series of the recorder.
    pub(super) fn new(recorded: String) -> Self {
        Self(recorded)
    }

    /// Adds a series with its samples: the labels in the order of [`Series::labels`], and the value. A series without
    /// samples is left out.
    pub(super) fn add<'l, V: Display, const N: usize>(
        &mut self,
        name: &'static str,
        samples: impl IntoIterator<Item = ([&'l str; N], V)>,
    ) {
        let series = Series::named(name);
        assert_eq!(series.labels.len(), N, "{name}");
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_some() {
            self.push(format_args!("# HELP {name} {}\n# TYPE {name} {}\n", series.help, series.kind.name()));
        }
        for (labels, value) in samples {
            self.push(format_args!("{name}"));
            for (at, (label, text)) in series.labels.iter().zip(labels).enumerate() {
                let open = if at == 0 { '{' } else { ',' };
                self.push(format_args!("{open}{label}=\"{}\"", escaped(text)));
            }
            self.push(format_args!("{} {value}\n", if N == 0 { "" } else { "}" }));
        }
    }

    /// Adds a histogram without labels: the upper limit of each bucket and the number of samples in it, the number of
    /// samples above the last limit, and the sum of all samples.
    pub(super) fn add_histogram(
        &mut self,
        name: &'static str,
        buckets: impl IntoIterator<Item = (f64, u64)>,
        above: u64,
        sum: f64,
    ) {
        self.push(format_args!("# HELP {name} {}\n# TYPE {name} histogram\n", Series::named(name).help));
        let mut count = 0;
        for (limit, n) in buckets {
            count += n;
            self.push(format_args!("{name}_bucket{{le=\"{limit}\"}} {count}\n"));
        }
        count += above;
        self.push(format_args!("{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {sum}\n{name}_count {count}\n"));
    }

    /// The page.
    pub(super) fn into_string(self) -> String {
        self.0
    }

    fn push(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = self.0.write_fmt(text);
    }
}

fn escaped(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::{
        super::series::{ATTEMPT_DURATION, ATTEMPTS, LINES_OWNED},
        *,
    };

    #[test]
    fn series_are_written_as_prometheus_reads_them() {
        let mut text = MetricsText::new("up 1\n".to_owned());
        text.add(ATTEMPTS, [(["30\"01", "failed"], 2u64)]);
        text.add(LINES_OWNED, [([], 0.5)]);
        let lines = text.into_string();
        let samples: Vec<&str> = lines.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            samples,
            ["up 1", "pregon_attempts_total{line=\"30\\\"01\",outcome=\"failed\"} 2", "pregon_lines_owned 0.5"]
        );
        assert!(lines.contains("# TYPE pregon_attempts_total counter\n"), "{lines}");
    }

    #[test]
    fn the_buckets_of_a_histogram_are_cumulative() {
        let mut text = MetricsText::default();
        text.add_histogram(ATTEMPT_DURATION, [(0.1, 2), (0.5, 3)], 1, 4.25);
        let lines = text.into_string();
        let samples: Vec<&str> = lines.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            samples,
            [
                "pregon_attempt_duration_seconds_bucket{le=\"0.1\"} 2",
                "pregon_attempt_duration_seconds_bucket{le=\"0.5\"} 5",
                "pregon_attempt_duration_seconds_bucket{le=\"+Inf\"} 6",
                "pregon_attempt_duration_seconds_sum 4.25",
                "pregon_attempt_duration_seconds_count 6",
            ]
        );
    }

    #[test]
    fn a_series_without_samples_is_left_out() {
        let mut text = MetricsText::default();
        text.add(ATTEMPTS, <[([&str; 2], u64); 0]>::default());
        assert_eq!(text.into_string(), "");
    }
}
