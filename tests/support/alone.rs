//! Runs a test in a separate process, if it changes something global to the process, such as the log subscriber.

use std::{env, process::Command};

/// The name of `test` for `--exact`: its module path without the name of the test binary. `module` is
/// `module_path!()`.
pub fn name(module: &str, test: &str) -> String {
    let (_, module) = module.split_once("::").expect("a module of the test binary");
    format!("{module}::{test}")
}

/// Whether this process runs only the calling test. If not, runs the test in a new process, panics if the test fails
/// there, and returns false: the caller must then return at once. `module` is `module_path!()`.
pub fn runs_alone(module: &str, test: &str) -> bool {
    const ALONE: &str = "PREGON_TEST_ALONE";
    if env::var_os(ALONE).is_some() {
        return true;
    }
    let name = name(module, test);
    let mut command = Command::new(env::current_exe().expect("the path of this test binary"));
    let output = command.args(["--exact", &name, "--nocapture"]).env(ALONE, "1").output().expect("a process");
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && text.contains("1 passed"), "{name}, in a process of its own: {text}");
    false
}
