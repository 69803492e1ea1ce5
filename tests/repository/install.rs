//! Tests `tests/install.sh`, which the Makefile uses to install programs, with fake package managers that print their
//! arguments.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Command, Output};

use tempfile::TempDir;

/// Runs the script with only the programs that it needs itself and, if given, the fake `manager`.
fn install(manager: Option<&str>) -> Output {
    let bin = TempDir::new().expect("a folder");
    symlink("/usr/bin/env", bin.path().join("env")).expect("a link to env");
    let mut fakes = vec![("id", "echo 0".to_owned())];
    if let Some(manager) = manager {
        fakes.push((manager, format!("echo {manager} \"$@\"")));
    }
    for (name, line) in fakes {
        let program = bin.path().join(name);
        fs::write(&program, format!("#!/bin/sh\n{line}\n")).expect("a program");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("an executable program");
    }
    Command::new("/bin/sh")
        .args([concat!(env!("CARGO_MANIFEST_DIR"), "/tests/install.sh"), "redis-server", "env", "node", "redis-cli"])
        .env("PATH", bin.path())
        .output()
        .expect("/bin/sh runs")
}

#[test]
fn every_package_manager_installs_only_what_is_missing() {
    for (manager, command) in [
        ("brew", "brew install redis node redis"),
        ("apt-get", "apt-get install -qy --no-install-recommends redis-server nodejs redis-tools"),
        ("dnf", "dnf install -y redis nodejs redis"),
        ("apk", "apk add redis nodejs redis"),
    ] {
        let output = install(Some(manager));
        assert!(output.status.success(), "{output:?}");
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(printed.lines().last(), Some(command));
    }
}

#[test]
fn without_a_package_manager_the_missing_programs_are_named() {
    let output = install(None);
    assert!(!output.status.success(), "{output:?}");
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(printed.starts_with("missing: redis-server node redis-cli, and there is no brew"), "{printed}");
}
