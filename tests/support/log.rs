//! The log of this process, kept in memory. Only one test of a process can have it: see [`super::alone`].

use std::{
    io::{self, Write},
    mem,
    sync::{Arc, Mutex},
};

use tracing::level_filters::LevelFilter;

/// What was logged.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Keeps everything, as text.
    pub fn of_all_levels() -> Self {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_ansi(false);
        let subscriber = subscriber.with_writer(move || writer.clone()).finish();
        tracing::subscriber::set_global_default(subscriber).expect("the only one of this process");
        log
    }

    /// Keeps what is logged by default, as lines of JSON.
    pub fn as_json() -> Self {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().json().flatten_event(true).with_writer(move || writer.clone());
        tracing::subscriber::set_global_default(subscriber.finish()).expect("the only one of this process");
        log
    }

    /// Takes what was logged since the last call.
    pub fn take(&self) -> String {
        let bytes = mem::take(&mut *self.0.lock().expect("no panic under the lock"));
        String::from_utf8(bytes).expect("text")
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic under the lock").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
