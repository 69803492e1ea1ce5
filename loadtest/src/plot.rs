//! Plots of a report, as SVG.

use std::fmt::Display;

use hdrhistogram::Histogram;
use plotters::{
    chart::{ChartBuilder, SeriesLabelPosition},
    element::{Circle, PathElement},
    prelude::{IntoDrawingArea as _, SVGBackend},
    series::LineSeries,
    style::{Color as _, RGBColor, WHITE},
};
use serde::{Deserialize, Serialize};

use super::{arrivals::Seen, error::LoadError};
use pregon::terminal::words;

const SIZE: (u32, u32) = (960, 420);

/// The most points of a series. More points than pixel columns would not be visible.
const POINTS_MAX: usize = 480;

/// Blue, orange, green and violet: distinguishable with colour blindness.
const COLOURS: [RGBColor; 4] =
    [RGBColor(31, 119, 180), RGBColor(214, 97, 0), RGBColor(0, 128, 96), RGBColor(140, 80, 180)];

/// A plot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plot {
    /// The name of its file, without the extension.
    pub name: String,
    /// The caption.
    pub title: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The label of the vertical axis.
    pub y: String,
    /// Draw points instead of lines.
    pub points: bool,
    /// The data.
    pub series: Vec<Series>,
}

/// The horizontal axis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Axis {
    /// Seconds.
    Seconds,
    /// Lines (phone numbers), in the order of their ids.
    Lines,
    /// Messages offered per second.
    Offered,
    /// Shares on a logarithmic scale: 0 %, 90 %, 99 %, 99.9 %.
    Nines,
}

/// One curve, or points of one colour.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// The name in the legend.
    pub name: String,
    /// Pairs of x and y.
    pub points: Vec<(f64, f64)>,
}

impl Plot {
    /// Messages per second over time.
    pub fn throughput(series: Vec<Series>) -> Self {
        let (name, title, y) = ("throughput".into(), "messages received by the fake Meta".into(), "messages/s".into());
        Self { name, title, x: Axis::Seconds, y, points: false, series }
    }

    /// Latency by share of the requests.
    pub fn latency(series: Vec<Series>) -> Self {
        let (name, title, y) = ("latency".into(), "latency, by share of the requests".into(), "ms".into());
        Self { name, title, x: Axis::Nines, y, points: false, series }
    }

    /// A value by the load that was offered.
    pub fn by_load(name: &str, title: String, y: &str, series: Vec<Series>) -> Self {
        Self { name: name.into(), title, x: Axis::Offered, y: y.into(), points: false, series }
    }

    /// A value for each line, in percent of its rate.
    pub fn lines(name: &str, title: String, series: Vec<Series>) -> Self {
        Self { name: name.into(), title, x: Axis::Lines, y: "% of the rate".into(), points: true, series }
    }

    /// The plot as SVG.
    pub fn svg(&self) -> Result<String, LoadError> {
        let mut text = String::new();
        self.draw(&mut text).map_err(LoadError::of)?;
        Ok(text)
    }

    fn draw(&self, text: &mut String) -> Result<(), Box<dyn std::error::Error + '_>> {
        let root = SVGBackend::with_string(text, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let all = || self.series.iter().flat_map(|series| &series.points);
        let (x_max, y_max) = all().fold((0.0f64, 0.0f64), |max, point| (max.0.max(point.0), max.1.max(point.1)));
        let (x_max, y_max) = (if x_max > 0.0 { x_max } else { 1.0 }, if y_max > 0.0 { y_max * 1.08 } else { 1.0 });
        // Points close to 100 % would otherwise form one line at the top.
        let y_min = all().map(|point| point.1).fold(f64::INFINITY, f64::min);
        let y_min = if self.points && y_min > 50.0 { (y_min - 5.0).floor() } else { 0.0 };
        let mut chart = ChartBuilder::on(&root)
            .caption(&self.title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(42)
            .y_label_area_size(72)
            .build_cartesian_2d(0.0..x_max, y_min..y_max)?;
        let label = |x: &f64| self.x.label(*x);
        let size = |y: &f64| if *y < 10.0 { format!("{y:.1}") } else { words::count(y.round() as u64) };
        let steps = match self.x {
            Axis::Nines => (x_max.floor() as usize + 1).max(2),
            Axis::Seconds | Axis::Lines | Axis::Offered => 10,
        };
        chart
            .configure_mesh()
            .x_desc(self.x.describe())
            .y_desc(&self.y)
            .x_labels(steps)
            .x_label_formatter(&label)
            .y_label_formatter(&size)
            .label_style(("sans-serif", 13))
            .light_line_style(WHITE)
            .draw()?;
        for (number, series) in self.series.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let points = series.points.iter().copied();
            let drawn = if self.points {
                chart.draw_series(points.map(|point| Circle::new(point, 2, colour.filled())))?
            } else {
                chart.draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            };
            drawn
                .label(&series.name)
                .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(3)));
        }
        chart
            .configure_series_labels()
            .position(if self.x == Axis::Nines {
                SeriesLabelPosition::UpperLeft
            } else {
                SeriesLabelPosition::LowerRight
            })
            .background_style(WHITE.mix(0.85))
            .border_style(RGBColor(200, 200, 200))
            .label_font(("sans-serif", 13))
            .draw()?;
        root.present()?;
        Ok(())
    }
}

impl Axis {
    fn describe(&self) -> &'static str {
        match self {
            Axis::Seconds => "s",
            Axis::Lines => "lines",
            Axis::Offered => "messages offered per second",
            Axis::Nines => "share of the requests",
        }
    }

    fn label(&self, x: f64) -> String {
        match self {
            Axis::Seconds | Axis::Lines => format!("{x:.0}"),
            Axis::Offered => words::count(x.round() as u64),
            Axis::Nines => {
                let decimals = (x.round() as usize).saturating_sub(2);
                format!("{:.decimals$} %", 100.0 * (1.0 - 10f64.powf(-x)))
            }
        }
    }
}

impl Series {
    /// Messages per second over time. The last interval is omitted if it is incomplete.
    pub fn throughput(name: impl Display, seen: &Seen) -> Self {
        let tenths =
            (seen.per_tenth.len() / POINTS_MAX + 1).next_multiple_of(if seen.per_tenth.len() > 100 { 10 } else { 1 });
        let pieces = seen.per_tenth.chunks_exact(tenths).enumerate();
        let seconds = tenths as f64 / 10.0;
        let points = pieces.map(|(at, piece)| (at as f64 * seconds, piece.iter().sum::<u64>() as f64 / seconds));
        Self { name: name.to_string(), points: points.collect() }
    }

    /// A latency in microseconds by share, up to the highest share that the number of values can resolve.
    pub fn quantiles(name: impl Display, histogram: &Histogram<u64>) -> Self {
        let steps = (histogram.len().max(1) as f64).log10() * 10.0;
        let points = (0..=steps as u32).map(|step| {
            let nines = f64::from(step) / 10.0;
            (nines, histogram.value_at_quantile(1.0 - 10f64.powf(-nines)) as f64 / 1_000.0)
        });
        Self { name: name.to_string(), points: points.collect() }
    }

    /// A value for each line, numbered from 1.
    pub fn by_line(name: impl Display, values: impl Iterator<Item = f64>) -> Self {
        let points = values.enumerate().map(|(line, value)| ((line + 1) as f64, value));
        Self { name: name.to_string(), points: points.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks that every element is closed, in order. Returns the names of the elements.
    fn elements(svg: &str) -> Vec<&str> {
        let (mut open, mut all) = (Vec::new(), Vec::new());
        for tag in svg.split('<').skip(1).map(|rest| rest.split_once('>').expect("a tag ends").0) {
            let name = tag.trim_start_matches('/').split([' ', '/', '\n']).next().expect("a name");
            if tag.starts_with('/') {
                assert_eq!(open.pop(), Some(name), "closed in order");
            } else if !tag.starts_with(['?', '!']) {
                all.push(name);
                if !tag.ends_with('/') {
                    open.push(name);
                }
            }
        }
        assert!(open.is_empty(), "{open:?} is left open");
        all
    }

    #[test]
    fn a_plot_is_well_formed_and_has_its_labels() {
        let seen = Seen { total: 60, first_us: 1, last_us: 2, per_tenth: vec![10, 20, 30, 0], ..Seen::default() };
        let svg = Plot::throughput(vec![Series::throughput("<bare> & dispatch", &seen)]).svg().expect("a plot");
        let elements = elements(&svg);
        assert_eq!(elements[0], "svg");
        assert!(elements.contains(&"polyline") && elements.contains(&"text"), "{elements:?}");
        assert!(svg.contains("messages/s") && svg.contains("&lt;bare&gt; &amp; dispatch"), "{svg}");
    }

    #[test]
    fn lines_are_drawn_as_points_and_an_empty_plot_is_valid() {
        let series = Series::by_line("use", [99.0, 100.5, 98.0].into_iter());
        let svg = Plot::lines("lines", "use".into(), vec![series]).svg().expect("a plot");
        assert_eq!(elements(&svg).iter().filter(|name| **name == "circle").count(), 3);
        elements(&Plot::latency(Vec::new()).svg().expect("an empty plot"));
    }

    #[test]
    fn long_throughput_is_aggregated_by_the_second() {
        let seen = |tenths| Seen { per_tenth: vec![5; tenths], ..Seen::default() };
        assert_eq!(Series::throughput("", &seen(3)).points, [(0.0, 50.0), (0.1, 50.0), (0.2, 50.0)]);
        let long = Series::throughput("", &seen(1_205)).points;
        assert_eq!((long.len(), long[1]), (120, (1.0, 50.0)));
        assert!(Series::throughput("", &seen(100_000)).points.len() <= POINTS_MAX);
    }

    #[test]
    fn quantiles_end_at_the_resolution_of_the_values() {
        let mut histogram = Histogram::new(3).expect("a histogram");
        (1..=1_000u64).for_each(|value| histogram.record(value * 1_000).expect("recorded"));
        let points = Series::quantiles("", &histogram).points;
        assert_eq!((points.len(), points[0].0, points[30].0), (31, 0.0, 3.0));
        assert!((points[10].1 - 900.0).abs() < 1.0 && (points[20].1 - 990.0).abs() < 1.0, "{points:?}");
        assert_eq!([0.0, 1.0, 2.0, 3.0].map(|x| Axis::Nines.label(x)), ["0 %", "90 %", "99 %", "99.9 %"]);
    }
}
