//! Logs to standard error: text on a terminal, JSON otherwise.
//!
//! Each line is understandable alone and has fields. Never in a log: tokens, bodies, full phone numbers.

use std::{
    io::{self, IsTerminal as _},
    sync::OnceLock,
};

use tracing::Subscriber;
use tracing_subscriber::{
    EnvFilter, Registry,
    fmt::{self, MakeWriter},
    layer::SubscriberExt as _,
    reload,
};

/// `[log]`
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// The format of the lines.
    pub format: LogFormat,
    /// The filter: directives of `tracing_subscriber::EnvFilter`.
    pub level: String,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// Always text.
    Text,
    /// Always JSON.
    Json,
}

/// The target of the lines about a reload. They are logged at every level but `off`: a reload that changes the level must
/// not hide its own line.
pub const RELOAD: &str = "reload";

type Level = reload::Handle<EnvFilter, Registry>;

/// The level of the log of this process, once it is started.
static LEVEL: OnceLock<Level> = OnceLock::new();

/// Changes the level of the log to `directives`, as of `log.level`. A subscriber that was set before [`init`] keeps its
/// own.
///
/// Errors: the directives are not valid. The level stays as it was.
pub fn set_level(directives: &str) -> Result<(), BadLevel> {
    let filter = filter(directives)?;
    // The subscriber lives as long as the process, so this does not fail.
    LEVEL.get().map_or(Ok(()), |level| level.reload(filter)).unwrap_or_default();
    Ok(())
}

/// Starts logging for the whole process. A subscriber that is set already, such as a test's own, stays.
///
/// Errors: `log.level` is not a valid list of directives.
pub fn init(config: &LogConfig) -> Result<(), BadLevel> {
    let (subscriber, level) = subscriber(config, io::stderr().is_terminal(), io::stderr)?;
    match tracing::subscriber::set_global_default(subscriber) {
        Ok(()) => drop(LEVEL.set(level)),
        Err(_) => tracing::debug!("a log subscriber is already set; keeping it"),
    }
    Ok(())
}

/// `log.level` is not a valid list of directives.
#[derive(Debug, thiserror::Error)]
#[error("log.level: {0}")]
pub struct BadLevel(#[from] tracing_subscriber::filter::ParseError);

fn filter(directives: &str) -> Result<EnvFilter, BadLevel> {
    let filter = EnvFilter::try_new(directives)?;
    if directives.eq_ignore_ascii_case("off") {
        return Ok(filter);
    }
    let filter = filter.add_directive(format!("{RELOAD}=info").parse()?);
    // The driver of PostgreSQL logs slow statements and lost connections, which are reported by what they prevent.
    Ok(if directives.contains("sqlx") { filter } else { filter.add_directive("sqlx=error".parse()?) })
}

fn subscriber<W>(
    config: &LogConfig,
    terminal: bool,
    writer: W,
) -> Result<(Box<dyn Subscriber + Send + Sync>, Level), BadLevel>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (filter, level) = reload::Layer::new(filter(&config.level)?);
    let registry = tracing_subscriber::registry().with(filter);
    let as_text = match config.format {
        LogFormat::Auto => terminal,
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    let layer = fmt::layer().with_writer(writer);
    let subscriber: Box<dyn Subscriber + Send + Sync> = match as_text {
        true => Box::new(registry.with(layer.with_ansi(terminal))),
        false => Box::new(registry.with(layer.json().flatten_event(true))),
    };
    Ok((subscriber, level))
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        sync::{Arc, Mutex},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic under the lock").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The log after one `info` event and one `debug` event.
    fn logged(format: LogFormat, terminal: bool, level: &str) -> String {
        logged_by(format, terminal, level, || {
            tracing::info!(line.id = "3001", "attempt accepted");
            tracing::debug!("detail");
        })
    }

    fn logged_by(format: LogFormat, terminal: bool, level: &str, events: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let config = LogConfig { format, level: level.into() };
        let (subscriber, _) = subscriber(&config, terminal, move || writer.clone()).expect("a good level");
        tracing::subscriber::with_default(subscriber, events);
        String::from_utf8(lines.0.lock().expect("no panic under the lock").clone()).expect("text")
    }

    #[test]
    fn the_automatic_format_is_json_except_on_a_terminal() {
        let json: serde_json::Value =
            serde_json::from_str(&logged(LogFormat::Auto, false, "info")).expect("one line of JSON");
        assert_eq!((&json["level"], &json["message"]), (&"INFO".into(), &"attempt accepted".into()));
        assert_eq!(json["line.id"], "3001");
        let text = logged(LogFormat::Auto, true, "info");
        assert!(text.contains("attempt accepted") && text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn a_configured_format_overrides_the_automatic_one() {
        assert!(logged(LogFormat::Json, true, "info").starts_with('{'));
        let text = logged(LogFormat::Text, false, "info");
        assert!(text.contains("attempt accepted line.id=\"3001\"") && !text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn a_reload_is_logged_at_every_level_but_off() {
        let reload = || tracing::info!(target: RELOAD, "configuration reloaded");
        let seen = |level| logged_by(LogFormat::Text, false, level, reload).contains("configuration reloaded");
        assert_eq!(["info", "error", "warn,pregon=error", "off"].map(seen), [true, true, true, false]);
    }

    #[test]
    fn the_level_filters_events() {
        assert!(!logged(LogFormat::Text, false, "info").contains("detail"));
        assert!(logged(LogFormat::Text, false, "warn,pregon=debug").contains("detail"));
        assert_eq!(logged(LogFormat::Text, false, "off"), "");
        assert!(init(&LogConfig { format: LogFormat::Auto, level: "pregon=loud".into() }).is_err());
    }
}
