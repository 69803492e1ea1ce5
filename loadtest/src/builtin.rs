//! The scenarios that come with the program: the files of `loadtest/scenarios`.

/// A file of `loadtest/scenarios`, by its name.
macro_rules! scenarios {
    ($($name:literal)*) => {
        &[$(($name, include_str!(concat!("../scenarios/", $name, ".toml")))),*]
    };
}

/// Name and text of each scenario, in the order in which `pregon-load list` shows them.
pub const SCENARIOS: &[(&str, &str)] = scenarios! {
    "dispatch" "dispatch-http2" "latency" "ramp" "slow-meta" "slow-meta-http2" "usual-lines" "usual-lines-http2"
    "many-lines" "many-lines-http2" "accuracy" "webhooks-single" "webhooks-batch" "webhooks-latency" "feed" "inbound"
    "upload" "bytes" "suppression" "suppression-bytes" "frequency-cap" "growth" "campaigns" "start"
};

/// The text of the scenario `name`.
pub fn text(name: &str) -> Option<&'static str> {
    SCENARIOS.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}
