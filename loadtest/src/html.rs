//! A report as one HTML file, with its plots as inline SVG. It loads nothing.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{
    compare::Comparison,
    error::LoadError,
    plot::Plot,
    report::{Figure, Report, format_value},
};
use pregon::terminal::words;

const STYLE: &str = "\
body { font: 15px/1.5 sans-serif; max-width: 62em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 }
th, td { padding: .2em .8em .2em 0; text-align: left; vertical-align: top; border-bottom: 1px solid #ddd }
.n { text-align: right; font-variant-numeric: tabular-nums }
.bad { color: #b00020; font-weight: bold }
svg { max-width: 100%; height: auto }";

/// The page of a report. `comparison`: with the baseline, if there is one.
pub fn page(report: &Report, comparison: Option<&Comparison>) -> Result<String, LoadError> {
    let plots: Vec<String> = report.plots.iter().map(Plot::svg).collect::<Result<_, _>>()?;
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                title { "pregon-load: " (report.scenario) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { (report.scenario) }
                p { (report.about) }
                (origin(report))
                (goals(report))
                h2 { "Figures" }
                (figures(&report.figures))
                @if let Some(comparison) = comparison { (compared(comparison)) }
                @for plot in &plots { figure { (PreEscaped(plot)) } }
            }
        }
    };
    Ok(page.into_string())
}

fn origin(report: &Report) -> Markup {
    let origin = &report.origin;
    let machine = format!("{} cores, {}", origin.cores, origin.processor.as_deref().unwrap_or("unknown"));
    let took = format!("{:.0} s, while others used {:.2} cores", origin.seconds, origin.others_cores);
    let rows = [
        ("command", origin.command.clone()),
        ("commit", origin.commit.clone().unwrap_or_else(|| origin.version.clone())),
        ("machine", machine),
        ("kernel", origin.kernel.clone().unwrap_or_default()),
        ("Redis", origin.redis.clone().unwrap_or_default()),
        ("began", words::time(origin.began_at)),
        ("took", took),
        ("seed", report.seed.to_string()),
    ];
    html! {
        table { @for (name, value) in rows { tr { th { (name) } td { (value) } } } }
    }
}

fn goals(report: &Report) -> Markup {
    html! {
        @if !report.goals.is_empty() {
            h2 { "Goals" }
            table {
                tr { th { "goal" } th { "wanted" } th.n { "worst" } th {} }
                @for verdict in &report.goals {
                    tr {
                        td { (verdict.goal.figure) }
                        td { (verdict.goal.bound) }
                        td.n { (format_value(verdict.value)) }
                        @if verdict.reached { td { "reached" } } @else { td.bad { "MISSED" } }
                    }
                }
            }
        }
    }
}

fn figures(figures: &[Figure]) -> Markup {
    html! {
        table {
            tr { th { "figure" } th { "case" } th.n { "value" } th { "rounds" } }
            @for figure in figures {
                tr {
                    td { (figure.name) }
                    td { (figure.case) }
                    td.n { (format_value(figure.value)) }
                    td { (figure.rounds_text()) }
                }
            }
        }
    }
}

fn compared(comparison: &Comparison) -> Markup {
    html! {
        h2 { "Compared with the baseline" }
        p { "a: " (comparison.of[0]) }
        @if !comparison.differences.is_empty() { p.bad { "different: " (comparison.differences.join(", ")) } }
        table {
            tr { th { "figure" } th { "case" } th.n { "a" } th.n { "this" } th.n { "this/a" } th {} }
            @for figure in &comparison.figures {
                tr {
                    td { (figure.name) }
                    td { (figure.case) }
                    @for value in figure.values { td.n { (format_value(value)) } }
                    td.n { (format!("{:.3}", figure.ratio)) }
                    @if figure.worse { td.bad { "WORSE" } } @else { td {} }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        plot::Series,
        report::{Findings, StartClocks},
        scenario::Scenario,
    };

    #[test]
    fn a_page_has_everything_inside_and_escapes_what_it_shows() {
        let text = "about = 'a <b> & c'\n[start]\n[[goal]]\nfigure = 'start_to_first_send_ms'\nat_most = 300";
        let scenario = Scenario::read(Path::new("start.toml"), text, &[]).expect("a scenario");
        let mut findings = Findings::default();
        findings.rounds("start_to_first_send_ms", vec![310.0, 305.5, 301.0]);
        findings.plots.push(Plot::lines("lines", "each line".into(), vec![Series::by_line("use", [99.0].into_iter())]));
        let origin = StartClocks::now().expect("clocks").finish().expect("clocks");
        let report = Report::new(&scenario, origin, findings);
        let page = page(&report, Some(&Comparison::of([&report, &report], &[]))).expect("a page");
        assert!(
            page.contains("a &lt;b&gt; &amp; c") && page.contains("MISSED") && page.contains("at most 300"),
            "{page}"
        );
        assert!(page.contains("<svg") && page.contains("Compared with the baseline"), "{page}");
        for outside in ["src=", "<link", "url(", "@import", "<script"] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}
