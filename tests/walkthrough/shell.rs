//! One shell that runs all commands of the document, so that variables and jobs last.

use std::{
    fs,
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::support::until;

/// A running shell. Its jobs are killed when it is dropped.
pub(super) struct Shell {
    child: Child,
    dir: PathBuf,
    /// The number of blocks of commands so far.
    n: usize,
}

impl Shell {
    /// Starts a shell in `dir`, with the tested `pregon` in its PATH.
    pub(super) fn start(dir: &Path, environment: &[(&str, &str)]) -> Self {
        let program = Path::new(env!("CARGO_BIN_EXE_pregon"));
        let path = std::env::var("PATH").expect("PATH");
        let path = format!("{}:{path}", program.parent().expect("its folder").display());
        let child = Command::new("sh")
            .arg("-eu")
            .current_dir(dir)
            .env("PATH", path)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("a shell");
        Self { child, dir: dir.to_owned(), n: 0 }
    }

    /// Runs commands, which must succeed.
    pub(super) async fn run(&mut self, commands: &str) {
        self.send(&format!("{{\n{commands}\n}}")).await;
    }

    /// Runs commands that may fail. Returns what they print.
    pub(super) async fn try_run(&mut self, commands: &str) -> String {
        self.send(&format!("( set +e\n{commands}\n)")).await
    }

    /// Runs a command, and returns what it prints. Only a command in `( set +e … )` may fail.
    async fn send(&mut self, command: &str) -> String {
        self.n += 1;
        let (out, done) = (self.dir.join(format!("{}.out", self.n)), self.dir.join(format!("{}.done", self.n)));
        let may_fail = if command.starts_with('(') { "|| true" } else { "" };
        let text = format!("{command} </dev/null >'{}' 2>&1 {may_fail}\necho >'{}'\n", out.display(), done.display());
        let printed = || fs::read_to_string(&out).unwrap_or_default();
        let stdin = self.child.stdin.as_mut().expect("it is piped");
        stdin.write_all(text.as_bytes()).unwrap_or_else(|error| panic!("{error}: {command}"));
        let child = &mut self.child;
        until(&format!("these commands end:\n{command}"), async || {
            let ended = child.try_wait().expect("a process of ours");
            assert!(ended.is_none() || done.exists(), "these commands failed:\n{command}\n{}", printed());
            done.exists()
        })
        .await;
        printed()
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // The jobs are in the process group of the shell.
        let group = format!("-{}", self.child.id());
        let _ = Command::new("sh").args(["-c", "kill -s KILL -- \"$1\"", "sh", &group]).stderr(Stdio::null()).status();
        let _ = self.child.wait();
        if std::thread::panicking() {
            for log in ["worker-1.log", "sim.log", "redis.log", "submit.log", "watch.log"] {
                let text = fs::read_to_string(self.dir.join("walkthrough").join(log)).unwrap_or_default();
                let last: Vec<&str> = text.lines().rev().take(20).collect();
                eprintln!("{log}, the last line first:\n{}", last.join("\n"));
            }
        }
    }
}
