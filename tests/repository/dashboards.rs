//! Checks the dashboards in config/grafana: each panel asks for series that docs/metrics.md lists, with the variables of
//! its dashboard, and its threshold is that of the alert that it names.
//!
//! Whether Prometheus evaluates each query is tested by tests/walkthrough.

use serde_json::Value;

use super::alerts::{ALERTS, alerts, assert_names_listed_series, read};

const DASHBOARDS: [&str; 3] =
    ["config/grafana/fleet.json", "config/grafana/line.json", "config/grafana/campaigns.json"];

fn list(json: &Value) -> &[Value] {
    json.as_array().map_or(&[], Vec::as_slice)
}

fn text<'j>(json: &'j Value, key: &str) -> &'j str {
    json[key].as_str().unwrap_or_default()
}

/// Each dashboard with its file.
fn dashboards() -> impl Iterator<Item = (&'static str, Value)> {
    DASHBOARDS.into_iter().map(|file| (file, serde_json::from_str(&read(file)).expect(file)))
}

/// The panels that show series.
fn graphs(dashboard: &Value) -> impl Iterator<Item = &Value> {
    list(&dashboard["panels"]).iter().filter(|panel| panel["type"] != "text")
}

#[test]
fn each_panel_shows_listed_series_with_a_unit_and_a_description() {
    for (file, dashboard) in dashboards() {
        let variables: Vec<&str> = list(&dashboard["templating"]["list"]).iter().map(|one| text(one, "name")).collect();
        assert!(graphs(&dashboard).count() >= 10, "{file}");
        for panel in graphs(&dashboard) {
            let title = text(panel, "title");
            assert!(text(panel, "description").ends_with('.'), "{file}, {title}: no description");
            assert_ne!(text(&panel["fieldConfig"]["defaults"], "unit"), "", "{file}, {title}: no unit");
            for query in list(&panel["targets"]) {
                let query = text(query, "expr");
                assert_names_listed_series(file, query);
                for variable in query.split('$').skip(1) {
                    let name: String = variable.chars().take_while(|c| c.is_ascii_alphabetic() || *c == '_').collect();
                    let is_known = name == "__rate_interval" || variables.contains(&&*name);
                    assert!(is_known, "{file}, {title}: ${name}");
                }
            }
        }
        for variable in list(&dashboard["templating"]["list"]).iter().filter(|one| one["type"] == "query") {
            assert_names_listed_series(file, text(variable, "definition"));
        }
    }
}

#[test]
fn thresholds_are_those_of_the_alerts_that_a_panel_names() {
    let rules = read(ALERTS);
    let alerts = alerts(&rules);
    let mut n = 0;
    for (file, panel) in dashboards()
        .flat_map(|(file, dashboard)| graphs(&dashboard).map(|panel| (file, panel.clone())).collect::<Vec<_>>())
    {
        let title = text(&panel, "title");
        let words = text(&panel, "description").split(|c: char| !c.is_ascii_alphanumeric());
        let named: Vec<&str> = words.filter(|word| word.starts_with("Pregon")).collect();
        let rule = |name| alerts.iter().find(|(alert, _)| *alert == name).map(|(_, rule)| *rule);
        let rules: Vec<&str> =
            named.iter().map(|name| rule(*name).unwrap_or_else(|| panic!("{file}: {name}"))).collect();
        let steps = list(&panel["fieldConfig"]["defaults"]["thresholds"]["steps"]);
        for limit in steps.iter().filter_map(|step| Some(step["value"].as_f64()?.to_string())) {
            // A step begins at its value, so one that begins at 1 is for whatever is above 0.
            let limits = match &*limit {
                "1" => ["> 0\n", "== 1\n"].map(str::to_owned).to_vec(),
                _ => ["> LIMIT\n", "> LIMIT *", "< LIMIT\n"].map(|limits| limits.replace("LIMIT", &limit)).to_vec(),
            };
            let is_of_alert = rules.iter().any(|rule| limits.iter().any(|limit| rule.contains(limit)));
            assert!(is_of_alert, "{file}, {title}: {limit} is not a limit of {named:?}");
            n += 1;
        }
    }
    assert!(n >= 10, "{n} thresholds");
}

#[test]
fn compose_and_kubernetes_use_the_same_dashboards() {
    assert!(read("config/compose.yaml").contains("- ./grafana:/etc/grafana/dashboards:ro\n"));
    let kustomization = read("config/grafana/kustomization.yaml");
    for file in DASHBOARDS {
        let name = file.rsplit('/').next().expect("a name");
        assert!(kustomization.contains(&format!("- {name}\n")), "{name}");
    }
}
